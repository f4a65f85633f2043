"""What the wkv of RWKV 7 takes, from what its matrices and low-rank products gave:

    decay = exp(-exp(-1/2) sigmoid(w))           w is replaced by it
    removal = y / max(|y|, 1e-12), y = k remove  of length 1 within each head
    taken = removal sigmoid(a)
    k = k (1 + (sigmoid(a) - 1) renew)           in place
    v = v + (first_v - v) sigmoid(mix)           in place, but not in the first layer

w, k, v, a, mix, first_v, removal, taken (T, H, W); remove, renew (H, W); float32.
Reference: reference.mixers.Rwkv7. Peng et al., RWKV-7 Goose, arXiv:2503.14456, section 4.

version 1: one warp per token and head.
"""

import functools
import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.activation import sigmoid
from zerfoo_numba.kernels.warp import lane_id, madd, warp_sum
from zerfoo_numba.ptx.instructions import ex2, rsqrt

FASTEST = float(np.float32(math.exp(-0.5) * math.log2(math.e)))  # in powers of two


@functools.cache
def make_wkv7_inputs_kernel1(mixed):
    @cuda.jit
    def wkv7_inputs_kernel1(w, k, v, a, mix, first_v, removal, taken, remove, renew, W):
        lane = lane_id()
        h = uint32(cuda.blockIdx.x)
        row = uint32(madd(uint32(cuda.blockIdx.y), uint32(cuda.gridDim.x), h) * W)
        head = uint32(h * W)
        squares = float32(0.0)
        start = uint32(0)
        while start < W:
            d = uint32(start + lane)
            if d < W:
                value = k[uint32(row + d)] * remove[uint32(head + d)]
                squares += value * value
            start = uint32(start + uint32(32))
        scale = min(rsqrt(warp_sum(squares)), float32(1e12))
        start = uint32(0)
        while start < W:
            d = uint32(start + lane)
            if d < W:
                i, at = uint32(row + d), uint32(head + d)
                key, rate = k[i], sigmoid(a[i])
                direction = key * remove[at] * scale
                removal[i] = direction
                taken[i] = direction * rate
                k[i] = key * (float32(1.0) + (rate - float32(1.0)) * renew[at])
                w[i] = ex2(float32(-FASTEST) * sigmoid(w[i]))
                if mixed:
                    value = v[i]
                    v[i] = value + (first_v[i] - value) * sigmoid(mix[i])
            start = uint32(start + uint32(32))

    return wkv7_inputs_kernel1


def wkv7_inputs(device, w, k, v, a, remove, renew, removal, taken, mix=None, first_v=None):
    T, H, W = k.shape
    mixed = mix is not None
    others = (mix, first_v) if mixed else (v, v)
    args = (w, k, v, a, *others, removal, taken, remove, renew, np.uint32(W))
    device.launch(make_wkv7_inputs_kernel1(mixed), (H, T), 32, args)


def cost(T, H, W, mixed):
    return Cost(bytes=4 * H * W * (T * (7 + 4 * mixed) + 2), flops=T * H * W * (22 + 7 * mixed))


def inputs(rng, T, H, W):
    names = dict.fromkeys(("w", "k", "v", "a", "mix", "first_v"), (T, H, W))
    names |= dict.fromkeys(("remove", "renew"), (H, W))
    return {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}


SHAPES = ({"T": 1, "H": 4, "W": 64}, {"T": 3, "H": 2, "W": 24}, {"T": 5, "H": 3, "W": 33})
