"""A wave: thread blocks executed together, each thread a lane of NumPy arrays.

A register is an array with one element per lane, or a NumPy scalar that all lanes share. The
wave keeps full-width registers; `Group` says who works on them.
"""

import functools

import numpy as np

from zerfoo_numba.ptx.emulator.memory import typed_views

WARP = 32
# The C library returns freed memory to the system above a limit that follows the largest block
# freed: without this one, registers would be mapped and faulted in anew all the time.
np.empty(30 << 20, np.uint8)


@functools.lru_cache(maxsize=16)
def layout(shape, blocks):
    """A dict of what depends only on block shape and number: kept from wave to wave.

    `slots`: per lane, block position x padded block size + thread; blocks are padded to warps.
    """
    threads = shape[0] * shape[1] * shape[2]
    starts = np.arange(blocks, dtype=np.int64) * -(-threads // WARP) * WARP
    return {"slots": (starts[:, None] + np.arange(threads)).reshape(-1)}


class Wave:
    """Blocks `numbers` of a grid, executed together."""

    def __init__(self, program, memory, launch, numbers):
        self.program, self.memory, self.launch = program, memory, launch
        self.parameters = launch.parameters
        self.grid, self.block_shape, self.numbers = launch.grid, launch.block, numbers
        self.blocks = len(numbers)
        self.threads = int(np.prod(launch.block))
        self.padded = -(-self.threads // WARP) * WARP
        self.size = self.blocks * self.threads
        self.layout = layout(launch.block, self.blocks)
        self.slots = self.layout["slots"]
        self.registers = list(program.initial)
        self.alive = np.full(self.blocks, self.threads)  # threads that have not exited, by block
        self.living = np.zeros(self.blocks * self.padded, bool)
        self.living[self.slots] = True
        self.private = 0  # registers whose full-width array nothing else refers to
        self.cache, self.shared_names = {}, program.shared_names
        self.trace = launch.trace
        self._memories()

    def _memories(self):
        launch, program = self.launch, self.program
        self.shared_bytes = program.shared_bytes + launch.shared
        self.shared_stride = -(-self.shared_bytes // 16) * 16
        self.local_bytes = program.local_bytes
        self.local_stride = -(-self.local_bytes // 16) * 16
        self.shared = np.zeros(self.blocks * self.shared_stride, np.uint8)
        self.shared_views = typed_views(self.shared)
        local = self.blocks * self.padded * self.local_stride
        self.local_views = typed_views(np.zeros(local, np.uint8))

    def all_here(self, group):
        """Does the group have every lane that the wave began with?"""
        return group.lanes is None and self.layout is not None

    def coordinates(self, slot):
        """(x, y, z) of the thread and of the block of one slot."""
        block, thread = divmod(slot, self.padded)
        return place(thread, self.block_shape), place(int(self.numbers[block]), self.grid)

    def shared_name(self, offset):
        """The shared array at a byte offset, as `, in NAME`, for messages."""
        names = [v for v in self.shared_names if v[1] <= offset]
        return f" (near {max(names, key=lambda v: v[1])[0]})" if names else ""

    def shrink(self, group, live):
        """Keep only the lanes of `group`, the last ones alive; it then holds all lanes."""
        for number, value in enumerate(group.registers):
            if not live >> number & 1:
                group.registers[number] = None
            elif value is None:
                group.registers[number] = taken(self.registers[number], group.lanes)
        self.slots = self.slots[group.lanes]
        self.size, self.registers, self.layout = group.size, group.registers, None
        self.cache, self.private = group.cache, 0
        group.lanes, group.dirty = None, 0
        self.whole = group

    def fetch(self, group, wanted):
        """Gather the registers of the list `wanted` that the group has no copy of."""
        own, full = group.registers, self.registers
        for number in wanted:
            if own[number] is None:
                own[number] = taken(full[number], group.lanes)

    def flush(self, group, live, elsewhere):
        """Scatter what the group wrote and `live` names; `elsewhere`: live in other groups."""
        dirty = group.dirty & live
        while dirty:
            bit = dirty & -dirty
            dirty ^= bit
            number = bit.bit_length() - 1
            self._scatter(number, group.registers[number], group.lanes, bool(elsewhere & bit), bit)
        group.dirty &= ~live

    def _scatter(self, number, value, lanes, keep, bit):
        old = self.registers[number]
        scalar = type(value) is not np.ndarray
        if scalar and (not keep or (type(old) is type(value) and old == value)):
            self.registers[number] = value
            self.private &= ~bit
            return
        if not self.private & bit or type(old) is not np.ndarray:
            fresh = np.empty(self.size, value.dtype)
            if keep and old is not None:
                fresh[:] = old
            self.registers[number] = old = fresh
            self.private |= bit
        old[lanes] = value


def place(number, shape):
    """A linear thread or block number as (x, y, z)."""
    x, y, _ = shape
    return number % x, number // x % y, number // (x * y)


def taken(value, lanes):
    """The group's share of a full-width register."""
    return value.take(lanes) if type(value) is np.ndarray else value
