"""Atomic read-modify-write, for lanes that may address the same element: in lane order.

Lanes are sorted by element, and each run of equal elements is worked through either by a
running reduction or in rounds, one lane of every run at a time. Reference: PTX ISA, 9.7.13.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.access import GenericAccess, access
from zerfoo_numba.ptx.emulator.arithmetic import operation
from zerfoo_numba.ptx.structure import SIZES

_ACCUMULATE = {
    "add": np.add, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


def _increment(old, limit):
    return np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))


def _decrement(old, limit):
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


_STEP = {
    **_ACCUMULATE,
    "inc": _increment,
    "dec": _decrement,
    "exch": lambda old, new: new,
    "cas": lambda old, compare, new: np.where(old == compare, new, old),
}


OPERATIONS = set(_STEP)


def atomic(view, index, operation, values, needed, step=None):
    """Apply `operation` to `view[index]`; -> the old values, lane by lane, if `needed`.

    `view` has the dtype of the operation; `values` are its one or two operands, one per lane.
    """
    step = step or _STEP[operation]
    order = np.argsort(index, kind="stable")
    sorted_index = index[order]
    starts = np.flatnonzero(np.r_[True, sorted_index[1:] != sorted_index[:-1]])
    ends = np.r_[starts[1:], len(order)]
    values = [v[order] for v in values]
    longest = int((ends - starts).max())
    old = np.empty(len(order), view.dtype) if needed else None
    runs = (view, sorted_index, starts, ends, values, old)
    if operation in _ACCUMULATE and step is _STEP[operation] and longest > 4 * len(starts):
        _by_run(_ACCUMULATE[operation], *runs)
    else:
        _in_rounds(step, longest, *runs)
    if needed:
        result = np.empty_like(old)
        result[order] = old
        return result
    return None


def _by_run(function, view, index, starts, ends, values, old):
    for start, end in zip(starts, ends, strict=True):
        at = index[start]
        run = np.empty(end - start + 1, view.dtype)
        run[0], run[1:] = view[at], values[0][start:end]
        function.accumulate(run, out=run)
        view[at] = run[-1]
        if old is not None:
            old[start:end] = run[:-1]


def _in_rounds(step, longest, view, index, starts, ends, values, old):
    for turn in range(longest):
        now = starts[starts + turn < ends] + turn
        at = index[now]
        before = view[at]
        view[at] = step(before, *(v[now] for v in values))
        if old is not None:
            old[now] = before


class Atomic:
    """One atom or red instruction."""

    def __init__(self, instruction, kind, offset, returns):
        parts = instruction.parts
        self.operation = next(p for p in parts if p in _STEP)
        self.kind, self.returns = kind, returns
        self.access = access(instruction, SIZES[kind], 1, offset)
        self.dtype = np.dtype(_DTYPE[kind])
        self.step = None
        if kind in ("f16", "bf16", "f16x2", "bf16x2"):
            self.step = operation(f"{self.operation}.rn.{kind}").function

    def __call__(self, wave, group, address, *values):
        """-> the old values, if the instruction returns them."""
        address = np.broadcast_to(address, group.size)
        values = [np.broadcast_to(v, group.size) for v in values]
        pieces = [(self.access, None, address)]
        if isinstance(self.access, GenericAccess):
            pieces = list(self.access.route(group, address))
        result = np.zeros(group.size, self.dtype) if self.returns else None
        with wave.memory.lock:
            for site, lanes, own in pieces:
                part = group if lanes is None else group.part(lanes)
                chosen = slice(None) if lanes is None else lanes
                view, index = site.place(wave, part, own)
                taken = [v[chosen] for v in values]
                old = atomic(
                    view.view(self.dtype), index, self.operation, taken, self.returns, self.step
                )
                if self.returns:
                    result[chosen] = old
        return result


_DTYPE = {
    "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "u32": np.uint32, "u64": np.uint64,
    "s32": np.int32, "s64": np.int64, "f32": np.float32, "f64": np.float64,
    "f16": np.uint16, "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32,
}  # fmt: skip
