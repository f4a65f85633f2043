"""attention_append: one token's attention with all that comes before it, in one launch.

What `qk_norm_rope_append` and then `attention_decode` make, bit for bit: q, k and v of one token as
their products leave them, k and v appended to the cache, out (1, H, VD). q (1, H, HD) stays as it
is; k (1, KH, HD) may change.

version 1: the blocks of attention_decode, where all query heads of a KV head share one. Every block
makes its own queries, in shared memory. The one whose keys include the token's own makes that
key and value, appends them and reads them back; no other block reads that row of the cache.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost, attention, rope
from zerfoo_numba.kernels.attention_decode import (
    WARPS,
    kernel_shape,
    make_attend,
    make_share,
    tile_of,
)
from zerfoo_numba.kernels.kv import CACHE_TYPES, store_f32
from zerfoo_numba.kernels.rope import make_rotate, make_rotate_append
from zerfoo_numba.kernels.warp import madd, warp_id

# Width of the heads, pairs and norm: of Gemma 3, Llama and Mistral, Qwen 2 and 3. Others are
# compiled where a model has them.
USUAL = (
    (256, "half", "rms"),
    (128, "half", "rms"),
    (128, "half", None),
    (64, "half", None),
    (128, "interleaved", None),
    (64, "interleaved", None),
)


@functools.cache
def make_append_kernel1(width, parts, tile, k_type, v_type, pairs, sectioned, q_norm, k_norm):
    share, attend = make_share(tile), make_attend(tile, parts, k_type, v_type)
    interleaved, room = pairs == "interleaved", tile * 32 * parts
    k_kind, v_kind = CACHE_TYPES[k_type], CACHE_TYPES[v_type]
    start_k, start_v, append_v = k_kind.start, v_kind.start, v_kind.append
    rotate_q = make_rotate(interleaved, sectioned, q_norm, store_f32)
    rotate_k = make_rotate_append(interleaved, sectioned, k_norm, k_kind)

    @cuda.jit
    def attention_append_kernel1(
        out, q, k, v, k_cache, v_cache, q_weight, k_weight, cos, sin, turns, position, partials,
        tickets, G, KH, HD, VD, rows, least, R, height, across, q_stride, k_stride, window,
        scale, cap, mean_factor, eps,
    ):  # fmt: skip
        queries = cuda.shared.array(room, float32)
        if width:
            HD, VD = uint32(width), uint32(width)
        kh, zero = uint32(cuda.blockIdx.x), uint32(0)
        first, end, seen, each = share(position, window, least)
        if first >= end:
            return
        p = uint32(end - uint32(1))
        # Heads to make: the queries', and where the token's own key is, that key and value.
        owner = uint32(p - first) < uint32(each * uint32(WARPS))
        heads, head = uint32(G + uint32(2)) if owner else G, warp_id()
        row = madd(uint32(p % rows), KH, kh)
        while head < heads:
            if head < G:
                h = madd(kh, G, head)
                rotate_q(
                    queries, uint32(head * HD), q, uint32(h * HD), q_weight, uint32(h * q_stride),
                    cos, sin, turns, p, R, height, across, HD, mean_factor, eps,
                )  # fmt: skip
            elif head == G:
                rotate_k(
                    k_cache, start_k(row, HD), k, uint32(kh * HD), k_weight, uint32(kh * k_stride),
                    cos, sin, turns, p, R, height, across, HD, mean_factor, eps,
                )  # fmt: skip
            else:
                append_v(v_cache, start_v(row, VD), v, uint32(kh * VD), VD)
            head = uint32(head + uint32(WARPS))
        cuda.syncthreads()
        attend(
            out, queries, zero, k_cache, v_cache, partials, tickets, kh, zero, G, KH, HD, VD, rows,
            first, end, seen, each, scale, cap,
        )  # fmt: skip

    return attention_append_kernel1


def fits(H, KH, HD, VD, cache):
    """Whether all query heads of a KV head share a block."""
    parts = kernel_shape(HD, VD, cache.types)[1]
    return cache.scratch is not None and tile_of(H // KH, parts) >= H // KH


def attention_append(device, out, q, k, v, cache, position, table, norm, weights, eps,
                     scale, window=None, softcap=None):  # fmt: skip
    """`cache` is a LayerCache with a scratch, `table` a RopeTable, `norm` and `weights` as of
    `qk_norm_rope_append`."""
    _, H, HD = q.shape
    KH, VD = v.shape[1:]
    width, parts = kernel_shape(HD, VD, cache.types)
    G, shared = H // KH, cache.scratch
    kinds, weights, strides, rotated, turns = rope.chosen(position, table, norm, weights, HD)
    shape = (width, parts, tile_of(G, parts), *cache.types)
    kernel = make_append_kernel1(*shape, table.pairs, table.turns is not None, *kinds)
    sizes = (G, KH, HD, VD, cache.rows, device.attention_piece, *rotated, *strides, window or 0)
    numbers = (scale, softcap or 0.0, 1.0 / HD, eps)
    arrays = (out, q, k, v, cache.k, cache.v, *weights, table.cos, table.sin, turns, position)
    args = (*arrays, shared.partials, shared.tickets, *(np.uint32(n) for n in sizes))
    grid = (KH, device.attention_splits)
    device.launch(kernel, grid, 32 * WARPS, (*args, *(np.float32(n) for n in numbers)))


def cost(T, S, H, KH, HD, VD, window, cache_types):
    """Of the two operations, without the queries that one would write and the other read."""
    apart = rope.cost(T, H, KH, HD, VD, cache_types)
    apart += attention.cost(T, S, H, KH, HD, VD, window, cache_types)
    return apart + Cost(-2 * 4 * T * H * HD, 0)
