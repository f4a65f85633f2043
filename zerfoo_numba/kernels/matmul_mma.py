"""matmul_mma: out[t] = weight @ x[t] + bias for many tokens at a time, on tensor cores.

weight (N, K) in a packed layout (`quant.packed`), x (T, K) as `quantize` leaves it, out (T, N) and
bias (N,) float32. Reference: reference.quant.dequantize(weight) @ x, to within the rounding of the
activations. Compute capability 8.0. PTX ISA, "Matrix Fragments for mma.m16n8k16", for the lanes.

The weights stay the bytes that they are and the activations those of a decode step: sums of 16
products are exact integers, and scales meet them in float32. So prefill and decode differ by the
order of float32 sums alone, which dequantising to f16 or bf16 tiles would not give: rounding x to
11 or 8 bits moves what the next layer quantises by up to a step. With b the weight's least value
and d, q the activations', 32 elements of a row and a token add
  a (d0 sum(v q) + d1 sum(v q)) - b (d0 sum(q0) + d1 sum(q1))
where v are signed bytes without a least value, or unsigned ones with it; a format with a scale for
16 elements has its own a in both terms. That is 5 or 6 operations a thread for 32 products, beside
which the products themselves, 16 x 8 x 16 in one instruction of a warp, cost next to nothing.

version 1: a warp takes 16 rows and all 64 tokens of its block. It unpacks 128 elements of its rows
at a time into its own 2 KB of shared memory, and the four warps copy the same elements of the
tokens into one half of a double buffer, asynchronously, while they use the other. A row of 16
bytes of either is a row of a matrix that ldmatrix takes; rows are permuted so that no eight of
them meet in a bank.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32, uint64

from zerfoo_numba.kernels import blocks, matvec_int8
from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.chain import chain
from zerfoo_numba.kernels.matmul_mma_slab import (
    COPIES,
    HALVES,
    LEAST,
    OWN_UNITS,
    ROWS_OF_WARP,
    SCALE_UNITS,
    SLAB,
    THREADS,
    TOKENS,
    WARPS,
    X_UNITS,
    copy_slab,
    find_rows,
    make_numbers,
    make_place,
)
from zerfoo_numba.kernels.quantize import padded
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import load_f32x4
from zerfoo_numba.ptx.tensor import (
    UNIT,
    copy_wait,
    load_matrices,
    make_load_matrices,
    mma_s8,
    mma_u8,
    shared_place,
)
from zerfoo_numba.quant.packed import LAYOUTS

FEWEST = 21  # tokens with which a whole tile takes fewer instructions than `matvec_int8`
TILES = TOKENS // 8
TOTALS = 4 * TILES
ROWS_OF_BLOCK = WARPS * ROWS_OF_WARP

device = cuda.jit(device=True, forceinline=True)


# Products -------------------------------------------------------------------------------------


def make_pair(type_name, p):
    """Tiles 2 p and 2 p + 1 of eight tokens each, against one block of 32 of the warp's rows."""
    least, halves = type_name in LEAST, type_name in HALVES
    product = mma_u8 if least else mma_s8
    load_x = make_load_matrices(2 * p * 8 * SLAB)

    @device
    def add(totals, at, left, right, first, last, low, d0, d1, sums):
        if halves:
            total = cuda.fma(first, d0 * float32(left), totals[at])
            totals[at] = cuda.fma(last, d1 * float32(right), total)
        else:
            inner = cuda.fma(d1, float32(right), d0 * float32(left))
            total = cuda.fma(last, inner, totals[at])
            totals[at] = cuda.fma(low, sums, total) if least else total

    @device
    def tile(totals, j, weights, near, far, x_scales, scale_at, numbers):
        zero = int32(0)
        l0, l1, l2, l3 = product(weights[0], weights[1], near, zero, zero, zero, zero)
        r0, r1, r2, r3 = product(weights[2], weights[3], far, zero, zero, zero, zero)
        a, b, low, c, d, low8 = numbers
        at = uint64(uint64(scale_at) + uint64(8 * UNIT * j))
        d0, d1, s0, s1 = load_f32x4(x_scales, at)
        add(totals, 4 * j, l0, r0, a, b, low, d0, d1, s0 + s1)
        add(totals, 4 * j + 2, l2, r2, c, d, low8, d0, d1, s0 + s1)
        d0, d1, s0, s1 = load_f32x4(x_scales, uint64(at + uint64(UNIT)))
        add(totals, 4 * j + 1, l1, r1, a, b, low, d0, d1, s0 + s1)
        add(totals, 4 * j + 3, l3, r3, c, d, low8, d0, d1, s0 + s1)

    @device
    def pair(totals, weights, x_place, x_scales, scale_at, numbers):
        near0, far0, near1, far1 = load_x(x_place)
        tile(totals, 2 * p, weights, near0, far0, x_scales, scale_at, numbers)
        tile(totals, 2 * p + 1, weights, near1, far1, x_scales, scale_at, numbers)

    return pair


