"""K-quants: super-blocks of 256 elements with scaled scales, Q2_K to Q6_K.

Two-bit and four-bit fields are stacked: a run of 32 or 64 consecutive bytes holds, for each of the
elements l of the run, first all lowest fields (elements l), then the next ones (l + 32 or l + 64).
"""

from zerfoo_numba.ptx.instructions import f32, i32, u32
from zerfoo_numba.quant.fields import device, f16_at, field, nibble, s8_at, u8_at


@device
def two_bits(w, qs, i):
    """Field i of 64 bytes that stack four runs of 32: halves of 128 elements."""
    half = u32(u32(i >> u32(7)) << u32(5))
    byte = u8_at(w, u32(qs + half + u32(i & u32(31))))
    return field(byte, u32(u32(i >> u32(4)) & u32(6)), u32(3))


@device
def stacked_bit(w, qh, i):
    """Bit i of 32 bytes: bit i // 32 of byte i % 32."""
    byte = u8_at(w, u32(qh + u32(i & u32(31))))
    return field(byte, u32(u32(i >> u32(5)) & u32(7)), u32(1))


@device
def scale_and_min(w, scales, j):
    """6-bit scale and min of sub-block j of 8, in 12 bytes.

    Bytes 0-3: scales 0-3 and, in the top two bits, the top bits of scales 4-7. Bytes 4-7: the same
    of the mins. Bytes 8-11: low nibbles of scales 4-7, high nibbles of mins 4-7.
    """
    k = u32(j & u32(3))
    a = u8_at(w, u32(scales + k))
    b = u8_at(w, u32(scales + u32(4) + k))
    c = u8_at(w, u32(scales + u32(8) + k))
    if j < u32(4):
        return u32(a & u32(63)), u32(b & u32(63))
    scale = u32(u32(c & u32(15)) | u32(u32(a >> u32(6)) << u32(4)))
    return scale, u32(u32(c >> u32(4)) | u32(u32(b >> u32(6)) << u32(4)))


@device
def scaled(w, block, i, q):
    """d scale q - dmin min, with d, dmin and the 6-bit pairs as Q4_K and Q5_K begin."""
    scale, least = scale_and_min(w, u32(block + u32(4)), u32(i >> u32(5)))
    d = f32(f16_at(w, block) * f32(scale))
    m = f32(f16_at(w, u32(block + u32(2))) * f32(least))
    return f32(f32(d * f32(q)) - m)


@device
def low_nibble(w, qs, i):
    """Field i of 128 bytes that stack two runs of 32: quarters of 64 elements."""
    byte = u8_at(w, u32(qs + u32(u32(i >> u32(6)) << u32(5)) + u32(i & u32(31))))
    return nibble(byte, u32(u32(i >> u32(5)) & u32(1)))


@device
def decode_q2_k(w, block, i):
    """scales 16 bytes (scale in the low, min in the high nibble, per 16 elements) | qs 64 bytes |
    d f16 | dmin f16: d scale q - dmin min."""
    pair = u8_at(w, u32(block + u32(i >> u32(4))))
    q = two_bits(w, u32(block + u32(16)), i)
    d = f32(f16_at(w, u32(block + u32(80))) * f32(u32(pair & u32(15))))
    m = f32(f16_at(w, u32(block + u32(82))) * f32(u32(pair >> u32(4))))
    return f32(f32(d * f32(q)) - m)


@device
def decode_q3_k(w, block, i):
    """hmask 32 bytes | qs 64 bytes | scales 12 bytes | d f16: d (scale - 32) (q - 4).

    The top bit of q is its bit in hmask. Scale k of 16: nibble k // 8 of byte k % 8, and two upper
    bits at 2 (k // 4) of byte 8 + k % 4.
    """
    k = u32(i >> u32(4))
    low = nibble(u8_at(w, u32(block + u32(96) + u32(k & u32(7)))), u32(k >> u32(3)))
    high = u8_at(w, u32(block + u32(104) + u32(k & u32(3))))
    high = field(high, u32(u32(k >> u32(1)) & u32(6)), u32(3))
    scale = i32(i32(low | u32(high << u32(4))) - i32(32))
    top = stacked_bit(w, block, i)
    q = i32(i32(two_bits(w, u32(block + u32(32)), i) | u32(top << u32(2))) - i32(4))
    return f32(f32(f16_at(w, u32(block + u32(108))) * f32(scale)) * f32(q))


@device
def decode_q4_k(w, block, i):
    """d f16 | dmin f16 | scales and mins 12 bytes | qs 128 bytes."""
    return scaled(w, block, i, low_nibble(w, u32(block + u32(16)), i))


@device
def decode_q5_k(w, block, i):
    """d f16 | dmin f16 | scales and mins 12 bytes | qh 32 bytes (the fifth bits) | qs 128 bytes."""
    top = stacked_bit(w, u32(block + u32(16)), i)
    q = u32(low_nibble(w, u32(block + u32(48)), i) | u32(top << u32(4)))
    return scaled(w, block, i, q)


@device
def decode_q6_k(w, block, i):
    """ql 128 bytes (two runs of 64 stacked twice) | qh 64 bytes | scales 16 x int8 | d f16:
    d scale (q - 32)."""
    half = u32(u32(i >> u32(7)) << u32(6))
    low = u8_at(w, u32(block + half + u32(i & u32(63))))
    low = nibble(low, u32(u32(i >> u32(6)) & u32(1)))
    high = two_bits(w, u32(block + u32(128)), i)
    q = i32(i32(low | u32(high << u32(4))) - i32(32))
    scale = s8_at(w, u32(block + u32(192) + u32(i >> u32(4))))
    return f32(f32(f16_at(w, u32(block + u32(208))) * f32(scale)) * f32(q))


LAYOUTS = {
    "Q2_K": (256, 84, decode_q2_k),
    "Q3_K": (256, 110, decode_q3_k),
    "Q4_K": (256, 144, decode_q4_k),
    "Q5_K": (256, 176, decode_q5_k),
    "Q6_K": (256, 210, decode_q6_k),
}
