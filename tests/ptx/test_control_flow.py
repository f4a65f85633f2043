"""Divergence and reconvergence, threads that wait for others, grids in waves and together."""

import numpy as np
import pytest
from numba import cuda, int32, uint32
from numba.cuda import types

from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import Pointer, compile_ptx, ptx_op
from zerfoo_numba.ptx.emulator import KernelFault, Memory, load

u32, u64 = types.uint32, types.uint64
load_acquire = ptx_op((u32,), (u64,), "ld.acquire.gpu.global.u32 $0, [$1];", memory=True)
add_release = ptx_op((), (u64, u32), "red.release.gpu.global.add.u32 [$0], $1;", memory=True)


@cuda.jit
def collatz(n, steps, limit):
    i = cuda.grid(1)
    if i < n.shape[0]:
        value = n[i]
        count = 0
        while value != 1:
            if count == limit:
                count = -1
                break
            if value % 2 == 0:
                value //= 2
            else:
                value = 3 * value + 1
            count += 1
        steps[i] = count


def collatz_steps(value, limit):
    count = 0
    while value != 1:
        if count == limit:
            return -1
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        count += 1
    return count


@pytest.mark.parametrize("seed", [None, 7])
def test_a_loop_with_a_break_and_a_branch_inside(seed):
    n = np.arange(1, 301, dtype=np.int64)
    steps = np.zeros(300, np.int64)
    ptx.emulate(collatz, 3, 128, n, steps, 60, seed=seed)
    assert steps.tolist() == [collatz_steps(int(v), 60) for v in n]


@cuda.jit
def divisors(out, limit):
    """Nested loops, both with data-dependent ends and early exits."""
    n = cuda.grid(1)
    total = 0
    a = 1
    while a * a <= n:
        b = a
        while True:
            if a * b > n:
                break
            if a * b == n:
                total += a + b
                if total > limit:
                    out[n] = -total
                    return
                break
            b += 1
        a += 1
    out[n] = total


def test_nested_loops_with_breaks_and_an_early_return():
    out = np.zeros(192, np.int64)
    ptx.emulate(divisors, 3, 64, out, 100)

    def expected(n):
        total, a = 0, 1
        while a * a <= n:
            if n % a == 0:
                total += a + n // a
                if total > 100:
                    return -total
            a += 1
        return total

    assert out.tolist() == [expected(n) for n in range(192)]


@cuda.jit
def sides(out):
    """Both sides of a branch meet again in front of the shuffle."""
    lane = uint32(cuda.threadIdx.x)
    value = int32(lane)
    if lane % 3 == 0:
        value = int32(100)
        for _ in range(lane):
            value += 1
    elif lane % 3 == 1:
        value = int32(200)
    out[lane] = cuda.shfl_xor_sync(0xFFFFFFFF, value, 1)


def test_lanes_meet_after_a_branch():
    out = np.zeros(32, np.int32)
    counters = ptx.emulate(sides, 1, 32, out)
    lane = np.arange(32)
    value = np.where(lane % 3 == 0, 100 + lane, np.where(lane % 3 == 1, 200, lane))
    assert (out == value[lane ^ 1]).all()
    last = max(counters.lines, key=lambda key: key[1])
    assert counters.lines[last].divergence_efficiency == 1.0


@cuda.jit
def spin_lock(lock, total):
    while cuda.atomic.cas(lock, 0, 0, 1) != 0:
        pass
    cuda.threadfence()
    total[0] += cuda.grid(1)
    cuda.threadfence()
    cuda.atomic.exch(lock, 0, 0)


@pytest.mark.parametrize("checks", [False, True])
def test_a_spin_lock_of_diverged_threads(checks):
    """Needs the forward progress of every thread, which sm_70 introduced."""
    lock, total = np.zeros(1, np.int32), np.zeros(1, np.int64)
    ptx.emulate(spin_lock, 3, 32, lock, total, checks=checks)
    assert total[0] == 96 * 95 // 2


@cuda.jit
def wait_for_nobody(flag):
    while load_acquire(address_of(flag)) == 0:
        cuda.nanosleep(uint32(20))


address_of = ptx_op((u64,), (u64,), "mov.u64 $0, $1;")


