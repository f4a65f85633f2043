"""Programs on the stand-in for the GPU; run by test_without_gpu.py in a process of their own, not
collected: whoever has loaded the stand-in has it until the end."""

import math

import numpy as np
import pytest
from numba import cuda, float32, float64, guvectorize, int64, vectorize
from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float32

from zerfoo_numba.errors import DeviceError, InputError
from zerfoo_numba.ptx.emulator import KernelFault
from zerfoo_numba.ptx.stand_in import without_gpu

pytestmark = pytest.mark.filterwarnings("ignore:Grid size", "ignore:Host array")
X = np.arange(100, dtype=np.float32)


@pytest.fixture(params=["emulator", "cpu"])
def machine(request):
    with without_gpu(request.param) as found:
        yield found


@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]


@cuda.jit(device=True)
def twice(x):
    return x + x


@cuda.jit
def block_sums(x, out):
    shared = cuda.shared.array(64, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    shared[t] = x[i] if i < x.size else float32(0)
    cuda.syncthreads()
    if t == 0:
        total = float32(0)
        for k in range(64):
            total += shared[k]
        cuda.atomic.add(out, 0, total)


@cuda.jit
def uniform(states, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = xoroshiro128p_uniform_float32(states, i)


@cuda.jit
def every_block_after_the_other(rows):
    column, grid = cuda.grid(1), cuda.cg.this_grid()
    for row in range(1, rows.shape[0]):
        rows[row, column] = rows[row - 1, rows.shape[1] - 1 - column] + 1
        grid.sync()


@cuda.jit
def past_the_end(x, out):
    i = cuda.grid(1)
    out[i] = x[i]


@cuda.jit
def all_into_one(out):
    out[0] = cuda.grid(1)


def test_arrays_of_the_host_go_and_come_back(machine):
    out = np.zeros_like(X)
    add[4, 32](X, X, out)
    assert (out == 2 * X).all()
    assert [x.kernel for x in machine.launches] == ["add"]
    assert machine.launches[0].grid == (4, 1, 1)


def test_device_arrays_streams_and_events(machine):
    stream, before, after = cuda.stream(), cuda.event(), cuda.event()
    x = cuda.to_device(X, stream=stream)
    out = cuda.device_array_like(x)
    before.record(stream)
    add[4, 32, stream](x, x[::-1], out)
    after.record(stream)
    after.synchronize()
    stream.synchronize()
    assert before.elapsed_time(after) > 0
    assert (out.copy_to_host(stream=stream) == 99).all()
    assert (x.reshape(10, 10)[2:4, 5].copy_to_host() == [25, 35]).all()
    x[10:20].copy_to_device(out[:10])
    assert (x.copy_to_host()[8:12] == [8, 9, 99, 99]).all()


def test_a_kernel_with_a_signature_and_a_device_function(machine):
    @cuda.jit("void(float64[:, :], float64[:, :])")
    def doubled(x, out):
        i, j = cuda.grid(2)
        if i < out.shape[0] and j < out.shape[1]:
            out[i, j] = twice(x[i, j])

    x = np.arange(35.0).reshape(5, 7)
    out = np.zeros_like(x)
    doubled[(1, 1), (8, 8)](x, out)
    assert (out == 2 * x).all()
    assert len(doubled.overloads) == 1


def test_shared_memory_and_atomics(machine):
    out = np.zeros(1, np.float32)
    block_sums[2, 64](X, out)
    assert out[0] == X.sum()


def test_ufuncs_and_reductions(machine):
    @vectorize(["float32(float32, float32)"], target="cuda")
    def length(x, y):
        return math.sqrt(x * x + y * y)

    @guvectorize([(float64[:], float64[:])], "(n)->(n)", target="cuda")
    def running_sum(x, out):
        total = 0.0
        for i in range(x.shape[0]):
            total += x[i]
            out[i] = total

    assert np.allclose(length(X, X), np.hypot(X, X))
    assert (running_sum(np.ones((3, 5))) == np.arange(1, 6)).all()
    assert cuda.reduce(lambda a, b: a + b)(np.arange(1000.0)) == 499_500


def test_random_numbers(machine):
    out = np.zeros(200, np.float32)
    uniform[7, 32](create_xoroshiro128p_states(224, seed=1), out)
    assert len(set(out)) > 190
    assert 0.3 < out.mean() < 0.7


def test_memory_that_host_and_device_share(machine):
    managed, mapped = cuda.managed_array(100, np.float32), cuda.mapped_array(100, np.float32)
    pinned = cuda.pinned_array(100, np.float32)
    managed[:], pinned[:], mapped[:] = X, 2 * X, 0
    add[4, 32](managed, cuda.to_device(pinned), mapped)
    cuda.synchronize()
    assert (mapped == 3 * X).all()
    own = np.zeros(100, np.float32)
    with cuda.mapped(own) as seen:
        add[4, 32](managed, managed, seen)
        cuda.synchronize()
        assert (own == 2 * X).all()


def test_a_grid_that_waits_for_all_its_blocks(machine):
    rows = np.zeros((9, 128), np.int32)
    every_block_after_the_other[4, 32](rows)
    assert (rows == np.arange(9)[:, None]).all()


def test_forall_and_dynamic_shared_memory(machine):
    @cuda.jit
    def reversed_blocks(x):
        shared = cuda.shared.array(0, int64)
        t = cuda.threadIdx.x
        shared[t] = x[cuda.grid(1)]
        cuda.syncthreads()
        x[cuda.grid(1)] = shared[cuda.blockDim.x - 1 - t]

    out = np.zeros_like(X)
    add.forall(100)(X, X, out)
    assert (out == 2 * X).all()
    x = np.arange(64)
    reversed_blocks[2, 32, 0, 32 * 8](x)
    assert (x[:32] == np.arange(31, -1, -1)).all()


def test_the_device_says_what_it_is(machine):
    assert cuda.is_available()
    assert len(cuda.gpus) == 1
    device = cuda.get_current_device()
    assert device.compute_capability == (9, 0)
    assert device.WARP_SIZE == 32
    assert device.name.startswith("zerfoo-numba")
    free, total = cuda.current_context().get_memory_info()
    kept = cuda.device_array(1 << 20, np.uint8)
    assert cuda.current_context().get_memory_info().free == free - kept.nbytes
    assert total >= free


def test_afterwards_there_is_no_gpu_and_another_may_come():
    for name in ("cpu", "emulator", "cpu"):
        with without_gpu(name):
            out = cuda.device_array(100, np.float32)
            add[4, 32](cuda.to_device(X), cuda.to_device(X), out)
            assert (out.copy_to_host() == 2 * X).all()
        assert not cuda.is_available()


def test_a_kernel_s_errors_are_raised_with_its_line_and_arrays():
    with without_gpu():
        with pytest.raises(KernelFault, match=r"past_the_end.*reads x\[100\].*without_gpu_cases"):
            past_the_end[4, 32](X, np.zeros(128, np.float32))
        with pytest.raises(KernelFault, match=r"race.*out\[0\]") as caught:
            all_into_one[2, 32](np.zeros(1, np.int64))
        assert caught.value.kind == "race"
        out = np.zeros_like(X)
        add[4, 32](X, X, out)  # a fault spoils nothing that follows
        assert (out == 2 * X).all()
    with without_gpu(checks=False):
        all_into_one[2, 32](np.zeros(1, np.int64))


def test_what_the_driver_refuses():
    with without_gpu("cpu"):
        with pytest.raises(Exception, match="INVALID_VALUE"):
            add[1, 2048](X, X, X.copy())
        with pytest.raises(Exception, match=r"OUT_OF_MEMORY|no room"):
            cuda.device_array(1 << 40, np.uint8)
        with pytest.raises(DeviceError, match="do not nest"), without_gpu():
            pass
    with pytest.raises(InputError, match="'tpu'"), without_gpu("tpu"):
        pass
