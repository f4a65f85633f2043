"""device="cpu": launches, replays, threads, memory, and the compiled code kept on disk."""

import gc
import threading

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, uint32

from tests.ptx.native_agree import LEVELS, POOL, native
from zerfoo_numba.devices import open_device
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import DeviceError, OutOfMemoryError
from zerfoo_numba.ptx import cache
from zerfoo_numba.ptx import native as engine
from zerfoo_numba.ptx.compile import Pointer, compile_ptx, ptx_op
from zerfoo_numba.ptx.native import program
from zerfoo_numba.ptx.native.runner import INSIDE
from zerfoo_numba.ptx.native.target import host


@cuda.jit
def step(out, x, count, factor):
    i = uint32(cuda.grid(1))
    if i < count:
        out[i] = x[i] * factor + float32(1.0)


trap = ptx_op((), (), "trap;", memory=True)


@cuda.jit
def stop(out):
    if out[0] == uint32(3):
        trap()


def launch(device, out, x, factor=2.0):
    args = (out, x, np.uint32(x.size), np.float32(factor))
    device.launch(step, -(-x.size // 64), 64, args)


def chain(device, buffers, times):
    for k in range(times):
        launch(device, buffers[(k + 1) % 2], buffers[k % 2], 0.5)


def expected(x, times):
    for _ in range(times):
        x = x * np.float32(0.5) + np.float32(1.0)
    return x


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal(1000).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_launches_run_in_order(threads, values):
    device = open_device("cpu", threads=threads)
    buffers = [device.upload(values), device.empty(1000)]
    chain(device, buffers, 700)  # more than are ever pending
    assert (device.read(buffers[0]) == expected(values, 700)).all()
    assert device.launch_count == 700


@pytest.mark.parametrize("threads", [1, 3])
def test_a_replay_is_the_same_launches_again(threads, values):
    device = CpuDevice(threads=threads)
    buffers = [device.upload(values), device.empty(1000)]
    graph = device.capture(lambda: chain(device, buffers, 40))
    assert graph.launches == 40
    assert (device.read(buffers[0]) == values).all(), "a capture runs nothing"
    for _ in range(3):
        graph.replay()
    assert (device.read(buffers[0]) == expected(values, 120)).all()
    launch(device, buffers[1], buffers[0], 4.0)
    graph.replay()  # after what was pending
    assert (device.read(buffers[0]) == expected(expected(values, 120), 40)).all()


def test_many_short_runs_on_more_threads_than_cores(values):
    device = CpuDevice(threads=6)
    buffers = [device.upload(values[:70]), device.empty(70)]
    for k in range(300):
        chain(device, buffers, 2)
        if k % 50 == 0:
            device.synchronize()
    assert (device.read(buffers[0]) == expected(values[:70], 600)).all()


def test_two_devices_at_once(values):
    def work():
        device = CpuDevice(threads=2)
        buffers = [device.upload(values), device.empty(1000)]
        for _ in range(20):
            chain(device, buffers, 2)
            device.synchronize()
        results.append(device.read(buffers[0]))

    results = []
    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 3
    assert all((r == expected(values, 40)).all() for r in results)


def test_a_buffer_given_back_before_its_launch_ran(values):
    device = CpuDevice(threads=1)
    out = device.empty(1000)
    launch(device, out, device.upload(values))
    gc.collect()
    junk = [device.upload(np.full(1000, 7, np.float32)) for _ in range(4)]
    assert (device.read(out) == values * np.float32(2) + np.float32(1)).all()
    assert len(junk) == 4


def test_records_are_kept_while_a_thread_may_look_at_them(values):
    device = CpuDevice(threads=1)
    buffers = [device.upload(values), device.upload(values)]
    inside = device.pool._region[:64].view(np.uint64)
    for there, count, kept in ((0, 1, 1), (1, 5, 6), (0, 1, 2)):
        inside[INSIDE // 8] = there
        for _ in range(count):
            device.capture(lambda: chain(device, buffers, 2)).replay()
        assert len(device.pool._kept) == kept


def test_memory(values):
    device = CpuDevice()
    room = device.memory_info()
    assert room is None or 0 < room[0] <= room[1]
    nothing = device.empty(0)
    assert nothing.nbytes == 0
    assert device.read(nothing).shape == (0,)
    buffer = device.upload(values)
    assert buffer.address % 256 == 0
    view = buffer.view((10, 10), 100)
    assert (device.read(view) == values[100:200].reshape(10, 10)).all()
    with pytest.raises(OutOfMemoryError, match="8388608 MiB for weights"):
        device.empty(1 << 43, np.uint8, "weights")


def test_an_adopted_array_is_not_copied(values):
    device = CpuDevice(threads=1)
    values.flags.writeable = False
    x, out = device.adopt(values), device.empty(1000)
    assert x.address == values.ctypes.data
    launch(device, out, x)
    del x  # before the launch ran
    gc.collect()
    assert (device.read(out) == values * np.float32(2) + np.float32(1)).all()
    again, twice = device.adopt(values), device.adopt(values)
    assert again.address != twice.address, "two owners of one address"
    apart = device.adopt(values[::2])
    assert (device.read(apart) == values[::2]).all()


def test_a_trap_ends_the_run(values):
    device = CpuDevice(threads=2)
    out = device.upload(np.full(4, 3, np.uint32))
    device.launch(stop, 4, 32, (out,))
    with pytest.raises(DeviceError, match="kernel stop stopped itself"):
        device.synchronize()
    device.synchronize()


def test_timer(values):
    device = CpuDevice()
    buffers = [device.upload(values), device.empty(1000)]
    with device.timer() as timing:
        chain(device, buffers, 10)
    assert 0 < timing.seconds < 60


def fresh(monkeypatch, folder):
    """The PTX of `step`, and nothing loaded yet."""
    monkeypatch.setenv("ZERFOO_CACHE", str(folder))
    monkeypatch.setattr(program, "_programs", {})
    pointer = Pointer(np.dtype(np.float32))
    return compile_ptx(step, (pointer, pointer, np.uint32(0), np.float32(0)))


def test_code_is_kept_on_disk(monkeypatch, tmp_path):
    ptx, heard = fresh(monkeypatch, tmp_path), []
    program.load(ptx, (64, 1, 1), progress=heard.append)
    assert heard == ["compiling step for blocks of 64 threads"]
    program.load(ptx, (64, 1, 1), progress=heard.append)
    assert len(heard) == 1, "compiled twice in one process"
    (kept,) = (cache.folder() / "native").glob("*.o")
    monkeypatch.setattr(program, "_programs", {})
    program.load(ptx, (64, 1, 1), progress=heard.append)
    assert len(heard) == 1, "compiled although it lies on disk"
    program.load(ptx, (32, 2, 1), progress=heard.append)
    assert heard[1:] == ["compiling step for blocks of 32 x 2 threads"]
    program.load(ptx, (64, 1, 1), LEVELS["generic"], progress=heard.append)
    assert len(heard) == 3, "one CPU's code for another"
    kept.write_bytes(b"{}\nnonsense")
    monkeypatch.setattr(program, "_programs", {})
    program.load(ptx, (64, 1, 1), progress=heard.append)
    assert len(heard) == 4, "damaged code was used"


def test_a_device_tells_what_it_compiles(monkeypatch, tmp_path, values, capsys):
    fresh(monkeypatch, tmp_path)
    heard = []
    for device in (CpuDevice(threads=1, progress=heard.append), CpuDevice(threads=1)):
        launch(device, device.empty(1000), device.upload(values))
        device.synchronize()
    assert heard == ["compiling step for blocks of 64 threads"]
    monkeypatch.setattr(program, "_programs", {})
    assert capsys.readouterr() == ("", "")


def test_one_call_for_numpy_arrays(values):
    out = np.zeros_like(values)
    args = (out, values, np.uint32(1000), np.float32(2))
    engine.run(step, 16, 64, *args, threads=2)
    assert (out == values * np.float32(2) + np.float32(1)).all()
    engine.run(step, (4, 4), (16, 4), *args, target=host())
    assert POOL.threads == 1
    again = np.zeros_like(values)
    native(step, 16, 64, again, *args[1:])
    assert (again == values * np.float32(2) + np.float32(1)).all()
