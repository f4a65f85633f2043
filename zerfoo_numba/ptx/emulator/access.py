"""Loads and stores: from addresses, one per lane, to elements of a typed view and back.

An `Access` belongs to one instruction. It is given the group of lanes that executes it and
their addresses (an array, or a scalar that all share), makes sure that every address lies in
memory that exists, and gathers or scatters. Values cross as unsigned integers of the access
width; `translate` reinterprets them.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.memory import (
    ELEMENT,
    LOCAL_WINDOW,
    SHARED_WINDOW,
    WINDOW,
)

_LOWEST, _HIGHEST, _EVERY_BIT = np.minimum.reduce, np.maximum.reduce, np.bitwise_or.reduce


class Access:
    """`count` elements of `size` bytes at `[base + offset]` in one state space."""

    def __init__(self, instruction, size, count, offset):
        self.instruction = instruction
        self.size, self.count, self.offset = size, count, offset
        self.bytes = size * count
        self.shift = self.bytes.bit_length() - 1
        self.element = ELEMENT[size]
        self.write = instruction.parts[0] in ("st", "atom", "red")

    def load(self, wave, group, address):
        """The loaded value, or a list of `count` values."""
        return self.gather(*self.place(wave, group, address))

    def load_at(self, wave, group, base, index, scale):
        """`load` of `base + (index << scale)`."""
        return self.gather(*self.place_at(wave, group, base, index, scale))

    def gather(self, view, index):
        if type(index) is int:
            value = view[index]
            return value if self.count == 1 else list(np.atleast_1d(value).view(self.element))
        values = view.take(index, mode="wrap")
        if self.count == 1:
            return values
        columns = values.view(self.element).reshape(-1, self.count)
        return [columns[:, i].copy() for i in range(self.count)]

    def store(self, wave, group, address, *values):
        """Store one value per element; of lanes with the same address the last one wins."""
        self.scatter(group, *self.place(wave, group, address), values)

    def store_at(self, wave, group, base, index, scale, *values):
        """`store` to `base + (index << scale)`."""
        self.scatter(group, *self.place_at(wave, group, base, index, scale), values)

    def scatter(self, group, view, index, values):
        if self.count > 1:
            value = np.empty((group.size, self.count), self.element)
            for i, column in enumerate(values):
                value[:, i] = column
            value = value.view(ELEMENT[self.bytes]).reshape(-1)
        else:
            value = values[0]
        if type(index) is int and type(value) is np.ndarray:
            value = value[-1]
        view[index] = value

    def place(self, wave, group, address):
        """-> a view of elements as wide as the access, and the index or indices into it."""
        raise NotImplementedError

    def place_at(self, wave, group, base, index, scale):
        """`place` of `base + (index << scale)`; an index of 32 bits need not be widened."""
        if type(base) is not np.ndarray and type(index) is np.ndarray:
            start = int(base) + self.offset
            low = start + (int(_LOWEST(index)) << scale)
            high = start + (int(_HIGHEST(index)) << scale) + self.bytes
            spare = self.shift - scale
            aligned = not start & (self.bytes - 1)
            if spare > 0 and aligned:
                aligned = not int(_EVERY_BIT(index)) & ((1 << spare) - 1)
            if aligned and low >= start and self.holds(wave, low, high):
                if spare:
                    index = index >> spare if spare > 0 else index.astype(np.int64) << -spare
                return self.elements(wave, group, start >> self.shift, index)
        index = index.astype(np.int64).view(np.uint64) if index.dtype.kind == "i" else index
        return self.place(wave, group, base + (index.astype(np.uint64) << np.uint64(scale)))

    def limits(self, wave, group, address):
        """-> the lowest and highest byte of the group, and addresses and offset to use.

        Misaligned addresses are a fault. A sum of address and offset wraps around like the
        machine's: for addresses that look negative it is formed before they are compared.
        """
        offset = self.offset
        mask = (1 << 8 * address.itemsize) - 1
        if int(_HIGHEST(address)) > mask >> 1:
            address, offset = address + address.dtype.type(offset & mask), 0
        low, high = int(_LOWEST(address)) + offset, int(_HIGHEST(address)) + offset + self.bytes
        if self.bytes > 1 and (int(_EVERY_BIT(address)) | offset) & (self.bytes - 1):
            whole = address + address.dtype.type(offset & mask)
            if int(_EVERY_BIT(whole)) & (self.bytes - 1):
                self.misaligned(wave, group, whole)
        return low, high, address, offset

    def whole(self, group, address):
        """`address + offset` of every lane, as int64."""
        address = np.broadcast_to(address, group.size)
        mask = (1 << 8 * address.itemsize) - 1
        return (address + address.dtype.type(self.offset & mask)).astype(np.int64)

    def misaligned(self, wave, group, address):
        whole = np.broadcast_to(address, group.size)
        lane = int(np.flatnonzero(whole & whole.dtype.type(self.bytes - 1))[0])
        what = f"{self.bytes}-byte access to the misaligned address {int(whole[lane]):#x}"
        raise fault(wave, group, self.instruction, what, lane)

    def indices(self, view, address, offset):
        """`address + offset` as element numbers, with the view they count from."""
        if type(address) is not np.ndarray:
            return view, (int(address) + offset) >> self.shift
        address = address.view(np.int64) if address.itemsize == 8 else address.astype(np.int64)
        if offset < 0 or offset & (self.bytes - 1):
            address, offset = address + offset, 0
        return view[offset >> self.shift :], address >> self.shift if self.shift else address


class GlobalAccess(Access):
    """Global and constant memory."""

    bounds = (0, 0, -1)  # of the allocation last touched, and its memory's version then

    def place(self, wave, group, address):
        low, high, own, offset = self.limits(wave, group, address)
        if not self.holds(wave, low, high):
            self.check_each(wave, group, address, low, high)
        return self.indices(wave.memory.views[self.bytes], own, offset)

    def holds(self, wave, low, high):
        """Are the bytes within the allocation last touched, or within one other?"""
        start, end, version = self.bounds
        if low >= start and high <= end and version == wave.memory.version:
            return True
        found = wave.memory.find(low, high)
        if found is not None:
            self.bounds = (found.start, found.end, wave.memory.version)
        return found is not None

    def elements(self, wave, group, first, index):
        return wave.memory.views[self.bytes][first:], index

    def check_each(self, wave, group, address, low, high):
        """The lanes touch several allocations, or some of them none."""
        whole = self.whole(group, address).view(np.uint64)
        starts = np.array([a.start for a in wave.memory.allocations()], np.uint64)
        ends = np.array([a.end for a in wave.memory.allocations()], np.uint64)
        at = np.searchsorted(starts, whole, side="right") - 1
        outside = at < 0
        if len(starts):
            over = whole + np.uint64(self.bytes) > ends[np.maximum(at, 0)]
            outside |= over | (whole > np.uint64(1 << 62))
        lanes = np.flatnonzero(outside)
        bounded = wave.trace is None or wave.trace.checks.bounds
        if len(lanes) and (bounded or not 0 <= low < high <= wave.memory.capacity):
            self.outside(wave, group, int(whole[lanes[0]]), int(lanes[0]))

    def outside(self, wave, group, address, lane):
        near = wave.memory.nearest(address)
        what = f"{self.bytes}-byte access to address {address:#x}, outside every allocation"
        if near is not None and abs(address - near.start) < 1 << 40:
            index = (address - near.start) // near.element
            extent = near.nbytes // near.element
            what = (
                f"out of bounds: {'writes' if self.write else 'reads'} {near.name}[{index}], "
                f"which has {extent} elements of {near.element} bytes"
            )
        raise fault(wave, group, self.instruction, what, lane)


class SharedAccess(Access):
    """The block's shared memory; every block of the wave has its own."""

    def place(self, wave, group, address):
        low, high, own, offset = self.limits(wave, group, address)
        if low < 0 or high > wave.shared_bytes:
            self.outside(wave, group, address, wave.shared_bytes, "shared memory of the block")
        view, index = self.indices(wave.shared_views[self.bytes], own, offset)
        base = group.shared_base(self.shift)
        return view, index if base is None else index + base

    def holds(self, wave, low, high):
        return high <= wave.shared_bytes

    def elements(self, wave, group, first, index):
        base = group.shared_base(self.shift)
        return wave.shared_views[self.bytes][first:], index if base is None else index + base

    def outside(self, wave, group, address, size, name):
        whole = self.whole(group, address)
        lane = int(np.flatnonzero((whole < 0) | (whole + self.bytes > size))[0])
        place = wave.shared_name(int(whole[lane])) if isinstance(self, SharedAccess) else ""
        what = (
            f"out of bounds: {'writes' if self.write else 'reads'} {self.bytes} bytes at byte "
            f"{int(whole[lane])} of the {name}{place}, which has {size} bytes"
        )
        raise fault(wave, group, self.instruction, what, lane)


