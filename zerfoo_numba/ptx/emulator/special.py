"""Special registers: thread, block, grid and lane numbers (PTX ISA, section 10)."""

import time

import numpy as np

U32 = np.uint32


def _thread(axis):
    def value(group):
        x, y, _ = shape = group.wave.block_shape
        if shape[axis] == 1:
            return U32(0)
        thread = group.thread
        if shape[axis] != group.wave.threads:
            thread = (thread % x, thread // x % y, thread // (x * y))[axis]
        return thread.astype(U32)

    return value


def _block(axis):
    def value(group):
        wave = group.wave
        x, y, _ = wave.grid
        if wave.grid[axis] == 1:
            return U32(0)
        number = np.asarray(wave.numbers)
        table = (number % x, number // x % y, number // (x * y))[axis].astype(U32)
        if (table == table[0]).all():
            return table[0]
        return np.repeat(table, wave.threads) if wave.all_here(group) else table[group.block]

    return value


def _lane_mask(relation):
    def value(group):
        lane = group.laneid.astype(np.uint64)
        one = np.uint64(1)
        below = (one << lane) - one
        masks = {
            "eq": one << lane, "lt": below, "le": below | one << lane,
            "gt": ~(below | one << lane), "ge": ~below,
        }  # fmt: skip
        return (masks[relation] & np.uint64(0xFFFFFFFF)).astype(U32)

    return value


def _clock(kind):
    return lambda group: kind(time.perf_counter_ns() & ((1 << 8 * kind().itemsize) - 1))


SPECIAL = {
    "%laneid": lambda g: g.laneid.astype(U32),
    "%warpid": lambda g: (g.thread // 32).astype(U32),
    "%nwarpid": lambda g: U32(g.wave.padded // 32),
    "%smid": lambda g: U32(0),
    "%nsmid": lambda g: U32(1),
    "%gridid": lambda g: np.uint64(1),
    "%clock": _clock(U32),
    "%clock_hi": lambda g: U32(time.perf_counter_ns() >> 32 & 0xFFFFFFFF),
    "%clock64": _clock(np.uint64),
    "%globaltimer": lambda g: np.uint64(time.time_ns()),
    "%dynamic_smem_size": lambda g: U32(g.wave.launch.shared),
    "%total_smem_size": lambda g: U32(g.wave.shared_bytes),
}
SPECIAL |= {f"%lanemask_{r}": _lane_mask(r) for r in ("eq", "lt", "le", "gt", "ge")}
for _axis, _letter in enumerate("xyz"):
    SPECIAL[f"%tid.{_letter}"] = _thread(_axis)
    SPECIAL[f"%ctaid.{_letter}"] = _block(_axis)
    SPECIAL[f"%ntid.{_letter}"] = lambda g, a=_axis: U32(g.wave.block_shape[a])
    SPECIAL[f"%nctaid.{_letter}"] = lambda g, a=_axis: U32(g.wave.grid[a])
# Those that are the same in every wave of the same shape.
LASTING = {f"%tid.{letter}" for letter in "xyz"} | {"%laneid", "%warpid"}
LASTING |= {name for name in SPECIAL if name.startswith("%lanemask")}
