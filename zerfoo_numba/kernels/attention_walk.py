"""One warp's share of attention_decode: some keys for all query heads of a tile.

A lane holds elements lane, lane + 32, ... of every query and of every sum. It takes `keys_at_once`
keys at a time; their scores with all heads, 32 at most, are added up over the lanes together, so
that each lane is left with one score, and one exponential serves them all.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels.activation import LOG2E, tanh
from zerfoo_numba.kernels.chain import chain
from zerfoo_numba.kernels.heads import row_after
from zerfoo_numba.kernels.warp import FULL, lane_id, madd
from zerfoo_numba.ptx.instructions import ex2, rcp

device = cuda.jit(device=True, forceinline=True)


def keys_at_once(tile):
    """Keys whose scores a warp makes together: 32 scores, and 8 keys at most."""
    return min(8, 32 // tile)


def unrolled(make, first, count):
    """make(first), ... make(first + count - 1), called one after another with six arguments."""
    if count == 1:
        return make(first)
    left = unrolled(make, first, count // 2)
    right = unrolled(make, first + count // 2, count - count // 2)

    @device
    def both(a, b, c, d, e, f):
        left(a, b, c, d, e, f)
        right(a, b, c, d, e, f)

    return both


def make_score(tile, parts, load):
    def make(key):
        @device
        def score(scores, mine, cache, starts, HD, lane):
            """The lane's part of the scores of one key with every query."""
            start = starts[key]
            values = cuda.local.array(parts, float32)
            for j in range(parts):
                d = uint32(lane + uint32(32 * j))
                values[j] = load(cache, start, d) if d < HD else float32(0.0)
            for h in range(tile):
                total = mine[h * parts] * values[0]
                for j in range(1, parts):
                    total += mine[h * parts + j] * values[j]
                scores[key * tile + h] = total

        return score

    return make


def make_gather(tile, parts, load):
    keys = keys_at_once(tile)

    def make(j):
        @device
        def gather(totals, shares, fades, cache, starts, VD):
            """Element lane + 32 j of all sums: what there is, faded, and the shares of V."""
            d = uint32(lane_id() + uint32(32 * j))
            values = cuda.local.array(keys, float32)
            for key in range(keys):
                values[key] = load(cache, starts[key], d) if d < VD else float32(0.0)
            for h in range(tile):
                total = totals[h * parts + j] * fades[h]
                for key in range(keys):
                    total += shares[key * tile + h] * values[key]
                totals[h * parts + j] = total

        return gather

    return make


def make_starts(keys, start_of):
    @device
    def find_starts(starts, row, left, rows, kh, KH, width):
        """Where the head begins of each of the keys from `row` on; past the last, of the first."""
        for key in range(keys):
            after = uint32(key) if uint32(key) < left else uint32(0)
            starts[key] = start_of(madd(row_after(row, after, rows), KH, kh), width)

    return find_starts


def make_merge(count):
    """`merge(scores)`: each of `count` sums over the lanes, sum i in the 32 / count lanes from
    i 32 / count on. Halves of the sums go to halves of the lanes: count - 1 exchanges, and then
    those that are left, instead of five for each sum."""
    halvings = count.bit_length() - 1
    levels = [(count >> level + 1, 16 >> level) for level in range(halvings)]
    rest = 5 - halvings

    def make_level(half, distance):
        @device
        def level(scores):
            upper = uint32(lane_id() & uint32(distance)) != uint32(0)
            for i in range(half):
                a, b = scores[i], scores[i + half]
                scores[i] = (b if upper else a) + cuda.shfl_xor_sync(
                    FULL, a if upper else b, distance
                )

        return level

    steps = chain([make_level(*level) for level in levels])

    @device
    def merge(scores):
        steps(scores)
        total = scores[0]
        for level in range(rest):
            total += cuda.shfl_xor_sync(FULL, total, 1 << level)
        return total

    return merge


def make_walk(tile, parts, k_type, v_type):
    """One warp over the keys from `key` to before `stop`, adding weighted V to `totals`.

    Returns each lane's largest score and sum of weights: those of the query head its score is of,
    the sum over its own keys alone.
    """
    keys, count = keys_at_once(tile), tile * keys_at_once(tile)
    merge, lanes = make_merge(count), 32 // count  # lanes that hold the same score
    score = unrolled(make_score(tile, parts, k_type.load), 0, keys)
    gather = unrolled(make_gather(tile, parts, v_type.load), 0, parts)
    k_starts, v_starts = make_starts(keys, k_type.start), make_starts(keys, v_type.start)
    levels, own_lanes = keys.bit_length() - 1, tile * lanes

    @device
    def walk(mine, totals, k_cache, v_cache, kh, KH, HD, VD, key, stop, rows, cap):
        own = uint32(lane_id() // uint32(own_lanes))
        top, norm = float32(-np.inf), float32(0.0)
        scores, starts = cuda.local.array(count, float32), cuda.local.array(keys, uint32)
        fades = cuda.local.array(tile, float32)
        row = uint32(key % rows)
        while key < stop:
            left = uint32(stop - key)
            k_starts(starts, row, left, rows, kh, KH, HD)
            score(scores, mine, k_cache, starts, HD, lane_id())
            value = merge(scores)
            if cap != float32(0.0):
                value = cap * tanh(value * rcp(cap))
            value = value * float32(LOG2E) if own < left else float32(-np.inf)
            highest = max(top, value)
            for level in range(levels):
                highest = max(highest, cuda.shfl_xor_sync(FULL, highest, own_lanes << level))
            fade, weight = ex2(top - highest), ex2(value - highest)
            norm, top = norm * fade + weight, highest
            for h in range(tile):
                fades[h] = cuda.shfl_sync(FULL, fade, h * lanes)
            for i in range(count):
                scores[i] = cuda.shfl_sync(FULL, weight, i * lanes)
            v_starts(starts, row, left, rows, kh, KH, VD)
            gather(totals, scores, fades, v_cache, starts, VD)
            row = row_after(row, uint32(keys), rows)
            key = uint32(key + uint32(keys))
        for level in range(levels):
            norm += cuda.shfl_xor_sync(FULL, norm, own_lanes << level)
        return top, norm

    return walk
