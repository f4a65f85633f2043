"""matvec_int8: out[t] = weight @ x[t] + bias, with 8-bit activations and integer dot products.

weight (N, K) in a packed layout (`quant.packed`), x (T, K) as `quantize` leaves it, out (T, N) and
bias (N,) float32. A block of 32 elements contributes a d (sum of u q) - b d (sum of q), where q and
d are the activations' and u the weight's unsigned bytes; a and b come from the weight's scales.
Reference: reference.quant.dequantize(weight) @ x, to within the rounding of the activations.
Dettmers et al., LLM.int8(), 2022, for the scheme; ggml's Q8_1 for blocks with sums.

version 1: 8 rows to a warp, a block of 32 to a lane; the warps of a block deal the row among them
in contiguous parts and add up in shared memory. A tile of tokens shares the decoded weight.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.quantize import padded
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.quant.packed import LAYOUTS, ROWS

WARPS = 4
TILE = 4


@functools.cache
def make_matvec_int8_kernel1(type_name, tile):
    layout = LAYOUTS[type_name]
    units, chunk_bytes = layout.units, layout.chunk_bytes
    unpack, scales, combine, _ = FAMILIES[type_name]
    partials = WARPS * ROWS

    @cuda.jit
    def matvec_int8_kernel1(out, weight, x, x_scales, bias, N, steps, row_blocks, T, biased):
        lane = lane_id()
        warp = warp_id()
        group = uint32(cuda.blockIdx.x)
        first = uint32(uint32(cuda.blockIdx.y) * uint32(tile))
        part = uint32(uint32(steps + uint32(WARPS - 1)) // uint32(WARPS))
        step = uint32(warp * part)
        end = min(steps, uint32(step + part))
        total = cuda.local.array(tile, float32)
        for j in range(tile):
            total[j] = float32(0.0)
        chunk = uint64(uint64(madd(group, steps, step)) * uint64(chunk_bytes))
        block = uint64(madd(step, uint32(4 * units), uint32(lane & uint32(3))))
        while step < end:
            for unit in range(units):
                words = unpack(weight, chunk, unit, lane)
                a, b = scales(weight, chunk, unit, lane)
                for j in range(tile):
                    t = min(uint32(first + uint32(j)), uint32(T - uint32(1)))
                    at = uint64(uint64(uint32(t * row_blocks)) + uint64(block + uint64(4 * unit)))
                    total[j] = combine(total[j], words, a, b, x, x_scales, at)
            chunk = uint64(chunk + uint64(chunk_bytes))
            block = uint64(block + uint64(4 * units))
            step = uint32(step + uint32(1))
        partial = cuda.shared.array((tile, partials), float32)
        for j in range(tile):
            value = total[j]
            value += cuda.shfl_xor_sync(FULL, value, 1)
            value += cuda.shfl_xor_sync(FULL, value, 2)
            if uint32(lane & uint32(3)) == uint32(0):
                partial[j, madd(warp, uint32(ROWS), uint32(lane >> uint32(2)))] = value
        cuda.syncthreads()
        thread = uint32(cuda.threadIdx.x)
        row = madd(group, uint32(ROWS), uint32(thread & uint32(7)))
        j = uint32(thread >> uint32(3))
        t = uint32(first + j)
        if j < uint32(tile) and row < N and t < T:
            result = float32(0.0)
            for w in range(WARPS):
                result += partial[j, uint32(uint32(8 * w) + uint32(thread & uint32(7)))]
            if biased != uint32(0):
                result += bias[row]
            out[madd(t, N, row)] = result

    return matvec_int8_kernel1


def matmul_int8(device, out, weight, x, bias=None):
    """`weight` is a PackedWeight, `x` QuantizedRows of T rows."""
    T, N = x.rows, weight.rows
    tile = 1 if T == 1 else TILE
    sizes = (N, weight.steps, padded(weight.columns) // 32, T, bias is not None)
    args = (out, weight.data, x.data, x.scales, x.scales if bias is None else bias)
    kernel = make_matvec_int8_kernel1(weight.type, tile)
    grid = (blocks(N, ROWS), blocks(T, tile))
    device.launch(kernel, grid, 32 * WARPS, (*args, *(np.uint32(n) for n in sizes)))


def cost(T, N, K, type_name):
    weight = LAYOUTS[type_name].packed_bytes(N, K)
    return Cost(bytes=weight + T * (4 * N + K + K // 2), flops=2 * T * N * K)
