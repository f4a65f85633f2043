"""The device's global memory: one address range, allocations with names, typed views.

An address is a byte offset into one anonymous mapping that the system fills page by page, so an
allocation costs what is written to it. Gaps between allocations belong to none.
"""

import bisect
import contextlib
import fcntl
import itertools
import mmap
import os
import threading
import weakref
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.errors import OutOfMemoryError
from zerfoo_numba.ptx.emulator.shadow import Written

ALIGNMENT = 256
KEPT = 1 << 20  # smaller freed ranges keep their pages
GAP = 256  # an access just past an array must not fall into the next one
FIRST = 1 << 16  # null pointers and small integers are no addresses
# Generic addresses of a block's shared memory and of a thread's local memory.
SHARED_WINDOW = 1 << 56
LOCAL_WINDOW = 1 << 57
WINDOW = 1 << 32
# Accesses of n bytes go through a view of n-byte elements.
ELEMENT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}
_NORESERVE = 0x4000 if not hasattr(mmap, "MAP_NORESERVE") else mmap.MAP_NORESERVE


@dataclass(frozen=True)
class Allocation:
    """`nbytes` from `start`; `element` is the array's item size, for messages."""

    start: int
    nbytes: int
    name: str
    element: int

    @property
    def end(self):
        return self.start + self.nbytes


