"""matmul_int8: out[t] = weight @ x[t] + bias for many tokens at a time, on the CPU.

weight (N, K) in a packed layout (`quant.packed`), x (T, K) as `quantize` leaves it, out (T, N) and
bias (N,) float32. Every weight is a v - b with an unsigned byte v (`block_dot`), so that 16
elements contribute a d (sum of v q) - b d (sum of q), where q and d are the activations'.
Reference: reference.quant.dequantize(weight) @ x, to within the rounding of the activations.

version 1: a warp has 32 rows, one to a lane. It unpacks SEGMENT elements of each into shared
memory, four bytes of all rows side by side, and takes a tile of tokens at a time past them: what it
reads of the activations is the same for all lanes, which the CPU broadcasts as it loads. `out`
holds the sums from one segment to the next. A GPU has tensor cores for this.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32, uint64

from zerfoo_numba.kernels import blocks, matvec_int8
from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.matmul import LANES, part_of, sum_so_far
from zerfoo_numba.kernels.quantize import padded
from zerfoo_numba.kernels.warp import FULL, lane_id, madd
from zerfoo_numba.ptx.instructions import (
    dp4a_u8,
    dp4a_u8_from_zero,
    load_f32x4,
    load_u32x4,
)
from zerfoo_numba.quant.packed import LAYOUTS, ROWS

SEGMENT = 512  # elements of 32 rows: 24 KB of shared memory, which fits any CPU's first cache
OCTETS, NUMBERS = SEGMENT // 4 * LANES, SEGMENT // 8 * LANES
TILE = 4
FEWEST = 24  # tokens with which this is faster than `matvec_int8` on a CPU

device = cuda.jit(device=True, forceinline=True)


def make_unpack(type_name):
    """`unpack`: a segment of 32 rows to shared memory, 8 rows at a time as they lie packed."""
    family, layout = FAMILIES[type_name], LAYOUTS[type_name]
    load, words_of, factors_of = family.load, family.words, family.factors
    width, octets_of, lines_of = family.width, family.octets, family.lines
    units, size, row_part = layout.units, layout.chunk_bytes, layout.step // 32

    @device
    def put(octets, lines, words, numbers, block, row):
        j = uint32(madd(uint32(block << uint32(3)), uint32(LANES), row))
        for word in words:
            octets[j] = word
            j = uint32(j + uint32(LANES))
        j = uint32(madd(uint32(block << uint32(2)), uint32(LANES), row))
        for number in numbers:
            lines[j] = number
            j = uint32(j + uint32(LANES))

    def make_one(unit):
        own = slice(unit * width, (unit + 1) * width)

        @device
        def one(octets, lines, words, factors, block, row):
            put(octets, lines, octets_of(words[own]), lines_of(factors, unit), block, row)

        return one

    first, other = make_one(0), make_one(units - 1)

    @device
    def unpack(octets, lines, weight, group, groups, steps, step, count):
        lane = lane_id()
        for g in range(LANES // ROWS):
            # Past the last rows the last are repeated; only the store of results is guarded.
            here = min(uint32(group + uint32(g)), uint32(groups - uint32(1)))
            row = uint32(uint32(lane >> uint32(2)) + uint32(ROWS * g))
            block = uint32(lane & uint32(3))
            chunk = uint64(uint64(madd(here, steps, step)) * uint64(size))
            left = count
            while left > uint32(0):
                record = load(weight, chunk, lane)
                words, factors = words_of(record), factors_of(record)
                first(octets, lines, words, factors, block, row)
                if units > 1:
                    other(octets, lines, words, factors, uint32(block + uint32(4)), row)
                chunk = uint64(chunk + uint64(size))
                block = uint32(block + uint32(row_part))
                left = uint32(left - uint32(1))

    return unpack


@device
def dot16(octets, at, p, q, r, s):
    """The sum of 16 products, of a row's bytes from word `at` on with those of the activations."""
    total = dp4a_u8_from_zero(octets[at], int32(p))
    total = dp4a_u8(octets[uint32(at + uint32(LANES))], int32(q), total)
    total = dp4a_u8(octets[uint32(at + uint32(2 * LANES))], int32(r), total)
    return float32(dp4a_u8(octets[uint32(at + uint32(3 * LANES))], int32(s), total))


