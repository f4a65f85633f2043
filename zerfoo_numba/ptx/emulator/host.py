"""Code for calls into the system: printf, malloc and free, for one thread after the other."""

import sys

import numpy as np

from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW
from zerfoo_numba.ptx.formatted import formatted


class HostCall:
    """One `host.NAME` instruction; its methods take the arguments of all lanes of a group."""

    def __init__(self, instruction):
        self.instruction = instruction

    def vprintf(self, wave, group, pattern, arguments):
        """Write each lane's text to Python's standard output; -> numbers of arguments."""
        texts, counts = [], []
        pattern, arguments = (np.broadcast_to(a, group.size) for a in (pattern, arguments))
        for lane in range(group.size):
            read = self._reader(wave, group, lane)
            text, count = formatted(read, int(pattern[lane]), int(arguments[lane]))
            texts.append(text)
            counts.append(count)
        sys.stdout.write("".join(texts))
        return np.array(counts, np.uint32)

    def malloc(self, wave, group, size):
        """Memory on the device's heap, which lives until it is freed."""
        sizes = np.broadcast_to(size, group.size).tolist()
        found = [wave.memory.allocate(n, "malloc") if n else 0 for n in sizes]
        if wave.trace is None:
            wave.memory.forget_unwritten()
        return np.array(found, np.uint64)

    def free(self, wave, group, address):
        for lane, at in enumerate(np.broadcast_to(address, group.size).tolist()):
            found = wave.memory.find(at, at) if at else None
            if at and (found is None or found.start != at):
                what = f"frees address {at:#x}, where no allocation starts"
                raise fault(wave, group, self.instruction, what, lane)
            if at:
                wave.memory.free(at)

    def _reader(self, wave, group, lane):
        """`read(address, size)` of generic memory as a lane sees it."""

        def read(address, size):
            for window, views, base, limit in (
                (SHARED_WINDOW, wave.shared_views, group.shared_base(0), wave.shared_bytes),
                (LOCAL_WINDOW, wave.local_views, group.local_base(0), wave.local_bytes),
            ):
                if window <= address < window + WINDOW:
                    at, inside = address - window, address - window + size <= limit
                    start = at + (
                        0 if base is None else int(np.broadcast_to(base, group.size)[lane])
                    )
                    memory = views[1]
                    break
            else:
                start, memory = address, wave.memory.bytes
                inside = wave.memory.find(address, address + size) is not None
            if not inside:
                what = f"{size}-byte read of a printf at address {address:#x}, outside all memory"
                raise fault(wave, group, self.instruction, what, lane)
            return memory[start : start + size].tobytes()

        return read


def host(translator, item):
    """host.vprintf d, format, arguments; host.malloc d, size; host.free address"""
    name = item.parts[1]
    site = translator.constant(HostCall(item))
    given = item.operands if name == "free" else item.operands[1:]
    arguments = ", ".join(translator.operand(o, "u64") for o in given)
    call = f"{site}.{name}(w, g, {arguments})"
    if name == "free":
        translator.lines.append(call)
    else:
        translator.assign(item.operands[0], call, "u32" if name == "vprintf" else "u64")


EMIT = {"host": host}
