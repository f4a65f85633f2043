"""Barriers: threads of a block wait until all of it, or the number asked for, have come.

PTX ISA, section 9.7.13 (barrier{.cta}). `grid.sync`, the grid barrier of cooperative groups,
waits for all threads of the grid.
"""

import functools

import numpy as np

from zerfoo_numba.ptx import effects
from zerfoo_numba.ptx.emulator.faults import fault

BARRIERS = 16  # per block


class Waiting:
    """A group at the barrier that ends `block`: which one, for how many, and the predicate."""

    def __init__(self, group, block, identity, needed, flags):
        self.group, self.block, self.identity = group, block, identity
        self.needed, self.flags = needed, flags

    @functools.cached_property
    def key(self):
        """Per lane: a number for the barrier among all of the wave."""
        return np.broadcast_to(self.group.block * BARRIERS + self.identity, self.group.size)


class Barriers:
    """The barriers of one wave, and the groups they hold."""

    def __init__(self, scheduler):
        self.scheduler, self.wave = scheduler, scheduler.wave
        self.held = []
        self.arrived = {}  # key -> threads that came by bar.arrive and did not wait

    def groups(self):
        for waiting in self.held:
            yield waiting.block.targets[0], waiting.group

    def arrive(self, group, number, operands):
        """`group` comes to the barrier that ends block `number`."""
        scheduler, block = self.scheduler, self.scheduler.blocks[number]
        waiting = self.waiting(group, block, operands)
        alone = not (scheduler.pending or self.held or scheduler.meeting.held or self.arrived)
        simple = waiting.needed is None and (not operands or type(operands[0]) is not np.ndarray)
        if alone and simple and group.lanes is None:
            self.check_exited(waiting)
            self.go([waiting])
            return
        self.held.append(waiting)

    def waiting(self, group, block, operands):
        parts = block.last.parts
        operands = list(operands)
        flags = operands.pop() if "red" in parts else None
        needed = operands[1] if len(operands) > 1 else None
        if parts[0] == "grid":
            return Waiting(group, block, 0, None, None)
        identity = operands[0].astype(np.int64) if operands else 0
        return Waiting(group, block, identity, needed, flags)

    def note(self, group, identity, count):
        """bar.arrive: counted, but not held."""
        key = np.broadcast_to(group.block * BARRIERS + identity.astype(np.int64), group.size)
        for value, times in zip(*np.unique(key, return_counts=True), strict=True):
            self.arrived[int(value)] = self.arrived.get(int(value), 0) + int(times)

    def release(self):
        """Let go every block whose threads have all come; True if any did."""
        if not self.held:
            return False
        grid = [w for w in self.held if w.block.last.parts[0] == "grid"]
        if grid:
            if sum(w.group.size for w in grid) < self.wave.alive.sum():
                return False
            self.held = []
            self.go(grid)
            return True
        complete = self.complete()
        if not complete.any():
            return False
        leaving, staying = [], []
        for waiting in self.held:
            ready = complete[waiting.key]
            for chosen, into in ((ready, leaving), (~ready, staying)):
                if chosen.any():
                    into.append(self.part(waiting, np.flatnonzero(chosen)))
        self.held = staying
        for key in np.flatnonzero(complete):
            self.arrived.pop(int(key), None)
        for waiting in leaving:
            self.check_exited(waiting)
        self.go(leaving)
        return True

    def complete(self):
        """Per key: have all threads come?"""
        size = self.wave.blocks * BARRIERS
        came = np.zeros(size, np.int64)
        needed = np.repeat(self.wave.alive, BARRIERS)
        for key, times in self.arrived.items():
            came[key] += times
        for waiting in self.held:
            came += np.bincount(waiting.key, minlength=size)
            if waiting.needed is not None:
                needed[waiting.key] = waiting.needed
        return (came >= needed) & (came > 0)

    def part(self, waiting, chosen):
        group = waiting.group
        if len(chosen) == group.size:
            return waiting
        self.scheduler.settle(group, self.scheduler.blocks[waiting.block.targets[0]].live_in)
        cut = [np.broadcast_to(v, group.size)[chosen] if v is not None else None
               for v in (waiting.identity, waiting.needed, waiting.flags)]  # fmt: skip
        return Waiting(group.part(chosen), waiting.block, *cut)

    def go(self, leaving):
        """The barrier is complete: reduce over its threads, and on to the next block."""
        reducing = [w for w in leaving if w.flags is not None]
        if reducing:
            size = self.wave.blocks * BARRIERS
            true = np.zeros(size, np.int64)
            total = np.zeros(size, np.int64)
            for w in reducing:
                flags = np.broadcast_to(w.flags, w.group.size)
                true += np.bincount(w.key, flags, size).astype(int)
                total += np.bincount(w.key, minlength=size)
        if self.wave.trace is not None:
            self.wave.trace.barrier([(w.group, w.block.last) for w in leaving])
        for w in leaving:
            if w.flags is not None:
                self.reduced(w, true[w.key], total[w.key])
            self.scheduler.arrive(w.group, w.block.targets[0])

    def reduced(self, waiting, true, total):
        """bar.red: write the result to its register."""
        parts, group = waiting.block.last.parts, waiting.group
        value = true.astype(np.uint32)
        if "popc" not in parts:
            value = true == total if "and" in parts else true > 0
        register = effects.results(waiting.block.last)[0]
        number = self.scheduler.wave.program.kernel.numbers[register]
        group.registers[number] = value
        if group.lanes is None:
            self.wave.private &= ~(1 << number)
        else:
            group.dirty |= 1 << number

    def check_exited(self, waiting):
        """With the check on, a thread that exits instead of coming is an error."""
        wave = self.wave
        grid = waiting.block.last.parts[0] == "grid"
        if grid or waiting.needed is not None or wave.trace is None or not wave.trace.barriers:
            return
        short = wave.alive < wave.threads
        if short.any() and short[waiting.group.block].any():
            raise self.missing(waiting)

    def missing(self, waiting):
        """The fault of a barrier that some threads of the block do not come to."""
        group, wave = waiting.group, self.wave
        block = int(group.block[0])
        here = np.zeros_like(wave.living)
        for held in (group, *(w.group for w in self.held)):
            here[held.slots] = True
        start = block * wave.padded
        absent = np.flatnonzero(~here[start : start + wave.threads])
        who = f"{len(absent)} of the block's {wave.threads} threads never come to this barrier"
        if not len(absent):
            who = "the threads of the block wait at different barriers"
        elif not wave.living[start + absent[0]]:
            who += f" (thread {absent[0]} has exited)"
        else:
            who += f" (thread {absent[0]} waits elsewhere)"
        what = f"barrier divergence: {who}, so those at this one wait forever: a deadlock"
        return fault(wave, group, waiting.block.last, what, 0, "barrier")

    def deadlock(self):
        return self.missing(self.held[0])
