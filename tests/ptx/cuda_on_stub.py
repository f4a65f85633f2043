"""The `cuda` device on the stub driver (stub_cuda.c); run by test_cuda_device.py, not collected.

Kernels are compiled and linked for real; the stub calls the Python function registered under the
kernel's name with the launch's shape and parameters, and device memory is host memory.
"""

import ctypes
import threading

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import uint32

from zerfoo_numba.devices import open_device
from zerfoo_numba.devices.cuda import CudaDevice
from zerfoo_numba.errors import DeviceError, OutOfMemoryError

stub = ctypes.CDLL("libcuda.so.1")
stub.stub_memory_used.restype = ctypes.c_size_t
BODY = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_void_p))
MIB = 1 << 20


@cuda.jit
def fill(out, value, count):
    i = uint32(cuda.threadIdx.x)
    if i < count:
        out[i] = value


@cuda.jit
def add(out, x, count):
    i = uint32(cuda.threadIdx.x)
    if i < count:
        out[i] = out[i] + x[i]


@cuda.jit
def late(out, value, count):
    out[uint32(cuda.threadIdx.x)] = value * count


def parameter(parameters, index, ctype):
    return ctypes.cast(parameters[index], ctypes.POINTER(ctype))[0]


def array(parameters, index, count):
    address = parameter(parameters, index, ctypes.c_uint64)
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))


def host_fill(shape, parameters):
    count = parameter(parameters, 2, ctypes.c_uint32)
    array(parameters, 0, count)[:] = parameter(parameters, 1, ctypes.c_float)


def host_add(shape, parameters):
    count = parameter(parameters, 2, ctypes.c_uint32)
    array(parameters, 0, count)[:] += array(parameters, 1, count)


def register(name, sizes, body):
    stub.stub_kernel(name.encode(), len(sizes), (ctypes.c_int * len(sizes))(*sizes), body)
    return body


BODIES = [
    register("fill", (8, 4, 4), BODY(host_fill)),
    register("add", (8, 8, 4), BODY(host_add)),
    register("late", (8, 4, 4), BODY(host_fill)),
]


def calls(name):
    return stub.stub_calls(name.encode())


@pytest.fixture
def device():
    return CudaDevice()


def launch_fill(device, out, value):
    device.launch(fill, 1, 32, (out, np.float32(value), np.uint32(out.size)))


def in_new_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join()
    return result[0]


def test_it_says_what_it_runs_on(device):
    assert device.name == "cuda"
    assert device.cc == (9, 0)
    assert device.description == "Stub GPU (sm_90, driver CUDA 13.0)"
    assert device.memory_info() == (MIB - stub.stub_memory_used(), MIB)
    assert open_device("auto").name == "cuda"


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float16, np.int64])
def test_memory_round_trip(device, dtype):
    values = np.arange(24).astype(dtype).reshape(4, 6)
    buffer = device.upload(values)
    assert np.array_equal(device.read(buffer), values)
    assert np.array_equal(device.read(buffer.view((6,), 12)), values[2])
    device.write(buffer.view((6,), 6), values[3])
    assert np.array_equal(device.read(buffer)[1], values[3])
    device.write(buffer, values.T.copy().T)  # any layout arrives in row-major order
    assert np.array_equal(device.read(buffer), values)
    assert device.read(device.empty((0, 3))).shape == (0, 3)


def test_memory_is_given_back(device):
    before = stub.stub_memory_used()
    buffer = device.empty(1000)
    view = buffer.view((10,), 5)
    del buffer
    assert stub.stub_memory_used() == before + 4000
    del view
    assert stub.stub_memory_used() == before


def test_an_array_of_another_size_is_refused(device):
    with pytest.raises(ValueError, match="does not fill"):
        device.write(device.empty(4), np.zeros(5, np.float32))


def test_out_of_memory_names_the_request_and_what_is_free(device):
    with pytest.raises(OutOfMemoryError, match=r"the KV cache needs 2 MiB.* 1 MiB free of 1 MiB"):
        device.empty(2 * MIB, np.uint8, "the KV cache")


def test_launches_run_in_order(device):
    x, y = device.empty(5), device.empty(5)
    launch_fill(device, x, 2.0)
    launch_fill(device, y, 3.0)
    device.launch(add, (np.int64(1), 1), (32, 1, 1), (y, x, np.uint32(3)))
    assert device.read(y).tolist() == [5, 5, 5, 3, 3]
    assert device.launch_count == 3


def test_a_kernel_is_loaded_once_per_argument_types(device):
    x, wide = device.empty(4), device.empty(4, np.float64)
    before = calls("cuLibraryLoadData")
    for value in (1.0, 2.0):
        launch_fill(device, x, value)
    assert calls("cuLibraryLoadData") == before + 1
    device.launch(fill, 1, 32, (wide, np.float32(0), np.uint32(2)))
    assert calls("cuLibraryLoadData") == before + 2


