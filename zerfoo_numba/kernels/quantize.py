"""quantize: activations to blocks of 16 signed bytes, x = d q with d = max |x| / 127.

x (T, K) float32; data (T, P/4) uint32, four bytes each in element order; scales (T, P/32, 4)
float32: for the two blocks of every 32 elements d0, d1, d0 sum(q0), d1 sum(q1). P is K padded to
what the packed weights read; the padding is zero. ggml's Q8_1 is the same with blocks of 32 and
16-bit scales; the smaller block costs three operations in 32 weights and takes a quarter off the
error of normally distributed activations (the largest of 16 is 1.8 sigma, of 32 it is 2.1).

version 1: four elements to a lane, four lanes to a block.
"""

from dataclasses import dataclass

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import (
    bits_from_f32,
    dp4a_s8,
    f32_from_bits,
    load_f32x4,
    rcp,
    round_to_i32,
)
from zerfoo_numba.quant.packed import PADDING

WARPS = 4
PER_BLOCK = 128 * WARPS
LEAST = 0x0DA24260  # 1e-30, whose inverse is finite


@dataclass(frozen=True)
class QuantizedRows:
    """`rows` rows of activations as `quantize` leaves them."""

    data: object
    scales: object
    rows: int


@cuda.jit(device=True)
def magnitude(x):
    return int32(bits_from_f32(x) & uint32(0x7FFFFFFF))


@cuda.jit(device=True, forceinline=True)
def store_four(data, scales, four, at, scales_at, a, b, c, d):
    """Elements a, b, c, d, number `four` of such fours of a row: into word `at`, and their block's
    scales into the row that begins at `scales_at`. A warp has 32 fours one after another."""
    lane = lane_id()
    # Magnitudes compare as their bits do; a block of zeros has a scale of zero all the same.
    bits = max(max(magnitude(a), magnitude(b)), max(magnitude(c), magnitude(d)))
    for distance in (1, 2):
        bits = max(bits, int32(cuda.shfl_xor_sync(FULL, bits, distance)))
    largest = f32_from_bits(uint32(bits))
    inverse = float32(127.0) * rcp(f32_from_bits(uint32(max(bits, int32(LEAST)))))
    word = uint32(round_to_i32(a * inverse) & int32(255))
    word = uint32(word | uint32(uint32(round_to_i32(b * inverse) & int32(255)) << uint32(8)))
    word = uint32(word | uint32(uint32(round_to_i32(c * inverse) & int32(255)) << uint32(16)))
    word = uint32(word | uint32(uint32(round_to_i32(d * inverse)) << uint32(24)))
    data[at] = word
    total = dp4a_s8(int32(word), int32(0x01010101), int32(0))
    total = int32(total + cuda.shfl_xor_sync(FULL, total, 1))
    total = int32(total + cuda.shfl_xor_sync(FULL, total, 2))
    scale = largest * float32(1.0 / 127.0)
    if uint32(lane & uint32(1)) != uint32(0):
        scale = scale * float32(total)
    # Of the four lanes of a block two store each number, so that the warp stores one piece.
    half = uint32(uint32(four >> uint32(2)) & uint32(1))
    pair = uint32(uint32(four >> uint32(3)) << uint32(2))
    number = uint32(uint32(uint32(lane & uint32(1)) << uint32(1)) | half)
    scales[uint32(uint32(scales_at + pair) + number)] = scale


@cuda.jit
def quantize_kernel1(data, scales, x, K, P):
    t = uint32(cuda.blockIdx.y)
    warp = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
    four = madd(warp, uint32(32), lane_id())
    k = uint32(four << uint32(2))
    if uint32(k & uint32(0xFFFFFF80)) < P:
        a, b, c, d = float32(0.0), float32(0.0), float32(0.0), float32(0.0)
        if k < K:
            a, b, c, d = load_f32x4(x, uint64(uint64(madd(t, K, k)) << uint64(2)))
        at, scales_at = madd(t, uint32(P >> uint32(2)), four), uint32(t * uint32(P >> uint32(3)))
        store_four(data, scales, four, at, scales_at, a, b, c, d)


def padded(K):
    """The width that rows of K elements take."""
    return -(-K // PADDING) * PADDING


def quantize(device, out, x):
    """`out` is a QuantizedRows of x's rows."""
    T, K = x.shape
    P = padded(K)
    grid = (blocks(P, PER_BLOCK), T)
    args = (out.data, out.scales, x, np.uint32(K), np.uint32(P))
    device.launch(quantize_kernel1, grid, 32 * WARPS, args)


def cost(T, K):
    return Cost(bytes=T * (4 * K + padded(K) + padded(K) // 2), flops=4 * T * K)
