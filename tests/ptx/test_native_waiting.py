"""Waiting that is not for a whole block: named barriers, whole grids, locks and polled memory."""

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import int32, uint32, uint64

from tests.ptx.addresses import address_of
from tests.ptx.native_agree import LEVELS, POOL, agree, compiled, native
from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.native import Pool

sync = ptx_op((), (int32, int32), "barrier.sync $0, $1;", memory=True)
sync_all = ptx_op((), (int32,), "bar.sync $0;", memory=True)
arrive = ptx_op((), (int32, int32), "bar.arrive $0, $1;", memory=True)
counted = ptx_op(
    (int32,), (int32, int32),
    "{ .reg .pred p; setp.ne.s32 p, $2, 0; bar.red.popc.u32 $0, $1, p; }", memory=True,
)  # fmt: skip
every = ptx_op(
    (int32,), (int32, int32, int32),
    "{ .reg .pred p, q; setp.ne.s32 p, $3, 0; barrier.red.and.pred q, $1, $2, p;"
    " selp.s32 $0, 1, 0, q; }", memory=True,
)  # fmt: skip
acquire = ptx_op((uint32,), (uint64,), "ld.acquire.gpu.global.u32 $0, [$1];", memory=True)
release = ptx_op((), (uint64, uint32), "st.release.gpu.global.u32 [$0], $1;", memory=True)


add = ptx_op((uint32,), (uint64, uint32), "atom.global.add.u32 $0, [$1], $2;", memory=True)
take = ptx_op((uint32,), (uint64,), "atom.acquire.gpu.cas.b32 $0, [$1], 0, 1;", memory=True)
give = ptx_op((uint32,), (uint64,), "atom.release.gpu.exch.b32 $0, [$1], 0;", memory=True)


@cuda.jit
def two_halves(x, n):
    """Each half of the block sums its numbers behind a barrier of its own, time and again."""
    tid = cuda.threadIdx.x
    half = cuda.blockDim.x // 2
    mine = 0 if tid < half else 1
    shared = cuda.shared.array(1024, int32)
    for turn in range(n):
        shared[tid] = tid * (turn + 1) + cuda.blockIdx.x
        sync(mine + 3, half)
        place = tid - mine * half
        x[cuda.grid(1)] += shared[mine * half + (place * 7 + turn) % half]
        sync(mine + 3, half)
    sync_all(1)
    x[cuda.grid(1)] += shared[(tid + half) % cuda.blockDim.x]


@cuda.jit
def producer(x, n):
    """One warp makes numbers, the others take them: bar.arrive does not wait."""
    shared = cuda.shared.array(1, int32)
    tid, size = cuda.threadIdx.x, cuda.blockDim.x
    for turn in range(n):
        if tid < 32:
            sync(2, size)
            if tid == 0:
                shared[0] = turn * 5 + cuda.blockIdx.x
            cuda.threadfence_block()
            arrive(1, size)
        else:
            arrive(2, size)
            sync(1, size)
            x[cuda.grid(1)] += shared[0]


@cuda.jit
def votes(x):
    i = cuda.grid(1)
    a = counted(5, x[i])
    if cuda.threadIdx.x < 64:
        a += 1000 * every(6, 64, x[i] | 1) + 2000 * every(6, 64, x[i])
    x[i] = a + 10000 * counted(9, a & 1)


@cuda.jit
def some_leave(x):
    """The threads that have exited are not waited for."""
    tid = cuda.threadIdx.x
    if tid % 5 == 1:
        return
    sync_all(7)
    if tid % 5 == 3:
        return
    x[cuda.grid(1)] = counted(4, tid & 1)


HOST_FIRST = [
    level if level == "host" else pytest.param(level, marks=pytest.mark.slow) for level in LEVELS
]


@pytest.mark.parametrize("level", HOST_FIRST)
@pytest.mark.parametrize(
    ("kernel", "block", "more"),
    [(two_halves, 128, (3,)), (two_halves, 192, (2,)), (producer, 128, (4,)), (votes, 96, ()),
     (some_leave, 80, ())],
)  # fmt: skip
def test_named_barriers(kernel, block, more, level):
    more = tuple(np.int64(m) for m in more)
    x = np.arange(3 * block, dtype=np.int32) % 3
    agree(kernel, 3, block, x, *more, levels=(level,))


