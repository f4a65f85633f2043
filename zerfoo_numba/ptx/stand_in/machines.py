"""What runs the kernels: the emulator with its checks, or the CPU's own code.

A machine has device memory, places a module's variables there, and launches kernels; everything
is done when `launch` returns. `launches` keeps what ran.
"""

import ctypes
import time
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.errors import InputError, OutOfMemoryError
from zerfoo_numba.ptx.stand_in.library import INVALID_VALUE, Refusal

_GIB = 1 << 30
_ALIGNMENT = 256
_KEPT = 100_000  # launches that are remembered one by one


def _host_bytes(address, nbytes):
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)


@dataclass
class Launch:
    """One launch; `counters` where they were asked for, `seconds` of this machine."""

    kernel: str
    grid: tuple
    block: tuple
    seconds: float
    counters: object = None


class Machine:
    """Common to both: the record of launches, and the names of arguments for messages."""

    capacity = 16 * _GIB

    def __init__(self, cc=(9, 0)):
        self.cc = cc
        self.launches, self.launch_count = [], 0
        self.names = None  # of the next launch's parameters: (index, name, item size)
        self.used = 0

    def memory_info(self):
        """(free, total) bytes."""
        return self.capacity - self.used, self.capacity

    def take(self, nbytes):
        if self.used + nbytes > self.capacity:
            raise OutOfMemoryError(f"the device has no room for {nbytes} bytes more")
        self.used += nbytes

    def launch(self, kernel, grid, block, shared, values):
        names, self.names = self.names, None
        self.launch_count += 1
        start = time.perf_counter()
        counters = self.run(kernel, grid, block, shared, values, names or ())
        if len(self.launches) < _KEPT:
            seconds = time.perf_counter() - start
            self.launches.append(Launch(kernel.name, grid, block, seconds, counters))


