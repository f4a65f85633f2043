"""Where a model's numbers stop being numbers: a switch for debugging, `check_finite` at load.

Every row of logits is then looked at on the device, by a launch of its own and a read of 4 bytes.
Where one holds a NaN or an infinity, the sequence is computed once more with all its taps, in the
order in which they are made: the first that is not finite tells the layer.
"""

import numpy as np

from zerfoo_numba.errors import NumericError
from zerfoo_numba.kernels.nonfinite import nonfinite
from zerfoo_numba.vision.sequence import Tokens


class FiniteCheck:
    """Looks at the logits of a session."""

    def __init__(self, session):
        self.session = session
        self.flag = session.device.upload(np.zeros(1, np.uint32), "nonfinite")
        self._searching = False

    def look(self, logits):
        """Raise NumericError, which names the first layer, if `logits`, a buffer, has a NaN or an
        infinity. The sequence ends with it; the next prefill starts another."""
        if self._searching:
            return
        device = self.session.device
        nonfinite(device, self.flag, logits)
        if not device.read(self.flag)[0]:
            return
        self._searching, length = True, self.session.length
        try:
            where = self._first(length)
        finally:
            self._searching = False
        raise NumericError(
            f"the logits after {length} tokens are not all finite; {where}: look at the weights "
            "that lead there, or compare with the reference by `python -m reference diff`"
        )

    def _first(self, length):
        session = self.session
        tokens = Tokens(np.array(session.history(0, length)), session.walk.pictures)
        start = 0
        for taps in session.tapped(tokens, {}):
            for name, array in taps.items():
                rows = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
                if rows.any():
                    return f"first so is {name!r} of token {start + int(rows.argmax())}"
            start += len(taps["embed"])
        return "no layer shows it where the tokens pass together, but the decode step alone does"
