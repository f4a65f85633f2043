"""The checks of a launch: reads of memory never written, races, unfinished asynchronous copies.

Two accesses race if at least one writes, at least one is not atomic or volatile, different
threads make them, and no barrier of the block, warp or grid, nor a release that was acquired,
lies between. Stores that change nothing do not race with other writes.
"""

from dataclasses import dataclass, fields

import numpy as np

from zerfoo_numba.ptx.emulator.access import GlobalAccess, LocalAccess
from zerfoo_numba.ptx.emulator.copies import Copies
from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.races import Races
from zerfoo_numba.ptx.emulator.shadow import Written


@dataclass(frozen=True)
class Checks:
    """Which checks are on; `perturb` also moves `.approx` results within the ISA's bounds."""

    bounds: bool = True  # off: any address of the arena may be read and written
    uninitialized: bool = True
    races: bool = True
    barriers: bool = True
    copies: bool = True
    perturb: bool = False

    @classmethod
    def of(cls, value):
        """True, False or None as all or none; a Checks as it is."""
        if isinstance(value, cls):
            return value
        on = {f.name: bool(value) for f in fields(cls) if f.name not in ("bounds", "perturb")}
        return cls(**on)

    @property
    def any(self):
        return self.uninitialized or self.races or self.copies


class Checker:
    """What has to be remembered between instructions of one launch."""

    def __init__(self, checks, memory):
        self.checks, self.memory = checks, memory
        self.races = Races() if checks.races else None
        self.copies = None
        self.written = {}

    def begin(self, wave):
        self.written = {
            "shared": Written(wave.blocks * wave.shared_stride),
            "local": Written(wave.blocks * wave.padded * wave.local_stride),
        }
        if self.races:
            self.races.begin(wave)
        if self.checks.copies:
            self.copies = Copies(wave)

    def end(self, wave):
        if self.copies:
            self.copies.end()

    def access(self, site, wave, group, allocation, address, values):
        """Lanes of `group` access `site.bytes` bytes at `address`, bytes of their space."""
        if isinstance(site, GlobalAccess):
            key, offset = allocation.start, address - allocation.start
            written = self.memory.written[allocation.start]
        elif isinstance(site, LocalAccess):
            key, written = "local", self.written["local"]
            offset = address + group.local_base(0)
        else:
            key, written = "shared", self.written["shared"]
            base = group.shared_base(0)
            offset = address if base is None else address + base
        if self.checks.uninitialized:
            self.initialized(site, wave, group, written, offset, allocation)
        if self.copies and key == "shared":
            self.copies.touch(site, group, offset)
        if self.races and key != "local":
            self.races.access(site, wave, group, key, allocation, offset, values)

    def initialized(self, site, wave, group, written, offset, allocation):
        reads = not site.write or site.instruction.parts[0] in ("atom", "red")
        if reads and not written.whole:
            holds = written.holds(offset, site.bytes)
            holds = np.logical_and(*holds) if isinstance(holds, list) else holds
            if not holds.all():
                lane = int(np.flatnonzero(~holds)[0])
                place = describe(site, wave, group, allocation, int(offset[lane]))
                what = f"reads {place}, which nothing has written"
                raise fault(wave, group, site.instruction, what, lane, "uninitialized")
        if site.write:
            written.store(offset, site.bytes)


def describe(site, wave, group, allocation, offset):
    """The place of an access: `x[3]`, or a byte of shared or local memory."""
    if allocation is not None:
        return f"{allocation.name}[{offset // allocation.element}]"
    if isinstance(site, LocalAccess):
        return f"byte {offset % wave.local_stride} of its local memory"
    offset %= wave.shared_stride
    return f"byte {offset} of shared memory{wave.shared_name(offset)}"
