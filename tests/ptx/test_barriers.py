"""Barriers: whole blocks, named, reducing; and threads that never reach one."""

import numpy as np
import pytest
from numba import cuda, int32

from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.emulator import Checks, KernelFault


@cuda.jit
def prefix_sum(x, out):
    """Inclusive sums of a block's elements, two barriers in a loop."""
    shared = cuda.shared.array(128, int32)
    t = cuda.threadIdx.x
    i = cuda.grid(1)
    shared[t] = x[i]
    cuda.syncthreads()
    step = 1
    while step < cuda.blockDim.x:
        other = int32(0)
        if t >= step:
            other = shared[t - step]
        cuda.syncthreads()
        shared[t] += other
        cuda.syncthreads()
        step *= 2
    out[i] = shared[t]


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_barriers_in_a_loop(seed):
    x = np.random.default_rng(0).integers(-99, 99, 5 * 128).astype(np.int32)
    out = np.zeros_like(x)
    counters = ptx.emulate(prefix_sum, 5, 128, x, out, seed=seed)
    assert (out == x.reshape(5, 128).cumsum(axis=1).reshape(-1)).all()
    assert counters.block_barriers == 5 * (1 + 2 * 7)


def test_blocks_that_are_no_multiple_of_a_warp():
    x = np.random.default_rng(0).integers(-99, 99, 5 * 50).astype(np.int32)
    out = np.zeros_like(x)
    ptx.emulate(prefix_sum, 5, 50, x, out)
    assert (out == x.reshape(5, 50).cumsum(axis=1).reshape(-1)).all()


@cuda.jit
def half_barrier(x):
    if cuda.threadIdx.x < 48:
        cuda.syncthreads()
    x[cuda.grid(1)] = 1


@cuda.jit
def early_exit(x):
    if cuda.threadIdx.x == 5:
        return
    cuda.syncthreads()
    x[cuda.grid(1)] = 1


@cuda.jit
def two_barriers(x):
    """Each half of the block waits at another named barrier for all."""
    if cuda.threadIdx.x < 32:
        barrier_1()
    else:
        barrier_2()
    x[cuda.grid(1)] = 1


barrier_1 = ptx_op((), (), "bar.sync 1;", memory=True)
barrier_2 = ptx_op((), (), "bar.sync 2;", memory=True)


@pytest.mark.parametrize("kernel", [half_barrier, early_exit])
def test_a_barrier_that_some_threads_never_reach(kernel):
    with pytest.raises(KernelFault, match="never come to this barrier") as error:
        ptx.emulate(kernel, 2, 64, np.zeros(128, np.int32))
    assert error.value.kind == "barrier"
    first = kernel.py_func.__code__.co_firstlineno
    assert error.value.line == first + (3 if kernel is half_barrier else 4)


def test_exited_threads_may_be_let_pass():
    """CUDA C++ Programming Guide: from sm_70 on, a barrier waits for the threads not exited."""
    x = np.zeros(128, np.int32)
    ptx.emulate(early_exit, 2, 64, x, checks=Checks(barriers=False))
    assert x.tolist() == [int(i % 64 != 5) for i in range(128)]


def test_threads_at_different_barriers_are_a_deadlock_without_any_check():
    with pytest.raises(KernelFault, match="deadlock"):
        ptx.emulate(two_barriers, 1, 64, np.zeros(64, np.int32), checks=False)


@cuda.jit
def pipeline(x, out):
    """Warp 0 fills, warp 1 waits for it, by named barriers that only the two use."""
    shared = cuda.shared.array(32, int32)
    lane = cuda.threadIdx.x & 31
    if cuda.threadIdx.x < 32:
        shared[lane] = x[lane] * 2
        arrive_1_of_64()
    elif cuda.threadIdx.x < 64:
        sync_1_of_64()
        out[lane] = shared[31 - lane]


arrive_1_of_64 = ptx_op((), (), "bar.arrive 1, 64;", memory=True)
sync_1_of_64 = ptx_op((), (), "bar.sync 1, 64;", memory=True)


def test_named_barriers_of_some_warps():
    x, out = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
    ptx.emulate(pipeline, 1, 96, x, out, checks=Checks(barriers=False))
    assert (out == 2 * x[::-1]).all()


@cuda.jit
def block_votes(x, out):
    i = cuda.grid(1)
    out[i, 0] = cuda.syncthreads_count(x[i])
    out[i, 1] = cuda.syncthreads_and(x[i])
    out[i, 2] = cuda.syncthreads_or(x[i])


@pytest.mark.parametrize("seed", [None, 3])
def test_barriers_that_reduce(seed):
    x = np.random.default_rng(1).integers(0, 2, (6, 64)).astype(np.int32)
    x[0], x[1] = 0, 1
    out = np.zeros((384, 3), np.int32)
    ptx.emulate(block_votes, 6, 64, x.reshape(-1), out, seed=seed)
    out = out.reshape(6, 64, 3)
    assert (out[..., 0] == x.sum(axis=1, keepdims=True)).all()
    assert ((out[..., 1] != 0) == x.all(axis=1, keepdims=True)).all()
    assert ((out[..., 2] != 0) == x.any(axis=1, keepdims=True)).all()
