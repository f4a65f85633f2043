"""The buffers between the operations of a walk."""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.feed_forward import ExpertRoom
from zerfoo_numba.kernels.quantize import QuantizedRows, padded


class Workspace:
    """The buffers between operations, with room for `rows` tokens; `at(T)` gives views of T."""

    def __init__(self, maker, config, rows, more=None):
        """`maker` as in `zerfoo_numba.arena`; what it does not make is not used by the model.
        `more` {name: width}: what the blocks of a recurrent model need."""
        c = config
        widths = {
            "x": c.D, "normed": c.D, "result": c.D, "q": c.H * c.HD, "k": c.KH * c.HD,
            "v": c.KH * c.VD, "attn": c.H * c.VD, "gate": c.F, "up": c.F, "act": c.F,
        }  # fmt: skip
        widths |= more or {}
        e = c.experts
        widest = padded(max(*widths.values(), *((e.F, e.shared_F) if e else ())))
        slots = max(rows, ExpertRoom.slots(c, rows))
        self.words = maker.empty((slots, widest // 4), np.uint32, "x_words")
        self.scales = maker.empty((slots, widest // 32, 4), np.float32, "x_scales")
        made = {n: maker.empty((rows, w), np.float32, n) for n, w in widths.items()}
        self.buffers = {n: b for n, b in made.items() if b is not None}
        self.sum = maker.empty((1, c.D), np.float32, "x_sum")
        self.turned = False  # whether x of one token is in `sum`

    def at(self, T):
        views = {n: b.view((T, b.shape[1])) for n, b in self.buffers.items()}
        if T == 1 and self.turned:
            views["x"] = self.sum
        return views

    def turn(self, b):
        """x of one token goes to the other of its two buffers, which is returned; `b` follows."""
        self.turned = not self.turned
        b["x"] = self.at(1)["x"]
        return b["x"]

    def quantized(self, T, K):
        """Room for T rows of K 8-bit activations: the same room at every call."""
        P = padded(K)
        return QuantizedRows(self.words.view((T, P // 4)), self.scales.view((T, P // 32, 4)), T)


@dataclass(frozen=True)
class Operand:
    """What a product multiplies a weight with: x (T, K), and its 8-bit form if one of the weights
    that it is meant for is packed."""

    x: Buffer
    quantized: QuantizedRows | None
