"""What one memory instruction asks of the memory system, warp by warp.

A request is one warp's execution of a load or store. Global memory answers in sectors of 32
bytes; shared memory has 32 banks of 4-byte words, and serves a 64-bit access in two halves of
the warp and a 128-bit one in four quarters (CUDA C++ Best Practices Guide, 10.2.1 and 10.2.3).
"""

import numpy as np

SECTOR = 32
BANKS = 32
WARP = 32


def distinct_per_row(rows, count, values):
    """How many distinct non-negative integers each of `count` rows holds.

    `rows` (ascending) gives each value's row; None stands for rows of 32 values each.
    """
    if rows is None:
        table = np.sort(values.reshape(-1, WARP), axis=1)
        return 1 + np.count_nonzero(table[:, 1:] != table[:, :-1], axis=1)
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
    return np.bincount(rows[new], minlength=count)


def warps(group):
    """How many warps a group has lanes of."""
    return group.size // WARP if group.whole_warps else group.rows[0]


def sectors(group, address):
    """Sectors over all requests of one instruction; `address` has one element per lane."""
    rows = None if group.whole_warps else group.rows[1]
    return int(distinct_per_row(rows, warps(group), address // SECTOR).sum())


def bank_passes(group, address, nbytes):
    """-> (passes over the banks, passes if there were no conflicts) of one shared access."""
    unit = max(4, nbytes)
    lanes = 128 // unit
    phase = group.rows[1] * 4 + group.laneid // lanes
    word = address // unit
    order = np.lexsort((word, phase))
    phase, word = phase[order], word[order]
    new = np.ones(len(phase), bool)
    new[1:] = (phase[1:] != phase[:-1]) | (word[1:] != word[:-1])
    phase, word = phase[new], word[new]
    load = np.bincount(phase * BANKS + word % lanes)
    load = np.pad(load, (0, -len(load) % BANKS)).reshape(-1, BANKS).max(axis=1)
    return int(load.sum()), int(np.count_nonzero(load))
