"""Barriers of the native engine: loops, diverged warps, partial warps, early exits, reductions."""

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from tests.ptx.native_agree import LEVELS, agree, native
from zerfoo_numba.ptx.native import Pool

SIZES = (128, 96, 50, 40, 20)


@cuda.jit
def prefix_sum(x, out):
    """Inclusive sums of a block's elements, two barriers in a loop."""
    shared = cuda.shared.array(128, int32)
    t, i = uint32(cuda.threadIdx.x), uint32(cuda.grid(1))
    shared[t] = x[i]
    cuda.syncthreads()
    step = uint32(1)
    while step < uint32(cuda.blockDim.x):
        other = int32(0)
        if t >= step:
            other = shared[uint32(t - step)]
        cuda.syncthreads()
        shared[t] += other
        cuda.syncthreads()
        step = uint32(step << uint32(1))
    out[i] = shared[t]


@cuda.jit
def diverged(x, out):
    """Each side of a branch has a barrier of its own, and work behind it that keeps apart."""
    shared = cuda.shared.array(128, int32)
    t, i = uint32(cuda.threadIdx.x), uint32(cuda.grid(1))
    shared[t] = x[i]
    total = int32(0)
    if x[i] & 1:
        cuda.syncthreads()
        for k in range(x[i] & 7):
            total += shared[uint32(uint32(t + uint32(k)) % uint32(cuda.blockDim.x))] * (k + 1)
    else:
        total = int32(5)
        cuda.syncthreads()
        total += shared[uint32(uint32(cuda.blockDim.x) - uint32(1) - t)]
    cuda.syncthreads()
    shared[t] = total
    cuda.syncthreads()
    out[i] = total + shared[0]


@cuda.jit
def trips(x, out):
    """Loops of the same length in different warps, all with the barrier; state kept across it."""
    shared = cuda.shared.array(128, float32)
    t, i = uint32(cuda.threadIdx.x), uint32(cuda.grid(1))
    own = float32(x[i] & 1023)
    count = 3 + (x[0] & 3)
    for k in range(count):
        shared[t] = own
        cuda.syncthreads()
        left = shared[uint32(t ^ uint32(1))] if t ^ uint32(1) < uint32(cuda.blockDim.x) else own
        if uint32(t & uint32(3)) == uint32(k & 3):
            left += float32(1.0)
        cuda.syncthreads()
        own = own * float32(0.5) + left
    out[i] = int32(own)


@cuda.jit
def leavers(x, out):
    """Whole warps and single lanes that exit before the barriers of the others."""
    shared = cuda.shared.array(128, int32)
    t, i = uint32(cuda.threadIdx.x), uint32(cuda.grid(1))
    shared[t] = x[i]
    if t >= uint32(96) or t == uint32(7):
        out[i] = -1
        return
    cuda.syncthreads()
    value = shared[uint32(t ^ uint32(8))] if t ^ uint32(8) < uint32(cuda.blockDim.x) else 0
    cuda.syncthreads()
    out[i] = value


@cuda.jit
def reductions(x, out):
    """Counts, all and any of a block, in a loop, by diverged warps too."""
    t, i = uint32(cuda.threadIdx.x), uint32(cuda.grid(1))
    total = int32(0)
    for k in range(4):
        total = total * 7 + cuda.syncthreads_count(int32(x[i] > 400 * k - 800))
        total += cuda.syncthreads_and(int32(x[i] > -1000 + k)) + 2 * cuda.syncthreads_or(x[i] & 512)
        if x[i] & 1:
            total += cuda.syncthreads_count(int32(t & uint32(1) != uint32(0)))
        else:
            total -= cuda.syncthreads_count(int32(t & uint32(3) == uint32(0)))
    out[i] = total


KERNELS = [prefix_sum, diverged, trips, leavers, reductions]


@pytest.mark.parametrize("threads", SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_barriers(kernel, threads):
    x = np.random.default_rng(threads).integers(-999, 999, 5 * 128).astype(np.int32)
    agree(kernel, 5, threads, x, np.zeros_like(x), levels=LEVELS if threads == 40 else ["host"])


def test_prefix_sums_are_right():
    x = np.random.default_rng(0).integers(-99, 99, 9 * 96).astype(np.int32)
    out = np.zeros_like(x)
    native(prefix_sum, 9, 96, x, out)
    assert (out == x.reshape(9, 96).cumsum(axis=1).reshape(-1)).all()


def test_counts_are_right():
    x = np.arange(-50, 50, dtype=np.int32)

    @cuda.jit
    def count(x, out):
        t = uint32(cuda.threadIdx.x)
        out[t] = cuda.syncthreads_count(x[t] & 4)

    out = np.zeros(100, np.int32)
    native(count, 1, 100, x, out)
    assert (out == np.count_nonzero(x & 4)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_on_several_threads(kernel):
    pool = Pool(4)
    x = np.random.default_rng(3).integers(-999, 999, 300 * 50).astype(np.int32)
    alone, together = np.zeros_like(x), np.zeros_like(x)
    native(kernel, 300, 50, x, alone)
    for _ in range(5):
        native(kernel, 300, 50, x, together, pool=pool)
        assert (alone == together).all()
