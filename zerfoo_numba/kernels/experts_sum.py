"""experts_sum: out[t] = sum over u of w[t, u] y[slots[t, u]]; and a shared expert beside it.

y (S, D) the experts' results in their slots, w (T, U), slots (T, U) uint32; or y[t U + u].
add_shared: out[t] += sigmoid(g . x[t]) s[t], with s (T, D) the shared expert's result, x (T, D) and
g (D,) (Qwen 2 MoE; Yang et al., 2024).
Reference: reference.feed_forward.experts.

version 1: a thread per element, the sum in the order of u; the gate by one block per token.
"""

import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import block_sum, madd
from zerfoo_numba.ptx.instructions import ex2, rcp

WARPS = 4
THREADS = 32 * WARPS
LOG2E = float(np.float32(math.log2(math.e)))


@cuda.jit
def experts_sum_kernel1(out, y, weights, slots, D, U, placed):
    d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    t = uint32(cuda.blockIdx.y)
    if d < D:
        total, u = float32(0.0), uint32(0)
        while u < U:
            pair = madd(t, U, u)
            slot = slots[pair] if placed != uint32(0) else pair
            total += weights[pair] * y[madd(slot, D, d)]
            u = uint32(u + uint32(1))
        out[madd(t, D, d)] = total


def experts_sum(device, out, y, weights, slots, placed):
    """`placed`: y lies in `slots`; else in the order of the pairs, and `slots` is not read."""
    T, D = out.shape
    sizes = [np.uint32(n) for n in (D, weights.shape[1], placed)]
    args = (out, y, weights, slots, *sizes)
    device.launch(experts_sum_kernel1, (blocks(D, THREADS), T), THREADS, args)


@cuda.jit
def add_shared_kernel1(out, shared, x, gate, D):
    partial = cuda.shared.array(WARPS, float32)
    thread = uint32(cuda.threadIdx.x)
    row = uint32(uint32(cuda.blockIdx.x) * D)
    dot, start = float32(0.0), uint32(0)
    while start < D:
        d = uint32(start + thread)
        if d < D:
            dot += gate[d] * x[uint32(row + d)]
        start = uint32(start + uint32(THREADS))
    open_by = rcp(float32(1.0) + ex2(float32(-LOG2E) * block_sum(dot, partial)))
    start = uint32(0)
    while start < D:
        d = uint32(start + thread)
        if d < D:
            out[uint32(row + d)] += open_by * shared[uint32(row + d)]
        start = uint32(start + uint32(THREADS))


def add_shared(device, out, shared, x, gate):
    T, D = out.shape
    device.launch(add_shared_kernel1, T, THREADS, (out, shared, x, gate, np.uint32(D)))


def cost(T, U, D):
    return Cost(bytes=4 * (T * U * (D + 2) + T * D), flops=2 * T * U * D)


def shared_cost(T, D):
    return Cost(bytes=4 * (4 * T * D + D), flops=4 * T * D)


# T, U, D
SHAPES = ({"T": 1, "U": 2, "D": 256}, {"T": 5, "U": 4, "D": 77}, {"T": 3, "U": 1, "D": 130})
