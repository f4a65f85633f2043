"""Formats without blocks: one element is one number. F64 becomes F32 when a file is loaded."""

from zerfoo_numba.ptx.instructions import f32_from_bits, load_u32, u32
from zerfoo_numba.quant.fields import device, f16_at, u16_at


@device
def decode_f32(w, block, i):
    return f32_from_bits(load_u32(w, u32(block + u32(i << u32(2)))))


@device
def decode_f16(w, block, i):
    return f16_at(w, u32(block + u32(i << u32(1))))


@device
def decode_bf16(w, block, i):
    """The upper half of a float32."""
    return f32_from_bits(u32(u16_at(w, u32(block + u32(i << u32(1)))) << u32(16)))


LAYOUTS = {
    "F32": (1, 4, decode_f32),
    "F16": (1, 2, decode_f16),
    "BF16": (1, 2, decode_bf16),
}
