"""Races, proven by kernels without the barrier, fence or atomic that their twins have."""

import numpy as np
import pytest
from numba import cuda, float32, int32

from tests.ptx.faults import caught, line_of
from zerfoo_numba import ptx
from zerfoo_numba.ptx.emulator import Checks


def make_reverse(barrier):
    @cuda.jit
    def reverse(x):
        box = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        box[t] = x[t]
        if barrier:
            cuda.syncthreads()
        x[t] = box[63 - t]  # needs the barrier

    return reverse


def make_sum(barrier):
    @cuda.jit
    def tree_sum(x):
        box = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        box[t] = x[t]
        cuda.syncthreads()
        half = 32
        while half > 0:
            if t < half:
                box[t] += box[t + half]  # reads what another adds to
            if barrier:
                cuda.syncthreads()
            half >>= 1
        if t == 0:
            x[0] = box[0]

    return tree_sum


def make_shift(barrier):
    @cuda.jit
    def shift_in_place(x):
        i = cuda.threadIdx.x
        value = x[(i + 1) & 63]
        if barrier:
            cuda.syncthreads()
        x[i] = value  # others may not have read it

    return shift_in_place


@pytest.mark.parametrize(
    ("make", "text"),
    [(make_reverse, "needs the"), (make_sum, "another adds"), (make_shift, "may not have")],
)
@pytest.mark.parametrize("seed", [None, 1])
def test_races_within_a_block(make, text, seed):
    kernel = make(False)
    x = np.arange(64, dtype=np.float32)
    fault = caught(kernel, 1, 64, x, seed=seed)
    assert fault.kind == "race"
    assert fault.line == line_of(kernel, text) or seed
    ptx.emulate(kernel, 1, 64, x, checks=Checks(races=False))
    ptx.emulate(make(True), 1, 64, x, seed=seed)


@cuda.jit
def neighbours(x, y):
    i = cuda.grid(1)
    x[i] = i
    cuda.syncthreads()
    y[i] = x[(i + 1) % x.shape[0]]  # at the end of a block, another block's


def test_a_race_between_blocks():
    arrays = np.zeros(128, np.float32), np.zeros(128, np.float32)
    fault = caught(neighbours, 2, 64, *arrays)
    assert fault.line == line_of(neighbours, "another block's")
    assert fault.thread == (63, 0, 0)
    ptx.emulate(neighbours, 1, 128, *arrays)


def test_a_race_between_blocks_of_different_waves():
    x, y = np.zeros(64 * 1024, np.float32), np.zeros(64 * 1024, np.float32)
    assert caught(neighbours, 64, 1024, x, y).kind == "race"


@cuda.jit
def same_place(x, y):
    x[0] = y[cuda.grid(1)]  # who is last?


def test_stores_of_different_values_to_one_place():
    fault = caught(same_place, 1, 32, np.zeros(1, np.float32), np.arange(32, dtype=np.float32))
    assert (fault.kind, fault.line) == ("race", line_of(same_place, "who is last"))
    ptx.emulate(same_place, 4, 32, np.zeros(1, np.float32), np.ones(128, np.float32))


@cuda.jit
def warp_neighbours(x):
    box = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    box[t] = x[t]
    x[t] = box[t ^ 1]  # a warp has no order without syncwarp


def test_a_race_within_a_warp():
    fault = caught(warp_neighbours, 1, 32, np.zeros(32, np.float32))
    assert fault.line == line_of(warp_neighbours, "no order")


@cuda.jit
def mixed_add(total, x):
    i = cuda.grid(1)
    if i < 32:
        cuda.atomic.add(total, 0, x[i])
    else:
        total[0] += x[i]  # not atomic


def test_a_race_of_an_atomic_with_a_plain_access():
    fault = caught(mixed_add, 1, 33, np.zeros(1, np.float32), np.ones(33, np.float32))
    lines = line_of(mixed_add, "not atomic"), line_of(mixed_add, "cuda.atomic")
    assert fault.line in lines
    assert all(f"line {line}" in str(fault) for line in lines)


def make_last_block(fence):
    @cuda.jit
    def last_block_sums(x, partial, ticket, out):
        """The last block to finish adds up what all blocks left (with a fence, no race)."""
        last = cuda.shared.array(1, int32)
        t = cuda.threadIdx.x
        if t == 0:
            partial[cuda.blockIdx.x] = x[cuda.blockIdx.x]
            if fence:
                cuda.threadfence()
            last[0] = cuda.atomic.add(ticket, 0, 1) == cuda.gridDim.x - 1
        cuda.syncthreads()
        if last[0] and t == 0:
            total = float32(0)
            for i in range(cuda.gridDim.x):
                total += partial[i]  # of another block
            out[0] = total

    return last_block_sums


def test_a_fence_and_an_atomic_order_blocks():
    x = np.arange(10, dtype=np.float32)
    arrays = x, np.zeros(10, np.float32), np.zeros(1, np.int32), np.zeros(1, np.float32)
    ptx.emulate(make_last_block(True), 10, 32, *arrays)
    assert arrays[3][0] == x.sum()
    arrays[2][:] = 0
    kernel = make_last_block(False)
    assert caught(kernel, 10, 32, *arrays).line == line_of(kernel, "of another block")
