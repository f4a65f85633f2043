"""Device memory as the host sees it: allocations, copies, what becomes of freed ranges."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cuda

from zerfoo_numba.errors import OutOfMemoryError
from zerfoo_numba.ptx.compile import Pointer, compile_ptx
from zerfoo_numba.ptx.emulator import KernelFault, Memory, load


def test_allocations_are_aligned_apart_and_reused():
    memory = Memory()
    a, b, c = (memory.allocate(n, name) for n, name in ((1, "a"), (256, "b"), (1000, "c")))
    assert all(x % 256 == 0 for x in (a, b, c))
    assert a + 1 < b and b + 256 < c
    memory.free(b)
    assert memory.allocate(200, "d") == b
    with pytest.raises(ValueError, match="not the address"):
        memory.free(b + 4)
    assert memory.used == 1 + 200 + 1000


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.randoms())
@settings(max_examples=50, deadline=None)
def test_allocating_and_freeing_in_any_order(sizes, random):
    memory = Memory(1 << 20)
    live = {}
    for size in sizes:
        address = memory.allocate(size)
        for other, length in live.items():
            assert address + size < other or other + length < address
        live[address] = size
        if random.random() < 0.5:
            gone = random.choice(sorted(live))
            memory.free(gone)
            del live[gone]
    for address in live:
        memory.free(address)
    whole = memory.allocate((1 << 20) - (1 << 17))
    assert memory.allocations()[0].start == whole


def test_a_full_memory_says_so():
    memory = Memory(1 << 20)
    with pytest.raises(OutOfMemoryError, match="2000000 bytes of weights"):
        memory.allocate(2_000_000, "weights")


def test_arrays_come_back_as_they_were():
    memory = Memory()
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    address = memory.allocate(array.nbytes, "x", 4)
    memory.write(address, array)
    back = memory.read(address, np.float32, (2, 3, 4))
    assert (back == array).all()
    back[:] = 0
    assert (memory.read(address + 4, np.float32, (2,)) == [1, 2]).all()
    with pytest.raises(ValueError, match="not within one allocation"):
        memory.read(address + 4, np.float32, (2, 3, 4))


def test_a_program_does_not_keep_a_memory_alive():
    @cuda.jit
    def kernel(x):
        x[cuda.grid(1)] = 1

    memory = Memory()
    x = np.uint64(memory.allocate(128, "x", 4))
    program = load(compile_ptx(kernel, (Pointer(np.float32),)))
    program.run(memory, 1, 32, [x])
    program.run(memory, 1, 32, [x], checks=True)
    gone = weakref.ref(memory)
    del memory
    gc.collect()
    assert gone() is None


def test_a_freed_array_is_out_of_bounds_and_so_is_the_end_of_a_shorter_one_in_its_place():
    @cuda.jit
    def kernel(x):
        x[cuda.grid(1)] = 1

    memory = Memory()
    program = load(compile_ptx(kernel, (Pointer(np.float32),)))
    x = memory.allocate(4096, "x", 4)
    program.run(memory, 32, 32, [np.uint64(x)])
    memory.free(x)
    with pytest.raises(KernelFault, match="outside every allocation"):
        program.run(memory, 32, 32, [np.uint64(x)])
    assert memory.allocate(400, "y", 4) == x
    with pytest.raises(KernelFault, match=r"writes y\[100\]"):
        program.run(memory, 32, 32, [np.uint64(x)])
