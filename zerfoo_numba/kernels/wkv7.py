"""wkv of RWKV 7: before a token's v^T k is added to a head's state S, what S holds in the direction
of its removal key is taken away.

    S = S (diag(decay[t]) - removal[t]^T taken[t]) + v[t]^T k[t];   out[t] = S r[t]^T

r, k, v, decay, removal, taken, out (T, H, W), taken the removal key times the in-context learning
rate; state (H, key, value) holds S transposed, before and after; float32.
Reference: reference.recurrent_ops.wkv7. Peng et al., RWKV-7 Goose, arXiv:2503.14456, section 4.

version 1: a block per head, a thread per value, which walks the keys; the state is in memory.
version 2: four threads share a value, and its state stays in registers; for W = 64,
the head width of every RWKV.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, wkv6
from zerfoo_numba.kernels.warp import FULL, madd
from zerfoo_numba.kernels.wkv6 import MAX_WIDTH, SHARERS


@cuda.jit
def wkv7_kernel1(out, r, k, v, decay, removal, taken, state, H, W, T):
    j = uint32(cuda.threadIdx.x)
    h = uint32(cuda.blockIdx.x)
    head = uint32(h * W)
    rs = cuda.shared.array(MAX_WIDTH, float32)
    ks = cuda.shared.array(MAX_WIDTH, float32)
    ws = cuda.shared.array(MAX_WIDTH, float32)
    aws = cuda.shared.array(MAX_WIDTH, float32)
    bs = cuda.shared.array(MAX_WIDTH, float32)
    t = uint32(0)
    while t < T:
        at = uint32(madd(madd(t, H, h), W, j))
        cuda.syncthreads()
        if j < W:
            rs[j], ks[j], ws[j] = r[at], k[at], decay[at]
            aws[j], bs[j] = removal[at], taken[at]
        cuda.syncthreads()
        if j < W:
            value, total, held = v[at], float32(0.0), float32(0.0)
            i = uint32(0)
            while i < W:
                held += state[madd(uint32(head + i), W, j)] * aws[i]
                i = uint32(i + uint32(1))
            i = uint32(0)
            while i < W:
                cell = madd(uint32(head + i), W, j)
                now = state[cell] * ws[i] - held * bs[i] + value * ks[i]
                state[cell] = now
                total += now * rs[i]
                i = uint32(i + uint32(1))
            out[at] = total
        t = uint32(t + uint32(1))


@functools.cache
def make_wkv7_kernel2(width):
    share, room = width // SHARERS, 2 * width

    @cuda.jit
    def wkv7_kernel2(out, r, k, v, decay, removal, taken, state, H, W, T):
        thread = uint32(cuda.threadIdx.x)
        j, q = uint32(thread >> uint32(2)), uint32(thread & uint32(3))
        h = uint32(cuda.blockIdx.x)
        head = uint32(h * uint32(width))
        rs = cuda.shared.array(room, float32)
        ks = cuda.shared.array(room, float32)
        ws = cuda.shared.array(room, float32)
        aws = cuda.shared.array(room, float32)
        bs = cuda.shared.array(room, float32)
        cells = cuda.local.array(share, float32)
        for n in range(share):
            row = uint32(head + uint32(uint32(SHARERS * n) + q))
            cells[n] = state[madd(row, uint32(width), j)]
        t = uint32(0)
        while t < T:
            # Two halves of shared memory in turn: one barrier a token is enough.
            half = uint32(uint32(t & uint32(1)) * uint32(width))
            row = uint32(madd(t, H, h) * uint32(width))
            if thread < uint32(width):
                at = uint32(row + thread)
                to = uint32(half + thread)
                rs[to], ks[to], ws[to] = r[at], k[at], decay[at]
                aws[to], bs[to] = removal[at], taken[at]
            cuda.syncthreads()
            value, total, held = v[uint32(row + j)], float32(0.0), float32(0.0)
            for n in range(share):
                held += cells[n] * aws[uint32(half + uint32(uint32(SHARERS * n) + q))]
            for distance in (1, 2):
                held += cuda.shfl_xor_sync(FULL, held, distance)
            for n in range(share):
                i = uint32(half + uint32(uint32(SHARERS * n) + q))
                cells[n] = cells[n] * ws[i] - held * bs[i] + value * ks[i]
                total += cells[n] * rs[i]
            for distance in (1, 2):
                total += cuda.shfl_xor_sync(FULL, total, distance)
            if q == uint32(0):
                out[uint32(row + j)] = total
            t = uint32(t + uint32(1))
        for n in range(share):
            row = uint32(head + uint32(uint32(SHARERS * n) + q))
            state[madd(row, uint32(width), j)] = cells[n]

    return wkv7_kernel2


def wkv7(device, out, r, k, v, decay, removal, taken, state, version=2):
    T, H, W = r.shape
    kernel, threads = wkv6.launch_shape(W, version, make_wkv7_kernel2, wkv7_kernel1)
    args = (out, r, k, v, decay, removal, taken, state, *(np.uint32(n) for n in (H, W, T)))
    device.launch(kernel, H, threads, args)


def cost(T, H, W):
    return Cost(bytes=4 * H * W * (7 * T + 2 * W), flops=9 * T * H * W * W)


def inputs(rng, T, H, W):
    """Decays, removal keys of length 1 and learning rates as a model makes them."""
    names = ("r", "k", "v", "removal")
    given = {name: rng.standard_normal((T, H, W), np.float32) for name in names}
    given["removal"] /= np.linalg.norm(given["removal"], axis=-1, keepdims=True)
    given["taken"] = given["removal"] * rng.uniform(0, 1, (T, H, W)).astype(np.float32)
    given["decay"] = rng.uniform(0.54, 1, (T, H, W)).astype(np.float32)
    return given | {"state": rng.standard_normal((H, W, W), np.float32)}


SHAPES = wkv6.SHAPES
