"""The first launch of `sample`: every warp keeps the k largest of its SEGMENT logits.

Penalised logits become keys that are ordered as they are; a search for the bits of the k-th largest
key needs no barrier; what equals the last of the k is kept too. Buffers: see sample.py.
"""

import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import bits_from_f32, f32_from_bits, shift_right

SEGMENT = 1024  # logits of one warp
WARPS = 4
THREADS = 32 * WARPS
PART = SEGMENT * WARPS
MARKS = PART // 32  # words with a bit for each logit: one for a thread
NONE = 0xFFFFFFFF


@cuda.jit(device=True)
def order_key(value):
    """uint32 that is larger where the float is; above 0; equal for both zeros."""
    value = value + float32(0.0) if value == value else float32(-math.inf)
    bits = bits_from_f32(value)
    negative = shift_right(bits, uint32(31)) == uint32(1)
    return uint32(bits ^ (uint32(NONE) if negative else uint32(0x80000000)))


@cuda.jit(device=True)
def key_value(key):
    positive = shift_right(key, uint32(31)) == uint32(1)
    return f32_from_bits(uint32(key ^ (uint32(0x80000000) if positive else uint32(NONE))))


@cuda.jit(device=True)
def warp_total(count):
    for distance in (16, 8, 4, 2, 1):
        count = uint32(count + uint32(cuda.shfl_xor_sync(FULL, int32(count), distance)))
    return count


@cuda.jit(device=True)
def warp_largest(key):
    for distance in (16, 8, 4, 2, 1):
        key = max(key, uint32(cuda.shfl_xor_sync(FULL, int32(key), distance)))
    return key


@cuda.jit(device=True)
def mark_repeated(marks, history, end, last, first):
    """A bit of `marks` for each logit from `first` on whose token is among the latest `last`."""
    at = uint32(end - min(last, end))
    while at < end:
        mine = uint32(at + uint32(cuda.threadIdx.x))
        if mine < end:
            offset = uint32(history[mine] - first)  # below `first`, this wraps around
            if offset < uint32(PART):
                bit = uint32(uint32(1) << uint32(offset & uint32(31)))
                cuda.atomic.or_(marks, shift_right(offset, uint32(5)), bit)
        at = uint32(at + uint32(THREADS))


@cuda.jit(device=True)
def load_keys(keys, marks, logits, V, first, penalty, inverse):
    """The warp's keys of penalised logits, 0 beyond the last; -> the largest."""
    lane, row, best = lane_id(), uint32(0), uint32(0)
    own = uint32(warp_id() * uint32(SEGMENT))
    while row < uint32(SEGMENT):
        offset = uint32(uint32(own + row) + lane)
        v, key = uint32(first + offset), uint32(0)
        if v < V:
            value = logits[v]
            word = marks[shift_right(offset, uint32(5))]
            if uint32(shift_right(word, uint32(offset & uint32(31))) & uint32(1)) == uint32(1):
                value = value * (inverse if value > float32(0.0) else penalty)
            key = order_key(value)
        keys[offset] = key
        best = max(best, key)
        row = uint32(row + uint32(32))
    return warp_largest(best)


@cuda.jit(device=True)
def count_from(keys, own, bound):
    """How many of the warp's keys are at least `bound`."""
    count, row = uint32(0), uint32(0)
    while row < uint32(SEGMENT):
        key = keys[uint32(uint32(own + row) + lane_id())]
        count = uint32(count + (uint32(1) if key >= bound else uint32(0)))
        row = uint32(row + uint32(32))
    return warp_total(count)


@cuda.jit(device=True)
def kth_largest(keys, own, k):
    """The greatest bound that at least k of the warp's keys reach; 1 where there are fewer."""
    bound, bit, count = uint32(1), uint32(0x80000000), uint32(NONE)
    if k >= uint32(SEGMENT):
        bit = uint32(0)
    while bit != uint32(0):
        higher = uint32(bound | bit)
        count = count_from(keys, own, higher)
        if count >= k:
            bound = higher
        bit = uint32(0) if count == k else shift_right(bit, uint32(1))
    return bound


@cuda.jit
def sample_part_kernel1(
    kept, counts, bests, logits, history, position, whole, numbers, V, step
):  # fmt: skip
    keys = cuda.shared.array(PART, uint32)
    marks = cuda.shared.array(MARKS, uint32)
    marks[uint32(cuda.threadIdx.x)] = uint32(0)
    cuda.syncthreads()
    first = uint32(uint32(cuda.blockIdx.x) * uint32(PART))
    penalty = numbers[2]
    if penalty != float32(1.0):
        mark_repeated(marks, history, uint32(position[0] + step), whole[2], first)
    cuda.syncthreads()
    best = load_keys(keys, marks, logits, V, first, penalty, numbers[3])
    own = uint32(warp_id() * uint32(SEGMENT))
    k = whole[0] if whole[0] != uint32(0) else uint32(SEGMENT)
    bound = kth_largest(keys, own, k)
    segment = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
    start = uint32(segment * uint32(SEGMENT))
    count, row = uint32(0), uint32(0)
    below = uint32(uint32(uint32(1) << lane_id()) - uint32(1))
    while row < uint32(SEGMENT):
        key = keys[uint32(uint32(own + row) + lane_id())]
        votes = uint32(cuda.ballot_sync(FULL, key >= bound))
        if key >= bound:
            before = uint32(count + uint32(cuda.popc(uint32(votes & below))))
            at = uint32(uint32(start + before) << uint32(1))
            kept[at] = key
            kept[uint32(at + uint32(1))] = uint32(uint32(start + row) + lane_id())
        count = uint32(count + uint32(cuda.popc(votes)))
        row = uint32(row + uint32(32))
    if lane_id() == uint32(0):
        counts[segment] = count
        bests[segment] = best


def segments(V):
    """Warps of `part`: each has SEGMENT logits, those at the end perhaps none."""
    return blocks(V, PART) * WARPS


def sample_part(device, kept, counts, bests, logits, history, position, whole, numbers, step):
    """kept (segments, SEGMENT, 2) uint32: (key, index) of candidates; counts, bests (segments,)."""
    V = logits.size
    arrays = (kept, counts, bests, logits, history, position, whole, numbers)
    device.launch(sample_part_kernel1, blocks(V, PART), THREADS,
                  (*arrays, np.uint32(V), np.uint32(step)))  # fmt: skip


def cost(V):
    """The logits, and for each warp one candidate at least, its count and best."""
    return Cost(bytes=4 * V + 16 * segments(V), flops=V)
