"""Races between threads, found by what each byte's last accesses were and what orders them."""

import numpy as np

from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.shadow import NOBODY, Accesses
from zerfoo_numba.ptx.emulator.wave import place

_STRONG = {"volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"}
_PUBLISHES = {"release", "acq_rel", "sc"}
WARP = 32
LARGE = 64 << 20  # bytes of an array beyond which reads are followed only after a first write


class Races:
    """Access history of every memory of a launch, and when threads were last ordered."""

    def __init__(self):
        self.now = 0
        self.history = {}  # allocation start, or "shared" -> Accesses
        self.numbers, self.names = {}, []  # of the instructions that touch memory

    def begin(self, wave):
        self.wave = wave
        self.history.pop("shared", None)
        self.block_at = np.zeros(wave.blocks, np.int32)
        self.warp_at = np.zeros(wave.blocks * wave.padded // WARP, np.int32)
        self.exchange_at = np.zeros_like(self.warp_at)
        # Per thread: it has seen all that others did until `acquired`; it has a fence at `fenced`.
        self.acquired = np.zeros(wave.blocks * wave.padded, np.int32)
        self.fenced = np.zeros_like(self.acquired)

    def access(self, site, wave, group, key, allocation, offset, values):
        """Compare with earlier accesses to the same bytes, and remember this one."""
        self.now += 1
        nbytes = wave.blocks * wave.shared_stride if allocation is None else allocation.nbytes
        if key not in self.history:
            self.history[key] = Accesses(nbytes, site.bytes)
        history = self.history[key]
        history.refine(site.bytes)
        parts = site.instruction.parts
        atomic = parts[0] in ("atom", "red")
        strong = atomic or bool(_STRONG & set(parts)) or "cv" in parts
        thread = group.remember("number", lambda: self.thread_numbers(wave, group), lasting=False)
        if strong:
            self.order(site, group, history, offset // history.granule, atomic)
        for k in range(site.bytes // history.granule):
            at = offset // history.granule + k
            self.compare(site, group, history, at, thread, strong, offset, allocation, values)
            number = self.number(site.instruction)
            if site.write:
                history.record("write", at, thread, self.now, number)
                history.strong[at] = strong
            elif not strong and (nbytes <= LARGE or history.written):
                self.remember_reader(history, at, thread, group, number)
        if site.write and not strong:
            self.within(site, group, history, offset, thread, allocation, values)

    def thread_numbers(self, wave, group):
        block = wave.numbers[group.block]
        return (block * wave.threads + group.thread).astype(np.int32)

    def number(self, instruction):
        if id(instruction) not in self.numbers:
            self.numbers[id(instruction)] = len(self.names)
            self.names.append(instruction)
        return self.numbers[id(instruction)]

    def compare(self, site, group, history, at, thread, strong, offset, allocation, values):
        kinds = ("write", "read", "other") if site.write else ("write",)
        for kind in kinds:
            if kind == "write" and not history.written:
                continue
            by, when, item = history.last(kind, at)
            suspect = (by != NOBODY) & (by != thread)
            if not suspect.any():
                continue
            suspect &= self.unordered(by, when, group, reads=kind != "write")
            if strong and kind == "write":
                suspect &= ~history.strong[at]
            if kind == "write" and site.write and suspect.any():
                suspect &= ~self.silent(site, group, allocation, offset, values)
            if suspect.any():
                lane = int(np.flatnonzero(suspect)[0])
                earlier = (int(by[lane]), kind, self.names[item[lane]])
                raise self.race(site, group, allocation, int(offset[lane]), lane, earlier)

    def unordered(self, by, when, group, reads=True):
        """Per lane: did the thread `by` act after all that this thread is known to follow?

        `reads`: it read. A shuffle of the warp comes after the reads before it, in each lane, as
        their values are there; it orders no writes.
        """
        wave = self.wave
        limit = self.acquired[group.slots]
        number = wave.numbers[group.block]
        same_block = by // wave.threads == number
        limit = np.where(same_block, np.maximum(limit, self.block_at[group.block]), limit)
        same_warp = same_block & (by % wave.threads // WARP == group.thread // WARP)
        met = self.warp_at[group.warp]
        if reads:
            met = np.maximum(met, self.exchange_at[group.warp])
        limit = np.where(same_warp, np.maximum(limit, met), limit)
        return when > limit

    def remember_reader(self, history, at, thread, group, number):
        """The first reader since the last ordering point, and a second one beside it."""
        by, when, _ = history.last("read", at)
        stale = (by == NOBODY) | (by == thread) | ~self.unordered(by, when, group)
        history.record("read", at[stale], thread[stale], self.now, number)
        rest = history.who("read", at) != thread
        history.record("other", at[rest], thread[rest], self.now, number)

    def within(self, site, group, history, offset, thread, allocation, values):
        """Lanes of one store that write different values to the same place."""
        at = offset // history.granule
        winners = history.who("write", at)
        clash = np.flatnonzero(winners != thread)
        if not len(clash):
            return
        mine = [np.broadcast_to(v, group.size) for v in values]
        lanes = {int(n): i for i, n in enumerate(thread)}
        for lane in clash.tolist():
            other = lanes[int(winners[lane])]
            if any(v[lane].tobytes() != v[other].tobytes() for v in mine):
                earlier = (int(thread[other]), "write", site.instruction)
                raise self.race(site, group, allocation, int(offset[lane]), lane, earlier)

    def silent(self, site, group, allocation, offset, values):
        """Per lane: does the store leave memory as it is?"""
        store = self.wave.shared if allocation is None else self.wave.memory.bytes
        start = offset + (0 if allocation is None else allocation.start)
        same = np.ones(group.size, bool)
        if site.instruction.parts[0] != "st":
            return ~same
        for i, value in enumerate(values):
            new = np.ascontiguousarray(np.broadcast_to(value, group.size))
            new = new.view(np.uint8).reshape(group.size, -1)
            old = store[start[:, None] + i * site.size + np.arange(site.size)]
            same &= (old == new).all(axis=1)
        return same

    def order(self, site, group, history, at, atomic):
        """Release and acquire by an atomic or strong access."""
        parts = set(site.instruction.parts)
        slots = group.slots
        if site.write:
            time = np.full(group.size, self.now, np.int32)
            if not parts & _PUBLISHES:
                time = self.fenced[slots]
            history.release(at, time)
        if (atomic or not site.write) and history.released is not None:
            self.acquired[slots] = np.maximum(self.acquired[slots], history.released[at])

    def barrier(self, group, instruction):
        """Threads of whole blocks (or of the grid) have met."""
        self.now += 1
        if instruction.parts[0] == "grid":
            self.acquired[:] = self.now
            return
        blocks = np.unique(group.block)
        self.block_at[blocks] = self.now
        table = self.acquired.reshape(self.wave.blocks, -1)
        table[blocks] = table[blocks].max(axis=1, keepdims=True)

    def exchange(self, group):
        """The lanes of warps have met in an instruction that is no barrier for memory."""
        self.now += 1
        self.exchange_at[group.warp] = self.now

    def warp_barrier(self, group):
        self.now += 1
        warps = np.unique(group.warp)
        self.warp_at[warps] = self.now
        table = self.acquired.reshape(-1, WARP)
        table[warps] = table[warps].max(axis=1, keepdims=True)

    def fence(self, group):
        self.now += 1
        self.fenced[group.slots] = self.now

    def race(self, site, group, allocation, offset, lane, earlier):
        from zerfoo_numba.ptx.emulator.checks import describe

        wave = self.wave
        number, kind, instruction = earlier
        thread = place(number % wave.threads, wave.block_shape)
        who = f"thread {thread} of block {place(number // wave.threads, wave.grid)}"
        where = describe(site, wave, group, allocation, offset)
        verb = "writes" if site.write else "reads"
        done = "wrote" if kind == "write" else "read"
        what = (
            f"race: {verb} {where}, which {who} {done} with no barrier between "
            f"({instruction.file}, line {instruction.line})"
        )
        return fault(wave, group, site.instruction, what, lane, "race")
