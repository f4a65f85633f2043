"""Blocks of 32 elements with one float16 scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Byte j of `qs` holds the low bits of element j in its low nibble and of element j + 16 in its high
one; bit i of `qh` is the fifth bit of element i.
"""

from zerfoo_numba.ptx.instructions import f32, i32, u32
from zerfoo_numba.quant.fields import device, f16_at, field, nibble, s8_at, u8_at


@device
def low_bits(w, qs, i):
    byte = u8_at(w, u32(qs + u32(i & u32(15))))
    return nibble(byte, u32(u32(i >> u32(4)) & u32(1)))


@device
def fifth_bit(w, qh, i):
    byte = u8_at(w, u32(qh + u32(i >> u32(3))))
    return u32(field(byte, u32(i & u32(7)), u32(1)) << u32(4))


@device
def decode_q4_0(w, block, i):
    """d f16 | qs 16 bytes: d (q - 8)."""
    q = low_bits(w, u32(block + u32(2)), i)
    return f32(f16_at(w, block) * f32(i32(i32(q) - i32(8))))


@device
def decode_q4_1(w, block, i):
    """d f16 | m f16 | qs 16 bytes: d q + m."""
    q = low_bits(w, u32(block + u32(4)), i)
    return f32(f32(f16_at(w, block) * f32(q)) + f16_at(w, u32(block + u32(2))))


@device
def decode_q5_0(w, block, i):
    """d f16 | qh 4 bytes | qs 16 bytes: d (q - 16)."""
    q = u32(low_bits(w, u32(block + u32(6)), i) | fifth_bit(w, u32(block + u32(2)), i))
    return f32(f16_at(w, block) * f32(i32(i32(q) - i32(16))))


@device
def decode_q5_1(w, block, i):
    """d f16 | m f16 | qh 4 bytes | qs 16 bytes: d q + m."""
    q = u32(low_bits(w, u32(block + u32(8)), i) | fifth_bit(w, u32(block + u32(4)), i))
    return f32(f32(f16_at(w, block) * f32(q)) + f16_at(w, u32(block + u32(2))))


@device
def decode_q8_0(w, block, i):
    """d f16 | q 32 x int8: d q."""
    return f32(f16_at(w, block) * f32(s8_at(w, u32(block + u32(2) + i))))


LAYOUTS = {
    "Q4_0": (32, 18, decode_q4_0),
    "Q4_1": (32, 20, decode_q4_1),
    "Q5_0": (32, 22, decode_q5_0),
    "Q5_1": (32, 24, decode_q5_1),
    "Q8_0": (32, 34, decode_q8_0),
}
