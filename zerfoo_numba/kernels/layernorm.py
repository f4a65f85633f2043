"""layernorm: out[t] = (x[t] - mean(x[t])) / sqrt(var(x[t]) + eps) * weight + bias.

add_layernorm: residual[t] += x[t], then out[t] = layernorm(residual[t]); equal to the two apart.
x, residual, out (T, D) float32; weight (D,) float32; bias (D,) float32 or absent. The variance is
that of all D elements, about a mean taken first. Reference: reference.ops.layernorm.
Ba, Kiros and Hinton, Layer Normalization, 2016.

version 1: one block of 8 warps per row, their sums joined in shared memory.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, rmsnorm
from zerfoo_numba.kernels.warp import block_sum, madd
from zerfoo_numba.ptx.instructions import rsqrt

WARPS = 8
THREADS = 32 * WARPS


def make_layernorm_kernel1(ADD):
    @cuda.jit
    def layernorm_kernel1(out, residual, x, weight, bias, D, mean_factor, eps, biased):
        thread, row = uint32(cuda.threadIdx.x), uint32(cuda.blockIdx.x)
        sums = cuda.shared.array(WARPS, float32)
        partial = cuda.shared.array(WARPS, float32)
        total, squares = float32(0.0), float32(0.0)
        start = uint32(0)
        while start < D:
            d = uint32(start + thread)
            if d < D:
                i = madd(row, D, d)
                value = x[i]
                if ADD:
                    value += residual[i]
                    residual[i] = value
                total += value
            start = uint32(start + uint32(THREADS))
        mean = block_sum(total, sums) * mean_factor
        start = uint32(0)
        while start < D:
            d = uint32(start + thread)
            if d < D:
                i = madd(row, D, d)
                value = (residual[i] if ADD else x[i]) - mean
                squares += value * value
            start = uint32(start + uint32(THREADS))
        scale = rsqrt(block_sum(squares, partial) * mean_factor + eps)
        start = uint32(0)
        while start < D:
            d = uint32(start + thread)
            if d < D:
                i = madd(row, D, d)
                value = ((residual[i] if ADD else x[i]) - mean) * scale * weight[d]
                if biased != uint32(0):
                    value += bias[d]
                out[i] = value
            start = uint32(start + uint32(THREADS))

    return layernorm_kernel1


layernorm_kernel1 = make_layernorm_kernel1(False)
add_layernorm_kernel1 = make_layernorm_kernel1(True)


def layernorm(device, out, x, weight, bias, eps):
    """`bias` may be None; `out` may be x."""
    device.launch(layernorm_kernel1, *_launch(out, x, x, weight, bias, eps))


def add_layernorm(device, out, residual, x, weight, bias, eps):
    device.launch(add_layernorm_kernel1, *_launch(out, residual, x, weight, bias, eps))


def _launch(out, residual, x, weight, bias, eps):
    """Grid, block and arguments."""
    T, D = x.shape
    arrays = (out, residual, x, weight, weight if bias is None else bias)
    numbers = (np.uint32(D), np.float32(1.0 / D), np.float32(eps), np.uint32(bias is not None))
    return T, THREADS, (*arrays, *numbers)


def cost(T, D):
    return Cost(bytes=4 * (2 * T * D + D), flops=7 * T * D)


def add_cost(T, D):
    return Cost(bytes=4 * (4 * T * D + D), flops=8 * T * D)


def inputs(rng, T, D):
    """As rmsnorm's, about a mean that is not zero, and a bias."""
    given = rmsnorm.inputs(rng, T, D)
    return given | {"x": given["x"] + np.float32(3), "bias": rng.standard_normal(D, np.float32)}


SHAPES = rmsnorm.SHAPES
