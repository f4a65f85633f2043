"""matvec and matmul: out[t] = weight @ x[t] + bias.

weight (N, K) in any block format, x (T, K), out (T, N), bias (N,) or absent, float32.
Reference: reference.quant.dequantize(weight) @ x.
version 1: one warp per row; a lane decodes every 32nd element, its partial sums meet by shuffles.
matmul is the same kernel with a tile of tokens, so that a weight is decoded once per tile. A row's
sum is made in the same order in both: prefill and decode agree bit for bit.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id, warp_sum
from zerfoo_numba.quant import QUANTS

WARPS = 4
TILE = 8


@functools.cache
def make_matvec_kernel1(type_name, tile):
    quant = QUANTS[type_name]
    decode, size, width = quant.decode, quant.block_size, quant.block_bytes

    @cuda.jit
    def matvec_kernel1(out, weight, x, bias, N, K, T, biased):
        lane = lane_id()
        row = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        if row < N:
            total = cuda.local.array(tile, float32)
            for j in range(tile):
                total[j] = float32(0.0)
            row_block = uint32(row * uint32(K // uint32(size)))
            start = uint32(0)
            while start < K:
                k = uint32(start + lane)
                if k < K:
                    block = uint32(row_block + uint32(k // uint32(size)))
                    offset = uint32(block * uint32(width))
                    value = decode(weight, offset, uint32(k % uint32(size)))
                    for j in range(tile):
                        # Past the last token the tile repeats it; only the store is guarded.
                        t = min(uint32(first + uint32(j)), uint32(T - uint32(1)))
                        total[j] += value * x[madd(uint32(t), K, k)]
                start = uint32(start + uint32(32))
            for j in range(tile):
                result = warp_sum(total[j])
                t = uint32(first + uint32(j))
                if lane == uint32(0) and t < T:
                    if biased != uint32(0):
                        result += bias[row]
                    out[madd(t, N, row)] = result

    return matvec_kernel1


def matmul(device, out, weight, x, bias=None):
    """`weight` is a Weight: (N, K) with its block format. T = 1 is the matvec of a decode step."""
    T, K = x.shape
    N = weight.rows
    tile = 1 if T == 1 else TILE
    sizes = (np.uint32(N), np.uint32(K), np.uint32(T), np.uint32(bias is not None))
    args = (out, weight.data, x, x if bias is None else bias, *sizes)
    grid = (blocks(N, WARPS), blocks(T, tile))
    device.launch(make_matvec_kernel1(weight.type, tile), grid, 32 * WARPS, args)


def cost(T, N, K, type_name):
    quant = QUANTS[type_name]
    weight = N * K // quant.block_size * quant.block_bytes
    return Cost(bytes=weight + 4 * T * (N + K), flops=2 * T * N * K)
