"""Warp-synchronous instructions: the lanes of a mask wait for each other in front of them."""

import numpy as np

from zerfoo_numba.ptx.effects import member_mask
from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.group import WARP, Group
from zerfoo_numba.ptx.structure import Constant, Register


class Meeting:
    """Groups held at blocks that begin with a warp-synchronous instruction: block -> group."""

    def __init__(self, scheduler):
        self.scheduler, self.wave = scheduler, scheduler.wave
        self.held = {}

    def ready(self, number, group):
        """The lanes whose whole mask stands here, or None; the others are held."""
        if number in self.held:
            group = self.scheduler.merge([self.held.pop(number), group], number)
        if group.lanes is None:
            return group
        missing = self.missing(number, group, group.present)
        if not missing.any():
            return group
        self.scheduler.settle(group, self.scheduler.blocks[number].live_in)
        chosen = np.flatnonzero(missing == 0)
        self.held[number] = group.part(np.flatnonzero(missing)) if len(chosen) else group
        return group.part(chosen) if len(chosen) else None

    def missing(self, number, group, present):
        """Per lane: the bits of its mask that are alive but not `present` (per warp)."""
        first = self.scheduler.blocks[number].first
        mask = member_mask(first)
        if isinstance(mask, Constant):
            mask = np.uint32(mask.value & 0xFFFFFFFF)
        else:
            assert isinstance(mask, Register)
            register = self.wave.program.kernel.numbers[mask]
            self.wave.fetch(group, [register])
            mask = group.registers[register]
        return mask & (self.living(group) & ~present)[group.rows[1]]

    def living(self, group):
        """Per row of the group: the lanes of the warp that have not exited."""
        table = self.wave.living.reshape(-1, WARP)
        bits = np.packbits(table, axis=1, bitorder="little").view(np.uint32).reshape(-1)
        rows = group.rows[1]
        first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        return bits[group.warp[first]]

    def release(self):
        """Those who waited for lanes that exited, or that came to another bar.warp.sync."""
        for number, group in list(self.held.items()):
            present = group.present
            if self.is_barrier(number):
                present = self.together(group)
            missing = self.missing(number, group, present)
            if not missing.all():
                del self.held[number]
                self.scheduler.settle(group, self.scheduler.blocks[number].live_in)
                rest = np.flatnonzero(missing)
                if len(rest):
                    self.held[number] = group.part(rest)
                self.scheduler.go_on(number, group.part(np.flatnonzero(missing == 0)))
                return True
        return False

    def is_barrier(self, number):
        return self.scheduler.blocks[number].first.parts[1] == "warp"

    def together(self, group):
        """Per row of the group: lanes held at any bar.warp.sync."""
        waiting = np.zeros_like(self.wave.living)
        for number, held in self.held.items():
            if self.is_barrier(number):
                waiting[held.slots] = True
        everyone = Group(self.wave, group.lanes)
        bits = np.packbits(waiting.reshape(-1, WARP), axis=1, bitorder="little")
        bits = bits.view(np.uint32).reshape(-1)
        rows = everyone.rows[1]
        first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        return bits[everyone.warp[first]]

    def deadlock(self):
        number, group = next(iter(self.held.items()))
        missing = self.missing(number, group, group.present)
        lane = int(np.flatnonzero(missing)[0])
        what = (
            f"deadlock: lanes {int(missing[lane]):#010x} of the mask never come to this "
            "warp-synchronous instruction"
        )
        first = self.scheduler.blocks[number].first
        return fault(self.wave, group, first, what, lane, "deadlock")
