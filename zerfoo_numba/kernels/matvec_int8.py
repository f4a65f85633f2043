"""matvec_int8: out[t] = weight @ x[t] + bias, with 8-bit activations and integer dot products.

weight (N, K) in a packed layout (`quant.packed`), x (T, K) as `quantize` leaves it, out (T, N) and
bias (N,) float32. A block of 32 elements contributes a d (sum of u q) - b d (sum of q), where q and
d are the activations' and u the weight's unsigned bytes; a and b come from the weight's scales.
Reference: reference.quant.dequantize(weight) @ x, to within the rounding of the activations.
Dettmers et al., LLM.int8(), 2022, for the scheme; ggml's Q8_1 for blocks with sums.

version 1: 8 rows to a warp, a block of 32 to a lane; four warps deal the row among them in
contiguous parts and add up in shared memory. A tile of tokens shares the decoded weight.
version 2: the weights of 1024 elements of a row are asked for before the first is used, and a row
has only as many warps as a large GPU's memory needs to be busy: with one there is no barrier.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.quantize import padded
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.quant.packed import LANES_PER_ROW, LAYOUTS, ROWS

TILE = 4
AHEAD = {1: 1024, TILE: 512}  # elements of a row whose weights are under way at once, by the tile
WARPS_MOST = 8  # of a row; with 255 registers a thread, a block of 8 warps still fits
# Warps that should run at once: 8 on each of 132 multiprocessors, which at 4.5 bits a weight have
# 36 KB under way where latency times bandwidth asks for 20 KB.
WARPS_WANTED = 1024

device = cuda.jit(device=True, forceinline=True)


def make_token(tile):
    """Token j of a tile that starts at token `first`; the tile of one is that of a single token."""

    @device
    def token_of_tile(first, j, T):
        # Past the last token the tile repeats it; only the store is guarded.
        return min(uint32(first + uint32(j)), uint32(T - uint32(1)))

    @device
    def only_token(first, j, T):
        return uint32(0)

    return only_token if tile == 1 else token_of_tile


def make_load(type_name, count):
    """`load(w, chunk, lane)`: the records of `count` chunks, a tuple of them."""
    load, size = FAMILIES[type_name].load, LAYOUTS[type_name].chunk_bytes
    if count == 1:

        @device
        def load_one(w, chunk, lane):
            return (load(w, chunk, lane),)

        return load_one
    half, distance = make_load(type_name, count // 2), count // 2 * size

    @device
    def load_all(w, chunk, lane):
        return half(w, chunk, lane) + half(w, uint64(chunk + uint64(distance)), lane)

    return load_all


def make_add(type_name, tile, count):
    """`add`: the products of `count` records with every token of the tile onto `total`."""
    family, token = FAMILIES[type_name], make_token(tile)
    words_of, factors_of, combine = family.words, family.factors, family.combine
    if count == 1:

        @device
        def add_one(total, records, x, x_scales, block, first, row_blocks, T):
            words, factors = words_of(records[0]), factors_of(records[0])
            for j in range(tile):
                row = uint64(uint32(token(first, j, T) * row_blocks))
                total[j] = combine(total[j], words, factors, x, x_scales, uint64(row + block))

        return add_one
    half, distance = make_add(type_name, tile, count // 2), count // 2 * _row_part(type_name)
    left, right = slice(0, count // 2), slice(count // 2, count)

    @device
    def add_all(total, records, x, x_scales, block, first, row_blocks, T):
        half(total, records[left], x, x_scales, block, first, row_blocks, T)
        block = uint64(block + uint64(distance))
        half(total, records[right], x, x_scales, block, first, row_blocks, T)

    return add_all


def _row_part(type_name):
    """Blocks of 32 of a row in one chunk."""
    return LANES_PER_ROW * LAYOUTS[type_name].units


def make_run(type_name, tile, count):
    """`run`: `count` chunks, all of them asked for before the first is used."""
    load, add = make_load(type_name, count), make_add(type_name, tile, count)

    @device
    def run(total, weight, chunk, lane, x, x_scales, block, first, row_blocks, T):
        records = load(weight, chunk, lane)
        # Compilers move a load down to its use, but not across a barrier of the warp.
        cuda.syncwarp(FULL)
        add(total, records, x, x_scales, block, first, row_blocks, T)

    return run


def make_store(tile):
    token = make_token(tile)

    @device
    def store(out, bias, value, group, j, first, N, T, biased):
        """The sum of `value` over the four lanes of each row of a group, for token j of a tile."""
        lane, t = lane_id(), uint32(first + uint32(j))
        row = madd(group, uint32(ROWS), uint32(lane >> uint32(2)))
        value += cuda.shfl_xor_sync(FULL, value, 1)
        value += cuda.shfl_xor_sync(FULL, value, 2)
        if uint32(lane & uint32(3)) == uint32(0) and row < N and (tile == 1 or t < T):
            if biased != uint32(0):
                value += bias[row]
            out[madd(token(first, j, T), N, row)] = value

    return store


def make_dot(type_name, tile):
    size, row_part = LAYOUTS[type_name].chunk_bytes, _row_part(type_name)
    ahead = chunks_ahead(type_name, tile)
    run_ahead, run_four, run_two, run_one = (
        make_run(type_name, tile, count) for count in (ahead, 4, 2, 1)
    )

    @device
    def dot(total, weight, chunk, lane, x, x_scales, block, left, first, row_blocks, T):
        """`left` chunks, from byte `chunk` on, against the activations from block `block` on."""
        while left >= uint32(ahead):
            run_ahead(total, weight, chunk, lane, x, x_scales, block, first, row_blocks, T)
            chunk = uint64(chunk + uint64(ahead * size))
            block = uint64(block + uint64(ahead * row_part))
            left = uint32(left - uint32(ahead))
        if ahead > 4 and left >= uint32(4):
            run_four(total, weight, chunk, lane, x, x_scales, block, first, row_blocks, T)
            chunk = uint64(chunk + uint64(4 * size))
            block = uint64(block + uint64(4 * row_part))
            left = uint32(left - uint32(4))
        if ahead > 2 and left >= uint32(2):
            run_two(total, weight, chunk, lane, x, x_scales, block, first, row_blocks, T)
            chunk = uint64(chunk + uint64(2 * size))
            block = uint64(block + uint64(2 * row_part))
            left = uint32(left - uint32(2))
        if left > uint32(0):
            run_one(total, weight, chunk, lane, x, x_scales, block, first, row_blocks, T)

    return dot


@functools.cache
def make_matvec_int8_kernel2(type_name, tile, alone):
    """`alone`: a row has one warp, and otherwise all warps of the block."""
    size, row_part, room = LAYOUTS[type_name].chunk_bytes, _row_part(type_name), 32 * WARPS_MOST
    dot, store, rooms = make_dot(type_name, tile), make_store(tile), tile * room

    @cuda.jit
    def matvec_int8_kernel2(out, weight, x, x_scales, bias, N, steps, part, row_blocks, T, biased):
        thread, lane = uint32(cuda.threadIdx.x), lane_id()
        group = uint32(cuda.blockIdx.x)
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        step, count = uint32(0), steps
        if not alone:
            step = uint32(warp_id() * part)
            count = min(part, uint32(steps - step))
        total = cuda.local.array(tile, float32)
        for j in range(tile):
            total[j] = float32(0.0)
        chunk = uint64(uint64(madd(group, steps, step)) * uint64(size))
        block = uint64(madd(step, uint32(row_part), uint32(lane & uint32(3))))
        dot(total, weight, chunk, lane, x, x_scales, block, count, first, row_blocks, T)
        if alone:
            for j in range(tile):
                store(out, bias, total[j], group, j, first, N, T, biased)
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
                store(out, bias, value, group, j, first, N, T, biased)

    return matvec_int8_kernel2


def chunks_ahead(type_name, tile):
    """Chunks that a warp asks for at once."""
    return AHEAD[tile] // LAYOUTS[type_name].step


def deal(N, steps, ahead):
    """(warps of a row, chunks of each but the last) of N rows of `steps` chunks.

    They depend on the weight alone, so that all numbers of tokens add up in the same order.
    """
    wanted = blocks(WARPS_WANTED, blocks(N, ROWS))
    warps = min(WARPS_MOST, wanted, max(1, round(steps / ahead)))
    part = blocks(steps, warps)
    return blocks(steps, part), part


def matmul_int8(device, out, weight, x, bias=None):
    """`weight` is a PackedWeight, `x` QuantizedRows of T rows."""
    T, N = x.rows, weight.rows
    tile = 1 if T == 1 else TILE
    warps, part = deal(N, weight.steps, chunks_ahead(weight.type, 1))
    sizes = (N, weight.steps, part, padded(weight.columns) // 32, T, bias is not None)
    args = (out, weight.data, x.data, x.scales, x.scales if bias is None else bias)
    kernel = make_matvec_int8_kernel2(weight.type, tile, warps == 1)
    grid = (blocks(N, ROWS), blocks(T, tile))
    device.launch(kernel, grid, 32 * warps, (*args, *(np.uint32(n) for n in sizes)))


def cost(T, N, K, type_name):
    weight = LAYOUTS[type_name].packed_bytes(N, K)
    return Cost(bytes=weight + T * (4 * N + K + K // 2), flops=2 * T * N * K)