class LocalAccess(SharedAccess):
    """A thread's own memory."""

    def place(self, wave, group, address):
        low, high, own, offset = self.limits(wave, group, address)
        if low < 0 or high > wave.local_bytes:
            self.outside(wave, group, address, wave.local_bytes, "local memory of the thread")
        view, index = self.indices(wave.local_views[self.bytes], own, offset)
        return view, group.local_base(self.shift) + index


class GenericAccess(Access):
    """A generic address: its window says which space it means."""

    def __init__(self, instruction, size, count, offset):
        super().__init__(instruction, size, count, offset)
        whole = (instruction, size, count, offset)
        self.shared, self.local = SharedAccess(*whole), LocalAccess(*whole)
        self.elsewhere = GlobalAccess(*whole)

    def route(self, group, address):
        """(access, lanes or None for all, addresses in its space) for each space in use."""
        if int(_HIGHEST(address)) < SHARED_WINDOW:
            yield self.elsewhere, None, address
            return
        shared = address - np.uint64(SHARED_WINDOW) < np.uint64(WINDOW)
        local = address - np.uint64(LOCAL_WINDOW) < np.uint64(WINDOW)
        for access, chosen, window in (
            (self.shared, shared, SHARED_WINDOW),
            (self.local, local, LOCAL_WINDOW),
            (self.elsewhere, ~(shared | local), 0),
        ):
            if chosen.all():
                yield access, None, address - np.uint64(window)
            elif chosen.any():
                lanes = np.flatnonzero(chosen)
                yield access, lanes, address[lanes] - np.uint64(window)

    def load(self, wave, group, address):
        parts = list(self.route(group, address))
        if len(parts) == 1 and parts[0][1] is None:
            return parts[0][0].load(wave, group, parts[0][2])
        result = [np.zeros(group.size, self.element) for _ in range(self.count)]
        for access, lanes, own in parts:
            loaded = access.load(wave, group.part(lanes), own)
            for whole, piece in zip(result, loaded if self.count > 1 else [loaded], strict=True):
                whole[lanes] = piece
        return result if self.count > 1 else result[0]

    def store(self, wave, group, address, *values):
        for access, lanes, own in self.route(group, address):
            if lanes is None:
                access.store(wave, group, own, *values)
            else:
                taken = [v[lanes] if type(v) is np.ndarray else v for v in values]
                access.store(wave, group.part(lanes), own, *taken)


_SPACES = {
    "global": GlobalAccess, "const": GlobalAccess, "shared": SharedAccess, "local": LocalAccess,
}  # fmt: skip


def access(instruction, size, count, offset):
    """The `Access` of a load, store or atomic instruction."""
    space = next((p.split("::")[0] for p in instruction.parts if p.split("::")[0] in _SPACES), "")
    return _SPACES.get(space, GenericAccess)(instruction, size, count, offset)
