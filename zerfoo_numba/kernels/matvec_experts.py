"""matvec_experts: out[s] = weight[e(s)] @ x[...], a product whose matrix is chosen on the device.

weight (E, N, K): the matrices of all experts, one after another, in any block format or in a packed
layout (each then begins with a group of rows of its own). Only chosen experts are read.
A token alone: out (U, N); out[u] = weight[experts[u]] @ x[u], x (U, K), or x (1, K) for all.
Many: out (M TILE, N), x (M TILE, K) in slots as `router.place` deals them: a tile of slots has one
expert, and a weight is decoded once for it. Tiles of no expert become zero.
Reference: reference.quant.dequantize(weight[e]) @ x. A row's sum is made as `matvec` and
`matvec_int8` make it, for one token as for many: prefill and decode agree bit for bit.

version 1: the kernels of `matvec` and `matvec_int8`; the expert shifts the first row.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.matvec import WARPS
from zerfoo_numba.kernels.matvec_int8 import (
    WARPS_MOST,
    chunks_ahead,
    deal,
    make_dot,
)
from zerfoo_numba.kernels.quantize import padded
from zerfoo_numba.kernels.router import NONE, TILE
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id, warp_sum
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LANES_PER_ROW, LAYOUTS, ROWS


@functools.cache
def make_matvec_experts_kernel1(type_name, tile):
    quant = QUANTS[type_name]
    decode, size, width = quant.decode, quant.block_size, quant.block_bytes

    @cuda.jit
    def matvec_experts_kernel1(out, weight, x, experts, N, K, shared_x):
        lane = lane_id()
        row = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        x_row = uint32(0) if shared_x != uint32(0) else first
        expert = experts[uint32(cuda.blockIdx.y)]
        if row < N:
            total = cuda.local.array(tile, float32)
            for j in range(tile):
                total[j] = float32(0.0)
            row_block = uint32(madd(expert, N, row) * uint32(K // uint32(size)))
            start = K if expert == uint32(NONE) else uint32(0)
            while start < K:
                k = uint32(start + lane)
                if k < K:
                    block = uint32(row_block + uint32(k // uint32(size)))
                    offset = uint32(block * uint32(width))
                    value = decode(weight, offset, uint32(k % uint32(size)))
                    for j in range(tile):
                        total[j] += value * x[madd(uint32(x_row + uint32(j)), K, k)]
                start = uint32(start + uint32(32))
            for j in range(tile):
                result = warp_sum(total[j])
                if lane == uint32(0):
                    out[madd(uint32(first + uint32(j)), N, row)] = result

    return matvec_experts_kernel1


@cuda.jit(device=True, forceinline=True)
def store(out, value, slot, group, N):
    """The sum of `value` over the four lanes of each row of a group."""
    lane = lane_id()
    row = madd(group, uint32(ROWS), uint32(lane >> uint32(2)))
    value += cuda.shfl_xor_sync(FULL, value, 1)
    value += cuda.shfl_xor_sync(FULL, value, 2)
    if uint32(lane & uint32(3)) == uint32(0) and row < N:
        out[madd(slot, N, row)] = value


@functools.cache
def make_matvec_experts_int8_kernel1(type_name, tile, alone):
    """`alone`: a row has one warp, and otherwise all warps of the block."""
    layout, room = LAYOUTS[type_name], 32 * WARPS_MOST
    size, row_part, rooms = layout.chunk_bytes, LANES_PER_ROW * layout.units, tile * room
    dot = make_dot(type_name, tile)

    @cuda.jit
    def matvec_experts_int8_kernel1(
        out, weight, x, x_scales, experts, N, groups, steps, part, row_blocks, slots, shared_x
    ):
        thread, lane = uint32(cuda.threadIdx.x), lane_id()
        group = uint32(cuda.blockIdx.x)
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        expert = experts[uint32(cuda.blockIdx.y)]
        step, count = uint32(0), steps
        if not alone:
            step = uint32(warp_id() * part)
            count = min(part, uint32(steps - step))
        if expert == uint32(NONE):
            count = uint32(0)
        total = cuda.local.array(tile, float32)
        for j in range(tile):
            total[j] = float32(0.0)
        row = madd(expert, groups, group)
        chunk = uint64(uint64(madd(row, steps, step)) * uint64(size))
        block = uint64(madd(step, uint32(row_part), uint32(lane & uint32(3))))
        if tile == 1 and shared_x == uint32(0):
            block = uint64(block + uint64(uint32(first * row_blocks)))
        dot(total, weight, chunk, lane, x, x_scales, block, count, first, row_blocks, slots)
        if alone:
            for j in range(tile):
                store(out, total[j], uint32(first + uint32(j)), group, N)
            return
        partial = cuda.shared.array(rooms, float32)
        for j in range(tile):
            partial[uint32(thread + uint32(room * j))] = total[j]
        cuda.syncthreads()
        if thread < uint32(32):
            for j in range(tile):
                value, at = float32(0.0), thread
                while at < uint32(cuda.blockDim.x):
                    value += partial[uint32(at + uint32(room * j))]
                    at = uint32(at + uint32(32))
                store(out, value, uint32(first + uint32(j)), group, N)

    return matvec_experts_int8_kernel1


def _tile(out, experts):
    """Slots of out (S, N) to each of `experts`: 1 of a token alone, else TILE."""
    tile = out.shape[0] // experts.size
    assert tile in (1, TILE) and tile * experts.size == out.shape[0]
    return tile


def matmul_experts(device, out, weight, x, experts):
    """`weight` is a Weight whose rows are those of one expert; x (S, K), as out (S, N), or (1, K)
    for all."""
    K, N, tile = x.shape[1], weight.rows, _tile(out, experts)
    shared_x = x.shape[0] == 1
    args = (out, weight.data, x, experts, *(np.uint32(n) for n in (N, K, shared_x)))
    kernel = make_matvec_experts_kernel1(weight.type, tile)
    device.launch(kernel, (blocks(N, WARPS), experts.size), 32 * WARPS, args)


def matmul_experts_int8(device, out, weight, x, experts):
    """`weight` is a PackedWeight whose rows are those of one expert, `x` QuantizedRows."""
    N, S, tile = weight.rows, out.shape[0], _tile(out, experts)
    warps, part = deal(N, weight.steps, chunks_ahead(weight.type, 1))
    groups, row_blocks = blocks(N, ROWS), padded(weight.columns) // 32
    sizes = (N, groups, weight.steps, part, row_blocks, S, x.rows == 1)
    args = (out, weight.data, x.data, x.scales, experts, *(np.uint32(n) for n in sizes))
    kernel = make_matvec_experts_int8_kernel1(weight.type, tile, warps == 1)
    device.launch(kernel, (groups, experts.size), 32 * warps, args)


def cost(S, N, K, E, chosen, type_name, packed):
    """`chosen`: experts that are read; S rows of x and of out."""
    quant = QUANTS[type_name]
    each = N * K // quant.block_size * quant.block_bytes
    x_bytes = 4 * K
    if packed:
        each, x_bytes = LAYOUTS[type_name].packed_bytes(N, K), K + K // 2
    return Cost(bytes=min(chosen, E) * each + S * (4 * N + x_bytes), flops=2 * S * N * K)
