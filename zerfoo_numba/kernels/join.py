"""join: out[t, first + d] = x[t, d], the vectors of x beside others in the wider rows of out.

x (T, D), out (T, W) float32, first + D <= W. Reference: numpy.concatenate over the last axis.

version 1: one thread per element of x.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import madd

THREADS = 128


@cuda.jit
def join_kernel1(out, x, D, W, first):
    d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    t = uint32(cuda.blockIdx.y)
    if d < D:
        out[madd(t, W, uint32(first + d))] = x[madd(t, D, d)]


def join(device, out, x, first):
    T, D = x.shape
    args = (out, x, np.uint32(D), np.uint32(out.shape[1]), np.uint32(first))
    device.launch(join_kernel1, (blocks(D, THREADS), T), THREADS, args)


def cost(T, D):
    return Cost(bytes=8 * T * D, flops=0)


def inputs(rng, T, D, W, first):
    return {"x": rng.standard_normal((T, D), np.float32)}


SHAPES = (
    {"T": 4, "D": 128, "W": 256, "first": 128},
    {"T": 3, "D": 77, "W": 200, "first": 5},
    {"T": 1, "D": 16, "W": 16, "first": 0},
)
