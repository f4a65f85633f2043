"""add: residual += x.   residual, x (T, D) float32. Reference: numpy.add.
add_positions: x[t] += table[position + t].   x (T, D), table (S, D) float32, position (1,) uint32.

Where a norm follows, add_rmsnorm and add_layernorm do both; this is for a branch whose sum nobody
normalises yet: the attention of a block whose feed-forward reads the same input.

version 1: one thread per element.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import madd

THREADS = 128


@cuda.jit
def add_kernel1(residual, x, count):
    i = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    if i < count:
        residual[i] += x[i]


def add(device, residual, x):
    args = (residual, x, np.uint32(x.size))
    device.launch(add_kernel1, blocks(x.size, THREADS), THREADS, args)


@cuda.jit
def add_positions_kernel1(x, table, position, D):
    d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    t = uint32(cuda.blockIdx.y)
    if d < D:
        x[madd(t, D, d)] += table[madd(uint32(position[0] + t), D, d)]


def add_positions(device, x, table, position):
    T, D = x.shape
    grid = (blocks(D, THREADS), T)
    device.launch(add_positions_kernel1, grid, THREADS, (x, table, position, np.uint32(D)))


def positions_cost(T, D):
    return Cost(bytes=4 * 3 * T * D + 4, flops=T * D)


def cost(T, D):
    return Cost(bytes=4 * 3 * T * D, flops=T * D)


def inputs(rng, T, D):
    return {n: rng.standard_normal((T, D), np.float32) for n in ("residual", "x")}


SHAPES = ({"T": 1, "D": 256}, {"T": 3, "D": 123}, {"T": 2, "D": 4544})
