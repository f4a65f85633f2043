"""The kernel of attention_prefill: a tile of queries past tiles of keys, with an online softmax.

A row is a query of one head. The rows of one KV head, R = t G + h of token t and the h-th of its G
query heads, go to blocks 32 at a time, and 8 of those to each of four warps. The block reads 32
keys at a time into shared memory, and for all its rows together: a lane has the scores of one key
with the 8 rows of its warp, every q it multiplies with is the same for all lanes. Then 32 values
take the place of the keys, and a lane has elements lane, lane + 32, ... of the 8 sums.
Milakov and Gimelshein, Online normalizer calculation for softmax, 2018; Dao et al.,
FlashAttention, 2022.
"""

import functools

from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels.attention_parts import (
    EACH,
    KEYS,
    NOTES,
    PITCH,
    ROWS,
    SCORES,
    make_copy,
    make_dot,
    make_values,
    weigh,
)
from zerfoo_numba.kernels.chain import chain
from zerfoo_numba.kernels.heads import first_key, row_after
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import f32_from_bits

LOWEST = float32(-1e30)  # below any score, and still a number where a row sees no key of a tile
MOST_PARTS = 4  # of 32 elements that lie in shared memory together; with more it is two at a time

device = cuda.jit(device=True, forceinline=True)


def parts_together(parts):
    return parts if parts <= MOST_PARTS else 2


