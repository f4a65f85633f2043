"""What a block of attention_prefill does with one tile of keys: copy, multiply, weigh, gather.

Of each of the block's 32 rows `notes` has the first key it sees and how many more, its highest
score and its sum of weights; then, of each, what its sums have to fade by. See `attention_tile`.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels.activation import LOG2E, tanh
from zerfoo_numba.kernels.chain import chain
from zerfoo_numba.kernels.heads import row_after
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id, warp_max, warp_sum
from zerfoo_numba.ptx.instructions import (
    bits_from_f32,
    byte_load,
    byte_store,
    ex2,
    load_f32x4,
    rcp,
)

WARPS, EACH = 4, 8  # rows of a warp
ROWS = WARPS * EACH
KEYS, AT_ONCE = 32, 4
SCORES, NOTES = ROWS * KEYS, 5 * ROWS
PITCH = KEYS + 1  # of the elements of 32 keys, so that neither their lanes nor those of d conflict


load_f32, store_f32 = byte_load(float32), byte_store(float32)
device = cuda.jit(device=True, forceinline=True)


def make_copy(load, start_of, together, by_key):
    """`copy`: elements d0 on of 32 keys to shared memory, key by key or element by element."""
    room_of_four = AT_ONCE * together

    @device
    def copy_four(room, cache, key, row0, left, rows, kh, KH, width, d0):
        lane, values = lane_id(), cuda.local.array(room_of_four, float32)
        for i in range(room_of_four):
            values[i] = float32(0.0)
        if key < left:
            for i in range(AT_ONCE):
                # Past the last key it is repeated, and past the last element that is: finite
                # numbers, to be weighted with zero or multiplied with zeros.
                after = min(uint32(key + uint32(i)), uint32(left - uint32(1)))
                start = start_of(madd(row_after(row0, after, rows), KH, kh), width)
                for j in range(together):
                    d = min(uint32(uint32(d0 + lane) + uint32(32 * j)), uint32(width - uint32(1)))
                    values[i * together + j] = load(cache, start, d)
        if by_key:
            at = madd(key, uint32(32 * together), lane)
        else:
            at = madd(lane, uint32(PITCH), key)
        place = uint64(uint64(at) << uint64(2))
        for i in range(AT_ONCE):
            for j in range(together):
                further = 32 * together * i + 32 * j if by_key else 32 * PITCH * j + i
                store_f32(room, uint64(place + uint64(4 * further)), values[i * together + j])

    @device
    def copy(room, cache, row0, left, rows, kh, KH, width, d0):
        key = uint32(warp_id() * uint32(AT_ONCE))
        while key < uint32(KEYS):
            copy_four(room, cache, key, row0, left, rows, kh, KH, width, d0)
            key = uint32(key + uint32(WARPS * AT_ONCE))

    return copy


def make_dot(stride):
    @device
    def dot(scores, queries, room, first, d0, count):
        """`count` elements from d0 on of the keys in `room`, with the 8 rows from `first` on."""
        at = uint64(uint64(madd(first, uint32(stride), d0)) << uint64(2))
        near, d = uint64(uint64(lane_id()) << uint64(2)), uint32(0)
        while d < count:
            numbers = four(room, near, 4 * PITCH)
            for r in range(EACH):
                scores[r] = add_four(
                    scores[r], numbers, queries, uint64(at + uint64(4 * r * stride))
                )
            near = uint64(near + uint64(16 * PITCH))
            at = uint64(at + uint64(16))
            d = uint32(d + uint32(4))

    return dot


@device
def four(room, at, step):
    """Four numbers of a lane, `step` bytes apart."""
    return (
        load_f32(room, at),
        load_f32(room, uint64(at + uint64(step))),
        load_f32(room, uint64(at + uint64(2 * step))),
        load_f32(room, uint64(at + uint64(3 * step))),
    )


@device
def add_four(total, numbers, others, at):
    """total + the products of four numbers, each lane's own, and four that all lanes share."""
    p, q, s, t = load_f32x4(others, at)
    total = cuda.fma(numbers[0], p, total)
    total = cuda.fma(numbers[1], q, total)
    total = cuda.fma(numbers[2], s, total)
    return cuda.fma(numbers[3], t, total)


@device
def weigh(weights, notes, key, cap):
    """The scores of a tile of keys, one to a lane, become weights to the base of the row's highest
    score so far, row by row of the warp."""
    row = uint32(warp_id() * uint32(EACH))
    end = uint32(row + uint32(EACH))
    while row < end:
        own = madd(row, uint32(KEYS), lane_id())
        score = weights[own]
        if cap != float32(0.0):
            score = cap * tanh(score * rcp(cap))
        at = uint32(row << uint32(2))
        first, count, top, norm = load_f32x4(notes, uint64(uint64(at) << uint64(2)))
        seen = uint32(key - bits_from_f32(first)) <= bits_from_f32(count)
        score = score * float32(LOG2E) if seen else float32(-np.inf)
        highest = max(top, warp_max(score))
        fade, weight = ex2(top - highest), ex2(score - highest)
        weights[own] = weight
        norm = cuda.fma(norm, fade, warp_sum(weight))
        # All lanes store the same: one lane alone would be a branch.
        notes[uint32(at + uint32(2))] = highest
        notes[uint32(at + uint32(3))] = norm
        notes[uint32(uint32(4 * ROWS) + row)] = fade
        row = uint32(row + uint32(1))


def make_gather(parts, together, j):
    """Part j of the sums: what there is, faded, and the weighted values of a tile of keys."""
    stride, column = 32 * together, 32 * (j % together)

    @device
    def gather(totals, notes, weights, room, left):
        first = uint32(warp_id() * uint32(EACH))
        at, key = uint64(uint64(uint32(lane_id() + uint32(column))) << uint64(2)), uint32(0)
        place = uint64(uint64(uint32(first * uint32(KEYS))) << uint64(2))
        sums = cuda.local.array(EACH, float32)
        for r in range(EACH):
            sums[r] = totals[r * parts + j] * notes[uint32(first + uint32(4 * ROWS + r))]
        while key < left:
            numbers = four(room, at, 4 * stride)
            for r in range(EACH):
                row = uint64(place + uint64(4 * r * KEYS))
                sums[r] = add_four(sums[r], numbers, weights, row)
            at = uint64(at + uint64(16 * stride))
            place = uint64(place + uint64(16))
            key = uint32(key + uint32(4))
        for r in range(EACH):
            totals[r * parts + j] = sums[r]

    return gather


def make_values(parts, together, slab, v_type):
    """A slab of elements of the values: copied, and added to its parts of the sums."""
    copy = make_copy(v_type.load, v_type.start, together, True)
    mine = range(slab * together, min(parts, (slab + 1) * together))
    gather = chain([make_gather(parts, together, j) for j in mine])

    @device
    def values(totals, notes, weights, room, v_cache, row, left, rows, kh, KH, VD):
        cuda.syncthreads()
        copy(room, v_cache, row, left, rows, kh, KH, VD, uint32(32 * slab * together))
        cuda.syncthreads()
        gather(totals, notes, weights, room, left)

    return values
