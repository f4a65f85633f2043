"""matmul: out[t] = weight @ x[t] + bias for many tokens at a time, on the CPU.

weight (N, K) in any block format, x (T, K), out (T, N), bias (N,) or absent, float32.
Reference: reference.quant.dequantize(weight) @ x.

version 1: a warp has 32 rows, one to a lane. It decodes SEGMENT elements of each into shared
memory, one element of all rows side by side, and takes a tile of tokens at a time past them: what
it reads of x is the same for all lanes, which the CPU broadcasts as it loads. `out` holds the sums
from one segment to the next. A GPU has tensor cores for this.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import blocks, matvec
from zerfoo_numba.kernels.warp import FULL, lane_id, madd
from zerfoo_numba.ptx.instructions import byte_load
from zerfoo_numba.quant import QUANTS

LANES = 32
SEGMENT = 256  # elements of 32 rows: 32 KB of shared memory, which fits most CPUs' first cache
VALUES = SEGMENT * LANES
TILE = 6
PART = 256  # tokens for which a block decodes its rows once, and
PART_LEAST = 48  # where more blocks are wanted for the threads
BLOCKS_PER_THREAD = 4
FEWEST = 9  # tokens with which this is faster than `matvec` on a CPU

load_f32 = byte_load(float32)
device = cuda.jit(device=True, forceinline=True)


def make_decode_segment(type_name):
    quant = QUANTS[type_name]
    decode, size, width = quant.decode, quant.block_size, quant.block_bytes

    @device
    def decode_segment(values, weight, first, N, K, start, count):
        """`count` elements from element `start` on of the 32 rows from row `first` on."""
        lane, r = lane_id(), uint32(0)
        while r < uint32(LANES):
            # Past the last row the last is repeated; only the store of results is guarded.
            row = min(uint32(first + r), uint32(N - uint32(1)))
            row_block = uint32(row * uint32(K // uint32(size)))
            c = uint32(0)
            while c < count:
                k = uint32(uint32(start + c) + lane)
                if size >= 32 or k < K:
                    offset = uint32(uint32(row_block + uint32(k // uint32(size))) * uint32(width))
                    value = decode(weight, offset, uint32(k % uint32(size)))
                    values[madd(uint32(c + lane), uint32(LANES), r)] = value
                c = uint32(c + uint32(32))
            r = uint32(r + uint32(1))

    return decode_segment


@device
def run_tile(totals, values, x, place_of, count):
    """`count` elements of a tile of tokens, token j's from byte place_of[j] on."""
    at, byte = lane_id(), uint64(0)
    while count > uint32(0):
        value = values[at]
        for j in range(TILE):
            number = load_f32(x, uint64(place_of[j] + byte))
            totals[j] = cuda.fma(value, number, totals[j])
        at = uint32(at + uint32(LANES))
        byte = uint64(byte + uint64(4))
        count = uint32(count - uint32(1))


@device
def sum_so_far(out, bias, token, N, row, start, biased):
    """What a token's sum for a row begins with, in the segment from `start` on."""
    value = float32(0.0)
    if row < N:
        if start > uint32(0):
            value = out[madd(token, N, row)]
        elif biased != uint32(0):
            value = bias[row]
    return value


@functools.cache
def make_matmul_kernel1(type_name):
    decode_segment = make_decode_segment(type_name)

    @cuda.jit
    def matmul_kernel1(out, weight, x, bias, N, K, T, part, biased):
        values = cuda.shared.array(VALUES, float32)
        totals = cuda.local.array(TILE, float32)
        place_of = cuda.local.array(TILE, uint64)
        first = uint32(uint32(cuda.blockIdx.x) * uint32(LANES))
        row = uint32(first + lane_id())
        start = uint32(0)
        while start < K:
            count = min(uint32(SEGMENT), uint32(K - start))
            decode_segment(values, weight, first, N, K, start, count)
            cuda.syncwarp(FULL)
            t = uint32(uint32(cuda.blockIdx.y) * part)
            end = min(uint32(t + part), T)
            while t < end:
                for j in range(TILE):
                    token = min(uint32(t + uint32(j)), uint32(end - uint32(1)))
                    place_of[j] = uint64(uint64(madd(token, K, start)) << uint64(2))
                    totals[j] = sum_so_far(out, bias, token, N, row, start, biased)
                run_tile(totals, values, x, place_of, count)
                for j in range(TILE):
                    token = uint32(t + uint32(j))
                    if row < N and token < end:
                        out[madd(token, N, row)] = totals[j]
                t = uint32(t + uint32(TILE))
            cuda.syncwarp(FULL)
            start = uint32(start + uint32(SEGMENT))

    return matmul_kernel1


def part_of(threads, N, T):
    """The tokens of a block."""
    wanted = blocks(threads * BLOCKS_PER_THREAD, blocks(N, LANES))
    return min(PART, max(PART_LEAST, blocks(T, wanted)))


def matmul(device, out, weight, x, bias=None):
    """`weight` is a Weight: (N, K) with its block format."""
    T, K = x.shape
    N = weight.rows
    part = part_of(device.threads, N, T)
    sizes = [np.uint32(n) for n in (N, K, T, part, bias is not None)]
    args = (out, weight.data, x, x if bias is None else bias, *sizes)
    grid = (blocks(N, LANES), blocks(T, part))
    device.launch(make_matmul_kernel1(weight.type), grid, LANES, args)


cost = matvec.cost  # what must be moved and done is the same