@device
def token_of(row, G, tokens_rows):
    """The token of a row; past the last row it is repeated, only the store is guarded."""
    return uint32(min(row, uint32(tokens_rows - uint32(1))) // G)


@device
def keys_of(t, position, spans, window, spanned):
    """(first, last) key that token t sees."""
    p = uint32(position[0] + t)
    first, last = first_key(p, window), p
    if spanned != uint32(0):
        at = uint32(t << uint32(1))
        first = max(first, spans[at])
        last = spans[uint32(at + uint32(1))]
    return first, last


@device
def keys_of_all(t, end, position, spans, window, spanned):
    """(first, last) key that one of the tokens t .. end sees."""
    first, last = keys_of(t, position, spans, window, spanned)
    if spanned == uint32(0):
        return first, uint32(position[0] + end)
    while t < end:
        t = uint32(t + uint32(1))
        other, later = keys_of(t, position, spans, window, spanned)
        first, last = min(first, other), max(last, later)
    return first, last


def make_rows(stride):
    """(`begin`, `finish`): the queries of a warp's rows, and what has become of them."""

    @device
    def begin(queries, notes, q, row, G, kh, H, HD, n, position, spans, window, spanned, scale):
        own = uint32(warp_id() * uint32(EACH))
        end = uint32(own + uint32(EACH))
        while own < end:
            t = token_of(row, G, n)
            first, last = keys_of(t, position, spans, window, spanned)
            at = uint32(own << uint32(2))
            notes[at] = f32_from_bits(first)
            notes[uint32(at + uint32(1))] = f32_from_bits(uint32(last - first))
            notes[uint32(at + uint32(2))] = LOWEST
            notes[uint32(at + uint32(3))] = float32(0.0)
            h = uint32(min(row, uint32(n - uint32(1))) - uint32(t * G))
            start, d = uint32(madd(t, H, madd(kh, G, h)) * HD), lane_id()
            to = uint32(own * uint32(stride))
            while d < uint32(stride):
                value = q[uint32(start + d)] * scale if d < HD else float32(0.0)
                queries[uint32(to + d)] = value
                d = uint32(d + uint32(32))
            own, row = uint32(own + uint32(1)), uint32(row + uint32(1))

    @device
    def finish(out, sums, notes, row, G, kh, H, VD, n):
        own = uint32(warp_id() * uint32(EACH))
        end = uint32(own + uint32(EACH))
        while own < end:
            norm = notes[uint32(uint32(own << uint32(2)) + uint32(3))]
            t = token_of(row, G, n)
            h, d = uint32(row - uint32(t * G)), lane_id()
            start = uint32(madd(t, H, madd(kh, G, h)) * VD)
            at = uint32(own * uint32(stride))
            while d < uint32(stride):
                if d < VD and row < n:
                    out[uint32(start + d)] = sums[uint32(at + d)] / norm
                d = uint32(d + uint32(32))
            own, row = uint32(own + uint32(1)), uint32(row + uint32(1))

    return begin, finish


@functools.cache
def make_prefill_kernel2(width, parts, k_type, v_type):
    """`width`: the head width, or 0 where it is a run-time number of at most 32 * parts."""
    k_type, v_type = CACHE_TYPES[k_type], CACHE_TYPES[v_type]
    together = parts_together(parts)
    slabs, wide, stride = -(-parts // together), 32 * together, 32 * parts
    copy_keys = make_copy(k_type.load, k_type.start, together, False)
    dot, (begin, finish) = make_dot(stride), make_rows(stride)
    values = chain([make_values(parts, together, slab, v_type) for slab in range(slabs)])
    all_queries, one_room, all_sums = ROWS * stride, PITCH * wide, EACH * parts

    @cuda.jit
    def attention_prefill_kernel2(
        out,
        q,
        k_cache,
        v_cache,
        position,
        spans,
        T,
        H,
        KH,
        HD,
        VD,
        rows,
        scale,
        window,
        spanned,
        cap,
    ):
        queries = cuda.shared.array(all_queries, float32, alignment=16)
        room = cuda.shared.array(one_room, float32, alignment=16)
        weights = cuda.shared.array(SCORES, float32, alignment=16)
        # Of each row the first key it sees, how many more, its highest score and its sum of
        # weights; then of each what its sums have to fade by.
        notes = cuda.shared.array(NOTES, float32, alignment=16)
        scores = cuda.local.array(EACH, float32)
        totals = cuda.local.array(all_sums, float32)
        if width:
            HD = uint32(width)
            VD = uint32(width)
        lane, kh, G = lane_id(), uint32(cuda.blockIdx.x), uint32(H // KH)
        n, mine = uint32(T * G), uint32(warp_id() * uint32(EACH))
        # Those with most keys first.
        tile = uint32(uint32(uint32(cuda.gridDim.y) - uint32(1)) - uint32(cuda.blockIdx.y))
        first_row = uint32(tile * uint32(ROWS))
        row = uint32(first_row + mine)
        begin(queries, notes, q, row, G, kh, H, HD, n, position, spans, window, spanned, scale)
        for i in range(all_sums):
            totals[i] = float32(0.0)
        oldest = token_of(first_row, G, n)
        newest = token_of(uint32(first_row + uint32(ROWS - 1)), G, n)
        key, last = keys_of_all(oldest, newest, position, spans, window, spanned)
        place = uint32(key % rows)
        own = madd(mine, uint32(KEYS), lane)
        elements = uint32(uint32(HD + uint32(3)) & uint32(0xFFFFFFFC))
        while key <= last:
            left = min(uint32(KEYS), uint32(uint32(last - key) + uint32(1)))
            for r in range(EACH):
                scores[r] = float32(0.0)
            d = uint32(0)
            while d < elements:
                cuda.syncthreads()
                copy_keys(room, k_cache, place, left, rows, kh, KH, HD, d)
                cuda.syncthreads()
                dot(scores, queries, room, mine, d, min(uint32(wide), uint32(elements - d)))
                d = uint32(d + uint32(wide))
            for r in range(EACH):
                weights[uint32(own + uint32(KEYS * r))] = scores[r]
            weigh(weights, notes, uint32(key + lane), cap)
            values(totals, notes, weights, room, v_cache, place, left, rows, kh, KH, VD)
            place = row_after(place, left, rows)
            key = uint32(key + uint32(KEYS))
        cuda.syncwarp(FULL)
        for r in range(EACH):
            for j in range(parts):
                to = uint32(madd(mine, uint32(stride), lane) + uint32(stride * r + 32 * j))
                queries[to] = totals[r * parts + j]
        finish(out, queries, notes, row, G, kh, H, VD, n)

    return attention_prefill_kernel2