def test_a_graph_runs_on_replay_only_with_the_captured_parameters(device):
    x, total = device.upload(np.ones(4, np.float32)), device.upload(np.zeros(4, np.float32))
    numbers = {"count": 4}

    def step():
        for _ in range(3):
            device.launch(add, 1, 32, (total, x, np.uint32(numbers["count"])))

    graph = device.capture(step)
    assert graph.launches == 3
    assert device.read(total).tolist() == [0, 0, 0, 0]
    numbers["count"] = 1
    before = calls("cuLaunchKernelEx")
    graph.replay()
    graph.replay()
    assert device.read(total).tolist() == [6, 6, 6, 6]
    assert calls("cuLaunchKernelEx") == before


def test_a_capture_may_load_allocate_and_free(device):
    x = device.empty(4)
    spare = [device.empty(4)]

    def step():
        device.launch(late, 1, 32, (x, np.float32(7), np.uint32(4)))
        device.empty(16)
        spare.clear()

    graph = device.capture(step)
    graph.replay()
    assert device.read(x).tolist() == [7, 7, 7, 7]
    assert stub.stub_capture_mode() == 0


def test_a_graph_keeps_its_memory(device):
    before = stub.stub_memory_used()
    buffers = [device.empty(1000)]
    graph = device.capture(lambda: launch_fill(device, buffers[0], 1.0))
    buffers.clear()
    assert stub.stub_memory_used() == before + 4000
    del graph
    assert stub.stub_memory_used() == before


def test_an_error_in_a_capture_leaves_the_device_usable(device):
    x = device.empty(4)

    def step():
        launch_fill(device, x, 1.0)
        raise KeyError("a fault of the caller")

    with pytest.raises(KeyError, match="of the caller") as kept:
        device.capture(step)
    y = device.empty(4)  # refused while a capture is open
    launch_fill(device, y, 2.0)
    assert device.read(y).tolist() == [2, 2, 2, 2]
    del kept
    device.capture(lambda: launch_fill(device, x, 3.0)).replay()
    assert device.read(x).tolist() == [3, 3, 3, 3]


def test_what_cannot_be_captured_is_refused(device):
    x = device.empty(4)
    with pytest.raises(DeviceError, match="inside a capture"):
        device.capture(lambda: device.read(x))
    with pytest.raises(DeviceError, match="inside a capture"):
        device.capture(lambda: device.write(x, np.zeros(4)))
    with pytest.raises(DeviceError, match="do not nest"):
        device.capture(lambda: device.capture(lambda: None))


def test_more_than_48_kb_of_shared_memory_is_opted_into_once(device):
    x = device.empty(4)
    arguments = (x, np.float32(1), np.uint32(4))
    device.launch(fill, 1, 32, arguments, shared=1024)
    before = calls("cuKernelSetAttribute")
    for shared in (100_000, 90_000, 1024):
        device.launch(fill, 1, 32, arguments, shared=shared)
    assert calls("cuKernelSetAttribute") == before + 1
    with pytest.raises(DeviceError, match=r"fill asks for 232,449 .* Stub GPU has 232,448"):
        device.launch(fill, 1, 32, arguments, shared=232_449)


def test_a_failed_launch_names_the_kernel(device):
    x = device.empty(4)
    stub.stub_fail_next(b"cuLaunchKernelEx", 701)
    with pytest.raises(DeviceError, match=r"fill .*block \(32, 1, 1\).*OUT_OF_RESOURCES"):
        launch_fill(device, x, 1.0)


def test_a_failed_kernel_surfaces_at_the_next_wait(device):
    stub.stub_fail_next(b"cuStreamSynchronize", 700)
    with pytest.raises(DeviceError, match=r"ILLEGAL_ADDRESS.*--device emulator"):
        device.synchronize()


def test_the_timer_reads_the_clock_of_the_gpu(device):
    with device.timer() as timing:
        launch_fill(device, device.empty(4), 1.0)
    assert timing.seconds == pytest.approx(0.005)


def test_any_thread_may_use_the_device(device):
    def work():
        x = device.empty(4)
        launch_fill(device, x, 6.0)
        device.capture(lambda: device.launch(add, 1, 32, (x, x, np.uint32(4)))).replay()
        assert device.memory_info()[1] == MIB
        return device.read(x).tolist()

    assert in_new_thread(work) == [12, 12, 12, 12]


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ((12080, 9, 0, 1), r"driver supports CUDA 12.*zerfoo-numba\[cuda12\]"),
        ((13000, 6, 1, 1), r"Stub GPU has compute capability 6\.1"),
        ((13000, 9, 0, 0), r"no usable NVIDIA GPU.*--device emulator"),
    ],
)
def test_a_machine_that_does_not_fit(machine, message):
    def attempt():  # in a new thread: cuda.core keeps what it knows of a GPU per thread
        with pytest.raises(DeviceError, match=message):
            CudaDevice()
        return True

    stub.stub_machine(*machine)
    try:
        assert in_new_thread(attempt)
    finally:
        stub.stub_machine(13000, 9, 0, 1)


def test_no_driver_at_all(monkeypatch):
    from cuda.pathfinder import DynamicLibNotFoundError

    def missing(ordinal):
        raise DynamicLibNotFoundError("libcuda.so.1")

    monkeypatch.setattr("cuda.core.Device", missing)
    with pytest.raises(DeviceError, match="no NVIDIA driver is installed; --device emulator"):
        CudaDevice()
