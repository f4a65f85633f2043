"""sample: the next token drawn on the device; the host sees its id and no logits.

In this order: repetition penalty, top-k, top-p, min-p, temperature, and one draw from the softmax
of what is left (see zerfoo_numba.sampling). Candidates are ordered by logit, the largest first, and
by index among equals; each of top-k, top-p and the draw asks for the first candidate at which a
running sum of weights, in that order, exceeds a goal:

  top-k  weights 1, goal k - 1/2;        top-p  weights exp(l - max), goal just below p times all;
  draw   weights exp((l - max) / temperature), goal u times all, u uniform in [0, 1) by Philox.

Weights are integers, 2^40 for the largest logit, so that sums are exact in any order: every device
and the NumPy statement in tests/parity/sampling.py give the same ids. What is less likely than
2^-40 of the likeliest weighs nothing. NaN counts as minus infinity.

logits (V,) float32; token (1,), position (1,), history (S + 1,) uint32 as in argmax; state (3,)
uint32: the two words of the seed, and the draws so far. whole (3,) uint32: k or 0 for all; top-p in
units of 2^-32, or NONE for all; tokens that the penalty looks back. numbers (4,) float32:
log2(e) 2^24 / temperature, log(min-p), the penalty, and 1 / penalty.

Two launches: sample_part leaves few candidates; sample_join, one block, finds each goal digit by
digit, from histograms of 8 bits of the logit, then of the index where logits are equal.
"""

import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int64, uint32, uint64

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.philox import philox
from zerfoo_numba.kernels.sample_part import (
    NONE,
    SEGMENT,
    key_value,
    order_key,
    warp_largest,
)
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import mul_hi, round_to_i32, shift_right

WARPS = 16  # with 32, the registers of older GPUs would not go round
THREADS = 32 * WARPS
DIGITS, BINS = 8, 256  # 8 digits of 8 bits: 4 of the logit, 4 of the index
UNIT = 40  # the largest logit weighs 2^UNIT
FRACTION = 24  # bits behind the point of a binary logarithm
LOG2E = float(np.float32(math.log2(math.e) * 2**FRACTION))
# 2^-z = 1 - z (c1 - z (c2 - ...)), c_i = ln(2)^i / i!, in units of 2^-32.
SERIES = tuple(round(math.log(2) ** i / math.factorial(i) * 2**32) for i in range(9, 0, -1))
FARTHEST = float(np.float32(63 << FRACTION))


@cuda.jit(device=True)
def mass(distance, rate):
    """2^UNIT 2^-(distance rate 2^-FRACTION), rounded down; distance >= 0."""
    y = distance * rate
    x = uint32(round_to_i32(y if y < float32(FARTHEST) else float32(FARTHEST)))
    z = uint32(uint32(x & uint32((1 << FRACTION) - 1)) << uint32(32 - FRACTION))
    term = uint32(0)
    for coefficient in SERIES:
        term = uint32(uint32(coefficient) - mul_hi(z, term))
    share = uint64(uint64(1 << 32) - uint64(mul_hi(z, term)))
    return uint64(uint64(share << uint64(UNIT - 32)) >> uint64(shift_right(x, uint32(FRACTION))))


@cuda.jit(device=True)
def largest_of_all(bests, segments):
    best, start = uint32(0), uint32(0)
    while start < segments:
        g = uint32(start + lane_id())
        if g < segments:
            best = max(best, bests[g])
        start = uint32(start + uint32(32))
    return warp_largest(best)


@cuda.jit(device=True)
def digit_of(key, rest, digit):
    """Digit 0 .. 7 of (key, rest), the most significant first."""
    word = key if digit < uint32(4) else rest
    shift = uint32(uint32(24) - uint32(uint32(digit & uint32(3)) << uint32(3)))
    return uint32(shift_right(word, shift) & uint32(255))


