"""Which lanes run next: the lowest pending block, for all lanes that stand there.

Lanes that diverged meet again where their paths do. Barriers hold lanes until all of their block
have come; a warp-synchronous instruction holds them until the lanes of its mask have. When
nothing can run, that is a deadlock, and it is reported.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.barriers import Barriers
from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.group import Group
from zerfoo_numba.ptx.emulator.meeting import Meeting

UNRULY = 0.25  # with a seed: how often lanes that stand together are parted
PATIENCE = 8  # turns of a polling loop before the other lanes get theirs
HOPELESS = 100_000  # consecutive turns of polling loops: nobody will ever change what they read


class Scheduler:
    """Runs one wave to its end."""

    def __init__(self, wave, blocks):
        self.wave, self.blocks = wave, blocks
        wave.whole = Group(wave)
        self.pending = {0: [Group(wave)]}
        self.barriers = wave.barriers = Barriers(self)
        self.meeting = Meeting(self)
        self.polls = 0

    def run(self):
        blocks, wave, pending = self.blocks, self.wave, self.pending
        while pending or self.release():
            number = next(iter(pending)) if len(pending) == 1 else self.choose()
            group = self.take(number)
            block = blocks[number]
            if block.code is None:
                block.translate()
            if block.meets is not None:
                group = self.meeting.ready(number, group)
                if group is None:
                    continue
            if group.lanes is not None:
                if not pending and not self.barriers.held and not self.meeting.held:
                    wave.shrink(group, block.live_in)
                else:
                    wave.fetch(group, block.reads)
            self.execute(block, number, group)

    def take(self, number):
        """The lanes that stand at a block; with a seed, at times only some of them."""
        waiting = self.pending.pop(number)
        rng = self.wave.launch.shuffle
        if rng is not None and rng.random() < UNRULY:
            group = waiting.pop(rng.integers(len(waiting)))
            if waiting:
                self.pending[number] = waiting
            if group.size > 1 and not self.blocks[number].meets:
                chosen = rng.permutation(np.arange(group.size) < rng.integers(1, group.size))
                self.settle(group, self.blocks[number].live_in)
                self.arrive(group.part(np.flatnonzero(~chosen)), number)
                group = group.part(np.flatnonzero(chosen))
            return group
        return waiting[0] if len(waiting) == 1 else self.merge(waiting, number)

    def execute(self, block, number, group):
        """Run a block for a group and send the group, or its parts, where they go."""
        wave = self.wave
        if wave.trace is not None:
            wave.trace.block(number, group)
        result = block.code(wave, group)
        if group.lanes is None:
            wave.private &= ~block.stores
        else:
            group.dirty |= block.stores
        self.polls = self.polls + 1 if block.waits else 0
        if self.polls and self.polls % PATIENCE == 0:
            self.lose_patience(group, block)
        end = block.end
        if end == "jump":
            self.arrive(group, block.targets[0])
        elif end == "branch":
            self.branch(group, block.targets, result)
        elif end == "barrier":
            self.barriers.arrive(group, number, result)
        elif end == "switch":
            self.switch(group, block.targets, result)
        else:
            if block.last is not None and block.last.parts[0] == "trap":
                raise fault(wave, group, block.last, "the kernel traps", 0, "trap")
            self.exit(group)

    def choose(self):
        """The lowest pending block; polling loops let others through from time to time."""
        order = sorted(self.pending)
        if self.wave.launch.shuffle is not None:
            return int(self.wave.launch.shuffle.choice(order))
        if self.blocks[order[0]].waits and self.polls and self.polls % PATIENCE == 0:
            others = [n for n in order if not self.blocks[n].waits]
            return (others or order[1:])[0]
        return order[0]

    def lose_patience(self, group, block):
        self.barriers.release()
        if self.polls >= HOPELESS:
            what = "deadlock: threads poll memory that nobody is left to change"
            raise fault(self.wave, group, block.first, what, 0, "deadlock")

    def arrive(self, group, number):
        """`group` now stands at block `number`, perhaps with others."""
        self.pending.setdefault(number, []).append(group)

    def branch(self, group, targets, taken):
        if type(taken) is not np.ndarray:
            self.arrive(group, targets[0] if taken else targets[1])
            return
        count = np.count_nonzero(taken)
        if count == group.size or count == 0:
            self.arrive(group, targets[0] if count else targets[1])
            return
        parts = [(targets[0], np.flatnonzero(taken)), (targets[1], np.flatnonzero(~taken))]
        self.split(group, parts)

    def switch(self, group, targets, index):
        if type(index) is not np.ndarray:
            self.arrive(group, targets[int(index)])
            return
        parts = [(targets[i], np.flatnonzero(index == i)) for i in np.unique(index)]
        self.split(group, parts)

    def split(self, group, parts):
        """Lanes of `group` go to different blocks: `parts` are (block, positions)."""
        live = 0
        for number, _ in parts:
            live |= self.blocks[number].live_in
        self.settle(group, live)
        for number, positions in parts:
            self.arrive(group.part(positions), number)

    def settle(self, group, live):
        """What the group wrote, as far as `live` names it, is in the wave's registers."""
        if group.lanes is not None:
            self.wave.flush(group, live, self.live_elsewhere())

    def groups(self):
        """(block, group) of everyone who is not running."""
        for number, waiting in self.pending.items():
            yield from ((number, group) for group in waiting)
        yield from self.barriers.groups()
        yield from self.meeting.held.items()

    def live_elsewhere(self):
        live = 0
        for number, _ in self.groups():
            live |= self.blocks[number].live_in
        return live

    def merge(self, groups, number):
        """One group of the lanes of several that stand at block `number`."""
        wave, live = self.wave, self.blocks[number].live_in
        elsewhere = self.live_elsewhere()
        common = live & ~elsewhere
        for group in groups:
            common &= group.dirty
        self.keep_uniform(groups, common)
        for group in groups:
            wave.flush(group, live, elsewhere | live)
        lanes = np.concatenate([g.lanes for g in groups])
        return Group(wave) if len(lanes) == wave.size else Group(wave, np.sort(lanes))

    def keep_uniform(self, groups, common):
        """A scalar that all groups agree on, and nobody else needs, stays a scalar."""
        while common:
            bit = common & -common
            common ^= bit
            number = bit.bit_length() - 1
            first, *others = (g.registers[number] for g in groups)
            scalars = all(type(v) is not np.ndarray for v in (first, *others))
            if scalars and all(v == first for v in others):
                self.wave.registers[number] = first
                self.wave.private &= ~bit
                for group in groups:
                    group.dirty &= ~bit

    def exit(self, group):
        wave = self.wave
        if group.lanes is None:
            wave.alive[:], wave.living[:] = 0, False
            return
        wave.alive -= np.bincount(group.block, minlength=wave.blocks)
        wave.living[group.slots] = False

    def release(self):
        """Nothing can run: let those go who wait for no one any more. False at the end."""
        if self.barriers.release() or self.meeting.release():
            return True
        if not self.barriers.held and not self.meeting.held:
            return False
        raise self.barriers.deadlock() if self.barriers.held else self.meeting.deadlock()

    def go_on(self, number, group):
        """Run block `number` for lanes that need not meet anyone any more."""
        block = self.blocks[number]
        self.wave.fetch(group, block.reads or [])
        self.execute(block, number, group)
