"""attention: out[t, h] = softmax(scale q[t, h] . K[kh]) V[kh] over the keys that query t may see.

q (T, H, HD), K cache (S, KH, HD), V cache (S, KH, VD), out (T, H, VD); kh = h // (H / KH), so that
consecutive query heads share a key head. Key s is in row s % S of a cache. Query t stands at
p = position + t and sees keys 0 .. p, or p - window + 1 .. p. With spans (T, 2) the first and the
last key are spans[t, 0], or later by the window, and spans[t, 1], which may be after p: patches and
tokens of one image see one another. Scores pass softcap * tanh(s / softcap) first where the model
caps them.
References: reference.ops.attention, reference.vision. Online softmax: Milakov and Gimelshein, 2018.

version 1: one warp per query and head walks the keys. One token's attention is `attention_decode`.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, attention_decode
from zerfoo_numba.kernels.activation import LOG2E, tanh
from zerfoo_numba.kernels.heads import first_key, head_shape, row_after
from zerfoo_numba.kernels.kv import CACHE_TYPES, bytes_per_key
from zerfoo_numba.kernels.warp import lane_id, madd, warp_sum
from zerfoo_numba.ptx.instructions import ex2, rcp


@functools.cache
def make_walk(parts, k_type, v_type, capped):
    """One warp over the keys first ... last, adding weighted V to `total`.

    Returns the sum of weights. A lane holds dimensions lane, lane + 32, ... in `parts` registers.
    """
    k_type, v_type = CACHE_TYPES[k_type], CACHE_TYPES[v_type]
    load_k, load_v, start_k, start_v = k_type.load, v_type.load, k_type.start, v_type.start

    @cuda.jit(device=True)
    def walk(mine, total, k_cache, v_cache, kh, KH, HD, VD, first, last, rows, cap):
        lane = lane_id()
        top = float32(-np.inf)
        norm = float32(0.0)
        key, row = first, uint32(first % rows)
        while key <= last:
            head = madd(row, KH, kh)
            k_at, v_at = start_k(head, HD), start_v(head, VD)
            score = float32(0.0)
            for j in range(parts):
                d = uint32(lane + uint32(32 * j))
                if d < HD:
                    score += mine[j] * load_k(k_cache, k_at, d)
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
                    value = load_v(v_cache, v_at, d)
                total[j] = total[j] * fade + weight * value
            top = highest
            row = row_after(row, uint32(1), rows)
            key = uint32(key + uint32(1))
        return norm

    return walk


@functools.cache
def make_prefill_kernel1(width, parts, k_type, v_type, capped):
    """`width`: the head width, or 0 where it is a run-time number of at most 32 * parts."""
    walk = make_walk(parts, k_type, v_type, capped)

    @cuda.jit
    def attention_prefill_kernel1(
        out, q, k_cache, v_cache, position, spans, H, KH, HD, VD, rows, scale, window, spanned, cap
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
        first, last = first_key(p, window), p
        if spanned != uint32(0):
            at = uint32(t << uint32(1))
            first = max(first, spans[at])
            last = spans[uint32(at + uint32(1))]
        norm = walk(mine, total, k_cache, v_cache, kh, KH, HD, VD, first, last, rows, cap)
        for j in range(parts):
            d = uint32(lane + uint32(32 * j))
            if d < VD:
                out[madd(madd(t, H, h), VD, d)] = total[j] / norm

    return attention_prefill_kernel1


def attention(device, out, q, cache, position, scale, window=None, softcap=None, spans=None):
    """`cache` is a LayerCache with q's keys appended; `position` (1,) uint32 is that of q[0]."""
    T, H, HD = q.shape
    if T == 1 and spans is None and cache.scratch is not None:
        decode = attention_decode.attention_decode
        decode(device, out, q, cache, position, scale, window, softcap)
        return
    KH, VD = cache.k.shape[1], out.shape[2]
    kernel = make_prefill_kernel1(*head_shape(HD, VD), *cache.types, softcap is not None)
    sizes = [np.uint32(n) for n in (H, KH, HD, VD, cache.rows)]
    numbers = (scale, window or 0, spans is not None, softcap or 0.0)
    kinds = (np.float32, np.uint32, np.uint32, np.float32)
    numbers = [kind(n) for kind, n in zip(kinds, numbers, strict=True)]
    arrays = (out, q, cache.k, cache.v, position, position if spans is None else spans)
    device.launch(kernel, (H, T), 32, (*arrays, *sizes, *numbers))


def cost(T, S, H, KH, HD, VD, window, cache_types):
    """S keys stand before the first query; every key that some query sees is read once."""
    reach = [min(S + t + 1, window or S + t + 1) for t in range(T)]
    oldest = max(0, S + 1 - (window or S + 1))
    cached = bytes_per_key(HD, VD, cache_types) * KH * (S + T - oldest)
    return Cost(bytes=cached + 4 * T * H * (HD + VD), flops=2 * H * (HD + VD) * sum(reach))
