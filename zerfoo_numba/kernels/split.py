"""split: the parts of each row one after another, and RMS-normalised if there is an epsilon.

x (T, R + 2 N) holds in each row R, N and N numbers; out has first (T, R), then (T, N) and (T, N).
Normalised, a part y becomes y / sqrt(mean(y^2) + eps), without weights. float32. References:
numpy.split, reference.ops.rmsnorm. Zuo et al., Falcon Mamba, 2024.

version 1: one warp per row and part.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.warp import lane_id, madd, warp_sum
from zerfoo_numba.ptx.instructions import rcp, rsqrt


@cuda.jit
def split_kernel1(out, x, R, N, T, eps, normed):
    lane = lane_id()
    part = uint32(cuda.blockIdx.x)
    t = uint32(cuda.blockIdx.y)
    width, before = R, uint32(0)
    if part > uint32(0):
        width = N
        before = madd(uint32(part - uint32(1)), N, R)
    source = madd(t, uint32(R + uint32(N + N)), before)
    target = madd(before, T, uint32(t * width))
    scale = float32(1.0)
    if normed != uint32(0):
        squares = float32(0.0)
        start = uint32(0)
        while start < width:
            d = uint32(start + lane)
            if d < width:
                value = x[uint32(source + d)]
                squares += value * value
            start = uint32(start + uint32(32))
        scale = rsqrt(warp_sum(squares) * rcp(float32(width)) + eps)
    start = uint32(0)
    while start < width:
        d = uint32(start + lane)
        if d < width:
            out[uint32(target + d)] = x[uint32(source + d)] * scale
        start = uint32(start + uint32(32))


def split(device, out, x, R, N, eps=None):
    """`eps`: None leaves the numbers as they are."""
    T = x.shape[0]
    sizes = [np.uint32(n) for n in (R, N, T)]
    args = (out, x, *sizes, np.float32(eps or 0.0), np.uint32(eps is not None))
    device.launch(split_kernel1, (3, T), 32, args)


def cost(T, R, N):
    return Cost(bytes=8 * T * (R + 2 * N), flops=3 * T * (R + 2 * N))


def inputs(rng, T, R, N):
    return {"x": rng.standard_normal((T, R + 2 * N), np.float32)}


SHAPES = ({"T": 1, "R": 128, "N": 16}, {"T": 5, "R": 5, "N": 12}, {"T": 2, "R": 33, "N": 40})
