"""Ternary formats: 256 elements -1, 0 or 1 times one float16 scale."""

from zerfoo_numba.ptx.instructions import f32, i32, shift_right, u32
from zerfoo_numba.quant.fields import device, f16_at, field, signed_byte, u8_at

POWERS, FOURTH = u32(1 | 3 << 8 | 9 << 16 | 27 << 24), u32(81)


@device
def decode_tq1_0(w, block, i):
    """qs 48 bytes of 5 digits | qh 4 bytes of 4 digits | d f16.

    Runs of 32, 16 and 4 bytes are stacked: digit n of byte l is element l + n run. A byte b is the
    digits as the fraction 0.t0 t1 t2 .. in base 3, times 256, rounded up: t(n) = floor(3 frac(3^n
    b / 256)).
    """
    start, run = u32(0), u32(5)  # run: log2 of its length
    if i >= u32(240):
        start, run = u32(48), u32(2)
    elif i >= u32(160):
        start, run = u32(32), u32(4)
    j = u32(i - u32(start * u32(5)))
    last = u32(u32(u32(1) << run) - u32(1))
    byte = u8_at(w, u32(block + start + u32(j & last)))
    power = u32(signed_byte(POWERS, FOURTH, shift_right(j, run)))
    digit = u32(u32(u32(u32(byte * power) & u32(255)) * u32(3)) >> u32(8))
    return f32(f16_at(w, u32(block + u32(52))) * f32(i32(i32(digit) - i32(1))))


@device
def decode_tq2_0(w, block, i):
    """qs 64 bytes (2 bits, stacked in runs of 32) | d f16."""
    byte = u8_at(w, u32(block + u32(u32(i >> u32(7)) << u32(5)) + u32(i & u32(31))))
    q = field(byte, u32(u32(i >> u32(4)) & u32(6)), u32(3))
    return f32(f16_at(w, u32(block + u32(64))) * f32(i32(i32(q) - i32(1))))


LAYOUTS = {
    "TQ1_0": (256, 54, decode_tq1_0),
    "TQ2_0": (256, 66, decode_tq2_0),
}
