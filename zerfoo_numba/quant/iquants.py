"""IQ formats: points of a lattice (`grids`) with separate signs, and the non-linear IQ4 tables.

Elements come in groups of 8 (IQ1, IQ2) or 4 (IQ3); a group is one grid index. The sign bits of the
XXS and XS formats are 7 of 8: the eighth makes the number of minus signs even.
"""

from numba import cuda

from zerfoo_numba.ptx.instructions import f32, f32_from_f16, i32, u16, u32
from zerfoo_numba.quant import grids
from zerfoo_numba.quant.fields import (
    device,
    f16_at,
    field,
    lookup16,
    nibble,
    signed_byte,
    table16,
    u8_at,
    u16_at,
    u32_at,
)

IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
IQ4 = table16(IQ4_LEVELS)
IQ2_LEVELS = u32(8 | 25 << 8 | 43 << 16)
# 4, 12, .. 52, 62: all but the last are steps of 8.
IQ3_LOW, IQ3_HIGH = u32(0x1C140C04), u32(0x3E342C24)


@device
def level2(code, i):
    """Magnitude 8, 25 or 43 of coordinate i % 8 of an IQ2 point."""
    digit = field(u32(code), u32(u32(i & u32(7)) << u32(1)), u32(3))
    return f32(field(IQ2_LEVELS, u32(digit << u32(3)), u32(255)))


@device
def digit3(code, i):
    """Coordinate i % 4 of an IQ3 point, 0 to 7."""
    return field(u32(code), u32(u32(i & u32(3)) * u32(3)), u32(7))


@device
def even_sign(signs, i):
    """Sign bit i % 8 of 7 stored ones."""
    j = u32(i & u32(7))
    parity = u32(u32(cuda.popc(signs)) & u32(1))
    return field(u32(signs | u32(parity << u32(7))), j, u32(1))


@device
def signed(value, bit):
    return f32(-value) if bit == u32(1) else value


@device
def decode_iq2_xxs(w, block, i):
    """d f16 | per 32 elements: 4 grid indices (bytes), then 4 x 7 sign bits and a 4-bit scale."""
    part = u32(block + u32(2) + u32(u32(i >> u32(5)) << u32(3)))
    group = u32(u32(i >> u32(3)) & u32(3))
    code = grids.IQ2_XXS[u8_at(w, u32(part + group))]
    word = u32_at(w, u32(part + u32(4)))
    scale = f32(f32(u32(word >> u32(28))) + f32(0.5))
    d = f32(f32(f16_at(w, block) * scale) * f32(0.25))
    signs = field(word, u32(group * u32(7)), u32(127))
    return signed(f32(d * level2(code, i)), even_sign(signs, i))


@device
def nibble_scale(w, scales, i):
    """The 4-bit scale of 16 elements, plus a half."""
    byte = u8_at(w, u32(scales + u32(i >> u32(5))))
    return f32(f32(nibble(byte, u32(u32(i >> u32(4)) & u32(1)))) + f32(0.5))


@device
def decode_iq2_xs(w, block, i):
    """d f16 | per 8 elements u16: grid index 9 bits, signs 7 bits | scales 8 bytes (nibbles)."""
    word = u16_at(w, u32(block + u32(2) + u32(u32(i >> u32(3)) << u32(1))))
    code = grids.IQ2_XS[u32(word & u32(511))]
    d = f32(f16_at(w, block) * nibble_scale(w, u32(block + u32(66)), i))
    value = f32(f32(d * f32(0.25)) * level2(code, i))
    return signed(value, even_sign(u32(word >> u32(9)), i))


@device
def decode_iq2_s(w, block, i):
    """d f16 | grid indices 32 bytes | signs 32 bytes | qh 8 bytes (two upper index bits) | scales
    8 bytes (nibbles)."""
    group = u32(i >> u32(3))
    high = u8_at(w, u32(block + u32(66) + u32(i >> u32(5))))
    high = field(high, u32(u32(group & u32(3)) << u32(1)), u32(3))
    index = u32(u8_at(w, u32(block + u32(2) + group)) | u32(high << u32(8)))
    signs = u8_at(w, u32(block + u32(34) + group))
    d = f32(f16_at(w, block) * nibble_scale(w, u32(block + u32(74)), i))
    value = f32(f32(d * f32(0.25)) * level2(grids.IQ2_S[index], i))
    return signed(value, field(signs, u32(i & u32(7)), u32(1)))


@device
def decode_iq3_xxs(w, block, i):
    """d f16 | grid indices 64 bytes | per 32 elements u32: 4 x 7 sign bits and a 4-bit scale."""
    code = grids.IQ3_XXS[u8_at(w, u32(block + u32(2) + u32(i >> u32(2))))]
    word = u32_at(w, u32(block + u32(66) + u32(u32(i >> u32(5)) << u32(2))))
    scale = f32(f32(u32(word >> u32(28))) + f32(0.5))
    d = f32(f32(f16_at(w, block) * scale) * f32(0.5))
    level = f32(signed_byte(IQ3_LOW, IQ3_HIGH, digit3(code, i)))
    signs = field(word, u32(u32(u32(i >> u32(3)) & u32(3)) * u32(7)), u32(127))
    return signed(f32(d * level), even_sign(signs, i))


