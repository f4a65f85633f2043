"""matvec and matmul: out[t] = weight @ x[t] + bias.

weight (N, K) in any block format, x (T, K), out (T, N), bias (N,) or absent, float32.
Reference: reference.quant.dequantize(weight) @ x.
version 2: one warp per row; it fetches a run of blocks into shared memory, every sector once, and a
lane decodes every 32nd element from there; the lanes' sums meet by shuffles. A format without
blocks (F32, F16, BF16) is decoded where it lies.
matmul is the same kernel with a tile of tokens, so that a weight is decoded once per tile. A row's
sum is made in the same order in both: prefill and decode agree bit for bit.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint8, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id, warp_sum
from zerfoo_numba.ptx.instructions import byte_load, byte_store
from zerfoo_numba.quant import QUANTS

WARPS = 4
TILE = 8
RUN_BYTES = 2048  # of a row at once, or a little more
SECTOR = 32  # bytes

load_word, store_word, load_byte = byte_load(uint32), byte_store(uint32), byte_load(uint8)
device = cuda.jit(device=True, forceinline=True)


def run_of(quant):
    """Blocks of a run: whole sectors of them, as blocks of an even number of bytes go."""
    return 16 * max(1, RUN_BYTES // (16 * quant.block_bytes))


@device
def fetch(room, place, weight, start, end):
    """Bytes start to end of the weight into `room`, from byte `place` on, by the sectors they are
    in; what byte `start` became."""
    aligned = uint64(start & ~uint64(SECTOR - 1))
    before = uint32(start - aligned)
    count = uint32(uint32(end - start) + before)
    at = uint32(uint32(4) * lane_id())
    while at < count:
        if uint32(at + uint32(4)) > before:
            if uint32(at + uint32(4)) <= count:
                word = load_word(weight, uint64(aligned + uint64(at)))
                store_word(room, uint64(uint32(place + at)), word)
            else:
                byte = at
                while byte < count:
                    room[uint32(place + byte)] = load_byte(weight, uint64(aligned + uint64(byte)))
                    byte = uint32(byte + uint32(1))
        at = uint32(at + uint32(128))
    return uint32(place + before)


@device
def fetched(room, weight):
    return room


@device
def leave(room, place, weight, start, end):
    return uint32(start)


@device
def left(room, weight):
    return weight


@functools.cache
def make_matvec_kernel2(type_name, tile):
    quant = QUANTS[type_name]
    bring, source = (leave, left) if quant.block_size == 1 else (fetch, fetched)
    decode, size, width, run = quant.decode, quant.block_size, quant.block_bytes, run_of(quant)
    room_of_warp = blocks(run * width + SECTOR, SECTOR) * SECTOR
    rooms = WARPS * room_of_warp

    @cuda.jit
    def matvec_kernel2(out, weight, x, bias, N, K, T, biased):
        room = cuda.shared.array(rooms, uint8)
        lane = lane_id()
        row = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        if row < N:
            total = cuda.local.array(tile, float32)
            for j in range(tile):
                total[j] = float32(0.0)
            place = uint32(warp_id() * uint32(room_of_warp))
            row_bytes = uint64(uint32(uint32(K // uint32(size)) * uint32(width)))
            byte, start = uint64(uint64(row) * row_bytes), uint32(0)
            while start < K:
                count = min(uint32(run * size), uint32(K - start))
                end = uint64(byte + uint64(uint32(uint32(count // uint32(size)) * uint32(width))))
                begin = bring(room, place, weight, byte, end)
                cuda.syncwarp(FULL)
                passed = uint32(0)
                while passed < count:
                    k = uint32(passed + lane)
                    if k < count:
                        offset = madd(uint32(k // uint32(size)), uint32(width), begin)
                        value = decode(source(room, weight), offset, uint32(k % uint32(size)))
                        for j in range(tile):
                            # Past the last token the tile repeats it; only the store is guarded.
                            t = min(uint32(first + uint32(j)), uint32(T - uint32(1)))
                            total[j] += value * x[madd(uint32(t), K, uint32(start + k))]
                    passed = uint32(passed + uint32(32))
                cuda.syncwarp(FULL)
                byte, start = end, uint32(start + count)
            for j in range(tile):
                result = warp_sum(total[j])
                t = uint32(first + uint32(j))
                if lane == uint32(0) and t < T:
                    if biased != uint32(0):
                        result += bias[row]
                    out[madd(t, N, row)] = result

    return matvec_kernel2


def matmul(device, out, weight, x, bias=None):
    """`weight` is a Weight: (N, K) with its block format. T = 1 is the matvec of a decode step."""
    T, K = x.shape
    N = weight.rows
    tile = 1 if T == 1 else TILE
    sizes = (np.uint32(N), np.uint32(K), np.uint32(T), np.uint32(bias is not None))
    args = (out, weight.data, x, x if bias is None else bias, *sizes)
    grid = (blocks(N, WARPS), blocks(T, tile))
    device.launch(make_matvec_kernel2(weight.type, tile), grid, 32 * WARPS, args)


def cost(T, N, K, type_name):
    quant = QUANTS[type_name]
    weight = N * K // quant.block_size * quant.block_bytes
    return Cost(bytes=weight + 4 * T * (N + K), flops=2 * T * N * K)
