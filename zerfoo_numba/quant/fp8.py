"""Eight-bit float weights, E4M3 and E5M2, with the scales they come with.

GGUF has no such type, so their block format exists in memory only: a float32 scale and 32 codes,
36 bytes (`float8_blocks`). A scale of the whole tensor or of a tile is repeated in each block it
covers: the weights stay what the original says, at 9 bits each.
Codes: OCP 8-bit Floating Point Specification (E4M3 has one NaN and no infinity), decoded by integer
arithmetic through float16, which needs no device of compute capability 8.9.
"""

import numpy as np

from zerfoo_numba.errors import InputError
from zerfoo_numba.ptx.instructions import f32, f32_from_bits, f32_from_f16, load_u32, u16, u32
from zerfoo_numba.quant.fields import device, u8_at

SIZE = 32


@device
def e4m3(code):
    """Sign, 4 bits of exponent (bias 7), 3 of mantissa: placed in a float16, 2^-8 of the value."""
    magnitude = u32(code & u32(0x7F))
    half = u32(u32(u32(code & u32(0x80)) << u32(8)) | u32(magnitude << u32(7)))
    value = f32(f32_from_f16(u16(half)) * f32(256.0))
    return f32_from_bits(u32(0x7FC00000)) if magnitude == u32(0x7F) else value


@device
def decode_e4m3(w, block, i):
    code = u8_at(w, u32(block + u32(4) + i))
    return f32(f32_from_bits(load_u32(w, block)) * e4m3(code))


@device
def decode_e5m2(w, block, i):
    """The upper byte of a float16."""
    code = u8_at(w, u32(block + u32(4) + i))
    return f32(f32_from_bits(load_u32(w, block)) * f32_from_f16(u16(u32(code << u32(8)))))


LAYOUTS = {
    "F8_E4M3": (SIZE, 4 + SIZE, decode_e4m3),
    "F8_E5M2": (SIZE, 4 + SIZE, decode_e5m2),
}


def float8_blocks(codes, scale, tile=None):
    """Codes (N, K) uint8 with `scale` as the blocks of F8_E4M3 or F8_E5M2: (N, K / 32 * 36) uint8.

    A weight is its code's value times its scale. `scale` is one number, or an array
    (ceil(N / tile[0]), ceil(K / tile[1])) of one per tile. Raises InputError unless K and tile[1]
    are multiples of 32 and the shapes agree.
    """
    codes = np.asarray(codes, np.uint8)
    N, K = codes.shape
    height, width = tile or (N, K)
    if K % SIZE or width % SIZE:
        raise InputError(f"a row of {K} in tiles of {width} is not made of blocks of {SIZE}")
    scale = np.asarray(scale, np.float32)
    tiles = (-(-N // height), -(-K // width))
    if scale.size != tiles[0] * tiles[1]:
        raise InputError(
            f"{scale.size} scales do not cover {N} x {K} in tiles of {height} x {width}"
        )
    scale = scale.reshape(tiles)[np.arange(N) // height]
    scale = scale[:, np.arange(0, K, SIZE) // width]
    blocks = np.empty((N, K // SIZE, 4 + SIZE), np.uint8)
    blocks[:, :, :4] = scale[:, :, None].astype("<f4").view(np.uint8)
    blocks[:, :, 4:] = codes.reshape(N, -1, SIZE)
    return blocks.reshape(N, -1)
