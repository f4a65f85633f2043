"""Bytes, halves and bit fields of a block, as device functions."""

from numba import cuda

from zerfoo_numba.ptx.instructions import f32_from_f16, i8, i32, load_u16, prmt, shift_right, u32

device = cuda.jit(device=True, forceinline=True)


@device
def u8_at(w, at):
    return u32(w[at])


@device
def s8_at(w, at):
    return i32(i8(w[at]))


@device
def u16_at(w, at):
    return u32(load_u16(w, at))


@device
def u32_at(w, at):
    """A 32-bit field that is only 2-byte aligned."""
    high = u16_at(w, u32(at + u32(2)))
    return u32(u16_at(w, at) | u32(high << u32(16)))


@device
def f16_at(w, at):
    return f32_from_f16(load_u16(w, at))


@device
def field(word, shift, mask):
    """(word >> shift) & mask, shift < 32."""
    return u32(shift_right(word, shift) & mask)


@device
def nibble(byte, high):
    return field(byte, u32(high << u32(2)), u32(15))


@device
def signed_byte(low, high, k):
    """Byte k of the eight bytes high:low, sign-extended (selector bit 3 repeats the sign)."""
    return i32(prmt(low, high, u32(u32(k * u32(0x1111)) + u32(0x8880))))


@device
def lookup16(words, k):
    """Entry k of a table of 16 int8, held in the four registers of `words` (see `table16`)."""
    low = signed_byte(words[0], words[1], u32(k & u32(7)))
    high = signed_byte(words[2], words[3], u32(k & u32(7)))
    return high if k > u32(7) else low


def table16(values):
    """Sixteen int8 as the four words that `lookup16` takes."""
    packed = bytes(v & 255 for v in values)
    return tuple(u32(int.from_bytes(packed[j : j + 4], "little")) for j in range(0, 16, 4))
