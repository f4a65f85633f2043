"""What kernels/sample.py computes, said once more in NumPy: a sort and running sums of integers."""

import math

import numpy as np

UNIT, FRACTION = 40, 24
RATE = np.float32(math.log2(math.e) * 2**FRACTION)
NONE = 0xFFFFFFFF


def philox(counter, key):
    """Four 32-bit words of a counter of four and a key of two: Philox 4x32-10, in integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & NONE, (a >> 32) ^ c[3] ^ k[1], a & NONE]
        k = [(k[0] + 0x9E3779B9) & NONE, (k[1] + 0xBB67AE85) & NONE]
    return c


def masses(values, rate):
    """uint64: 2^UNIT 2^-((max - value) rate 2^-FRACTION), for values in falling order."""
    with np.errstate(invalid="ignore", over="ignore"):
        y = (values[0] - values) * np.float32(rate)
    y[values == values[0]] = 0
    x = np.rint(np.fmin(y, np.float32(63 << FRACTION))).astype(np.uint64)
    z = (x & np.uint64((1 << FRACTION) - 1)) << np.uint64(32 - FRACTION)
    term = np.zeros_like(z)
    for i in range(9, 0, -1):
        coefficient = np.uint64(round(math.log(2) ** i / math.factorial(i) * 2**32))
        term = coefficient - (z * term >> np.uint64(32))
    share = np.uint64(1 << 32) - (z * term >> np.uint64(32))
    return share << np.uint64(UNIT - 32) >> (x >> np.uint64(FRACTION))


def penalised(logits, previous, whole, numbers):
    values = np.where(np.isnan(logits), np.float32(-np.inf), logits).astype(np.float32)
    last = min(int(whole[2]), len(previous))
    for token in set(previous[len(previous) - last :]):
        value = logits[token]
        factor = numbers[3] if value > 0 else numbers[2]
        values[token] = -np.inf if np.isnan(value) else value * factor
    return values


def candidates(logits, previous, whole, numbers):
    """(ids, their masses), in falling order of the logits, of what can be drawn after `previous`.

    whole and numbers as the kernel's.
    """
    values = penalised(logits, previous, whole, numbers)
    order = np.argsort(-values, kind="stable")
    kept = values[order]
    k, top_p = int(whole[0]), int(whole[1])
    if k:
        kept = kept[:k]
    if top_p != NONE:
        sums = np.cumsum(masses(kept, RATE))
        reached = max(int(sums[-1]) * top_p + NONE >> 32, 1)  # rounded up
        kept = kept[: 1 + np.searchsorted(sums, np.uint64(reached), "left")]
    kept = kept[kept >= kept[0] + numbers[1]]
    return order[: kept.size], masses(kept, numbers[0])


def draw(logits, previous, state, whole, numbers):
    """The token after `previous`; `state` as the kernel's before the draw."""
    ids, weights = candidates(logits, previous, whole, numbers)
    sums = np.cumsum(weights)
    word = philox([int(state[2]), 0, 0, 0], [int(n) for n in state[:2]])[0]
    goal = int(sums[-1]) * word >> 32
    return int(ids[np.searchsorted(sums, np.uint64(goal), "right")])