@device
def run_tile(totals, octets, lines, x, x_scales, row_of, count, block):
    """`count` blocks of 32 elements, the first of them block `block` of the activations."""
    lane = lane_id()
    at = lane
    number = lane
    while count > uint32(0):
        a0, b0 = lines[number], lines[uint32(number + uint32(LANES))]
        a1 = lines[uint32(number + uint32(2 * LANES))]
        b1 = lines[uint32(number + uint32(3 * LANES))]
        for j in range(TILE):
            place = uint64(uint32(row_of[j] + block))
            byte = uint64(place << uint64(5))
            p, q, r, s = load_u32x4(x, byte)
            left = dot16(octets, at, p, q, r, s)
            p, q, r, s = load_u32x4(x, uint64(byte + uint64(16)))
            right = dot16(octets, uint32(at + uint32(4 * LANES)), p, q, r, s)
            d0, d1, s0, s1 = load_f32x4(x_scales, uint64(place << uint64(4)))
            total = cuda.fma(a0, d0 * left, totals[j])
            total = cuda.fma(a1, d1 * right, total)
            total = cuda.fma(-b0, s0, total)
            totals[j] = cuda.fma(-b1, s1, total)
        at = uint32(at + uint32(8 * LANES))
        number = uint32(number + uint32(4 * LANES))
        block = uint32(block + uint32(1))
        count = uint32(count - uint32(1))


@functools.cache
def make_matmul_int8_kernel1(type_name):
    step_elements = LAYOUTS[type_name].step
    steps_of_segment, blocks_of_step = SEGMENT // step_elements, step_elements // 32
    unpack = make_unpack(type_name)

    @cuda.jit
    def matmul_int8_kernel1(out, weight, x, x_scales, bias, N, steps, row_blocks, T, part, biased):
        octets = cuda.shared.array(OCTETS, uint32)
        lines = cuda.shared.array(NUMBERS, float32)
        totals = cuda.local.array(TILE, float32)
        row_of = cuda.local.array(TILE, uint32)
        row = madd(uint32(cuda.blockIdx.x), uint32(LANES), lane_id())
        group = uint32(uint32(cuda.blockIdx.x) * uint32(LANES // ROWS))
        groups = uint32(uint32(N + uint32(ROWS - 1)) // uint32(ROWS))
        start = uint32(uint32(cuda.blockIdx.y) * part)
        end = min(uint32(start + part), T)
        step = uint32(0)
        while step < steps:
            count = min(uint32(steps_of_segment), uint32(steps - step))
            unpack(octets, lines, weight, group, groups, steps, step, count)
            cuda.syncwarp(FULL)
            t = start
            while t < end:
                for j in range(TILE):
                    token = min(uint32(t + uint32(j)), uint32(end - uint32(1)))
                    row_of[j] = uint32(token * row_blocks)
                    totals[j] = sum_so_far(out, bias, token, N, row, step, biased)
                run_tile(
                    totals, octets, lines, x, x_scales, row_of,
                    uint32(count * uint32(blocks_of_step)), uint32(step * uint32(blocks_of_step)),
                )  # fmt: skip
                for j in range(TILE):
                    token = uint32(t + uint32(j))
                    if row < N and token < end:
                        out[madd(token, N, row)] = totals[j]
                t = uint32(t + uint32(TILE))
            cuda.syncwarp(FULL)
            step = uint32(step + count)

    return matmul_int8_kernel1


def matmul_int8(device, out, weight, x, bias=None):
    """`weight` is a PackedWeight, `x` QuantizedRows of T rows."""
    T, N = x.rows, weight.rows
    row_blocks, part = padded(weight.columns) // 32, part_of(device.threads, N, T)
    sizes = (N, weight.steps, row_blocks, T, part, bias is not None)
    args = (out, weight.data, x.data, x.scales, x.scales if bias is None else bias)
    grid = (blocks(N, LANES), blocks(T, part))
    kernel = make_matmul_int8_kernel1(weight.type)
    device.launch(kernel, grid, LANES, (*args, *(np.uint32(n) for n in sizes)))


cost = matvec_int8.cost  # what must be moved and done is the same
