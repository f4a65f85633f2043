"""pool: out[t] = mean(x[n t], ..., x[n t + n - 1]), the means of n rows and then of the next n.

x (n T, D), out (T, D) float32. With the patches of a square one after another this is average
pooling over squares. Reference: reference.vision. Gemma 3 technical report, arXiv:2503.19786.

version 1: one thread per element of out.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import madd

THREADS = 128


@cuda.jit
def pool_kernel1(out, x, D, n, factor):
    d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    t = uint32(cuda.blockIdx.y)
    if d < D:
        total = float32(0.0)
        i = uint32(0)
        while i < n:
            total += x[madd(madd(t, n, i), D, d)]
            i = uint32(i + uint32(1))
        out[madd(t, D, d)] = total * factor


def pool(device, out, x):
    """n is what the rows of x are to those of out."""
    T, D = out.shape
    n = x.shape[0] // T
    args = (out, x, np.uint32(D), np.uint32(n), np.float32(1 / n))
    device.launch(pool_kernel1, (blocks(D, THREADS), T), THREADS, args)


def cost(T, D, n):
    return Cost(bytes=4 * T * D * (n + 1), flops=n * T * D)


def inputs(rng, T, D, n):
    return {"x": rng.standard_normal((n * T, D), np.float32)}


SHAPES = ({"T": 4, "D": 128, "n": 16}, {"T": 3, "D": 77, "n": 9}, {"T": 1, "D": 33, "n": 4})
