"""attention: out[t, h] = softmax(scale q[t, h] . K[kh]) V[kh] over the keys that query t may see.

q (T, H, HD), K cache (S, KH, HD), V cache (S, KH, VD), out (T, H, VD); kh = h // (H / KH), so that
consecutive query heads share a key head. Query t stands at p = position + t and sees keys 0 .. p,
or p - window + 1 .. p. Scores pass softcap * tanh(s / softcap) first where the model caps them.
Reference: reference.ops.attention. Online softmax: Milakov and Gimelshein, 2018.

prefill version 1: one warp per query and head walks the keys.
decode version 1: the keys of one head are dealt to 8 warps, whose results meet in shared memory.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.activation import LOG2E, tanh
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id, warp_sum
from zerfoo_numba.ptx.instructions import ex2, rcp

HEAD_WIDTHS = (64, 80, 96, 128, 256)
MAX_HEAD_WIDTH = 256
WARPS = 8


@functools.cache
def make_walk(width, parts, cache_type, capped):
    """One warp over the keys first, first + step, ... <= last, adding weighted V to `total`.

    Returns the largest score and the sum of weights. A lane holds dimensions lane, lane + 32, ...
    in `parts` registers; `width` is the head width, or 0 where it is a run-time number of at most
    32 * parts.
    """
    load = CACHE_TYPES[cache_type].load

    @cuda.jit(device=True)
    def walk(mine, total, k_cache, v_cache, kh, KH, HD, VD, first, last, step, cap):
        lane = lane_id()
        top = float32(-np.inf)
        norm = float32(0.0)
        key = first
        while key <= last:
            at = madd(key, KH, kh)
            score = float32(0.0)
            for j in range(parts):
                d = uint32(lane + uint32(32 * j))
                if d < HD:
                    score += mine[j] * load(k_cache, madd(at, HD, d))
            score = warp_sum(score)
            if capped:
                score = cap * tanh(score * rcp(cap))
            score = score * float32(LOG2E)
            highest = max(top, score)
            fade = ex2(top - highest)
            weight = ex2(score - highest)
            norm = norm * fade + weight
            for j in range(parts):
                d = uint32(lane + uint32(32 * j))
                value = float32(0.0)
                if d < VD:
                    value = load(v_cache, madd(at, VD, d))
                total[j] = total[j] * fade + weight * value
            top = highest
            key = uint32(key + step)
        return top, norm

    return walk


@cuda.jit(device=True)
def first_key(p, window):
    """The first key that position p sees; window 0 means all."""
    if window != uint32(0) and p >= window:
        return uint32(uint32(p - window) + uint32(1))
    return uint32(0)


@functools.cache
def make_prefill_kernel1(width, parts, cache_type, capped):
    walk = make_walk(width, parts, cache_type, capped)

    @cuda.jit
    def attention_prefill_kernel1(
        out, q, k_cache, v_cache, position, H, KH, HD, VD, scale, window, cap
    ):
        lane = lane_id()
        h = uint32(cuda.blockIdx.x)
        t = uint32(cuda.blockIdx.y)
        if width:
            HD = uint32(width)
            VD = uint32(width)
        mine = cuda.local.array(parts, float32)
        total = cuda.local.array(parts, float32)
        for j in range(parts):
            d = uint32(lane + uint32(32 * j))
            mine[j] = float32(0.0)
            total[j] = float32(0.0)
            if d < HD:
                mine[j] = q[madd(madd(t, H, h), HD, d)] * scale
        p = uint32(position[0] + t)
        kh = uint32(h // uint32(H // KH))
        first = first_key(p, window)
        norm = walk(mine, total, k_cache, v_cache, kh, KH, HD, VD, first, p, uint32(1), cap)[1]
        for j in range(parts):
            d = uint32(lane + uint32(32 * j))
            if d < VD:
                out[madd(madd(t, H, h), VD, d)] = total[j] / norm

    return attention_prefill_kernel1


@functools.cache
def make_decode_kernel1(width, parts, cache_type, capped):
    walk = make_walk(width, parts, cache_type, capped)
    padded = 32 * parts

    @cuda.jit
    def attention_decode_kernel1(
        out, q, k_cache, v_cache, position, H, KH, HD, VD, scale, window, cap
    ):
        lane = lane_id()
        warp = warp_id()
        h = uint32(cuda.blockIdx.x)
        if width:
            HD = uint32(width)
            VD = uint32(width)
        tops = cuda.shared.array(WARPS, float32)
        norms = cuda.shared.array(WARPS, float32)
        totals = cuda.shared.array((WARPS, padded), float32)
        mine = cuda.local.array(parts, float32)
        total = cuda.local.array(parts, float32)
        for j in range(parts):
            d = uint32(lane + uint32(32 * j))
            mine[j] = float32(0.0)
            total[j] = float32(0.0)
            if d < HD:
                mine[j] = q[madd(h, HD, d)] * scale
        p = position[0]
        kh = uint32(h // uint32(H // KH))
        first = uint32(first_key(p, window) + warp)
        top, norm = walk(
            mine, total, k_cache, v_cache, kh, KH, HD, VD, first, p, uint32(WARPS), cap
        )
        for j in range(parts):
            totals[warp, uint32(lane + uint32(32 * j))] = total[j]
        if lane == uint32(0):
            tops[warp] = top
            norms[warp] = norm
        cuda.syncthreads()
        highest = tops[0]
        for w in range(1, WARPS):
            highest = max(highest, tops[w])
        d = uint32(cuda.threadIdx.x)
        if d < VD:
            value = float32(0.0)
            norm = float32(0.0)
            for w in range(WARPS):
                fade = ex2(tops[w] - highest)
                value += fade * totals[w, d]
                norm += fade * norms[w]
            out[madd(h, VD, d)] = value / norm

    return attention_decode_kernel1


def head_shape(HD, VD):
    """(width, parts) of the kernel for head widths HD and VD: exact for the listed widths, else the
    generic kernel with 1, 2, 4 or 8 registers of 32 dimensions."""
    parts = -(-max(HD, VD) // 32)
    if HD == VD and HD in HEAD_WIDTHS:
        return HD, parts
    if max(HD, VD) > MAX_HEAD_WIDTH:
        raise UnsupportedError(f"heads of {max(HD, VD)} are wider than {MAX_HEAD_WIDTH}")
    return 0, 1 << (parts - 1).bit_length()


def head_shapes():
    """Every (width, parts) that `head_shape` can answer."""
    return [(w, -(-w // 32)) for w in HEAD_WIDTHS] + [(0, parts) for parts in (1, 2, 4, 8)]


def attention(device, out, q, cache, position, scale, window=None, softcap=None):
    """`cache` is a LayerCache with q's keys appended; `position` (1,) uint32 is that of q[0]."""
    T, H, HD = q.shape
    KH, VD = cache.v.shape[1:]
    options = (*head_shape(HD, VD), cache.type, softcap is not None)
    sizes = [np.uint32(n) for n in (H, KH, HD, VD)]
    numbers = (np.float32(scale), np.uint32(window or 0), np.float32(softcap or 0.0))
    args = (out, q, cache.k, cache.v, position, *sizes, *numbers)
    if T == 1:
        device.launch(make_decode_kernel1(*options), H, 32 * WARPS, args)
    else:
        device.launch(make_prefill_kernel1(*options), (H, T), 32, args)


def cost(T, S, H, KH, HD, VD, window, cache_type):
    """S keys stand before the first query; every key that some query sees is read once."""
    item = np.dtype(CACHE_TYPES[cache_type].dtype).itemsize
    reach = [min(S + t + 1, window or S + t + 1) for t in range(T)]
    oldest = max(0, S + 1 - (window or S + 1))
    cached = item * KH * (HD + VD) * (S + T - oldest)
    return Cost(bytes=cached + 4 * T * H * (HD + VD), flops=2 * H * (HD + VD) * sum(reach))
