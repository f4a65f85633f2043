"""Float formats: whole numbers, the four-bit floats MXFP4 and NVFP4, and the eight-bit F8 formats.

A function takes blocks (B, block_bytes) uint8 and returns values (B, block_size) float32.
"""

import numpy as np

from reference.quant_fields import affine, fields

# Twice the E2M1 values; minus zero is plus zero.
E2M1 = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.float32)


def numbers(dtype):
    """A format without blocks: each element is one little-endian `dtype`."""
    return lambda blocks: blocks.view(dtype).astype(np.float32)


def bf16(blocks):
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def small_float(codes, exponent_bits, mantissa_bits, bias):
    """|value| of every code of a small IEEE-like float; no code is infinite or NaN."""
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = codes & (1 << mantissa_bits) - 1
    normal = exponent > 0
    significand = mantissa + (normal << mantissa_bits)
    return np.ldexp(significand.astype(np.float32), exponent + ~normal - bias - mantissa_bits)


CODES = np.arange(256)
SIGNS = np.where(CODES < 128, 1, -1).astype(np.float32)
# E4M3 has no infinity and one NaN; E5M2 has both (OCP 8-bit Floating Point Specification).
E4M3 = SIGNS * np.where(CODES & 127 == 127, np.nan, small_float(CODES, 4, 3, 7))
E5M2 = (CODES.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
# ggml: the top bit of the scale is ignored, 0x7F is zero. Halved for the doubled E2M1.
HALF_UE4M3 = np.where(CODES == 127, 0, small_float(CODES, 4, 3, 7) / 2).astype(np.float32)


def mxfp4(blocks):
    """One E8M0 scale of 32 elements, 2^(e - 127), halved; e = 255 is no NaN."""
    scales = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return affine(scales, E2M1[fields(blocks[:, 1:], 4, 16)])


def nvfp4(blocks):
    """Four E4M3 scales, each of 16 elements."""
    return affine(HALF_UE4M3[blocks[:, :4]], E2M1[fields(blocks[:, 4:], 4, 8)])


def eight_bit(levels):
    """The F8 formats of `zerfoo_numba.quant.fp8`: a float32 scale and 32 codes."""
    return lambda blocks: affine(blocks[:, :4].view("<f4"), levels[blocks[:, 4:]])
