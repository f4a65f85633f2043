"""The NVIDIA GPU as a device: cubins linked from the kernels' PTX, launched by cuda.core.

Needs the `cuda` extra and a driver. One stream carries everything: copies, launches and replays
happen in the order of the calls. Reference: NVIDIA, CUDA Driver API; cuda.core documentation.
"""

import contextlib
import threading
from types import SimpleNamespace

import numpy as np

from zerfoo_numba.devices import Buffer, Device, cuda_dependent
from zerfoo_numba.devices.cuda_errors import checked, mib, reason, reported
from zerfoo_numba.devices.cuda_fetch import Landings
from zerfoo_numba.errors import DeviceError, OutOfMemoryError
from zerfoo_numba.ptx.compile import compile_ptx
from zerfoo_numba.ptx.link import STATIC_SHARED_LIMIT, cubin, toolkit_version

OLDEST = (7, 5)  # what the CUDA 13 libraries still compile for
REMEDY = "--device emulator runs the same kernels without a GPU"


class CudaDevice(Device):
    """GPU number `ordinal` of those `CUDA_VISIBLE_DEVICES` leaves.

    programmatic: a kernel is launched while the one before it ends, as `cuda_dependent` describes;
    off where nobody asks, since that was not measured yet. Raises DeviceError where there is no
    driver, no GPU, no CUDA libraries, or they do not match.
    """

    name = "cuda"
    chunk = 512
    ahead = 1

    def __init__(self, ordinal=0, programmatic=False):
        super().__init__()
        self._here = _open(ordinal)
        gpu = self._here.gpu
        self.cc = tuple(gpu.compute_capability)
        self.tensor_cores = self.cc >= (8, 0)
        self.gpu_name = gpu.name
        version = self._here.driver.cuDriverGetVersion()
        self._version = checked(version, "the driver's version could not be read")
        self._refuse_mismatch()
        self.programmatic = programmatic
        if programmatic:
            cuda_dependent.require(self.gpu_name, self.cc, self._version)
        self._optin_bytes = gpu.properties.max_shared_memory_per_block_optin
        self._configs = {}
        self._capture = None
        self._landings = Landings(self._here)

    @property
    def description(self):
        major, minor = divmod(self._version, 1000)
        return f"{self.gpu_name} (sm_{self.cc[0]}{self.cc[1]}, driver CUDA {major}.{minor // 10})"

    def _refuse_mismatch(self):
        if self.cc < OLDEST:
            raise DeviceError(
                f"{self.gpu_name} has compute capability {self.cc[0]}.{self.cc[1]}; "
                f"{OLDEST[0]}.{OLDEST[1]} or newer is needed; {REMEDY}"
            )
        toolkit = toolkit_version()[0]
        if self._version // 1000 < toolkit:
            raise DeviceError(
                f"the driver supports CUDA {self._version // 1000} and the installed libraries are "
                f"CUDA {toolkit}; update the driver, or pip install 'zerfoo-numba[cuda12]'"
            )

    # Memory. Addresses are plain integers; Allocation gives each back through `release`.

    def memory_info(self):
        """(free, total) bytes of the GPU's memory."""
        return checked(self._here.driver.cuMemGetInfo(), "the GPU's memory could not be queried")

    def allocate(self, nbytes, name, element):
        driver = self._here.driver
        with self._uncaptured():
            error, address = driver.cuMemAlloc(nbytes)
        if error == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            free, total = self.memory_info()
            raise OutOfMemoryError(
                f"{name or 'a buffer'} needs {mib(nbytes)}, and {self.gpu_name} has {mib(free)} "
                f"free of {mib(total)}; use a smaller context or a smaller model"
            )
        checked((error,), f"{mib(nbytes)} for {name or 'a buffer'} could not be allocated")
        return int(address)

    def release(self, address):
        # Called by the garbage collector: at any time, in any thread, even at the interpreter's
        # end, where the driver is gone and so is the memory.
        with contextlib.suppress(Exception), self._uncaptured():
            self._here.driver.cuMemFree(address)

    def write(self, buffer, array):
        """Copy `array`, which must have the buffer's shape, to the GPU; returns when done."""
        array = np.ascontiguousarray(array, buffer.dtype)
        if array.size != buffer.size:
            raise ValueError(f"an array of shape {array.shape} does not fill {buffer.shape}")
        copy = self._here.driver.cuMemcpyHtoDAsync
        self._copy(copy, buffer.address, array.ctypes.data, array.nbytes)

    def read(self, buffer):
        """The buffer's contents as a new array, after everything launched so far."""
        array = np.empty(buffer.shape, buffer.dtype)
        copy = self._here.driver.cuMemcpyDtoHAsync
        self._copy(copy, array.ctypes.data, buffer.address, buffer.nbytes)
        return array

    def fetch(self, buffer):
        """The buffer's contents after everything launched so far, copied without waiting for it:
        see `Device.fetch`."""
        self._refuse_in_capture()
        return self._landings.fetch(buffer)

    def _refuse_in_capture(self):
        if self._capture is not None:
            raise DeviceError("memory cannot be read or written from the host inside a capture")

    def _copy(self, copy, destination, source, nbytes):
        self._refuse_in_capture()
        if nbytes:
            checked(copy(destination, source, nbytes, self._here.stream.handle), "a copy failed")
            self.synchronize()

    # Kernels.

    def load(self, kernel, types):
        """Compile, link and load `kernel` for the argument `types`; cached by `launch`."""
        from cuda.core import ObjectCode

        driver = self._here.driver
        ptx = compile_ptx(kernel, types, self.cc, shipped=False)
        if self.programmatic:
            ptx = cuda_dependent.waiting(ptx)
        code, usage = cubin(ptx)
        with self._uncaptured(), reported(f"kernel {ptx.entry} could not be loaded"):
            module = ObjectCode.from_cubin(code, name=ptx.entry)
            loaded = module.get_kernel(ptx.entry)
            # Loading is lazy by default; now, not at a first launch that may be captured.
            handle = driver.CUkernel(int(loaded.handle))
            checked(driver.cuKernelGetFunction(handle), f"kernel {ptx.entry}")
        return SimpleNamespace(kernel=loaded, name=ptx.entry, usage=usage, dynamic=0)

    def launch(self, kernel, grid, block, args, shared=0):
        if self._capture is not None:  # a graph does not keep its memory alive
            self._capture.owners.extend(a.owner for a in args if isinstance(a, Buffer))
        super().launch(kernel, grid, block, args, shared)

    def run(self, program, grid, block, values, shared):
        from cuda.core import LaunchConfig, launch

        stream = self._here.stream if self._capture is None else self._capture.builder
        if shared > program.dynamic and shared + program.usage.shared_bytes > STATIC_SHARED_LIMIT:
            self._allow_shared(program, shared)
        config = self._configs.get((grid, block, shared))
        if config is None:
            sizes = [tuple(int(n) for n in size) for size in (grid, block)]
            more = {"programmatic_stream_serialization": True} if self.programmatic else {}
            config = LaunchConfig(grid=sizes[0], block=sizes[1], shmem_size=int(shared), **more)
            self._configs[grid, block, shared] = config
        try:
            launch(stream, config, program.kernel, *values)
        except Exception as error:
            raise DeviceError(
                f"kernel {program.name} could not be launched with grid {grid}, block {block}, "
                f"{shared:,} bytes of dynamic shared memory and {program.usage.registers} "
                f"registers a thread ({reason(error)})"
            ) from error

    def _allow_shared(self, program, shared):
        """Opt in to more than 48 KB of shared memory per block."""
        driver = self._here.driver
        most = self._optin_bytes - program.usage.shared_bytes
        if shared > most:
            raise DeviceError(
                f"kernel {program.name} asks for {shared:,} bytes of dynamic shared memory per "
                f"block; {self.gpu_name} has {most:,}"
            )
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        handle = driver.CUkernel(int(program.kernel.handle))
        device = driver.CUdevice(self._here.gpu.device_id)
        with self._uncaptured():
            answer = driver.cuKernelSetAttribute(attribute, shared, handle, device)
        checked(answer, f"kernel {program.name} was refused {shared:,} bytes of shared memory")
        program.dynamic = shared

    # Graphs and time.

    def capture(self, function):
        """The launches that `function` makes, as a CUDA graph; nothing runs until `replay`."""
        if self._capture is not None:
            raise DeviceError("a capture is under way; captures do not nest")
        with reported("a capture could not begin"):
            builder = self._here.gpu.create_graph_builder().begin_building("thread_local")
        self._capture = SimpleNamespace(builder=builder, owners=[])
        before = self.launch_count
        try:
            function()
            owners = self._capture.owners
        except BaseException:
            with contextlib.suppress(Exception):
                builder.close()  # ends the capture; the first error is the one to show
            raise
        finally:
            self._capture = None
        with reported("the graph could not be captured"):
            graph = builder.end_building().complete()
            builder.close()
        return Graph(self, graph, owners, self.launch_count - before)

    @contextlib.contextmanager
    def _uncaptured(self):
        """Memory and modules may change here even while this thread captures.

        A capture in thread-local mode is spoilt by such calls unless the thread is switched to
        relaxed mode for their duration (cuThreadExchangeStreamCaptureMode).
        """
        driver = self._here.driver
        if self._capture is None:
            yield
            return
        relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        previous = checked(driver.cuThreadExchangeStreamCaptureMode(relaxed), "capture mode")
        try:
            yield
        finally:
            driver.cuThreadExchangeStreamCaptureMode(previous)

    def synchronize(self):
        """Wait for everything launched so far; errors of kernels surface here."""
        with reported("the GPU failed in an earlier launch", f"{REMEDY} and checks each access"):
            self._here.stream.sync()

    @contextlib.contextmanager
    def timer(self):
        """`.seconds` between the launches before and after the block, by the GPU's own clock."""
        timing = SimpleNamespace(seconds=0.0)
        stream, options = self._here.stream, {"timing_enabled": True}
        with reported("a time could not be taken"):
            start = stream.record(options=options)
        yield timing
        with reported("a time could not be taken"):
            end = stream.record(options=options)
            end.sync()
            timing.seconds = (end - start) / 1e3


class Graph:
    """A captured list of launches; `owners` keeps the memory they use."""

    def __init__(self, device, graph, owners, launches):
        self._device, self.launches = device, launches
        self._graph, self._owners = graph, owners

    def replay(self):
        with reported("the graph could not be launched"):
            self._graph.launch(self._device._here.stream)


class _Here(threading.local):
    """The GPU as one thread sees it: __init__ runs in each, and makes the context current there.

    A device reaches the driver through this alone, so that any thread may use it.
    """

    def __init__(self, ordinal, streams):
        from cuda.bindings import driver
        from cuda.core import Device as Gpu

        self.driver, self.gpu = driver, Gpu(ordinal)
        self.gpu.set_current()
        if not streams:
            streams.append(self.gpu.create_stream())
        self.stream = streams[0]


def _open(ordinal):
    toolkit_version()
    from cuda.pathfinder import DynamicLibNotFoundError

    try:
        return _Here(ordinal, [])
    except DynamicLibNotFoundError as error:
        raise DeviceError(f"no NVIDIA driver is installed; {REMEDY}") from error
    except Exception as error:
        raise DeviceError(f"there is no usable NVIDIA GPU ({reason(error)}); {REMEDY}") from error
