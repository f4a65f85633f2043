"""rmsnorm: out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight.

add_rmsnorm: residual[t] += x[t], then out[t] = rmsnorm(residual[t]); equal to the two apart.
x, residual, out (T, D) float32; weight (D,) float32. Reference: reference.ops.rmsnorm.
Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.

version 1: one warp per row.
version 2: one block of 8 warps per row, their sums joined in shared memory.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.warp import block_sum, lane_id, madd, warp_sum
from zerfoo_numba.ptx.instructions import rsqrt

WARPS = 8
THREADS = 32 * WARPS


@cuda.jit
def rmsnorm_kernel1(out, x, weight, D, mean_factor, eps):
    lane = lane_id()
    row = uint32(uint32(cuda.blockIdx.x) * D)
    squares = float32(0.0)
    start = uint32(0)
    while start < D:
        d = uint32(start + lane)
        if d < D:
            value = x[uint32(row + d)]
            squares += value * value
        start = uint32(start + uint32(32))
    scale = rsqrt(warp_sum(squares) * mean_factor + eps)
    start = uint32(0)
    while start < D:
        d = uint32(start + lane)
        if d < D:
            out[uint32(row + d)] = x[uint32(row + d)] * scale * weight[d]
        start = uint32(start + uint32(32))


def make_rmsnorm_kernel2(ADD):
    @cuda.jit
    def rmsnorm_kernel2(out, residual, x, weight, D, mean_factor, eps):
        thread = uint32(cuda.threadIdx.x)
        partial = cuda.shared.array(WARPS, float32)
        row = uint32(cuda.blockIdx.x)
        squares = float32(0.0)
        start = uint32(0)
        while start < D:
            d = uint32(start + thread)
            if d < D:
                i = madd(row, D, d)
                value = x[i]
                if ADD:
                    value += residual[i]
                    residual[i] = value
                squares += value * value
            start = uint32(start + uint32(THREADS))
        scale = rsqrt(block_sum(squares, partial) * mean_factor + eps)
        start = uint32(0)
        while start < D:
            d = uint32(start + thread)
            if d < D:
                i = madd(row, D, d)
                value = residual[i] if ADD else x[i]
                out[i] = value * scale * weight[d]
            start = uint32(start + uint32(THREADS))

    return rmsnorm_kernel2


rmsnorm_kernel2 = make_rmsnorm_kernel2(False)
add_rmsnorm_kernel2 = make_rmsnorm_kernel2(True)


def rmsnorm(device, out, x, weight, eps, version=2):
    T, D = x.shape
    numbers = (np.uint32(D), np.float32(1.0 / D), np.float32(eps))
    if version == 1:
        device.launch(rmsnorm_kernel1, T, 32, (out, x, weight, *numbers))
    else:
        device.launch(rmsnorm_kernel2, T, THREADS, (out, x, x, weight, *numbers))


def add_rmsnorm(device, out, residual, x, weight, eps):
    T, D = x.shape
    numbers = (np.uint32(D), np.float32(1.0 / D), np.float32(eps))
    device.launch(add_rmsnorm_kernel2, T, THREADS, (out, residual, x, weight, *numbers))


def cost(T, D):
    return Cost(bytes=4 * (2 * T * D + D), flops=4 * T * D)


def add_cost(T, D):
    return Cost(bytes=4 * (4 * T * D + D), flops=5 * T * D)


def inputs(rng, T, D):
    return {
        "x": rng.standard_normal((T, D), np.float32),
        "weight": rng.standard_normal(D, np.float32),
        "eps": 1e-6,
    }


def add_inputs(rng, T, D):
    return {"residual": rng.standard_normal((T, D), np.float32), **inputs(rng, T, D)}


SHAPES = ({"T": 1, "D": 1152}, {"T": 3, "D": 123}, {"T": 5, "D": 256})
