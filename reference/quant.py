"""Dequantisation of GGUF block formats, vectorised: bytes of a tensor to float32.

The formulas are ggml's (`dequantize_row_*` of ggml-quants.c, restated by the gguf package).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reference import quant_float, quant_integer, quant_iq
from zerfoo_numba.errors import FileError, UnsupportedError

CHUNK = 1 << 17  # elements at a time: temporaries stay in cache


def dequantize(data, type_name, shape):
    """A tensor's bytes as float32.

    data: uint8, exactly the tensor's bytes; type_name: ggml's name ("Q4_K"); shape: in the file's
    order, fastest dimension first. Returns an array of shape reversed(shape). Raises
    UnsupportedError for an unknown type, FileError where bytes, shape and blocks do not agree.
    """
    if type_name not in FORMATS:
        raise UnsupportedError(f"tensor type {type_name} is none of {', '.join(FORMATS)}")
    size, width, function = FORMATS[type_name]
    count = int(np.prod(shape, dtype=np.int64))
    if shape and shape[0] % size:
        raise FileError(f"a row of {shape[0]} elements is not made of {type_name} blocks of {size}")
    if data.size * size != count * width:
        raise FileError(f"{data.size} bytes do not hold a {type_name} tensor of shape {shape}")
    blocks = np.ascontiguousarray(data, np.uint8).reshape(-1, width)
    values = np.empty((len(blocks), size), np.float32)
    with np.errstate(all="ignore"):  # a damaged scale gives inf or NaN here as in the kernels
        for start in range(0, len(blocks), CHUNK // size):
            rows = slice(start, start + CHUNK // size)
            values[rows] = function(blocks[rows])
    return values.reshape(tuple(reversed(shape)))


class Format(NamedTuple):
    """A block format: blocks (B, block_bytes) uint8 -> values (B, block_size) float32."""

    block_size: int
    block_bytes: int
    values: Callable


FORMATS = {
    "F64": Format(1, 8, quant_float.numbers("<f8")),
    "F32": Format(1, 4, quant_float.numbers("<f4")),
    "F16": Format(1, 2, quant_float.numbers("<f2")),
    "BF16": Format(1, 2, quant_float.bf16),
    "Q4_0": Format(32, 18, quant_integer.q4_0),
    "Q4_1": Format(32, 20, quant_integer.q4_1),
    "Q5_0": Format(32, 22, quant_integer.q5_0),
    "Q5_1": Format(32, 24, quant_integer.q5_1),
    "Q8_0": Format(32, 34, quant_integer.q8_0),
    "Q2_K": Format(256, 84, quant_integer.q2_k),
    "Q3_K": Format(256, 110, quant_integer.q3_k),
    "Q4_K": Format(256, 144, quant_integer.q4_k),
    "Q5_K": Format(256, 176, quant_integer.q5_k),
    "Q6_K": Format(256, 210, quant_integer.q6_k),
    "TQ1_0": Format(256, 54, quant_integer.tq1_0),
    "TQ2_0": Format(256, 66, quant_integer.tq2_0),
    "IQ1_S": Format(256, 50, quant_iq.iq1_s),
    "IQ1_M": Format(256, 56, quant_iq.iq1_m),
    "IQ2_XXS": Format(256, 66, quant_iq.iq2_xxs),
    "IQ2_XS": Format(256, 74, quant_iq.iq2_xs),
    "IQ2_S": Format(256, 82, quant_iq.iq2_s),
    "IQ3_XXS": Format(256, 98, quant_iq.iq3_xxs),
    "IQ3_S": Format(256, 110, quant_iq.iq3_s),
    "IQ4_NL": Format(32, 18, quant_iq.iq4_nl),
    "IQ4_XS": Format(256, 136, quant_iq.iq4_xs),
    "MXFP4": Format(32, 17, quant_float.mxfp4),
    "NVFP4": Format(64, 36, quant_float.nvfp4),
    "F8_E4M3": Format(32, 36, quant_float.eight_bit(quant_float.E4M3)),
    "F8_E5M2": Format(32, 36, quant_float.eight_bit(quant_float.E5M2)),
}
