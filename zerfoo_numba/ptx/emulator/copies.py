"""Asynchronous copies into shared memory: cp.async, its groups, and who still has to wait.

The copy itself is made at once; what is tracked is whether its thread has waited for it before
the bytes are used. PTX ISA, section 9.7.9.25.3.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.faults import fault

OPEN = np.iinfo(np.int64).max  # the group of copies not yet committed


class Copies:
    """Copies in flight: per shared byte the copy's number + 1, per copy its thread and group."""

    def __init__(self, wave):
        self.wave = wave
        self.flying = np.zeros(len(wave.shared), np.int32)
        self.committed = np.zeros(wave.blocks * wave.padded, np.int64)
        self.slot = np.zeros(0, np.int64)
        self.number = np.zeros(0, np.int64)
        self.start = np.zeros(0, np.int64)
        self.size = np.zeros(0, np.int64)
        self.issued = []  # the instruction, by the number of its execution
        self.source = np.zeros(0, np.int64)

    def issue(self, group, instruction, offset, nbytes):
        """`group` starts copying `nbytes` to each byte offset of shared memory."""
        count = group.size
        self.source = np.r_[self.source, np.full(count, len(self.issued))]
        self.issued.append(instruction)
        self.slot = np.r_[self.slot, group.slots]
        self.number = np.r_[self.number, np.full(count, OPEN)]
        self.start = np.r_[self.start, offset]
        self.size = np.r_[self.size, np.full(count, nbytes)]
        self.flying[offset[:, None] + np.arange(nbytes)] = len(self.issued)

    def commit(self, group):
        """The open copies of these threads become a group."""
        mine = np.isin(self.slot, group.slots) & (self.number == OPEN)
        self.committed[group.slots] += 1
        self.number[mine] = self.committed[self.slot[mine]]

    def wait(self, group, allowed):
        """These threads wait until at most `allowed` of their groups fly; None: not one copy."""
        done = np.isin(self.slot, group.slots)
        if allowed is not None:
            done &= self.number <= self.committed[self.slot] - allowed
        for start, size in zip(self.start[done], self.size[done], strict=True):
            self.flying[start : start + size] = 0
        keep = ~done
        for name in ("slot", "number", "start", "size", "source"):
            setattr(self, name, getattr(self, name)[keep])

    def touch(self, site, group, offset):
        """An access to shared memory must not meet a copy in flight."""
        if not len(self.slot) or site.instruction.parts[0] == "cp":
            return
        flying = self.flying[offset[:, None] + np.arange(site.bytes)].max(axis=1)
        if flying.any():
            lane = int(np.flatnonzero(flying)[0])
            origin = self.issued[int(flying[lane]) - 1]
            what = (
                "unfinished async copy: uses shared memory that a cp.async without a wait fills "
                f"({origin.file}, line {origin.line})"
            )
            raise fault(self.wave, group, site.instruction, what, lane, "copy")

    def end(self):
        """No thread may exit with copies it has not waited for."""
        if len(self.slot):
            instruction = self.issued[int(self.source[0])]
            what = "unfinished async copy: the thread exits without waiting for it"
            raise fault(self.wave, None, instruction, what, int(self.slot[0]), "copy")