class EmulatorMachine(Machine):
    """Kernels on the emulator. Device addresses are offsets into its arena."""

    def __init__(self, cc=(9, 0), checks=True, count=False, seed=None, threads=2):
        from zerfoo_numba.ptx.emulator import Memory

        super().__init__(cc)
        self.options = {"checks": checks, "count": count, "seed": seed, "threads": threads}
        self.memory = Memory()
        self.capacity = min(self.capacity, self.memory.capacity // 2)
        self._base = self.memory.bytes.ctypes.data
        self._mirrors = {}  # registered host memory -> (address in the arena, bytes)

    @property
    def description(self):
        return f"zerfoo-numba emulator (sm_{self.cc[0]}{self.cc[1]})"

    def allocate(self, nbytes, shared_with_host=False):
        self.take(nbytes)
        address = self.memory.allocate(nbytes, "device memory", 1)
        if shared_with_host:  # the host writes without telling
            self.memory.written[address].whole = True
        return address

    def free(self, address):
        found = self.memory.find(address, address)
        if found is None or found.start != address:
            raise Refusal(INVALID_VALUE)
        self.used -= found.nbytes
        self.memory.free(address)

    def allocation(self, address):
        """(start, bytes, whether the host may use it), or None."""
        address = self.device_address(address)
        if not 0 < address < self.memory.capacity:
            return None
        found = self.memory.find(address, address + 1)
        return found and (found.start, found.nbytes, False)

    def host_address(self, address):
        return self._base + address

    def device_address(self, address):
        """Where the device finds what the host has at `address`."""
        for start, (copy, nbytes) in self._mirrors.items():
            if start <= address < start + nbytes:
                return copy + address - start
        inside = self._base <= address < self._base + self.memory.capacity
        return address - self._base if inside else address

    def register(self, address, nbytes, mapped):
        """Host memory that kernels may use: copied to the device and back around each launch."""
        if mapped:
            self._mirrors[address] = self.allocate(nbytes, shared_with_host=True), nbytes

    def unregister(self, address):
        if address in self._mirrors:
            self.free(self._mirrors.pop(address)[0])

    def bytes_at(self, address, nbytes, written=False):
        """`nbytes` of device or host memory, as an array over them."""
        if address >= self.memory.capacity:
            return _host_bytes(address, nbytes)
        found = self.memory.find(address, address + nbytes)
        if found is None:
            raise Refusal(INVALID_VALUE)
        if written:
            offset = address - found.start
            self.memory.written[found.start].mark(offset, offset + nbytes)
        return self.memory.bytes[address : address + nbytes]

    def place_variables(self, module):
        """Addresses of a module's variables; all its kernels share them."""
        if id(self) not in module.addresses:
            places = {}
            for variable in module.variables.values():
                address = self.memory.allocate(variable.size, variable.name)
                self.memory.write(address, np.frombuffer(variable.data, np.uint8))
                places[variable.name] = address
            module.addresses[id(self)] = places
        return module.addresses[id(self)]

    def run(self, kernel, grid, block, shared, values, names):
        from zerfoo_numba.ptx.emulator import load

        program = load(kernel.ptx)
        places = self.place_variables(kernel.module)
        program.symbols[self.memory] = {n: np.uint64(a) for n, a in places.items()}
        self._name_arrays(values, names)
        for start, (copy, nbytes) in self._mirrors.items():
            self.memory.bytes[copy : copy + nbytes] = _host_bytes(start, nbytes)
        values = [np.frombuffer(v, np.uint8) for v in values]
        try:
            counters = program.run(self.memory, grid, block, values, shared, **self.options)
            return counters if self.options["count"] else None
        finally:
            for start, (copy, nbytes) in self._mirrors.items():
                _host_bytes(start, nbytes)[:] = self.memory.bytes[copy : copy + nbytes]

    def _name_arrays(self, values, names):
        """Messages call an array what the kernel's source calls it."""
        for index, name, element in names:
            address = int.from_bytes(values[index], "little")
            found = self.memory.find(address, address + 1)
            if found is not None:
                self.memory.rename(found.start, name, element)


class NativeMachine(Machine):
    """Kernels as the CPU's vector code. Device memory is the process's own."""

    def __init__(self, cc=(9, 0), threads=None):
        from zerfoo_numba.ptx.native.launches import Launches, Pool
        from zerfoo_numba.ptx.native.target import host

        super().__init__(cc)
        self.target, self.pool = host(), Pool(threads)
        self._new_list = lambda: Launches(self.pool.threads)
        self._memory, self._sizes = {}, {}

    @property
    def description(self):
        return f"zerfoo-numba cpu (sm_{self.cc[0]}{self.cc[1]})"

    def allocate(self, nbytes, shared_with_host=False):
        self.take(nbytes)
        room = np.empty(nbytes + 2 * _ALIGNMENT, np.uint8)
        address = room.ctypes.data + -room.ctypes.data % _ALIGNMENT
        self._memory[address], self._sizes[address] = room, nbytes
        return address

    def free(self, address):
        if self._memory.pop(address, None) is None:
            raise Refusal(INVALID_VALUE)
        self.used -= self._sizes.pop(address)

    def allocation(self, address):
        found = ((a, n, True) for a, n in self._sizes.items() if a <= address < a + max(n, 1))
        return next(found, None)

    def host_address(self, address):
        return address

    def device_address(self, address):
        return address

    def register(self, address, nbytes, mapped):
        """Kernels reach all of the process's memory."""

    def unregister(self, address):
        """Nothing was done."""

    def bytes_at(self, address, nbytes, written=False):
        return _host_bytes(address, nbytes)

    def place_variables(self, module):
        from zerfoo_numba.ptx.native.layout import Layout
        from zerfoo_numba.ptx.native.program import load, module_data

        if id(self) not in module.addresses:
            kernel = next(iter(module.kernels.values()))
            start = module_data(kernel.ptx, load(kernel.ptx, (32, 1, 1), self.target))
            places = Layout(kernel.parsed).symbols
            module.addresses[id(self)] = {n: start + places[n].offset for n in module.variables}
        return module.addresses[id(self)]

    def run(self, kernel, grid, block, shared, values, names):
        from zerfoo_numba.ptx.native.program import load

        program = load(kernel.ptx, block, self.target)
        launches = self._new_list()
        launches.add(
            kernel.ptx, program, grid, [np.frombuffer(v, np.uint8) for v in values], shared
        )
        self.pool.run(launches)


def machine(device, **options):
    """The machine of that name: `emulator` or `cpu`. Options the other has are left out."""
    kinds = {"emulator": EmulatorMachine, "cpu": NativeMachine}
    if device not in kinds:
        raise InputError(f"there is no device {device!r} to stand in for a GPU; emulator or cpu")
    return kinds[device](**options)
