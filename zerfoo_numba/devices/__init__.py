"""Devices: where kernels run. One small interface: memory, launch, capture, timing.

`open_device("auto" | "cuda" | "cpu" | "emulator")` gives one. All devices start from the same PTX.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx.compile import Pointer


class Allocation:
    """Owns a piece of device memory; it is given back when the last buffer on it is gone."""

    def __init__(self, device: "Device", address: int):
        self.device, self.address = device, address

    def __del__(self) -> None:
        # Of an object that an interrupt left half made there is nothing to give back.
        if not sys.is_finalizing() and hasattr(self, "address"):
            self.device.release(self.address)


@dataclass(frozen=True, eq=False)
class Buffer:
    """`shape` elements of `dtype` in row-major order at `address` in the memory of a device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Allocation = field(repr=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def view(self, shape: Sequence[int], start: int = 0) -> "Buffer":
        """The `shape` elements from element `start` on, without a copy."""
        if start < 0 or start + math.prod(shape) > self.size:
            raise ValueError(f"a view of {shape} from {start} does not fit {self.shape}")
        address = self.address + start * self.dtype.itemsize
        return Buffer(address, tuple(shape), self.dtype, self.owner)


class Device:
    """What every device does the same way, and the names of what each must bring.

    `launch` compiles a `@cuda.jit` kernel for the types of its arguments (a Buffer is a pointer, a
    NumPy scalar is itself) and either runs it or, inside `capture`, adds it to the graph.
    """

    name = "device"
    cc = (9, 0)
    activation = "int8"  # what a model uses where the user does not say
    threads = 1  # that run blocks, where they are the host's
    chunk = 64  # tokens of a prefill that pass through the layers together
    # Of `zerfoo_numba.fusion`, those in use by default: on the cpu no set of fewer was faster;
    # elsewhere it is the fewer launches that speak for them. With "prologue" and "attention" they
    # are fewer still, but every block repeats what comes before: not before it was measured.
    fusions = ("add_norm", "qk_norm", "qkv", "gate_up")
    attention_splits = 16  # blocks that share the keys of one KV head
    attention_piece = 8  # keys that a warp takes at least
    # Decode steps that are launched before the host has seen the id that the last one chose: of use
    # where launches run while the host goes on.
    ahead = 0
    shares = True  # buffers of a walk that are never needed at once are in the same memory
    tensor_cores = True  # there is mma.sync on bytes, with ldmatrix and cp.async
    broadcasts = False  # one address read by all lanes costs no more than a register

    # What each device brings of its own.
    description: str
    allocate: Callable[[int, str, int], int]  # bytes, a name, bytes of an element -> address
    release: Callable[[int], None]
    write: Callable[[Buffer, np.ndarray], None]
    read: Callable[[Buffer], np.ndarray]
    load: Callable[[Any, tuple[Any, ...]], Any]  # a kernel for the types of its arguments
    run: Callable[[Any, tuple[int, ...], tuple[int, ...], list[Any], int], None]
    capture: Callable[[Callable[[], None]], Any]  # the launches of a function, to replay
    synchronize: Callable[[], None]
    timer: Callable[[], Any]  # a context manager that has .seconds afterwards

    def __init__(self) -> None:
        # Called with a text when something takes long: a load, a compilation.
        self.progress: Callable[[str], None] | None = None
        self.launch_count = 0
        self._loaded: dict[tuple[Any, ...], Any] = {}

    def memory_info(self) -> tuple[int, int] | None:
        """(free, total) bytes; None, as here, where no limit is known."""

    def empty(self, shape: Any, dtype: Any = np.float32, name: str = "") -> Buffer:
        """A buffer whose contents are undefined."""
        shape = (shape,) if np.isscalar(shape) else tuple(int(n) for n in shape)
        dtype = np.dtype(dtype)
        address = self.allocate(max(1, math.prod(shape) * dtype.itemsize), name, dtype.itemsize)
        return Buffer(address, shape, dtype, Allocation(self, address))

    def upload(self, array: np.ndarray, name: str = "") -> Buffer:
        buffer = self.empty(array.shape, array.dtype, name)
        self.write(buffer, array)
        return buffer

    def adopt(self, array: np.ndarray, name: str = "") -> Buffer:
        """A buffer that launches may read: `array` itself where this memory is the host's."""
        return self.upload(array, name)

    def fetch(self, buffer: Buffer) -> Any:
        """What the buffer holds after everything launched so far, to be asked for by `.result()`,
        which waits for that and not for what is launched meanwhile."""
        return Fetched(self.read(buffer))

    def launch(
        self, kernel: Any, grid: Any, block: Any, args: Sequence[Any], shared: int = 0
    ) -> None:
        key = (kernel, *[(type(a), a.dtype) for a in args])
        if key not in self._loaded:
            types = [Pointer(a.dtype) if isinstance(a, Buffer) else a for a in args]
            self._loaded[key] = self.load(kernel, tuple(types))
        values = [np.uint64(a.address) if isinstance(a, Buffer) else a for a in args]
        self.launch_count += 1
        self.run(self._loaded[key], triple(grid), triple(block), values, shared)


@dataclass(frozen=True)
class Fetched:
    """What was read at once."""

    array: np.ndarray

    def result(self) -> np.ndarray:
        return self.array


def triple(size: int | Sequence[int]) -> tuple[int, ...]:
    """A grid or block size as three numbers."""
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))


def open_device(name: str = "auto", **options: Any) -> Device:
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