def typed_views(array):
    """A uint8 array seen as elements of 1, 2, 4, 8 and 16 bytes."""
    return {size: array[: len(array) // size * size].view(t) for size, t in ELEMENT.items()}


_versions = itertools.count()  # of the allocations of any memory


class Lock:
    """Mutual exclusion of atomics: between threads, and while asked for between processes."""

    def __init__(self, file):
        self._threads, self._file, self._locking = threading.RLock(), file, False

    @contextlib.contextmanager
    def between_processes(self):
        self._locking = True
        try:
            yield
        finally:
            self._locking = False

    def __enter__(self):
        self._threads.acquire()
        if self._locking:
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error):
        if self._locking:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()


def new_file():
    """An empty file that exists in memory alone, or None where the system has no such thing."""
    return os.memfd_create("zerfoo-numba") if hasattr(os, "memfd_create") else None


class Memory:
    """Global memory of `capacity` bytes (address space; less where the system grants less).

    `file` is one that another process made for its memory, to share it.
    """

    def __init__(self, capacity=1 << 36, file=None):
        self.file = new_file() if file is None else file
        if self.file is not None:
            weakref.finalize(self, os.close, self.file)
        self.capacity = capacity
        while not self._map():
            self.capacity //= 2
            if self.capacity < 1 << 20:
                raise OutOfMemoryError("no memory for the emulator's arena")
        self.views = typed_views(self.bytes)
        self.lock = Lock(self.file)
        self.version, self._forgotten = next(_versions), -1
        self.written = {}  # start of an allocation -> which of its bytes were ever written
        self._starts, self._allocations = [], []
        self._returned, self._changing = [], False
        self._free = [(FIRST, self.capacity)]  # (start, end), sorted, never adjacent

    def _map(self):
        """Map the arena: pages come with the first write; False if the system refuses."""
        try:
            if self.file is None:
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
                self._mapping = mmap.mmap(-1, self.capacity, flags=flags)
            else:
                os.ftruncate(self.file, self.capacity)
                flags = mmap.MAP_SHARED | _NORESERVE
                self._mapping = mmap.mmap(self.file, self.capacity, flags=flags)
        except (OSError, ValueError, OverflowError):
            return False
        self.bytes = np.frombuffer(self._mapping, np.uint8)
        return True

    def allocate(self, nbytes, name="", element=1):
        """The address of `nbytes` of undefined contents, a multiple of 256."""
        need = -(-(nbytes + GAP) // ALIGNMENT) * ALIGNMENT
        with self._changes():
            fits = (i for i, (start, end) in enumerate(self._free) if end - start >= need)
            at = next(fits, None)
            if at is None:
                raise OutOfMemoryError(f"the emulator has no room for {nbytes} bytes of {name}")
            start, end = self._free[at]
            self._free[at : at + 1] = [(start + need, end)] if start + need < end else []
            at = bisect.bisect(self._starts, start)
            self._starts.insert(at, start)
            self._allocations.insert(at, Allocation(start, nbytes, name or "unnamed", element))
            self.written[start] = Written(nbytes)
        return start

    def free(self, address):
        """Give an allocation back."""
        if bisect is None:
            return  # the interpreter ends, and all memory with it
        if address not in self.written:
            raise ValueError(f"{address:#x} is not the address of an allocation")
        self._returned.append(address)
        with self._changes():
            pass

    @contextlib.contextmanager
    def _changes(self):
        """Changes to the lists, one at a time.

        The garbage collector may free an array while this thread changes the lists: that waits
        until the change is done.
        """
        with self.lock:
            if self._changing:
                yield
                return
            self._changing = True
            try:
                yield
            finally:
                while self._returned:
                    self._remove(self._returned.pop())
                self._changing = False
                self.version = next(_versions)

    def _remove(self, address):
        at = bisect.bisect_left(self._starts, address)
        gone = self._allocations.pop(at)
        del self._starts[at], self.written[address]
        end = address + -(-(gone.nbytes + GAP) // ALIGNMENT) * ALIGNMENT
        self._give_back(address, end)
        at = bisect.bisect(self._free, (address, end))
        self._free.insert(at, (address, end))
        for i in (at + 1, at):
            if 0 < i < len(self._free) and self._free[i - 1][1] == self._free[i][0]:
                self._free[i - 1 : i + 1] = [(self._free[i - 1][0], self._free[i][1])]

    def _give_back(self, start, end):
        """Return the whole pages of a freed range to the system."""
        advice = getattr(mmap, "MADV_DONTNEED" if self.file is None else "MADV_REMOVE", None)
        page = mmap.PAGESIZE
        start, end = -(-start // page) * page, end // page * page
        if advice is not None and end - start >= KEPT:
            with contextlib.suppress(OSError):
                self._mapping.madvise(advice, start, end - start)

    def write(self, address, array):
        """Copy a NumPy array to the device."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        found = self._whole(address, data.size)
        self.bytes[address : address + data.size] = data
        if found is not None:
            offset = address - found.start
            self.written[found.start].mark(offset, offset + data.size)

    def read(self, address, dtype, shape):
        """A copy of device memory as an array."""
        dtype = np.dtype(dtype)
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._whole(address, nbytes)
        return self.bytes[address : address + nbytes].copy().view(dtype).reshape(shape)

    def _whole(self, address, nbytes):
        found = self.find(address, address + nbytes)
        if nbytes and found is None:
            raise ValueError(f"{nbytes} bytes at {address:#x} are not within one allocation")
        return found

    def forget(self, address, nbytes):
        """Undo every write to a range: to read it before the next one is an error again."""
        found = self._whole(address, nbytes)
        if found is not None:
            offset = address - found.start
            self.written[found.start].forget(offset, offset + nbytes)

    def forget_unwritten(self):
        """A kernel ran unobserved: every byte counts as written from now on."""
        if self._forgotten != self.version:
            for written in tuple(self.written.values()):
                written.whole = True
            self._forgotten = self.version

    def find(self, low, high):
        """The allocation that holds bytes `low` to `high`, or None."""
        at = bisect.bisect(self._starts, low) - 1
        if at < 0 or high > self._allocations[at].end:
            return None
        return self._allocations[at]

    def nearest(self, address):
        """The allocation that an address outside all of them most likely strayed from."""
        at = bisect.bisect(self._starts, address) - 1
        near = self._allocations[max(at, 0) : at + 2]
        return min(near, key=lambda a: max(a.start - address, address - a.end), default=None)

    def allocations(self):
        """Every live allocation, by address."""
        return tuple(self._allocations)

    def rename(self, address, name, element):
        """Call the allocation that starts at `address` by another name, in messages."""
        with self._changes():
            at = bisect.bisect_left(self._starts, address)
            found = self._allocations[at]
            self._allocations[at] = Allocation(found.start, found.nbytes, name, element)

    def adopt(self, allocations):
        """Take over the allocations of the process that shares this memory."""
        self._allocations = list(allocations)
        self._starts = [a.start for a in allocations]
        self.version = next(_versions)

    @property
    def used(self):
        """Bytes in live allocations."""
        return sum(a.nbytes for a in self._allocations)