@cuda.jit(device=True)
def tally(masses, tallies, kept, counts, segments, bounds, prefix, digit, best, rate, alike):
    """Each candidate's weight to the bin of its next digit, if it begins with the prefix.

    A candidate is (key, rest), rest = ~index: larger comes first. It takes part from `bounds` on.
    """
    high, low = bounds
    key_prefix, rest_prefix, key_mask, rest_mask = prefix
    g = warp_id()
    while g < segments:
        count, start = counts[g], uint32(0)
        while start < count:
            i = uint32(start + lane_id())
            if i < count:
                at = uint32(madd(g, uint32(SEGMENT), i) << uint32(1))
                key, rest = kept[at], uint32(~kept[uint32(at + uint32(1))])
                inside = (key > high) | ((key == high) & (rest >= low))
                inside &= uint32(key & key_mask) == key_prefix
                if inside & (uint32(rest & rest_mask) == rest_prefix):
                    weight = uint64(1 << UNIT)
                    if (not alike) & (key != best):
                        weight = mass(key_value(best) - key_value(key), rate)
                    place = digit_of(key, rest, digit)
                    cuda.atomic.add(masses, place, weight)
                    cuda.atomic.add(tallies, place, uint32(1))
            start = uint32(start + uint32(32))
        g = uint32(g + uint32(WARPS))


@cuda.jit(device=True)
def goal_of(kind, total, wanted):
    """The first candidate at which the running sum exceeds this is the one; below `total`."""
    low = uint64(uint64(total & uint64(NONE)) * uint64(wanted))
    if kind == uint32(1):
        low = uint64(low + uint64(NONE))  # rounded up
    goal = uint64(uint64(total >> uint64(32)) * uint64(wanted))
    goal = uint64(goal + uint64(low >> uint64(32)))
    if kind == uint32(0):
        goal = uint64(uint64(wanted) << uint64(UNIT))
    if (kind != uint32(2)) & (goal != uint64(0)):
        goal = uint64(goal - uint64(1))
    return uint64(min(goal, uint64(total - uint64(1))))


@cuda.jit(device=True)
def find_digit(masses, tallies, found, rest, kind, wanted, first, goal):
    """By one warp: the bin, from the highest, in which the running sum exceeds the goal.

    found = (bin, candidates in it); rest = what of the goal is left within the bin.
    """
    lane = lane_id()
    highest = uint32(uint32(BINS - 1) - uint32(lane << uint32(3)))
    mine = uint64(0)
    for j in range(8):
        mine = uint64(mine + masses[uint32(highest - uint32(j))])
    upto = mine
    for distance in (1, 2, 4, 8, 16):
        before = uint64(cuda.shfl_up_sync(FULL, int64(upto), distance))
        upto = uint64(upto + (before if lane >= uint32(distance) else uint64(0)))
    if first:
        total = uint64(cuda.shfl_sync(FULL, int64(upto), 31))
        goal = goal_of(kind, total, wanted)
    running = uint64(upto - mine)
    for j in range(8):
        place = uint32(highest - uint32(j))
        following = uint64(running + masses[place])
        if (running <= goal) & (goal < following):
            found[0], found[1] = place, tallies[place]
            rest[0] = uint64(goal - running)
        running = following


@cuda.jit(device=True)
def later(bounds, others):
    """Of two bounds the one that fewer candidates reach."""
    further = others[0] > bounds[0]
    further |= (others[0] == bounds[0]) & (others[1] > bounds[1])
    return others if further else bounds


@cuda.jit(device=True)
def select(masses, tallies, found, rest, kept, counts, segments, bounds, best, rate, kind, wanted):
    """(key, rest, their masks) of the beginning that only the candidate at the goal has."""
    thread = uint32(cuda.threadIdx.x)
    prefix = (uint32(0), uint32(0), uint32(0), uint32(0))
    goal, digit = uint64(0), uint32(0)
    while digit < uint32(DIGITS):
        if thread < uint32(BINS):
            masses[thread] = uint64(0)
            tallies[thread] = uint32(0)
        cuda.syncthreads()
        tally(
            masses, tallies, kept, counts, segments, bounds, prefix, digit, best, rate,
            kind == uint32(0),
        )  # fmt: skip
        cuda.syncthreads()
        if warp_id() == uint32(0):
            find_digit(masses, tallies, found, rest, kind, wanted, digit == uint32(0), goal)
        cuda.syncthreads()
        key, low, key_mask, low_mask = prefix
        goal = rest[0]
        shift = uint32(uint32(24) - uint32(uint32(digit & uint32(3)) << uint32(3)))
        place, mask = uint32(found[0] << shift), uint32(uint32(255) << shift)
        if digit < uint32(4):
            prefix = (uint32(key | place), low, uint32(key_mask | mask), low_mask)
        else:
            prefix = (key, uint32(low | place), key_mask, uint32(low_mask | mask))
        digit = uint32(digit + uint32(1)) if found[1] > uint32(1) else uint32(DIGITS)
    return prefix


