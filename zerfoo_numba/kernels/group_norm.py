"""group norm: the LayerNorm of each head, and what RWKV does to it before the output matrix.

    out[t, h] = (norm(x[t, h]) weight[h] + bias[h] + bonus[t, h] v[t, h]) act(gate[t, h])
    norm(y) = (y - mean(y)) / sqrt(var(y) + eps),   bonus[t, h] = sum of r[t, h] k[t, h] first[h]

x, r, k, v, gate, out (T, H, W); weight, bias, first (H, W); float32. The bonus is RWKV 7's; act is
silu in RWKV 6, nothing in RWKV 7, which may do without a gate. References: reference.ops.layernorm,
reference.mixers. Wu and He, Group Normalization, 2018; Peng et al., arXiv:2404.05892, 2503.14456.

version 1: one warp per token and head.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.activation import silu
from zerfoo_numba.kernels.warp import lane_id, madd, warp_sum
from zerfoo_numba.ptx.instructions import rcp, rsqrt


@functools.cache
def make_group_norm_kernel1(bonus, gating):
    @cuda.jit
    def group_norm_kernel1(out, x, weight, bias, gate, r, k, v, first, W, eps):
        lane = lane_id()
        h = uint32(cuda.blockIdx.x)
        row = uint32(madd(uint32(cuda.blockIdx.y), uint32(cuda.gridDim.x), h) * W)
        head = uint32(h * W)
        share = rcp(float32(W))
        total, extra = float32(0.0), float32(0.0)
        start = uint32(0)
        while start < W:
            d = uint32(start + lane)
            if d < W:
                i = uint32(row + d)
                total += x[i]
                if bonus:
                    extra += r[i] * k[i] * first[uint32(head + d)]
            start = uint32(start + uint32(32))
        mean = warp_sum(total) * share
        if bonus:
            extra = warp_sum(extra)
        squares = float32(0.0)
        start = uint32(0)
        while start < W:
            d = uint32(start + lane)
            if d < W:
                value = x[uint32(row + d)] - mean
                squares += value * value
            start = uint32(start + uint32(32))
        scale = rsqrt(warp_sum(squares) * share + eps)
        start = uint32(0)
        while start < W:
            d = uint32(start + lane)
            if d < W:
                i = uint32(row + d)
                at = uint32(head + d)
                value = (x[i] - mean) * scale * weight[at] + bias[at]
                if bonus:
                    value += extra * v[i]
                if gating == "silu":
                    value *= silu(gate[i])
                elif gating == "plain":
                    value *= gate[i]
                out[i] = value
            start = uint32(start + uint32(32))

    return group_norm_kernel1


GATINGS = (None, "plain", "silu")


def group_norm(device, out, x, weight, bias, eps, gate=None, gating=None, bonus=None):
    """`gating`: one of GATINGS. `bonus`: (r, k, v, first) or None. `out` may be x."""
    T, H, W = x.shape
    r, k, v, first = bonus or (x, x, x, weight)
    args = (out, x, weight, bias, x if gate is None else gate, r, k, v, first)
    kernel = make_group_norm_kernel1(bonus is not None, gating)
    device.launch(kernel, (H, T), 32, (*args, np.uint32(W), np.float32(eps)))


def cost(T, H, W, gated, bonus):
    rows = 2 + gated + 3 * bonus
    return Cost(
        bytes=4 * H * W * (rows * T + 2 + bonus), flops=T * H * W * (7 + 6 * gated + 5 * bonus)
    )


def inputs(rng, T, H, W):
    names = {"x": (T, H, W), "gate": (T, H, W), "r": (T, H, W), "k": (T, H, W), "v": (T, H, W)}
    names |= {"weight": (H, W), "bias": (H, W), "first": (H, W)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}


SHAPES = ({"T": 1, "H": 4, "W": 64}, {"T": 3, "H": 2, "W": 24}, {"T": 5, "H": 3, "W": 33})
