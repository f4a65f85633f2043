"""Lists of launches, and the threads that run them."""

import contextlib
import ctypes
import os
import threading
import time
import weakref
from pathlib import Path

import numpy as np

from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx.native import layout, runner
from zerfoo_numba.ptx.native.program import module_data
from zerfoo_numba.ptx.native.waiting_driver import DEADLOCK

_CHUNKS_PER_THREAD = 6
_LARGEST_ALIGNMENT = 4096  # of a variable in shared or local memory


def aligned_bytes(size, alignment=128):
    """A zeroed NumPy byte array that starts at a multiple of `alignment`."""
    room = np.zeros(size + alignment, np.uint8)
    start = -room.ctypes.data % alignment
    return room[start : start + size]


def physical_cores():
    """Cores this process may use, counting the hardware threads of one core once."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            names = ("physical_package_id", "core_id")
            cores.add(tuple((folder / name).read_text() for name in names))
        except OSError:
            return len(allowed)
    return len(cores)


class Launches:
    """Launches in order, as the compiled code reads them; arguments are bound when added."""

    def __init__(self, threads):
        self.threads = threads
        self.count = 0
        self.scratch_bytes = 0
        self._kept = []  # programs, whose code must outlive the list
        self._room(64, 1 << 13)

    def __len__(self):
        return self.count

    def _room(self, records, parameters):
        self._records = aligned_bytes(records * layout.RECORD_BYTES)
        self._words = self._records.view(np.uint64)
        self._parameters = aligned_bytes(parameters)
        self._used = 0

    def clear(self):
        self.count = self._used = self.scratch_bytes = 0
        self._kept.clear()

    def add(self, ptx, program, grid, values, shared):
        """Append a launch of `program` over `grid` blocks with NumPy scalars as arguments."""
        at = -(-self._used // 16) * 16
        self._grow(at + program.description.parameter_bytes)
        program.pack(values, memoryview(self._parameters), at)
        self._used = at + program.description.parameter_bytes
        start = self.count * layout.RECORD_BYTES // 8
        total = grid[0] * grid[1] * grid[2]
        words = self._words
        words[start] = program.address
        words[start + 1] = at
        words[start + 2] = module_data(ptx, program)
        words[start + 3] = grid[0] | grid[1] << 32
        words[start + 4] = grid[2] | shared << 32
        words[start + 5] = 0
        words[start + 6] = total
        chunks = 1 if program.whole_grid else self.threads * _CHUNKS_PER_THREAD
        words[start + 7] = max(1, -(-total // chunks))
        self.scratch_bytes = max(self.scratch_bytes, program.scratch_bytes(shared, total))
        self._kept[self.count :] = [program]
        self.count += 1  # last: an interrupt before it leaves the list as it was

    def _grow(self, parameters):
        """Parameters are bound as offsets until the list runs, so that growing moves nothing."""
        if parameters > self._parameters.size:
            bigger = aligned_bytes(2 * parameters)
            bigger[: self._parameters.size] = self._parameters
            self._parameters = bigger
        if (self.count + 1) * layout.RECORD_BYTES > self._records.size:
            bigger = aligned_bytes(2 * self._records.size)
            bigger[: self._records.size] = self._records
            self._records, self._words = bigger, bigger.view(np.uint64)

    def record(self, number):
        """The bytes of a launch as the compiled code sees them; see `layout`."""
        size = layout.RECORD_BYTES
        return self._records[number * size : (number + 1) * size]

    def bind(self):
        """Turn parameter offsets into addresses; -> the records' address."""
        table = self._words.reshape(-1, layout.RECORD_BYTES // 8)[: self.count]
        offsets = table[:, 1]
        base = np.uint64(self._parameters.ctypes.data)
        offsets[offsets < base] += base
        return self._records.ctypes.data

    def keep(self, kept):
        """Put the memory of the records last in `kept`, once."""
        if not kept or kept[-1] is not self._records:
            kept.append(self._records)

    def failed(self):
        """The error of the first launch that did not go well, or None."""
        table = self._words.reshape(-1, layout.RECORD_BYTES // 8)[: self.count]
        marked = np.flatnonzero(table[:, layout.STATUS // 8])
        if not marked.size:
            return None
        first = int(marked[0])
        what = int(table[first, layout.STATUS // 8])
        table[:, layout.STATUS // 8] = 0
        name = self._kept[first].name
        if what == DEADLOCK:
            return DeviceError(
                f"kernel {name} waits for threads that never come, or for memory that nobody "
                "changes: a deadlock; the emulator says which threads and where"
            )
        return DeviceError(f"kernel {name} stopped itself (trap): a check inside it failed")


class Pool:
    """Threads that run launch lists; helper threads wait for the next run, then sleep."""

    def __init__(self, threads=None):
        self.threads = max(1, threads or physical_cores())
        code = runner.functions()
        pointer, number = ctypes.c_void_p, ctypes.c_uint64
        self._execute = ctypes.CFUNCTYPE(None, pointer, pointer, number)(code["execute"])
        self._serve = ctypes.CFUNCTYPE(None, pointer, number)(code["serve"])
        self._region = aligned_bytes(runner.SCRATCH + 8 * self.threads)
        self._flags = self._region[runner.SLEEPING :]
        self._scratch = [aligned_bytes(0) for _ in range(self.threads)]
        self._kept = []  # scratch and records that a late thread may still look at
        self._lock = threading.Lock()
        self._wake = [threading.Event() for _ in range(self.threads)]
        for i in range(1, self.threads):
            self._flags[i] = 1
            arguments = (self._serve, self._region, self._wake[i], i, self._kept)
            threading.Thread(target=_help, args=arguments, daemon=True).start()
        self._closed = weakref.finalize(self, _close, self._region, self._wake)

    def _reserve(self, size):
        pointers = self._region[runner.SCRATCH :].view(np.uint64)
        for i, old in enumerate(self._scratch):
            if old.size < size:
                self._scratch[i] = aligned_bytes(size, _LARGEST_ALIGNMENT)
                pointers[i] = self._scratch[i].ctypes.data

    def run(self, launches, times=None, clock=None):
        """Run a list to its end. Raises DeviceError where a kernel executed a trap.

        `times`, an int64 array (launches, 2), gets when each was done, in seconds and nanoseconds
        of `clock` (a number of the module `time`; by default the monotonic clock). Not on Windows.
        """
        if not launches.count:
            return
        with self._lock:
            words = self._region[:64].view(np.uint64)
            words[runner.TIMES // 8] = 0 if times is None else times.ctypes.data
            if times is not None:
                words[runner.CLOCK // 8] = time.CLOCK_MONOTONIC if clock is None else clock
            self._reserve(launches.scratch_bytes)
            records, count = launches.bind(), launches.count
            if not words[runner.INSIDE // 8]:
                # A thread that comes in now finds the records of the last run, and none before.
                del self._kept[:-1]
            launches.keep(self._kept)
            for i in range(1, self.threads):
                if self._flags[i]:
                    self._flags[i] = 0
                    self._wake[i].set()
            self._execute(self._region.ctypes.data, records, count)
        error = launches.failed()
        if error is not None:
            raise error


def _help(serve, region, wake, number, kept):
    """A helper thread's life: asleep until woken, then compiled code until idle. It holds what it
    may look at, `kept`, for as long as it lives."""
    while True:
        wake.wait()
        wake.clear()
        if region[:8].view(np.uint64)[0] == _CLOSED:
            return
        serve(region.ctypes.data, number)


_CLOSED = np.uint64(1 << 40)


def _close(region, wake):
    with contextlib.suppress(AttributeError):
        region[:8].view(np.uint64)[0] = _CLOSED
        for event in wake:
            event.set()
