"""One allocation for all buffers between the operations of a walk, planned before the first step.

A step is walked once without running, and its launches are noted with the bytes that each reads and
writes. A buffer is live at an operation that uses it, and wherever bytes in it will still be read
before they are written again. Buffers that are never live at once may share memory, and each is put
into the smallest gap that those live with it leave, the largest first (Pisarchyk and Lee,
arXiv:2001.03288, section 5.2).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.ptx.accesses import accesses
from zerfoo_numba.ptx.compile import Pointer, compile_ptx

ALIGNMENT = 256


class Use(NamedTuple):
    """Bytes `start` to `end` of the buffer `name`, read, written or both by one operation."""

    name: str
    start: int
    end: int
    reads: bool
    writes: bool


@dataclass(frozen=True)
class Plan:
    """Where each buffer lies: `places` {name: (offset, bytes)} in `size` bytes.

    `unshared` is what they would take each alone, `peak` the most that is live at once: no plan is
    smaller.
    """

    places: dict[str, tuple[int, int]]
    size: int
    unshared: int
    peak: int


def arrange(walk, hold):
    """The Plan of a walk's buffers, which `hold(maker)` makes by `maker.empty(shape, dtype, name)`:
    once to be noted, and once to stay. Where no step uses a buffer, None takes its place."""
    ops, device = walk.ops, walk.ops.device
    notes = Notes(device)
    hold(notes)
    ops.device = notes
    try:
        # Taps are listened to as well: what they read is then still there.
        for T in sorted({1, walk.chunk}):
            for taps in (None, {}):
                ops.taps = taps
                notes.steps.append([])
                walk.embed(T)
                walk.layers(T)
                walk.project(walk.logits, T - 1)
    finally:
        ops.device, ops.taps = device, None
    found = plan(notes.sizes, live(notes.steps))
    hold(Arena(device, found))
    return found


class Notes:
    """Stands in for `device` while a step is walked: notes what is asked of it, and does nothing.

    `steps` [[[Use, ...], ...], ...] of each operation of each step, `sizes` {buffer: bytes}.
    """

    # The cpu's products of many tokens keep sums in their output, which does not read what was
    # there; those of the other devices read nothing of theirs, and else the same.
    broadcasts = False

    def __init__(self, device):
        self._device = device
        self.sizes, self.steps = {}, []
        self._ends, self._kernels = 0, {}

    def __getattr__(self, name):
        return getattr(self._device, name)

    def empty(self, shape, dtype, name):
        """A buffer of the walk: a place in no memory, and a name for owner."""
        if name in self.sizes:
            raise ValueError(f"there are two buffers {name}")
        buffer = Buffer(self._ends, tuple(shape), np.dtype(dtype), _Owner(name, self._ends))
        self.sizes[name] = buffer.nbytes
        self._ends += _aligned(buffer.nbytes)
        return buffer

    def launch(self, kernel, grid, block, args, shared=0):
        buffers = [(i, a) for i, a in enumerate(args) if _is_noted(a)]
        if buffers:
            types = tuple(Pointer(a.dtype) if isinstance(a, Buffer) else a for a in args)
            key = (kernel, *[(type(a), a.dtype) for a in args])
            if key not in self._kernels:
                self._kernels[key] = accesses(compile_ptx(kernel, types))
            found = self._kernels[key]
            self.steps[-1].append([_use(a, *found[i]) for i, a in buffers])

    def read(self, buffer):
        if _is_noted(buffer):
            self.steps[-1].append([_use(buffer, True, False)])
        return np.zeros(buffer.shape, buffer.dtype)


class _Owner(NamedTuple):
    name: str
    start: int


def _is_noted(value):
    return isinstance(value, Buffer) and isinstance(value.owner, _Owner)


def _use(buffer, reads, writes):
    start = buffer.address - buffer.owner.start
    return Use(buffer.owner.name, start, start + buffer.nbytes, reads, writes)


def live(steps):
    """{buffer: the operations at which it is live}, numbered through all `steps`.

    A step that reads bytes before it writes them takes them from another: such a buffer is live
    throughout.
    """
    found, carried, count = {}, set(), 0
    for step in steps:
        wanted = {}  # buffer: [(start, end), ...] that will be read before they are written
        for number in reversed(range(count, count + len(step))):
            uses = step[number - count]
            for name in {use.name for use in uses} | {n for n, ranges in wanted.items() if ranges}:
                found.setdefault(name, set()).add(number)
            # Reads last: they come first in the operation, and what stands in for a pointer that a
            # kernel leaves alone is a buffer that it reads.
            for kind in ("writes", "reads"):
                for use in (use for use in uses if getattr(use, kind)):
                    rest = _without(wanted.get(use.name, ()), use.start, use.end)
                    again = [(use.start, use.end)] if kind == "reads" else []
                    wanted[use.name] = rest + again
        carried |= {name for name, ranges in wanted.items() if ranges}
        count += len(step)
    return found | {name: set(range(count)) for name in carried}


def _without(ranges, start, end):
    parts = [part for a, b in ranges for part in ((a, min(b, start)), (max(a, end), b))]
    return [(a, b) for a, b in parts if a < b]


def plan(sizes, lives):
    """The Plan of buffers of `sizes` {name: bytes} that are live at `lives` {name: operations};
    those that never are have no place in it."""
    sizes = {name: _aligned(sizes[name]) for name in sizes if name in lives}
    places = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        size, top, gaps = sizes[name], 0, []
        beside = (places[n] for n in places if not lives[n].isdisjoint(lives[name]))
        for start, length in sorted(beside):
            if start - top >= size:
                gaps.append((start - top, top))
            top = max(top, start + length)
        places[name] = (min(gaps, default=(0, top))[1], size)
    moments = set().union(*lives.values()) if lives else ()
    at_once = (sum(size for n, size in sizes.items() if moment in lives[n]) for moment in moments)
    whole = max((start + size for start, size in places.values()), default=0)
    return Plan(places, whole, sum(sizes.values()), max(at_once, default=0))


def _aligned(nbytes):
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Arena:
    """Makes the buffers of a plan: in one allocation, or each apart where the device wants that."""

    def __init__(self, device, planned):
        self._device, self._places = device, planned.places
        shared = device.shares and planned.size
        self._memory = device.empty(planned.size, np.uint8, "arena") if shared else None

    def empty(self, shape, dtype, name):
        if name not in self._places:
            return None
        if self._memory is None:
            return self._device.empty(shape, dtype, name)
        address = self._memory.address + self._places[name][0]
        return Buffer(address, tuple(shape), np.dtype(dtype), self._memory.owner)