@device
def decode_iq3_s(w, block, i):
    """d f16 | grid indices 64 bytes | qh 8 bytes (an upper index bit) | signs 32 bytes | scales
    4 bytes (a nibble s per 32 elements): d (2 s + 1) level, levels 1, 3, .. 15."""
    group = u32(i >> u32(2))
    high = u8_at(w, u32(block + u32(66) + u32(i >> u32(5))))
    high = field(high, u32(group & u32(7)), u32(1))
    index = u32(u8_at(w, u32(block + u32(2) + group)) | u32(high << u32(8)))
    byte = u8_at(w, u32(block + u32(106) + u32(i >> u32(6))))
    scale = nibble(byte, u32(u32(i >> u32(5)) & u32(1)))
    d = f32(f16_at(w, block) * f32(u32(u32(scale << u32(1)) + u32(1))))
    level = u32(u32(digit3(grids.IQ3_S[index], i) << u32(1)) + u32(1))
    signs = u8_at(w, u32(block + u32(74) + u32(i >> u32(3))))
    return signed(f32(d * f32(level)), field(signs, u32(i & u32(7)), u32(1)))


@device
def ternary_value(d, scale, code, i, minus):
    """d (2 scale + 1) (digit + delta): digit -1, 0 or 1; delta 1/8, or -1/8 if `minus`."""
    digit = field(u32(code), u32(u32(i & u32(7)) << u32(1)), u32(3))
    shifted = f32(f32(i32(i32(digit) - i32(1))) + signed(f32(0.125), minus))
    return f32(f32(d * f32(u32(u32(scale << u32(1)) + u32(1)))) * shifted)


@device
def decode_iq1_s(w, block, i):
    """d f16 | grid indices 32 bytes | per 32 elements u16: 4 x 3 upper index bits, a 3-bit scale,
    the sign of delta."""
    qh = u16_at(w, u32(block + u32(34) + u32(u32(i >> u32(5)) << u32(1))))
    group = u32(i >> u32(3))
    high = field(qh, u32(u32(group & u32(3)) * u32(3)), u32(7))
    index = u32(u8_at(w, u32(block + u32(2) + group)) | u32(high << u32(8)))
    scale, minus = field(qh, u32(12), u32(7)), u32(qh >> u32(15))
    return ternary_value(f16_at(w, block), scale, grids.IQ1[index], i, minus)


@device
def decode_iq1_m(w, block, i):
    """Grid indices 32 bytes | qh 16 bytes (nibble per 8 elements: 3 upper index bits, the sign of
    delta) | scales 4 x u16: 4 x 3-bit scales of 16 elements each; the top nibbles are d, f16."""
    scales = u32(block + u32(48))
    d = u32(u16_at(w, scales) >> u32(12))
    d = u32(d | u32(u32(u16_at(w, u32(scales + u32(2))) >> u32(8)) & u32(0xF0)))
    d = u32(d | u32(u32(u16_at(w, u32(scales + u32(4))) >> u32(4)) & u32(0xF00)))
    d = u32(d | u32(u16_at(w, u32(scales + u32(6))) & u32(0xF000)))
    group = u32(i >> u32(3))
    qh = nibble(u8_at(w, u32(block + u32(32) + u32(i >> u32(4)))), u32(group & u32(1)))
    index = u32(u8_at(w, u32(block + group)) | u32(u32(qh & u32(7)) << u32(8)))
    scale = u16_at(w, u32(scales + u32(u32(i >> u32(6)) << u32(1))))
    scale = field(scale, u32(u32(u32(i >> u32(4)) & u32(3)) * u32(3)), u32(7))
    return ternary_value(f32_from_f16(u16(d)), scale, grids.IQ1[index], i, u32(qh >> u32(3)))


@device
def decode_iq4_nl(w, block, i):
    """d f16 | qs 16 bytes, as Q4_0: d level[q]."""
    byte = u8_at(w, u32(block + u32(2) + u32(i & u32(15))))
    q = nibble(byte, u32(u32(i >> u32(4)) & u32(1)))
    return f32(f16_at(w, block) * f32(lookup16(IQ4, q)))


@device
def decode_iq4_xs(w, block, i):
    """d f16 | scales_h u16 (upper 2 bits) | scales_l 4 bytes (nibbles) | qs 128 bytes, 32 elements
    as in IQ4_NL: d (scale - 32) level[q]."""
    part = u32(i >> u32(5))
    low = nibble(u8_at(w, u32(block + u32(4) + u32(i >> u32(6)))), u32(part & u32(1)))
    high = field(u16_at(w, u32(block + u32(2))), u32(part << u32(1)), u32(3))
    scale = i32(i32(low | u32(high << u32(4))) - i32(32))
    byte = u8_at(w, u32(block + u32(8) + u32(part << u32(4)) + u32(i & u32(15))))
    q = nibble(byte, u32(u32(i >> u32(4)) & u32(1)))
    return f32(f32(f16_at(w, block) * f32(scale)) * f32(lookup16(IQ4, q)))


LAYOUTS = {
    "IQ1_S": (256, 50, decode_iq1_s),
    "IQ1_M": (256, 56, decode_iq1_m),
    "IQ2_XXS": (256, 66, decode_iq2_xxs),
    "IQ2_XS": (256, 74, decode_iq2_xs),
    "IQ2_S": (256, 82, decode_iq2_s),
    "IQ3_XXS": (256, 98, decode_iq3_xxs),
    "IQ3_S": (256, 110, decode_iq3_s),
    "IQ4_NL": (32, 18, decode_iq4_nl),
    "IQ4_XS": (256, 136, decode_iq4_xs),
}
