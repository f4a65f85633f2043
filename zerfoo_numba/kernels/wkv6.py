"""wkv of RWKV 6: a head's state S of W x W numbers, to which every token adds its k^T v.

    out[t] = r[t] (S + diag(first) k[t]^T v[t]);   S = diag(exp(-exp(w[t]))) S + k[t]^T v[t]

r, k, v, w, out (T, H, W); first (H, W); state (H, key, value) holds S, before and after; float32.
Reference: reference.recurrent_ops.wkv6. Peng et al., Eagle and Finch, arXiv:2404.05892, section 4.

version 1: a block per head, a thread per value, which walks the keys; the state is in memory.
version 2: four threads share a value, and its state stays in registers; for W = 64,
the head width of every RWKV.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.activation import LOG2E
from zerfoo_numba.kernels.warp import FULL, madd
from zerfoo_numba.ptx.instructions import ex2

WIDTHS = (64,)  # with a version 2
MAX_WIDTH = 256
SHARERS = 4


@cuda.jit(device=True)
def decay(w):
    """exp(-exp(w))."""
    return ex2(float32(-LOG2E) * ex2(float32(LOG2E) * w))


@cuda.jit
def wkv6_kernel1(out, r, k, v, w, first, state, H, W, T):
    j = uint32(cuda.threadIdx.x)
    h = uint32(cuda.blockIdx.x)
    head = uint32(h * W)
    rs = cuda.shared.array(MAX_WIDTH, float32)
    ks = cuda.shared.array(MAX_WIDTH, float32)
    ws = cuda.shared.array(MAX_WIDTH, float32)
    us = cuda.shared.array(MAX_WIDTH, float32)
    if j < W:
        us[j] = first[uint32(head + j)]
    t = uint32(0)
    while t < T:
        at = uint32(madd(madd(t, H, h), W, j))
        cuda.syncthreads()
        if j < W:
            rs[j], ks[j], ws[j] = r[at], k[at], decay(w[at])
        cuda.syncthreads()
        if j < W:
            value, total = v[at], float32(0.0)
            i = uint32(0)
            while i < W:
                cell = madd(uint32(head + i), W, j)
                product = ks[i] * value
                held = state[cell]
                total += rs[i] * (held + us[i] * product)
                state[cell] = ws[i] * held + product
                i = uint32(i + uint32(1))
            out[at] = total
        t = uint32(t + uint32(1))


@functools.cache
def make_wkv6_kernel2(width):
    share, room = width // SHARERS, 2 * width

    @cuda.jit
    def wkv6_kernel2(out, r, k, v, w, first, state, H, W, T):
        thread = uint32(cuda.threadIdx.x)
        j, q = uint32(thread >> uint32(2)), uint32(thread & uint32(3))
        h = uint32(cuda.blockIdx.x)
        head = uint32(h * uint32(width))
        rs = cuda.shared.array(room, float32)
        ks = cuda.shared.array(room, float32)
        ws = cuda.shared.array(room, float32)
        held = cuda.local.array(share, float32)
        us = cuda.local.array(share, float32)
        for n in range(share):
            row = uint32(head + uint32(uint32(SHARERS * n) + q))
            held[n] = state[madd(row, uint32(width), j)]
            us[n] = first[row]
        t = uint32(0)
        while t < T:
            # Two halves of shared memory in turn: one barrier a token is enough.
            half = uint32(uint32(t & uint32(1)) * uint32(width))
            row = uint32(madd(t, H, h) * uint32(width))
            if thread < uint32(width):
                at = uint32(row + thread)
                to = uint32(half + thread)
                rs[to], ks[to], ws[to] = r[at], k[at], decay(w[at])
            cuda.syncthreads()
            value, total = v[uint32(row + j)], float32(0.0)
            for n in range(share):
                i = uint32(half + uint32(uint32(SHARERS * n) + q))
                product = ks[i] * value
                total += rs[i] * (held[n] + us[n] * product)
                held[n] = ws[i] * held[n] + product
            for distance in (1, 2):
                total += cuda.shfl_xor_sync(FULL, total, distance)
            if q == uint32(0):
                out[uint32(row + j)] = total
            t = uint32(t + uint32(1))
        for n in range(share):
            row = uint32(head + uint32(uint32(SHARERS * n) + q))
            state[madd(row, uint32(width), j)] = held[n]

    return wkv6_kernel2


def launch_shape(W, version, make, plain):
    """(kernel, threads of a block) for heads of width W."""
    if W > MAX_WIDTH:
        raise UnsupportedError(f"heads of {W} are wider than {MAX_WIDTH}")
    if version == 2 and W in WIDTHS:
        return make(W), SHARERS * W
    return plain, -(-W // 32) * 32


def wkv6(device, out, r, k, v, w, first, state, version=2):
    T, H, W = r.shape
    kernel, threads = launch_shape(W, version, make_wkv6_kernel2, wkv6_kernel1)
    args = (out, r, k, v, w, first, state, *(np.uint32(n) for n in (H, W, T)))
    device.launch(kernel, H, threads, args)


def cost(T, H, W):
    return Cost(bytes=4 * H * W * (5 * T + 1 + 2 * W), flops=T * H * W * (7 * W + 3))


def inputs(rng, T, H, W):
    names = dict.fromkeys(("r", "k", "v", "w"), (T, H, W))
    names |= {"first": (H, W), "state": (H, W, W)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}


SHAPES = (
    {"T": 1, "H": 4, "W": 64},
    {"T": 9, "H": 2, "W": 64},
    {"T": 5, "H": 3, "W": 24},
    {"T": 2, "H": 1, "W": 96},
)