@cuda.jit(device=True)
def publish(token, position, history, kept, counts, segments, bounds, prefix, step):
    """The index of the one candidate that begins with `prefix` is the token."""
    high, low = bounds
    key_prefix, rest_prefix, key_mask, rest_mask = prefix
    g = warp_id()
    while g < segments:
        count, start = counts[g], uint32(0)
        while start < count:
            i = uint32(start + lane_id())
            if i < count:
                at = uint32(madd(g, uint32(SEGMENT), i) << uint32(1))
                key, index = kept[at], kept[uint32(at + uint32(1))]
                rest = uint32(~index)
                inside = (key > high) | ((key == high) & (rest >= low))
                inside &= uint32(key & key_mask) == key_prefix
                if inside & (uint32(rest & rest_mask) == rest_prefix):
                    following = uint32(position[0] + step)
                    token[0] = index
                    position[0] = following
                    history[following] = index
            start = uint32(start + uint32(32))
        g = uint32(g + uint32(WARPS))


@cuda.jit
def sample_join_kernel1(
    token, position, history, kept, counts, bests, state, whole, numbers, segments, step
):  # fmt: skip
    masses = cuda.shared.array(BINS, uint64)
    tallies = cuda.shared.array(BINS, uint32)
    found = cuda.shared.array(2, uint32)
    rest = cuda.shared.array(1, uint64)
    best = largest_of_all(bests, segments)
    draws = state[2]
    word, _, _, _ = philox(draws, uint32(0), uint32(0), uint32(0), state[0], state[1])
    bounds = (uint32(0), uint32(0))
    prefix = (uint32(0), uint32(0), uint32(0), uint32(0))
    kind = uint32(0)
    while kind < uint32(3):
        wanted, rate, needed = word, numbers[0], True
        if kind == uint32(0):
            wanted = whole[0]
            needed = wanted != uint32(0)
        if kind == uint32(1):
            wanted, rate = whole[1], float32(LOG2E)
            needed = wanted != uint32(NONE)
        if kind == uint32(2):
            key = order_key(key_value(best) + numbers[1])
            bounds = later(bounds, (key, uint32(0)))
        if needed:
            prefix = select(
                masses, tallies, found, rest, kept, counts, segments, bounds, best, rate, kind,
                wanted,
            )  # fmt: skip
        if needed & (kind != uint32(2)):
            bounds = later(bounds, (prefix[0], prefix[1]))
        kind = uint32(kind + uint32(1))
    publish(token, position, history, kept, counts, segments, bounds, prefix, step)
    if uint32(cuda.threadIdx.x) == uint32(0):
        state[2] = uint32(draws + uint32(1))


def sample_join(device, token, position, history, kept, counts, bests, state, whole, numbers, step):
    """`step`: 1 after a decode step, 0 after a prefill, which has moved the position already."""
    arrays = (token, position, history, kept, counts, bests, state, whole, numbers)
    sizes = (np.uint32(counts.size), np.uint32(step))
    device.launch(sample_join_kernel1, 1, THREADS, (*arrays, *sizes))


def cost(segments):
    """Of a warp's segment one candidate at least, and its count and best."""
    return Cost(bytes=16 * segments + 28, flops=2 * segments)


def inputs(rng, V):
    return {"logits": (3 * rng.standard_normal(V)).astype(np.float32)}


# A part of a warp's; several blocks, with a ragged end; the largest vocabulary of the models here.
SHAPES = ({"V": 5}, {"V": 1024}, {"V": 4097}, {"V": 9000}, {"V": 262144})
