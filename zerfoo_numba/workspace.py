"""The buffers between the operations of a walk."""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.feed_forward import ExpertRoom
from zerfoo_numba.kernels.quantize import QuantizedRows, padded


class Workspace:
    """The buffers between operations, with room for `rows` tokens; `at(T)` gives views of T."""

    def __init__(self, device, config, rows, more=None):
        """`more` {name: width}: what the blocks of a recurrent model need."""
        c = config
        widths = {
            "x": c.D, "normed": c.D, "result": c.D, "q": c.H * c.HD, "k": c.KH * c.HD,
            "v": c.KH * c.VD, "attn": c.H * c.VD, "gate": c.F, "up": c.F, "act": c.F,
        }  # fmt: skip
        widths |= more or {}
        e = c.experts
        widest = padded(max(*widths.values(), *((e.F, e.shared_F) if e else ())))
        slots = max(rows, ExpertRoom.slots(c, rows))
        self.words = device.empty((slots, widest // 4), np.uint32, "x_words")
        self.scales = device.empty((slots, widest // 32, 4), np.float32, "x_scales")
        self.buffers = {n: device.empty((rows, w), np.float32, n) for n, w in widths.items()}

    def at(self, T):
        return {n: b.view((T, b.shape[1])) for n, b in self.buffers.items()}

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
