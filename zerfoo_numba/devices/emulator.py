"""The emulator as a device: the compiled PTX, executed by NumPy, on any machine."""

import contextlib
import time

import numpy as np

from zerfoo_numba.devices import Device
from zerfoo_numba.errors import OutOfMemoryError
from zerfoo_numba.ptx.compile import compile_ptx
from zerfoo_numba.ptx.emulator import Memory, load


class EmulatorDevice(Device):
    """`checks`, `count` and `seed` go to every launch; `counters` keeps what they return."""

    name = "emulator"
    activation = "float"

    def __init__(self, cc=(9, 0), checks=None, count=False, seed=None, threads=2):
        super().__init__()
        self.cc = cc
        self.options = {"checks": checks, "count": count, "seed": seed, "threads": threads}
        self.memory = Memory()
        self.counters = []
        self.shares = not checks  # they find accesses past the end of what is an allocation
        self._recording = None

    @property
    def description(self):
        return f"PTX emulator (sm_{self.cc[0]}{self.cc[1]}, NumPy {np.__version__})"

    def allocate(self, nbytes, name, element):
        try:
            return self.memory.allocate(nbytes, name=name, element=element)
        except MemoryError:
            wanted = f"{nbytes / 2**20:.0f} MiB for {name or 'a buffer'}"
            raise OutOfMemoryError(
                f"the emulator has no room for {wanted}; use a smaller context or model"
            ) from None

    def release(self, address):
        self.memory.free(address)

    def write(self, buffer, array):
        array = np.ascontiguousarray(array, buffer.dtype)
        self.memory.write(buffer.address, array)

    def read(self, buffer):
        return self.memory.read(buffer.address, buffer.dtype, buffer.shape)

    def load(self, kernel, types):
        return load(compile_ptx(kernel, types, self.cc))

    def run(self, program, grid, block, values, shared):
        if self._recording is not None:
            self._recording.append((program, grid, block, values, shared))
            return
        counters = program.run(self.memory, grid, block, values, shared=shared, **self.options)
        if counters is not None:
            self.counters.append(counters)

    def capture(self, function):
        """The launches that `function` makes, recorded and not run."""
        self._recording = calls = []
        try:
            function()
        finally:
            self._recording = None
        return Recording(self, calls)

    def synchronize(self):
        pass

    @contextlib.contextmanager
    def timer(self):
        timing = Timing()
        start = time.perf_counter()
        yield timing
        timing.seconds = time.perf_counter() - start


class Timing:
    seconds = 0.0


class Recording:
    """A list of launches that replays without the walk."""

    def __init__(self, device, calls):
        self.device, self.calls = device, calls

    @property
    def launches(self):
        return len(self.calls)

    def replay(self):
        for call in self.calls:
            self.device.run(*call)
