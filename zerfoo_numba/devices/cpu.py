"""The CPU as a device: the compiled PTX, translated to the CPU's vector instructions.

Launches are collected and run together when somebody looks: at a read, a write, a synchronisation
or when many have come together. A captured step is one such list that is kept.
"""

import contextlib
import time

import numpy as np

from zerfoo_numba.devices import Allocation, Buffer, Device
from zerfoo_numba.errors import OutOfMemoryError
from zerfoo_numba.ptx.compile import compile_ptx
from zerfoo_numba.ptx.native.launches import Launches, Pool
from zerfoo_numba.ptx.native.program import load
from zerfoo_numba.ptx.native.target import host

_MOST_PENDING = 256
_ALIGNMENT = 256


class CpuDevice(Device):
    """`threads`: how many CPU threads run blocks; the physical cores by default.

    `progress(text)` hears of every kernel that has to be compiled, once per machine.
    """

    name = "cpu"
    chunk = 256
    attention_splits, attention_piece = 8, 64
    tensor_cores = False
    broadcasts = True

    def __init__(self, threads=None, cc=(9, 0), target=None, progress=None):
        super().__init__()
        self.cc = cc
        self.target = target or host()
        self.progress = progress
        self.pool = Pool(threads)
        self.threads = self.pool.threads
        self._memory = {}
        self._pending = Launches(self.threads)
        self._released = []
        self._recording = None

    @property
    def description(self):
        return f"CPU ({self.target.cpu}, {self.threads} threads)"

    def memory_info(self):
        """(free, total) bytes of main memory; what only caches files is free. None where the
        system does not tell."""
        try:
            with open("/proc/meminfo") as file:
                sizes = dict(line.split(":") for line in file)
            free, total = (int(sizes[f"Mem{n}"].split()[0]) for n in ("Available", "Total"))
        except (OSError, KeyError, ValueError):
            return None
        return 1024 * free, 1024 * total

    def allocate(self, nbytes, name, element):
        try:
            room = np.empty(nbytes + 2 * _ALIGNMENT, np.uint8)
        except MemoryError:
            wanted = f"{nbytes / 2**20:.0f} MiB for {name or 'a buffer'}"
            raise OutOfMemoryError(
                f"there is no room for {wanted}; use a smaller context or model"
            ) from None
        address = room.ctypes.data + -room.ctypes.data % _ALIGNMENT
        self._memory[address] = room
        return address

    def release(self, address):
        if len(self._pending):  # a launch that has not run yet may use it
            self._released.append(self._memory[address])
        del self._memory[address]

    def adopt(self, array, name=""):
        address = array.ctypes.data
        if not array.flags.c_contiguous or address % array.itemsize or address in self._memory:
            return self.upload(array, name)
        self._memory[address] = array
        return Buffer(address, array.shape, array.dtype, Allocation(self, address))

    def _array(self, buffer):
        base = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * buffer.nbytes).from_address(
            buffer.address
        ))  # fmt: skip
        return base.view(buffer.dtype).reshape(buffer.shape)

    def write(self, buffer, array):
        self.synchronize()
        if buffer.nbytes:
            self._array(buffer)[...] = np.asarray(array, buffer.dtype).reshape(buffer.shape)

    def read(self, buffer):
        self.synchronize()
        if not buffer.nbytes:
            return np.empty(buffer.shape, buffer.dtype)
        return self._array(buffer).copy()

    def load(self, kernel, types):
        return compile_ptx(kernel, types, self.cc)

    def run(self, ptx, grid, block, values, shared):
        program = load(ptx, block, self.target, self.progress)
        if self._recording is not None:
            self._recording.add(ptx, program, grid, values, shared)
            return
        self._pending.add(ptx, program, grid, values, shared)
        if len(self._pending) >= _MOST_PENDING:
            self.synchronize()

    def capture(self, function):
        """The launches that `function` makes, as a list that replays natively."""
        self.synchronize()
        self._recording = launches = Launches(self.threads)
        try:
            function()
        finally:
            self._recording = None
        return Recording(self, launches)

    def synchronize(self):
        if len(self._pending):
            try:
                self.pool.run(self._pending)
            finally:
                self._pending.clear()
                self._released.clear()

    @contextlib.contextmanager
    def timer(self):
        timing = Timing()
        self.synchronize()
        start = time.perf_counter()
        yield timing
        self.synchronize()
        timing.seconds = time.perf_counter() - start


class Timing:
    seconds = 0.0


class Recording:
    """A launch list that replays without Python in between."""

    def __init__(self, device, calls):
        self.device, self.calls = device, calls

    @property
    def launches(self):
        return len(self.calls)

    def replay(self):
        self.device.synchronize()
        self.device.pool.run(self.calls)
