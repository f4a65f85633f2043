"""The observer of a counted or checked launch: the generated code reports to it.

It sees every block that runs, every memory access with its addresses, every barrier and fence,
and passes them to the counters and to the checks that are on.
"""

import numpy as np

from zerfoo_numba.ptx.control_flow import SKIP
from zerfoo_numba.ptx.emulator.access import GenericAccess, GlobalAccess, LocalAccess
from zerfoo_numba.ptx.emulator.checks import Checker, Checks
from zerfoo_numba.ptx.emulator.counters import (
    ArrayTraffic,
    Counters,
    Counts,
    Traffic,
    flops,
    instruction_class,
)
from zerfoo_numba.ptx.emulator.traffic import SECTOR, bank_passes, sectors, warps


class Trace:
    """One launch, observed. `finish` turns what was seen into `Counters`."""

    def __init__(self, program, memory, grid, block, checks, seed):
        self.program, self.memory = program, memory
        self.counters = Counters(program.name, grid, block)
        self.lines = self.counters.lines
        count = len(program.kernel.blocks)
        self.block_threads, self.block_warps = [0] * count, [0] * count
        self.idle = {}  # id of a guarded instruction -> threads whose guard was false
        self.touched = {}  # allocation -> (ArrayTraffic, sectors loaded, sectors stored)
        self.checks = Checks.of(checks)
        self.checker = Checker(self.checks, memory) if self.checks.any else None
        self.barriers = self.checks.barriers
        self.rng = np.random.default_rng(seed)

    def begin(self, wave):
        """A wave of blocks starts."""
        if self.checker:
            self.checker.begin(wave)

    def end(self, wave):
        """All threads of a wave have exited."""
        if self.checker:
            self.checker.end(wave)

    def block(self, number, group):
        """A group executes basic block `number`."""
        self.block_threads[number] += group.size
        self.block_warps[number] += warps(group)

    def access(self, site, wave, group, address, values=()):
        """A load, store or atomic is about to happen; `values` are those of a store."""
        if isinstance(site, GenericAccess):
            for own, lanes, inside in site.route(group, address):
                part, given = _part(group, lanes, values)
                self.access(own, wave, part, inside, given)
            return
        site.place(wave, group, address)  # faults come before counts
        whole = site.whole(group, address)
        counts = self.line(site.instruction)
        atomic = site.instruction.parts[0] in ("atom", "red")
        counts.atomics += group.size * atomic
        if isinstance(site, GlobalAccess):
            self.global_access(site, wave, group, whole, counts, atomic, values)
            return
        if isinstance(site, LocalAccess):
            counts.local_requests += warps(group)
        else:
            counts.shared_requests += warps(group)
            if not atomic:
                passes, least = bank_passes(group, whole, site.bytes)
                counts.bank_conflicts += passes - least
        if self.checker:
            self.checker.access(site, wave, group, None, whole, values)

    def part(self, site, wave, group, address, lanes):
        """`access` by some lanes of the group only."""
        whole = np.broadcast_to(address, group.size)
        self.access(site, wave, group.part(lanes), whole[lanes])

    def global_access(self, site, wave, group, address, counts, atomic, values):
        traffic = None if atomic else self.traffic(site, group, address)
        if traffic is not None:
            (counts.stores if site.write else counts.loads).add(traffic)
        for allocation, lanes in self.owners(site, address):
            part, given = _part(group, lanes, values)
            own = address if lanes is None else address[lanes]
            if lanes is not None and not atomic:
                traffic = self.traffic(site, part, own)
            self.array(allocation, own, site, traffic)
            if self.checker:
                self.checker.access(site, wave, part, allocation, own, given)

    def traffic(self, site, group, address):
        return Traffic(warps(group), site.bytes * group.size, sectors(group, address))

    def owners(self, site, address):
        """(allocation, lanes or None for all) of each array that one instruction touches."""
        find = self.memory.find
        found = find(int(address.min()), int(address.max()) + site.bytes)
        if found is not None:
            return [(found, None)]
        each = [find(a, a) for a in address.tolist()]
        starts = np.array([a.start if a else -1 for a in each])
        lanes = [np.flatnonzero(starts == s) for s in np.unique(starts) if s >= 0]
        return [(each[chosen[0]], chosen) for chosen in lanes]

    def array(self, allocation, address, site, traffic):
        """Traffic of one allocation (None of an atomic), and which of its sectors it touched."""
        if allocation not in self.touched:
            size = allocation.nbytes // SECTOR + 2
            new = ArrayTraffic(allocation.nbytes), np.zeros(size, bool), np.zeros(size, bool)
            self.touched[allocation] = new
        array, loaded, stored = self.touched[allocation]
        sector = (address - allocation.start) // SECTOR
        if traffic is None:
            array.atomics += len(address)
        else:
            (array.stores if site.write else array.loads).add(traffic)
        if site.write:
            stored[sector] = True
        if not site.write or traffic is None:
            loaded[sector] = True

    def guarded(self, instruction, group, guard):
        """An instruction of which only the lanes with a true guard count."""
        idle = group.size - int(np.count_nonzero(np.broadcast_to(guard, group.size)))
        key = id(instruction)
        self.idle[key] = self.idle.get(key, 0) + idle

    def line(self, instruction):
        """The counts of the instruction's source line."""
        key = (instruction.file, instruction.line)
        if key not in self.lines:
            self.lines[key] = Counts()
        return self.lines[key]

    def barrier(self, leaving):
        """Groups leave completed barriers: pairs of a group and its instruction."""
        blocks = np.concatenate([np.unique(group.block) for group, _ in leaving])
        self.counters.block_barriers += len(np.unique(blocks))
        for group, instruction in leaving:
            self.line(instruction).barriers += warps(group)
            if self.checker and self.checker.races:
                self.checker.races.barrier(group, instruction)

    def fence(self, group):
        if self.checker and self.checker.races:
            self.checker.races.fence(group)

    def exchange(self, group):
        if self.checker and self.checker.races:
            self.checker.races.exchange(group)

    def warp_barrier(self, group):
        if self.checker and self.checker.races:
            self.checker.races.warp_barrier(group)

    def copies(self):
        """The asynchronous copies of the wave, if the checks follow them."""
        return self.checker.copies if self.checker else None

    def perturbed(self, operation, *operands):
        """The result of an `.approx` instruction, moved within the bound of the ISA."""
        return operation.perturb(operation.function(*operands), self.rng, *operands)

    def finish(self):
        """-> Counters of the whole launch."""
        for block, threads, warp_count in zip(
            self.program.kernel.blocks, self.block_threads, self.block_warps, strict=True
        ):
            last = [block.last] if block.last is not None else []
            for item in [*block.instructions, *last]:
                if item.opcode == SKIP:
                    continue
                counts, active = self.line(item), threads - self.idle.get(id(item), 0)
                counts.thread_instructions += active
                counts.warp_instructions += warp_count
                counts.flops += flops(item) * active
                name = instruction_class(item)
                counts.classes[name] = counts.classes.get(name, 0) + active
        for key in [k for k, c in self.lines.items() if not c.thread_instructions]:
            del self.lines[key]
        for counts in self.lines.values():
            self.counters.total.add(counts)
        for allocation, (array, loaded, stored) in self.touched.items():
            array.unique_load_sectors = int(np.count_nonzero(loaded))
            array.unique_store_sectors = int(np.count_nonzero(stored))
            name = allocation.name
            if name in self.counters.arrays:
                name = f"{name} at {allocation.start:#x}"
            self.counters.arrays[name] = array
        return self.counters


def _part(group, lanes, values):
    """The group and the values of some lanes; None for all."""
    if lanes is None:
        return group, values
    return group.part(lanes), [v[lanes] if type(v) is np.ndarray else v for v in values]
