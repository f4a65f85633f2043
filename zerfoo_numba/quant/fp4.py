"""Four-bit floats (E2M1) with eight-bit float scales: MXFP4 and NVFP4.

Levels are twice the E2M1 values, integers; minus zero is plus zero. The scales are halved for it.
Source: OCP Microscaling Formats (MX) v1.0 for E2M1 and E8M0; NVFP4 as ggml stores it.
"""

from zerfoo_numba.ptx.instructions import f32, f32_from_bits, f32_from_f16, u16, u32
from zerfoo_numba.quant.fields import device, lookup16, nibble, table16, u8_at

E2M1_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
E2M1 = table16(E2M1_LEVELS)


@device
def half_e8m0(e):
    """2^(e - 128): subnormal below e = 2; e = 255 is 2^127, not NaN, as in ggml."""
    bits = u32(u32(e - u32(1)) << u32(23))
    if e < u32(2):
        bits = u32(u32(e + u32(1)) * u32(0x00200000))
    return f32_from_bits(bits)


@device
def half_ue4m3(e):
    """Half of an unsigned E4M3 (bias 7; the top bit is ignored): 0x7F is 0, not NaN, as in ggml.

    Its 7 bits, shifted to where a float16 (bias 15) has them, are 2^-8 of the value.
    """
    value = f32(f32_from_f16(u16(u32(u32(e & u32(127)) << u32(7)))) * f32(128.0))
    return f32(0.0) if e == u32(127) else value


@device
def decode_mxfp4(w, block, i):
    """e 1 byte (E8M0) | qs 16 bytes, nibbles as Q4_0."""
    byte = u8_at(w, u32(block + u32(1) + u32(i & u32(15))))
    level = lookup16(E2M1, nibble(byte, u32(u32(i >> u32(4)) & u32(1))))
    return f32(half_e8m0(u8_at(w, block)) * f32(level))


@device
def decode_nvfp4(w, block, i):
    """d 4 bytes (unsigned E4M3, one per 16 elements) | qs 4 x 8 bytes, low nibbles first."""
    part = u32(i >> u32(4))
    byte = u8_at(w, u32(block + u32(4) + u32(part << u32(3)) + u32(i & u32(7))))
    level = lookup16(E2M1, nibble(byte, u32(u32(i >> u32(3)) & u32(1))))
    return f32(half_ue4m3(u8_at(w, u32(block + part))) * f32(level))


LAYOUTS = {
    "MXFP4": (32, 17, decode_mxfp4),
    "NVFP4": (64, 36, decode_nvfp4),
}
