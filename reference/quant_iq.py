"""The IQ formats: points of a lattice with separate signs, and the non-linear tables of IQ4.

A function takes blocks (B, block_bytes) uint8 and returns values (B, block_size) float32. The
lattice points are facts of the format, kept in one data file, which says how it is read.
"""

import base64
from pathlib import Path

import numpy as np

from reference.quant_fields import affine, f16, fields, joined
from zerfoo_numba import gguf_file

DATA = Path(gguf_file.__file__).parent / "data" / "iq_grids.txt"
IQ4 = np.array(
    (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32
)


def read_grids():
    """{name: points (count, dimension) float32}."""
    grids = {}
    for line in DATA.read_text().splitlines():
        if line.startswith("#"):
            continue
        name, levels, dimension, bitmap = line.split()
        levels = np.array(levels.split(","), np.float32)
        shape = (len(levels),) * int(dimension)
        member = np.unpackbits(np.frombuffer(base64.b85decode(bitmap), np.uint8), bitorder="little")
        digits = np.unravel_index(np.flatnonzero(member), shape, order="F")
        grids[name] = levels[np.stack(digits, axis=1)]
    return grids


GRIDS = read_grids()
# ±1 for the bits of a byte, lowest first; of seven bits the eighth makes the minus signs even.
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
SIGNS = np.where(BITS, np.float32(-1), np.float32(1))
EVEN_SIGNS = SIGNS[:128].copy()
EVEN_SIGNS[:, 7] = EVEN_SIGNS.prod(axis=1)


def words(blocks, at, end, dtype="<u2"):
    """Little-endian integers of the bytes at..end."""
    return np.ascontiguousarray(blocks[:, at:end]).view(dtype)


def seven_bits(word):
    """The four sign indices of a 32-bit word: (B, n) -> (B, 4 n)."""
    return (word[:, :, None] >> np.array((0, 7, 14, 21), np.uint32) & 127).reshape(len(word), -1)


def signed_points(scales, points, signs):
    """scale * point * sign; all flattened to blocks of 256."""
    count = len(scales)
    return affine(scales, points.reshape(count, -1) * signs.reshape(count, -1))


def half_scales(d, scales):
    """d (s + 1/2) / 2 of the 4-bit scales s."""
    return d * (scales.astype(np.float32) + np.float32(0.5)) * np.float32(0.5)


def iq2_xxs(blocks):
    """d f16 | 8 x (4 grid indices, u32 of four 7-bit sign indices and a 4-bit scale)."""
    pairs = words(blocks, 2, 66, "<u4").reshape(-1, 8, 2)
    index = np.ascontiguousarray(pairs[:, :, 0]).view(np.uint8)
    word = pairs[:, :, 1]
    scales = half_scales(f16(blocks, 0), word >> 28) / 2
    return signed_points(scales, GRIDS["IQ2_XXS"][index], EVEN_SIGNS[seven_bits(word)])


def iq2_xs(blocks):
    """d f16 | 32 x u16 (9 bits of grid index, 7 of sign index) | scale nibbles 8."""
    word = words(blocks, 2, 66)
    points, signs = GRIDS["IQ2_XS"][word & 511], EVEN_SIGNS[word >> 9]
    scales = half_scales(f16(blocks, 0), fields(blocks[:, 66:74], 4, 1)) / 2
    return signed_points(scales, points, signs)


def iq2_s(blocks):
    """d f16 | grid indices 32 | signs 32 | qh 8 (2 more index bits) | scale nibbles 8."""
    index = joined(blocks[:, 2:34], fields(blocks[:, 66:74], 2, 1), 8)
    scales = half_scales(f16(blocks, 0), fields(blocks[:, 74:82], 4, 1)) / 2
    return signed_points(scales, GRIDS["IQ2_S"][index], SIGNS[blocks[:, 34:66]])


def iq3_xxs(blocks):
    """d f16 | grid indices 64 | 8 x u32 (four 7-bit sign indices and a 4-bit scale)."""
    word = words(blocks, 66, 98, "<u4")
    scales = half_scales(f16(blocks, 0), word >> 28)
    return signed_points(scales, GRIDS["IQ3_XXS"][blocks[:, 2:66]], EVEN_SIGNS[seven_bits(word)])


def iq3_s(blocks):
    """d f16 | grid indices 64 | qh 8 (a ninth index bit) | signs 32 | scale nibbles 4."""
    index = joined(blocks[:, 2:66], fields(blocks[:, 66:74], 1, 1), 8)
    scales = f16(blocks, 0) * (2 * fields(blocks[:, 106:110], 4, 1) + 1)
    return signed_points(scales, GRIDS["IQ3_S"][index], SIGNS[blocks[:, 74:106]])


def ternary(d, scales, index, minus):
    """d (2 scale + 1) (digit ± 1/8): scales (B, S), index and minus (B, 32)."""
    delta = np.where(minus, np.float32(-0.125), np.float32(0.125))
    points = GRIDS["IQ1"][index] + delta[:, :, None]
    return affine(d * (2 * scales + 1), points.reshape(len(points), -1))


def three_bits(word):
    """The four lowest 3-bit fields of a 16-bit word: (B, n) -> (B, 4 n)."""
    return (word[:, :, None] >> np.array((0, 3, 6, 9), np.uint16) & 7).reshape(len(word), -1)


def iq1_s(blocks):
    """d f16 | grid indices 32 | 8 x u16 (four times 3 index bits, a 3-bit scale, delta's sign)."""
    word = words(blocks, 34, 50)
    index = joined(blocks[:, 2:34], three_bits(word), 8)
    scales = (word >> 12 & 7).astype(np.float32)
    return ternary(f16(blocks, 0), scales, index, np.repeat(word >> 15, 4, axis=1))


def iq1_m(blocks):
    """Grid indices 32 | nibbles 16 (3 index bits, delta's sign) | 4 x u16 (four 3-bit scales; the
    top nibbles together are d f16).
    """
    word = words(blocks, 48, 56)
    parts = word >> 12 << np.array((0, 4, 8, 12), np.uint16)
    d = np.bitwise_or.reduce(parts, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    high = fields(blocks[:, 32:48], 4, 1)
    index = joined(blocks[:, :32], high & 7, 8)
    scales = three_bits(word).astype(np.float32)
    return ternary(d, scales, index, high >> 3)


def iq4_nl(blocks):
    """d f16 | qs 16: d level[q]."""
    return affine(f16(blocks, 0), IQ4[fields(blocks[:, 2:], 4, 16)])


def iq4_xs(blocks):
    """d f16 | upper scale bits 2 | scale nibbles 4 | qs 128: d (scale - 32) level[q]."""
    scales = joined(fields(blocks[:, 4:8], 4, 1), fields(blocks[:, 2:4], 2, 1), 4) - 32
    quants = IQ4[fields(blocks[:, 8:], 4, 16)]
    return affine(f16(blocks, 0) * scales.astype(np.float32), quants)
