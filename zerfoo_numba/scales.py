"""Weights are numbers: no NaN and nothing infinite in plain tensors and in the scales of blocks.

A weight of a block is its scale times integers of a few bits: with a finite scale it is finite, so
that two or four bytes of a block speak for all of it. Layouts: ggml-common.h of the ggml project;
E8M0 and E4M3: OCP Microscaling Formats (MX) v1.0, in which the codes here are NaN.
"""

import numpy as np

from zerfoo_numba.errors import FileError
from zerfoo_numba.gguf_file import TYPE_BY_NAME

PIECE = 1 << 20  # bytes looked at together: what a cache holds

# The bytes of a block in which its float16 scales lie, from the first to before the last.
_HALVES = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ1_S"), (0, 2)),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0, 2)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 4)),
    "Q2_K": (80, 84), "Q3_K": (108, 110), "Q6_K": (208, 210), "TQ1_0": (52, 54), "TQ2_0": (64, 66),
}  # fmt: skip
_HALF_EXPONENT = 0x7C00  # all ones: infinite or NaN

# Plain floats as signed and as unsigned integers, each with the least one that is not finite: the
# first finds what is positive, the second what is negative.
_PLAIN = {
    "F32": (("<i4", 0x7F800000), ("<u4", 0xFF800000)),
    "F16": (("<i2", 0x7C00), ("<u2", 0xFC00)),
    "BF16": (("<i2", 0x7F80), ("<u2", 0xFF80)),
}


def require_finite(path, name, type_name, data, columns, first=0):
    """Raise FileError naming the first row that holds a NaN or an infinity of the tensor `name`,
    whose rows of `columns` elements, from row `first` on, are the bytes `data`."""
    kind = TYPE_BY_NAME[type_name]
    step = max(1, PIECE // kind.block_bytes) * kind.block_bytes
    for start in range(0, data.size, step):
        piece = data[start : start + step]
        if type_name in _PLAIN and _all_finite(type_name, piece):
            continue
        wrong = _LOOK[type_name](piece.reshape(-1, kind.block_bytes))
        if not wrong.any():
            continue
        block = start // kind.block_bytes + int(wrong.argmax()) // wrong.shape[1]
        what = "an element" if type_name in _PLAIN else "the scale of a block"
        row = first + block * kind.block_size // columns
        raise FileError(
            f"{path}: {what} in row {row} of the tensor {name!r} is NaN or infinite; the file is "
            "damaged or was converted wrongly"
        )


def require_positive(path, name, array):
    """Raise FileError unless every number of `array`, the tensor `name`, is positive and finite."""
    wrong = ~((array > 0) & (array < np.inf))
    if wrong.any():
        at = int(wrong.argmax())
        raise FileError(
            f"{path}: element {at} of the tensor {name!r} is {array.flat[at]}; rope factors are "
            "positive and finite"
        )


def _all_finite(type_name, piece):
    return all(piece.view(kind).max() < least for kind, least in _PLAIN[type_name])


def _elements(type_name):
    (signed, positive), (unsigned, negative) = _PLAIN[type_name]
    return lambda blocks: (blocks.view(signed) >= positive) | (blocks.view(unsigned) >= negative)


def _halves(first, end):
    return lambda blocks: (blocks[:, first:end].view("<u2") & _HALF_EXPONENT) == _HALF_EXPONENT


def _iq1_m(blocks):
    """The exponent of the scale: three bits of the last of four words, two of the one before."""
    words = blocks[:, 48:56].view("<u2")
    return ((words[:, 3:] & 0x7000) == 0x7000) & ((words[:, 2:3] & 0xC000) == 0xC000)


_TOO_LARGE = 253  # of E8M0: 6 times 2^(253 - 127) is beyond float32

# type -> (bytes of blocks (n, size)) -> (n, m) bool: what of each block is not finite.
_LOOK = {
    **{name: _elements(name) for name in _PLAIN},
    **{name: _halves(*place) for name, place in _HALVES.items()},
    "IQ1_M": _iq1_m,
    "MXFP4": lambda blocks: blocks[:, :1] >= _TOO_LARGE,
    "NVFP4": lambda blocks: (blocks[:, :4] & 0x7F) == 0x7F,
}