def make_slab(type_name, unit):
    """A slab: its weights from the records of the warp's two groups of rows, then all products."""
    family, place = FAMILIES[type_name], make_place(type_name, unit)
    words_of, factors_of, numbers_of = family.words, family.factors, make_numbers(type_name, unit)
    pairs = chain([make_pair(type_name, p) for p in range(TILES // 2)])

    @device
    def run(totals, upper, lower, own, own_place, x_place, x_scales, buffer):
        lane = lane_id()
        start = uint32(warp_id() * uint32(OWN_UNITS))
        cuda.syncwarp(FULL)
        place(own, start, words_of(upper), lane)
        place(own, uint32(start + uint32(OWN_UNITS // 2)), words_of(lower), lane)
        first, last, low = numbers_of(factors_of(upper))
        first8, last8, low8 = numbers_of(factors_of(lower))
        cuda.syncwarp(FULL)
        row, matrix = uint32(lane & uint32(7)), uint32(lane >> uint32(3))
        half, other = uint32(matrix >> uint32(1)), uint32(matrix & uint32(1))
        mine = uint32(start + madd(other, uint32(OWN_UNITS // 2), uint32(half * uint32(8))))
        mine = uint32(own_place + uint32(mine * uint32(UNIT)))
        token = madd(half, uint32(8), row)
        tokens = uint32(madd(buffer, uint32(X_UNITS), uint32(token * uint32(8))) * uint32(UNIT))
        tokens = uint32(x_place + tokens)
        even = uint32(uint32(lane & uint32(3)) << uint32(1))
        scale_at = uint32(madd(buffer, uint32(SCALE_UNITS), even) * uint32(UNIT))
        block, quad = uint32(0), uint32(lane & uint32(28))
        while block < uint32(SLAB // 32):
            twice = uint32(block << uint32(1))
            turned = uint32(uint32(row + twice) & uint32(7))
            weights = load_matrices(uint32(mine + uint32(turned * uint32(UNIT))))
            source = int32(quad | block)
            numbers = (
                cuda.shfl_sync(FULL, first, source), cuda.shfl_sync(FULL, last, source),
                -cuda.shfl_sync(FULL, low, source), cuda.shfl_sync(FULL, first8, source),
                cuda.shfl_sync(FULL, last8, source), -cuda.shfl_sync(FULL, low8, source),
            )  # fmt: skip
            unit_of_x = uint32(uint32(twice | other) ^ row)
            at = uint32(tokens + uint32(unit_of_x * uint32(UNIT)))
            pairs(totals, weights, at, x_scales, scale_at, numbers)
            mine = uint32(mine + uint32(16 * UNIT))
            scale_at = uint32(scale_at + uint32(TOKENS * UNIT))
            block = uint32(block + uint32(1))

    return run


def make_store(j):
    """Tile j of eight tokens: rows lane / 4 and 8 more, tokens 2 (lane % 4) and the next."""

    @device
    def store(out, totals, more, row, first, N, T):
        token = uint32(first + uint32(8 * j))
        for i in range(4):
            r, t = uint32(row + uint32(8 * (i >> 1))), uint32(token + uint32(i & 1))
            if r < N and t < T:
                out[madd(t, N, r)] = totals[4 * j + i] + more[i >> 1]

    return store


@functools.cache
def make_matmul_mma_kernel1(type_name):
    layout, load = LAYOUTS[type_name], FAMILIES[type_name].load
    units, size, two = layout.units, layout.chunk_bytes, layout.units == 2
    run_first, run_last = make_slab(type_name, 0), make_slab(type_name, units - 1)
    store = chain([make_store(j) for j in range(TILES)])
    x_words, scale_numbers = 2 * X_UNITS * UNIT // 4, 2 * SCALE_UNITS * UNIT // 4
    own_words = WARPS * OWN_UNITS * UNIT // 4

    @cuda.jit
    def matmul_mma_kernel1(out, weight, x, x_scales, bias, N, steps, row_blocks, T, biased):
        words = cuda.shared.array(x_words, uint32, alignment=16)
        numbers = cuda.shared.array(scale_numbers, float32, alignment=16)
        own = cuda.shared.array(own_words, uint32, alignment=16)
        x_place, scales_place, own_place = (
            shared_place(words), shared_place(numbers), shared_place(own),
        )  # fmt: skip
        lane, first = lane_id(), uint32(uint32(cuda.blockIdx.x) * uint32(TOKENS))
        row = madd(uint32(cuda.blockIdx.y), uint32(ROWS_OF_BLOCK), warp_id() * uint32(ROWS_OF_WARP))
        row_of = cuda.local.array(COPIES, uint32)
        find_rows(row_of, first, row_blocks, T)
        copy_slab(x, x_scales, x_place, scales_place, row_of, uint32(0), uint32(0))
        totals = cuda.local.array(TOTALS, float32)
        for i in range(TOTALS):
            totals[i] = float32(0.0)
        # Past the last rows the last are repeated; only the store of results is guarded.
        group = uint32(row >> uint32(3))
        most = uint32(uint32(N - uint32(1)) >> uint32(3))
        above = uint64(uint64(uint32(min(group, most) * steps)) * uint64(size))
        below = min(uint32(group + uint32(1)), most)
        below = uint64(uint64(uint32(below * steps)) * uint64(size))
        upper, lower = load(weight, above, lane), load(weight, below, lane)
        step, slab, slabs = uint32(0), uint32(0), uint32(steps * uint32(units))
        while step < steps:
            step, slab = uint32(step + uint32(1)), uint32(slab + uint32(1))
            copy_wait()
            cuda.syncthreads()
            if slab < slabs:
                ahead = uint32(slab & uint32(1))
                copy_slab(x, x_scales, x_place, scales_place, row_of, slab, ahead)
            buffer = uint32(uint32(slab & uint32(1)) ^ uint32(1))
            if two:
                run_first(totals, upper, lower, own, own_place, x_place, numbers, buffer)
                slab, buffer = uint32(slab + uint32(1)), uint32(1)
                copy_wait()
                cuda.syncthreads()
                if slab < slabs:
                    copy_slab(x, x_scales, x_place, scales_place, row_of, slab, uint32(0))
            next_upper, next_lower = upper, lower
            if step < steps:  # asked for before the products, wanted after them
                above = uint64(above + uint64(size))
                below = uint64(below + uint64(size))
                next_upper, next_lower = load(weight, above, lane), load(weight, below, lane)
            run_last(totals, upper, lower, own, own_place, x_place, numbers, buffer)
            upper, lower = next_upper, next_lower
        row = uint32(row + uint32(lane >> uint32(2)))
        first = uint32(first + uint32(uint32(lane & uint32(3)) << uint32(1)))
        more = cuda.local.array(2, float32)
        for i in range(2):
            r, more[i] = uint32(row + uint32(8 * i)), float32(0.0)
            if biased != uint32(0) and r < N:
                more[i] = bias[r]
        store(out, totals, more, row, first, N, T)

    return matmul_mma_kernel1


def matmul_int8(device, out, weight, x, bias=None):
    """`weight` is a PackedWeight, `x` QuantizedRows of T rows."""
    T, N = x.rows, weight.rows
    sizes = (N, weight.steps, padded(weight.columns) // 32, T, bias is not None)
    args = (out, weight.data, x.data, x.scales, x.scales if bias is None else bias)
    # Blocks that follow one another take the same rows of weights, so that these are in the cache.
    grid = (blocks(T, TOKENS), blocks(N, ROWS_OF_BLOCK))
    kernel = make_matmul_mma_kernel1(weight.type)
    device.launch(kernel, grid, THREADS, (*args, *(np.uint32(n) for n in sizes)))


cost = matvec_int8.cost  # what must be moved and done is the same
