"""Integer quants: Q4_0 .. Q8_0, the K-quants and the ternary formats.

A function takes blocks (B, block_bytes) uint8 and returns values (B, block_size) float32; its
docstring has the fields in order, with their bytes, and the value of an element.
"""

import numpy as np

from reference.quant_fields import affine, f16, fields, joined


def q4_0(blocks):
    """d f16 | qs 16: d (q - 8); low nibbles are elements 0-15, high ones 16-31."""
    return affine(f16(blocks, 0), joined(fields(blocks[:, 2:], 4, 16), np.int8(0), 4) - 8)


def q4_1(blocks):
    """d f16 | m f16 | qs 16: d q + m."""
    return affine(f16(blocks, 0), fields(blocks[:, 4:], 4, 16), -f16(blocks, 2))


def q5_0(blocks):
    """d f16 | qh 4 (the fifth bits) | qs 16: d (q - 16)."""
    high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    return affine(f16(blocks, 0), joined(fields(blocks[:, 6:], 4, 16), high, 4) - 16)


def q5_1(blocks):
    """d f16 | m f16 | qh 4 | qs 16: d q + m."""
    high = np.unpackbits(blocks[:, 4:8], axis=1, bitorder="little")
    return affine(f16(blocks, 0), joined(fields(blocks[:, 8:], 4, 16), high, 4), -f16(blocks, 2))


def q8_0(blocks):
    """d f16 | 32 x int8: d q."""
    return affine(f16(blocks, 0), blocks[:, 2:].view(np.int8))


def q2_k(blocks):
    """scale and min nibbles 16 | qs 64 | d f16 | dmin f16: d scale q - dmin min."""
    pairs = blocks[:, :16]
    scales = f16(blocks, 80) * (pairs & 15).astype(np.float32)
    mins = f16(blocks, 82) * (pairs >> 4).astype(np.float32)
    return affine(scales, fields(blocks[:, 16:80], 2, 32), mins)


def q3_k(blocks):
    """hmask 32 (the third bits) | qs 64 | scales 12 | d f16: d (scale - 32) (q - 4)."""
    packed = blocks[:, 96:108]
    scales = joined(fields(packed[:, :8], 4, 8), fields(packed[:, 8:], 2, 4), 4) - 32
    quants = joined(fields(blocks[:, 32:96], 2, 32), fields(blocks[:, :32], 1, 32), 2) - 4
    return affine(f16(blocks, 108) * scales.astype(np.float32), quants)


def scales_and_mins(packed):
    """The 6-bit scales and mins of Q4_K and Q5_K, (B, 8) each, of 12 bytes.

    Bytes 0-3 are scales 0-3 and bytes 4-7 mins 0-3; their top two bits are the top bits of scales
    and mins 4-7, whose low nibbles share bytes 8-11.
    """
    scale, least, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = [scale & 63, rest & 15 | scale >> 6 << 4]
    mins = [least & 63, rest >> 4 | least >> 6 << 4]
    return [np.concatenate(part, axis=1).astype(np.float32) for part in (scales, mins)]


def q4_k(blocks, high=0, qs=16):
    """d f16 | dmin f16 | scales and mins 12 | qs 128: d scale q - dmin min."""
    scales, mins = scales_and_mins(blocks[:, 4:16])
    quants = fields(blocks[:, qs:], 4, 32) | high
    return affine(f16(blocks, 0) * scales, quants, f16(blocks, 2) * mins)


def q5_k(blocks):
    """d f16 | dmin f16 | scales and mins 12 | qh 32 (the fifth bits) | qs 128, as Q4_K."""
    return q4_k(blocks, fields(blocks[:, 16:48], 1, 32) << 4, qs=48)


def q6_k(blocks):
    """ql 128 | qh 64 | scales 16 x int8 | d f16: d scale (q - 32)."""
    quants = joined(fields(blocks[:, :128], 4, 64), fields(blocks[:, 128:192], 2, 32), 4) - 32
    scales = f16(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return affine(scales, quants)


def digits(packed, count, run):
    """`count` base-3 digits of every byte, stacked over each `run` bytes.

    A byte is the fraction 0.t0 t1 .. in base 3, times 256 and rounded up: digit n is the integer
    part of 3 frac(3^n byte / 256).
    """
    powers = 3 ** np.arange(count, dtype=np.uint16)[:, None]
    fractions = packed.reshape(len(packed), -1, 1, run) * powers & 255
    return (fractions * np.uint16(3) >> 8).astype(np.int8).reshape(len(packed), -1)


def tq1_0(blocks):
    """48 bytes of five digits, 4 of four | d f16: d (digit - 1)."""
    runs = ((blocks[:, :32], 5, 32), (blocks[:, 32:48], 5, 16), (blocks[:, 48:52], 4, 4))
    quants = np.concatenate([digits(*run) for run in runs], axis=1) - 1
    return affine(f16(blocks, 52), quants)


def tq2_0(blocks):
    """qs 64 | d f16: d (q - 1)."""
    return affine(f16(blocks, 64), fields(blocks[:, :64], 2, 32).astype(np.int8) - 1)
