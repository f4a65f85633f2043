"""Atomics: many lanes on few places, the old values they see, and waves in two processes."""

import time

import numpy as np
import pytest
from numba import cuda
from numba.cuda import types

from tests.ptx.addresses import address_of
from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import Pointer, compile_ptx, ptx_op
from zerfoo_numba.ptx.emulator import KernelFault, Memory, load, program, workers

u64 = types.uint64


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(
    ("name", "dtype", "step"),
    [
        ("add", np.int32, lambda old, v: old + v), ("add", np.uint64, lambda old, v: old + v),
        ("max", np.int32, max), ("min", np.uint32, min), ("and", np.uint32, lambda a, b: a & b),
        ("or", np.uint32, lambda a, b: a | b), ("xor", np.uint32, lambda a, b: a ^ b),
        ("exch", np.int32, lambda old, v: v),
        ("inc", np.uint32, lambda old, v: 0 if old >= v else old + 1),
        ("dec", np.uint32, lambda old, v: v if old == 0 or old > v else old - 1),
    ],
)  # fmt: skip
def test_atomics_take_the_lanes_in_turn(space, name, dtype, step):
    """Many lanes on few places, and the old value that each lane sees."""
    kind = {np.int32: types.int32, np.uint32: types.uint32, np.uint64: types.uint64}[dtype]
    suffix = "b" if name in ("and", "or", "xor", "exch") else str(kind)[0].replace("i", "s")
    suffix += str(np.dtype(dtype).itemsize * 8)
    function = ptx_op((kind,), (u64, kind), f"atom.{name}.{suffix} $0, [$1], $2;", memory=True)
    size = np.dtype(dtype).itemsize

    @cuda.jit
    def on_global(target, place, value, old):
        i = cuda.grid(1)
        old[i] = function(u64(address_of(target) + size * place[i]), value[i])

    @cuda.jit
    def on_shared(target, place, value, old):
        shared = cuda.shared.array(8, kind)
        i = cuda.threadIdx.x
        if i < 8:
            shared[i] = target[i]
        cuda.syncthreads()
        old[i] = function(u64(address_of(shared) + size * place[i]), value[i])
        cuda.syncthreads()
        if i < 8:
            target[i] = shared[i]

    rng = np.random.default_rng(5)
    low = -50 if dtype is np.int32 else 0
    target = rng.integers(low, 50, 8).astype(dtype)
    place = rng.choice([0, 1, 1, 1, 5], 128).astype(np.int32)
    value = rng.integers(low, 50, 128).astype(dtype)
    expected, seen = target.tolist(), []
    for p, v in zip(place, value.tolist(), strict=True):
        seen.append(expected[p])
        expected[p] = int(step(expected[p], v)) & (2**64 - 1 if dtype is np.uint64 else -1)
    old = np.zeros(128, dtype)
    ptx.emulate(on_global if space == "global" else on_shared, 1, 128, target, place, value, old)
    assert target.tolist() == expected
    assert old.tolist() == seen


def test_float_atomics_round_after_every_addition():
    @cuda.jit
    def kernel(total, x):
        cuda.atomic.add(total, 0, x[cuda.grid(1)])

    x = np.random.default_rng(6).random(2000).astype(np.float32) * 1e4
    total = np.zeros(1, np.float32)
    ptx.emulate(kernel, 20, 100, total, x, checks=False)
    assert total[0] == np.add.accumulate(x)[-1]


def test_compare_and_swap():
    @cuda.jit
    def kernel(target, old):
        i = cuda.grid(1)
        old[i] = cuda.atomic.cas(target, i % 3, i // 3, i // 3 + 1)

    target, old = np.zeros(3, np.int32), np.zeros(48, np.int32)
    ptx.emulate(kernel, 1, 48, target, old)
    assert target.tolist() == [16, 16, 16]
    assert (old == np.arange(48) // 3).all()


@pytest.fixture
def two_processes(monkeypatch):
    """A helper process takes half of the waves of every launch; -> the launches it took part in."""
    if Memory().file is None:
        pytest.skip("this system cannot share the emulator's memory between processes")
    monkeypatch.setattr(program, "WORTH", 0.0)
    deadline = time.monotonic() + 60
    while not workers.workers(1)[0].is_ready():
        assert time.monotonic() < deadline, "the helper process does not start"
        time.sleep(0.01)
    shared = []

    def share(*arguments):
        shared.append(True)
        shared[-1] = workers.share(*arguments)
        return shared[-1]

    monkeypatch.setattr(program, "share", share)
    return shared


add = ptx_op((types.int64,), (u64, types.int64), "atom.add.u64 $0, [$1], $2;", memory=True)


@cuda.jit
def sums(total, place, x):
    i = cuda.grid(1)
    add(u64(total + 8 * place[i]), x[i])


def add_up(places, x):
    """Sums of x by place, on the emulator: 400 blocks of 256 threads, each with one atomic."""
    memory = Memory()
    total, *addresses = (memory.allocate(a.nbytes, "a", a.itemsize) for a in (x, places, x))
    memory.write(addresses[0], places)
    memory.write(addresses[1], x)
    code = load(compile_ptx(sums, (np.uint64(0), Pointer(places.dtype), Pointer(x.dtype))))
    for _ in range(3):
        memory.write(total, np.zeros(4, np.int64))
        code.run(memory, 400, 256, [np.uint64(a) for a in (total, *addresses)], threads=2)
    return memory.read(total, np.int64, 4)


def test_atomics_of_waves_in_two_processes(two_processes):
    rng = np.random.default_rng(7)
    x, places = rng.integers(-99, 99, 400 * 256), rng.integers(0, 4, 400 * 256).astype(np.int32)
    total = add_up(places, x)
    assert total.tolist() == [int(x[places == p].sum()) for p in range(4)]
    assert two_processes == [True, True]


def test_a_fault_in_the_helper_process(two_processes):
    @cuda.jit
    def kernel(x, last):
        i = cuda.grid(1)
        x[i + (1 << 30 if i == last else 0)] = i

    memory = Memory()
    x = np.uint64(memory.allocate(4 * 400 * 256, "x", 4))
    code = load(compile_ptx(kernel, (Pointer(np.float32), np.int64(0))))
    code.run(memory, 400, 256, [x, np.int64(-1)], threads=2)
    for last in (400 * 256 - 1, 0):
        with pytest.raises(KernelFault, match=r"out of bounds: writes x\[") as error:
            code.run(memory, 400, 256, [x, np.int64(last)], threads=2)
        assert (error.value.thread, error.value.block) == ((last % 256, 0, 0), (last // 256, 0, 0))
    code.run(memory, 400, 256, [x, np.int64(-1)], threads=2)
    assert (memory.read(int(x), np.float32, 400 * 256) == np.arange(400 * 256)).all()
    assert two_processes == [True] * 3
