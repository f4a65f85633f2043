"""Counters against numbers worked out by hand."""

import json

import numpy as np
import pytest
from numba import cuda, float32

from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import Pointer, Ptx, compile_ptx
from zerfoo_numba.ptx.emulator import Counters, Memory, load
from zerfoo_numba.ptx.parse import parse_module


@cuda.jit
def scale(x, y, factor):
    i = cuda.grid(1)
    y[i] = x[i] * factor


def count(kernel, grid, block, arrays, *scalars):
    """Counters of a kernel over raw pointers."""
    memory, values, kinds = Memory(), [], []
    for i, array in enumerate(arrays):
        address = memory.allocate(array.nbytes, f"array{i}", array.itemsize)
        memory.write(address, array)
        values.append(np.uint64(address))
        kinds.append(Pointer(array.dtype))
    program = load(compile_ptx(kernel, (*kinds, *scalars)))
    return program.run(memory, grid, block, [*values, *scalars], count=True)


def test_straight_code_counts_every_instruction_of_the_text():
    arrays = [np.zeros(256, np.float32)] * 2
    counters = count(scale, 4, 64, arrays, np.float32(2))
    text = compile_ptx(scale, (Pointer(np.float32), Pointer(np.float32), np.float32(2))).text
    instructions = len(parse_module(text).functions["scale"].body)
    assert counters.thread_instructions == 256 * instructions
    assert counters.warp_instructions == 8 * instructions
    assert counters.divergence_efficiency == 1.0
    assert counters.flops == 256
    assert sum(counters.classes.values()) == counters.thread_instructions
    assert counters.classes["float32"] == 256
    assert counters.classes["global load"] == counters.classes["global store"] == 256


def test_contiguous_accesses_touch_four_sectors_for_each_warp():
    counters = count(scale, 4, 64, [np.zeros(256, np.float32)] * 2, np.float32(2))
    for traffic in (counters.loads, counters.stores):
        assert (traffic.requests, traffic.bytes, traffic.sectors) == (8, 1024, 32)
        assert traffic.sectors_per_request == 4
    assert counters.unique_sectors == 64
    first, second = counters.arrays["array0"], counters.arrays["array1"]
    assert (first.loads.sectors, first.stores.sectors, first.unique_load_sectors) == (32, 0, 32)
    assert (second.loads.sectors, second.stores.sectors, second.unique_store_sectors) == (0, 32, 32)


