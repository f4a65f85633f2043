"""low rank: out[m, t] = weight[m] @ x[t, m], the second half of M low-rank products at once.

weight (M, D, R), x (T, M, R), out (M, T, D), float32. Reference: numpy.einsum("tmr,mdr->mtd").
Peng et al., Eagle and Finch, arXiv:2404.05892, section 4.1.

version 1: one warp per row of the weights, which reads it once for a tile of tokens.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id, warp_sum

WARPS = 4
TILE = 8


@functools.cache
def make_low_rank_kernel1(tile):
    @cuda.jit
    def low_rank_kernel1(out, weight, x, M, D, R, T):
        lane = lane_id()
        d = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
        m = uint32(cuda.blockIdx.z)
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        if d < D:
            total = cuda.local.array(tile, float32)
            for j in range(tile):
                total[j] = float32(0.0)
            row = uint32(madd(m, D, d) * R)
            start = uint32(0)
            while start < R:
                r = uint32(start + lane)
                if r < R:
                    value = weight[uint32(row + r)]
                    for j in range(tile):
                        # Past the last token the tile repeats it; only the store is guarded.
                        t = uint32(min(uint32(first + uint32(j)), uint32(T - uint32(1))))
                        total[j] += value * x[madd(madd(t, M, m), R, r)]
                start = uint32(start + uint32(32))
            for j in range(tile):
                result = warp_sum(total[j])
                t = uint32(first + uint32(j))
                if lane == uint32(0) and t < T:
                    out[madd(madd(m, T, t), D, d)] = result

    return low_rank_kernel1


def low_rank(device, out, weight, x):
    M, T, D = out.shape
    R = x.size // (T * M)
    args = (out, weight, x, *(np.uint32(n) for n in (M, D, R, T)))
    tile = 1 if T == 1 else TILE
    grid = (blocks(D, WARPS), blocks(T, tile), M)
    device.launch(make_low_rank_kernel1(tile), grid, 32 * WARPS, args)


def cost(T, M, D, R):
    return Cost(bytes=4 * M * (D * R + T * (R + D)), flops=2 * T * M * D * R)


def inputs(rng, T, M, D, R):
    shapes = {"weight": (M, D, R), "x": (T, M, R)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


SHAPES = (
    {"T": 1, "M": 5, "D": 256, "R": 32},
    {"T": 11, "M": 5, "D": 37, "R": 7},
    {"T": 8, "M": 2, "D": 16, "R": 40},
)