def test_waiting_for_what_nobody_writes_is_a_deadlock():
    with pytest.raises(KernelFault, match="nobody is left to change"):
        run_pointer(wait_for_nobody, 1, 32, np.zeros(1, np.uint32))


def run_pointer(kernel, grid, block, *arrays, **options):
    """Run a kernel that takes addresses; arrays change in place."""
    memory = Memory()
    addresses = []
    for i, array in enumerate(arrays):
        addresses.append(memory.allocate(array.nbytes, f"array{i}", array.itemsize))
        memory.write(addresses[-1], array)
    program = load(compile_ptx(kernel, [np.uint64(0)] * len(arrays)))
    counters = program.run(memory, grid, block, [np.uint64(a) for a in addresses], **options)
    for array, address in zip(arrays, addresses, strict=True):
        array[...] = memory.read(address, array.dtype, array.shape)
    return counters


store_word = ptx_op((), (u64, u32), "st.global.u32 [$0], $1;", memory=True)
load_word = ptx_op((u32,), (u64,), "ld.global.u32 $0, [$1];", memory=True)


@cuda.jit
def grid_rotation(barrier, x):
    """Hand-made grid barriers: every round each block passes its word to the next one."""
    block, blocks = uint32(cuda.blockIdx.x), uint32(cuda.gridDim.x)
    for turn in range(3):
        value = uint32(0)
        if cuda.threadIdx.x == 0:
            value = load_word(x + 4 * ((block + blocks - 1) % blocks))
        for half in range(2):
            if half == 1 and cuda.threadIdx.x == 0:
                store_word(x + 4 * block, uint32(value + 10))
            cuda.syncthreads()
            if cuda.threadIdx.x == 0:
                add_release(barrier, uint32(1))
                while load_acquire(barrier) < blocks * (2 * turn + half + 1):
                    cuda.nanosleep(uint32(20))
            cuda.syncthreads()


@pytest.mark.parametrize("options", [{}, {"checks": True}, {"seed": 5, "checks": True}])
def test_a_hand_made_grid_barrier_runs_and_is_no_race(options):
    x = np.arange(50, dtype=np.uint32)
    run_pointer(grid_rotation, 50, 64, np.zeros(1, np.uint32), x, **options)
    assert (x == (np.arange(50) - 3) % 50 + 30).all()


@cuda.jit
def mirrored_rows(rows):
    column = cuda.grid(1)
    grid = cuda.cg.this_grid()
    for r in range(1, rows.shape[0]):
        rows[r, column] = rows[r - 1, rows.shape[1] - column - 1] + 1
        grid.sync()


@pytest.mark.parametrize("checks", [False, True])
def test_a_cooperative_grid_larger_than_a_wave(checks):
    rows = np.zeros((3, 40 * 1024), np.int32)
    ptx.emulate(mirrored_rows, 40, 1024, rows, checks=checks)
    assert (rows == np.arange(3)[:, None]).all()


@cuda.jit
def linear(out, nx, ny):
    """Every thread of a three-dimensional grid writes its number once."""
    x, y, z = cuda.grid(3)
    out[(z * ny + y) * nx + x] += (z * ny + y) * nx + x


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", [None, 4])
def test_a_three_dimensional_grid_in_waves(threads, seed):
    grid, block = (7, 5, 9), (8, 4, 16)
    nx, ny, nz = (g * b for g, b in zip(grid, block, strict=True))
    memory = Memory()
    out = memory.allocate(4 * nx * ny * nz, "out", 4)
    memory.write(out, np.zeros(nx * ny * nz, np.uint32))
    program = load(compile_ptx(linear, (Pointer(np.uint32), np.uint32(0), np.uint32(0))))
    values = [np.uint64(out), np.uint32(nx), np.uint32(ny)]
    program.run(memory, grid, block, values, seed=seed, threads=threads)
    assert (memory.read(out, np.uint32, nx * ny * nz) == np.arange(nx * ny * nz)).all()


def test_the_order_of_threads_shows_with_a_seed():
    @cuda.jit
    def last_one_wins(out):
        out[0] = cuda.grid(1)

    found = set()
    for seed in range(8):
        out = np.zeros(1, np.int64)
        ptx.emulate(last_one_wins, 4, 64, out, checks=False, seed=seed)
        found.add(int(out[0]))
    assert len(found) > 1
