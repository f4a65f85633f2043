"""What the lanes of a warp do together: shuffles, votes, matches and reductions.

A group of whole warps is reshaped to (warps, 32); any other goes through a table with a row per
warp. Reference: PTX ISA, section 9.7.9.
"""

import numpy as np

WARP = 32
LANES = np.arange(WARP)


def shuffle_source(mode, b, c, lane=LANES):
    """-> the lane read by each lane, and whether it is within the segment (the predicate)."""
    segment, limit = c >> 8 & 31, c & 31
    b = b & 31
    low = lane & segment
    high = low | (limit & ~segment)
    source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | (b & ~segment)}[mode]
    inside = source >= high if mode == "up" else source <= high
    return np.where(inside, source, lane), inside


def shuffle(mode):
    """shfl.sync of a 32-bit value: -> value and predicate."""

    def run(group, a, b, c, mask):
        if type(b) is np.ndarray or type(c) is np.ndarray:
            return _general(group, mode, a, b, c)
        b, c = int(b), int(c)
        if type(a) is not np.ndarray:
            a = np.full(group.size, a)
        if not group.whole_warps:
            return _general(group, mode, a, b, c)
        index, inside = group.remember(
            ("shuffle", mode, b, c), lambda: _whole(group.size, *shuffle_source(mode, b, c))
        )
        return a.take(index, mode="wrap"), inside

    return run


def _whole(size, source, inside):
    rows = np.arange(0, size, WARP)
    index = (rows[:, None] + source).reshape(-1)
    return index, np.True_ if inside.all() else np.tile(inside, size // WARP)


def _general(group, mode, a, b, c):
    b, c = (np.broadcast_to(x, group.size).astype(np.int64) for x in (b, c))
    source, inside = shuffle_source(mode, b, c, group.laneid)
    count, rows = group.rows
    # A lane that is not here gives no value: the reader keeps its own, as good as any.
    position = np.full((count, WARP), -1)
    position[rows, group.laneid] = np.arange(group.size)
    index = position[rows, source & 31]
    index = np.where(index < 0, np.arange(group.size), index)
    return np.broadcast_to(a, group.size)[index], inside


def _table(group, flags):
    """Bit masks of the lanes with a true flag, and of the lanes here, each per lane."""
    flags = np.broadcast_to(flags, group.size)
    if group.whole_warps:
        packed = np.packbits(flags.reshape(-1, WARP), axis=1, bitorder="little")
        return packed.view(np.uint32).reshape(-1), np.uint32(0xFFFFFFFF)
    return group.by_row(group.laneid, flags), group.present


def _spread(group, table):
    """One value per warp to one per lane."""
    if type(table) is not np.ndarray:
        return table
    if group.whole_warps:
        return np.repeat(table, WARP)
    return table[group.rows[1]]


def vote(mode):
    """vote.sync: all, any, uni -> predicate; ballot -> mask of the lanes."""

    def run(group, flags, mask):
        yes, here = _table(group, flags)
        mask = mask.astype(np.uint32)
        if type(mask) is np.ndarray:
            yes, here = _spread(group, yes), _spread(group, here)
        yes, here = yes & mask, here & mask
        if mode == "ballot":
            result = yes
        elif mode == "any":
            result = yes != 0
        elif mode == "all":
            result = yes == here
        else:
            result = (yes == here) | (yes == 0)
        if type(mask) is np.ndarray:
            return result
        return _spread(group, result)

    return run


def active_mask(group):
    """activemask: the lanes of the warp that execute this together."""
    if group.whole_warps:
        return np.uint32(0xFFFFFFFF)
    return _spread(group, group.present)


def elect(group, mask):
    """elect.sync: -> the lowest lane of the mask that is here, and whether this lane is it."""
    here = _table(group, np.True_)[0]
    chosen = _spread(group, here) & mask.astype(np.uint32)
    lowest = np.bitwise_count((chosen & -chosen) - np.uint32(1)).astype(np.uint32)
    return lowest, lowest == group.laneid


def match(mode):
    """match.sync: any -> lanes with the same value; all -> that mask or 0, and a predicate."""

    def run(group, value, mask):
        count, rows = group.rows
        mask = np.broadcast_to(mask, group.size).astype(np.uint32)
        table = np.zeros((count, WARP), np.uint64)
        table[rows, group.laneid] = value
        here = np.zeros((count, WARP), bool)
        here[rows, group.laneid] = True
        same = np.zeros((count, WARP), np.uint32)
        for other in range(WARP):
            equal = (table == table[:, other : other + 1]) & here[:, other : other + 1]
            same |= equal.astype(np.uint32) << np.uint32(other)
        same = same[rows, group.laneid] & mask
        if mode == "any":
            return same
        agree = same == (_spread(group, _table(group, np.True_)[1]) & mask)
        return np.where(agree, same, np.uint32(0)), agree

    return run


_REDUCE = {
    "add": (np.add, 0), "min": (np.minimum, None), "max": (np.maximum, None),
    "and": (np.bitwise_and, -1), "or": (np.bitwise_or, 0), "xor": (np.bitwise_xor, 0),
}  # fmt: skip


def redux(operation, kind):
    """redux.sync: one operation over the lanes of the mask, in 32-bit integers."""
    function, neutral = _REDUCE[operation]
    dtype = np.int32 if kind == "s32" else np.uint32
    if neutral is None:
        limits = np.iinfo(dtype)
        neutral = limits.max if operation == "min" else limits.min
    neutral = np.array(neutral).astype(dtype)

    def run(group, value, mask):
        value = np.broadcast_to(value, group.size).view(dtype)
        if (
            group.whole_warps
            and type(mask) is not np.ndarray
            and int(mask) & 0xFFFFFFFF == 2**32 - 1
        ):
            per_warp = function.reduce(value.reshape(-1, WARP), axis=1, dtype=dtype)
            return np.repeat(per_warp, WARP).view(np.uint32)
        count, rows = group.rows
        table = np.full((count, WARP), neutral, dtype)
        table[rows, group.laneid] = value
        mask = np.broadcast_to(mask, group.size).astype(np.uint32)
        member = (mask[:, None] >> LANES.astype(np.uint32) & np.uint32(1)).astype(bool)
        chosen = np.where(member, table[rows], neutral)
        return function.reduce(chosen, axis=1, dtype=dtype).view(np.uint32)

    return run
