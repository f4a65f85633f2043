"""Devices: where kernels run. One small interface: memory, launch, capture, timing.

`open_device("auto" | "cuda" | "cpu" | "emulator")` gives one. All devices start from the same PTX.
"""

import math
import sys
from dataclasses import dataclass, field

import numpy as np

from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx.compile import Pointer


class Allocation:
    """Owns a piece of device memory; it is given back when the last buffer on it is gone."""

    def __init__(self, device, address):
        self.device, self.address = device, address

    def __del__(self):
        if not sys.is_finalizing():
            self.device.release(self.address)


@dataclass(frozen=True, eq=False)
class Buffer:
    """`shape` elements of `dtype` in row-major order at `address` in the memory of a device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Allocation = field(repr=False)

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def nbytes(self):
        return self.size * self.dtype.itemsize

    def view(self, shape, start=0):
        """The `shape` elements from element `start` on, without a copy."""
        if start < 0 or start + math.prod(shape) > self.size:
            raise ValueError(f"a view of {shape} from {start} does not fit {self.shape}")
        address = self.address + start * self.dtype.itemsize
        return Buffer(address, tuple(shape), self.dtype, self.owner)


class Device:
    """What every device does the same way; see the methods that raise for what each must bring.

    `launch` compiles a `@cuda.jit` kernel for the types of its arguments (a Buffer is a pointer, a
    NumPy scalar is itself) and either runs it or, inside `capture`, adds it to the graph.
    """

    name = "device"
    cc = (9, 0)
    activation = "int8"  # what a model uses where the user does not say
    threads = 1  # that run blocks, where they are the host's
    chunk = 64  # tokens of a prefill that pass through the layers together
    # Of `zerfoo_numba.fusion`, those in use by default: on the cpu no set of fewer was faster;
    # elsewhere it is the fewer launches that speak for them.
    fusions = ("add_norm", "qk_norm", "qkv", "gate_up")
    attention_splits = 16  # blocks that share the keys of one KV head
    attention_piece = 8  # keys that a warp takes at least
    broadcasts = False  # one address read by all lanes costs no more than a register

    def __init__(self):
        self.progress = None  # called with a text when something takes long: a load, a compilation
        self.launch_count = 0
        self._loaded = {}

    def memory_info(self):
        """(free, total) bytes; None, as here, where no limit is known."""

    def empty(self, shape, dtype=np.float32, name=""):
        """A buffer whose contents are undefined."""
        shape = (shape,) if np.isscalar(shape) else tuple(int(n) for n in shape)
        dtype = np.dtype(dtype)
        address = self.allocate(max(1, math.prod(shape) * dtype.itemsize), name, dtype.itemsize)
        return Buffer(address, shape, dtype, Allocation(self, address))

    def upload(self, array, name=""):
        buffer = self.empty(array.shape, array.dtype, name)
        self.write(buffer, array)
        return buffer

    def adopt(self, array, name=""):
        """A buffer that launches may read: `array` itself where this memory is the host's."""
        return self.upload(array, name)

    def launch(self, kernel, grid, block, args, shared=0):
        key = (kernel, *[(type(a), a.dtype) for a in args])
        if key not in self._loaded:
            types = [Pointer(a.dtype) if isinstance(a, Buffer) else a for a in args]
            self._loaded[key] = self.load(kernel, tuple(types))
        values = [np.uint64(a.address) if isinstance(a, Buffer) else a for a in args]
        self.launch_count += 1
        self.run(self._loaded[key], triple(grid), triple(block), values, shared)


def triple(size):
    """A grid or block size as three numbers."""
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))


def open_device(name="auto", **options):
    """The device of that name; `auto` is cuda where there is a usable GPU, else cpu."""
    if name == "auto":
        try:
            return open_device("cuda")
        except DeviceError:
            name = "cpu"
    if name == "cuda":
        from zerfoo_numba.devices.cuda import CudaDevice

        return CudaDevice(**options)
    if name == "cpu":
        from zerfoo_numba.devices.cpu import CpuDevice

        return CpuDevice(**options)
    if name == "emulator":
        from zerfoo_numba.devices.emulator import EmulatorDevice

        return EmulatorDevice(**options)
    raise DeviceError(f"there is no device {name!r}; choose auto, cuda, cpu or emulator")