@pytest.mark.parametrize(("stride", "per_request"), [(1, 4), (2, 8), (8, 32), (16, 32), (0, 1)])
def test_sectors_of_a_stride(stride, per_request):
    @cuda.jit
    def strided(x, y, stride):
        i = cuda.grid(1)
        y[i] = x[i * stride]

    arrays = [np.zeros(64 * max(stride, 1), np.float32), np.zeros(64, np.float32)]
    counters = count(strided, 1, 64, arrays, np.int64(stride))
    assert counters.loads.sectors == 2 * per_request
    unique = np.unique(4 * stride * np.arange(64) // 32)
    assert counters.arrays["array0"].unique_load_sectors == len(unique)


def test_an_unaligned_warp_touches_five_sectors():
    @cuda.jit
    def offset(x, y):
        i = cuda.grid(1)
        y[i] = x[i + 3]

    counters = count(offset, 1, 32, [np.zeros(40, np.float32), np.zeros(32, np.float32)])
    assert (counters.loads.sectors, counters.stores.sectors) == (5, 4)


def test_a_re_read_array_counts_once_among_the_unique_sectors():
    @cuda.jit
    def again(x, y, n):
        i = cuda.grid(1)
        total = float32(0)
        for _ in range(n):
            total += x[i]
            cuda.syncthreads()
        y[i] = total

    counters = count(again, 1, 32, [np.zeros(32, np.float32)] * 2, np.int64(5))
    assert (counters.loads.sectors, counters.arrays["array0"].unique_load_sectors) == (20, 4)
    assert counters.block_barriers == 5
    assert counters.barriers == 5


def test_divergence_efficiency():
    @cuda.jit
    def one_lane(x):
        i = cuda.grid(1)
        if i & 31 == 0:
            x[i] = x[i] * float32(3) + float32(1)

    counters = count(one_lane, 2, 32, [np.zeros(64, np.float32)])
    alone = [c for c in counters.lines.values() if c.loads.requests]
    assert len(alone) == 1
    assert counters.loads.requests == 2
    assert counters.loads.bytes == 8
    assert counters.loads.sectors == 2
    lanes = sum(c.thread_instructions for c in counters.lines.values())
    assert counters.divergence_efficiency == lanes / (32 * counters.warp_instructions) < 0.9


@pytest.mark.parametrize(
    ("stride", "conflicts"), [(1, 0), (2, 1), (3, 0), (4, 3), (32, 31), (33, 0), (0, 0)]
)
def test_bank_conflicts_of_a_stride(stride, conflicts):
    """A stride of s words meets each bank gcd(s, 32) times; one word for all is a broadcast."""

    @cuda.jit
    def banks(x, stride):
        box = cuda.shared.array(32 * 33, float32)
        t = cuda.threadIdx.x
        box[t * stride] = x[t]

    counters = count(banks, 3, 32, [np.zeros(32, np.float32)], np.int64(stride))
    assert counters.shared_requests == 3
    assert counters.bank_conflicts == 3 * conflicts


def test_atomics_count_by_thread():
    @cuda.jit
    def histogram(x, bins):
        cuda.atomic.add(bins, x[cuda.grid(1)], 1)

    x, bins = np.arange(100, dtype=np.int32) % 7, np.zeros(7, np.int32)
    counters = ptx.emulate(histogram, 1, 100, x, bins)
    assert counters.atomics == counters.arrays["bins"].atomics == 100
    assert (bins == np.bincount(x)).all()


def test_a_guarded_instruction_counts_where_its_guard_holds():
    """%laneid < 8 adds and stores; the guards are no branches of the text."""
    text = """
    .version 8.0
    .target sm_90
    .address_size 64
    .visible .entry k(.param .u64 x)
    {
        .reg .pred %p<2>; .reg .b32 %r<4>; .reg .b64 %rd<2>;
        mov.u32 %r1, %laneid;
        setp.lt.u32 %p1, %r1, 8;
        ld.param.u64 %rd1, [x];
        mov.u32 %r2, 1;
        @%p1 add.u32 %r2, %r2, %r1;
        @%p1 st.global.u32 [%rd1], 7;
        ret;
    }
    """
    memory = Memory()
    x = np.uint64(memory.allocate(4, "x", 4))
    counters = load(Ptx(text, "k", (9, 0))).run(memory, 2, 32, [x], count=True)
    assert counters.thread_instructions == 64 * 5 + 2 * 16
    assert counters.classes["integer"] == counters.classes["global store"] == 16
    assert counters.stores.requests == 2


def test_lines_add_up_to_the_total():
    counters = count(scale, 4, 64, [np.zeros(256, np.float32)] * 2, np.float32(2))
    for name in ("thread_instructions", "warp_instructions", "flops", "atomics", "barriers"):
        assert sum(getattr(c, name) for c in counters.lines.values()) == getattr(counters, name)
    first = scale.py_func.__code__.co_firstlineno
    body = {line for file, line in counters.lines if file == "test_counters.py"}
    assert {first + 2, first + 3} <= body
    store = counters.lines["test_counters.py", first + 3]
    assert store.stores.sectors == store.loads.sectors == 32


def test_the_table_and_the_json_hold_the_numbers():
    counters = count(scale, 4, 64, [np.zeros(256, np.float32)] * 2, np.float32(2))
    assert isinstance(counters, Counters)
    text = str(counters)
    assert f"{counters.thread_instructions:,}" in text
    assert "array1" in text
    assert "test_counters.py:" in text
    data = json.loads(json.dumps(counters.to_dict()))
    assert data["total"]["warp_instructions"] == counters.warp_instructions
    assert data["arrays"]["array0"]["loads"]["sectors"] == 32
    assert sum(line["thread_instructions"] for line in data["lines"]) == (
        counters.thread_instructions
    )


def test_nothing_is_counted_unless_asked():
    memory = Memory()
    x = np.uint64(memory.allocate(256, "x", 4))
    program = load(compile_ptx(scale, (Pointer(np.float32), Pointer(np.float32), np.float32(2))))
    assert program.run(memory, 1, 64, [x, x, np.float32(2)]) is None