@cuda.jit
def steps(x, y, n):
    """A stencil over the whole grid: every step needs all of the last."""
    i, size = cuda.grid(1), cuda.gridsize(1)
    grid = cuda.cg.this_grid()
    for _ in range(n):
        y[i] = x[(i + 1) % size] + 2 * x[(i + size - 1) % size]
        grid.sync()
        x[i] = y[i] & 0xFFFF
        if i % 3 == 0:
            x[i] += 1
        grid.sync()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_whole_grid(threads):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 100, 7 * 96).astype(np.int32)
    wanted, _ = agree(steps, 7, 96, x, np.zeros_like(x), np.int64(5))
    got, other = x.copy(), np.zeros_like(x)
    native(steps, 7, 96, got, other, np.int64(5), pool=Pool(threads))
    assert (got == wanted).all()


@cuda.jit
def own_grid_barrier(x, count, n):
    """The barrier of a counter in memory that all blocks poll."""
    i = cuda.grid(1)
    for turn in range(n):
        x[i] += turn + 1
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            cuda.threadfence()
            add(address_of(count), uint32(1))
            while acquire(address_of(count)) < uint32(cuda.gridDim.x * (turn + 1)):
                cuda.nanosleep(uint32(20))
        cuda.syncthreads()
        x[i] += x[(i + cuda.blockDim.x) % cuda.gridsize(1)] & 0
        x[i] += acquire(address_of(count)) // uint32(cuda.gridDim.x) * 100


@cuda.jit
def locked(x, lock):
    """Every thread takes a lock, even those of one warp."""
    done = False
    while not done:
        if take(address_of(lock)) == uint32(0):
            x[0] = x[0] * 3 % 10007 + 1
            x[1] += 1
            give(address_of(lock))
            done = True


@cuda.jit
def chain(x, flags):
    """Block b waits for block b + 1: the last one has to run before the first is through."""
    b = cuda.blockIdx.x
    if cuda.threadIdx.x == 0 and b + 1 < cuda.gridDim.x:
        while acquire(address_of(flags) + uint64(4 * (b + 1))) == uint32(0):
            pass
    cuda.syncthreads()
    i = cuda.grid(1)
    x[i] = x[i + cuda.blockDim.x] + 1 if b + 1 < cuda.gridDim.x else b
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        release(address_of(flags) + uint64(4 * b), uint32(1))


@pytest.mark.parametrize("level", HOST_FIRST)
@pytest.mark.parametrize(
    ("kernel", "grid", "block", "words", "more"),
    [(own_grid_barrier, 5, 64, 1, (4,)), (own_grid_barrier, 3, 40, 1, (3,)),
     (locked, 3, 70, 1, ()), (chain, 6, 64, 6, ())],
)  # fmt: skip
def test_polled_memory(kernel, grid, block, words, more, level):
    more = tuple(np.int64(m) for m in more)
    x = np.ones(grid * block + block, np.int32)
    agree(kernel, grid, block, x, np.zeros(words, np.uint32), *more, levels=(level,))


@cuda.jit
def for_nobody(x, flag):
    while acquire(address_of(flag)) == uint32(0):
        x[cuda.threadIdx.x] += 1


@cuda.jit
def crossed(x):
    sync(1 if cuda.threadIdx.x < 32 else 2, 64)
    x[cuda.threadIdx.x] = 1


def test_a_deadlock_is_an_error():
    x = np.zeros(64, np.int32)
    with pytest.raises(DeviceError, match="kernel crossed waits for threads that never come"):
        native(crossed, 1, 64, x)
    assert not x.any()
    with pytest.raises(DeviceError, match=r"kernel for_nobody waits for .* memory"):
        native(for_nobody, 1, 32, x, np.zeros(1, np.uint32))
    native(for_nobody, 1, 32, x[:], np.ones(1, np.uint32))


def test_barriers_of_whole_blocks_run_as_before():
    """Many blocks need no more memory than one: they do not wait for each other."""
    from zerfoo_numba.ptx.native import load

    @cuda.jit
    def plain(x):
        cuda.syncthreads()
        x[cuda.grid(1)] += 1

    x = np.zeros(64, np.int32)
    whole = load(compiled(plain, (x,)), (64, 1, 1))
    named = load(compiled(some_leave, (x,)), (64, 1, 1))
    grid = load(compiled(steps, (x, x, np.int64(1))), (64, 1, 1))
    for program in (whole, named):
        assert program.scratch_bytes(64, 1) == program.scratch_bytes(64, 100)
    assert grid.scratch_bytes(64, 100) > 50 * grid.scratch_bytes(64, 1)
    assert POOL.threads == 1
