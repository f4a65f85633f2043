"""Every check, proven by a seeded bug found at its line, and by its repaired twin."""

import numpy as np
import pytest
from numba import cuda, float32, uint32
from numba.cuda import types

from tests.ptx.addresses import address_of
from tests.ptx.faults import caught, line_of
from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import Pointer, compile_ptx, ptx_op
from zerfoo_numba.ptx.emulator import Checks, KernelFault, Memory, load

u32, u64, f32 = types.uint32, types.uint64, types.float32


@cuda.jit
def shift(x, y):
    i = cuda.grid(1)
    y[i] = x[i + 1]  # reads past the end


def test_an_access_out_of_bounds():
    fault = caught(shift, 2, 32, np.zeros(64, np.float32), np.zeros(64, np.float32))
    assert fault.line == line_of(shift, "past the end")
    assert "reads x[64], which has 64 elements of 4 bytes" in str(fault)
    assert (fault.thread, fault.block) == ((31, 0, 0), (1, 0, 0))


def test_bounds_can_be_left_unchecked():
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    checks = Checks(bounds=False, uninitialized=False)
    ptx.emulate(shift, 2, 32, x, y, checks=checks)
    assert (y[:63] == 1).all()


@cuda.jit
def shared_overrun(x):
    box = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    box[t + uint32(1)] = x[t]  # one too far
    cuda.syncthreads()
    x[t] = box[t]


def test_shared_memory_out_of_bounds():
    fault = caught(shared_overrun, 1, 32, np.zeros(32, np.float32))
    assert fault.line == line_of(shared_overrun, "one too far")
    assert "byte 128 of the shared memory of the block" in str(fault)
    assert fault.thread == (31, 0, 0)


@cuda.jit
def local_overrun(x, n):
    own = cuda.local.array(4, float32)
    t = cuda.threadIdx.x
    for i in range(n):
        own[i] = x[t]  # n is 5
    x[t] = own[t & 3]


def test_local_memory_out_of_bounds():
    fault = caught(local_overrun, 1, 32, np.zeros(32, np.float32), np.int32(5))
    assert fault.line == line_of(local_overrun, "n is 5")
    assert "local memory of the thread" in str(fault)


word = ptx_op((u32,), (u64,), "ld.global.u32 $0, [$1];", memory=True)
pair_of = ptx_op((u32, u32), (u64,), "ld.shared.v2.u32 {$0, $1}, [$2];", memory=True)


@cuda.jit
def misaligned_global(x):
    t = cuda.threadIdx.x
    x[t] = word(u64(address_of(x) + 2 * t))  # every other address is odd


@cuda.jit
def misaligned_shared(x):
    box = cuda.shared.array(64, uint32)
    t = uint32(cuda.threadIdx.x)
    box[t] = x[t]
    box[t + uint32(32)] = x[t]
    cuda.syncthreads()
    x[t] = pair_of(u64(t * uint32(4)))[1]  # 8 bytes at 4 t


@pytest.mark.parametrize(
    ("kernel", "text"),
    [(misaligned_global, "every other"), (misaligned_shared, "8 bytes at")],
)
def test_misaligned_addresses(kernel, text):
    fault = caught(kernel, 1, 32, np.zeros(32, np.uint32))
    assert fault.line == line_of(kernel, text)
    assert "misaligned" in str(fault)
    assert fault.thread == (1, 0, 0)


@cuda.jit
def partly_filled(x, y):
    i = cuda.grid(1)
    if i != 37:
        x[i] = 1
    cuda.syncthreads()
    y[i] = x[i]  # nobody wrote x[37]


def launch(kernel, *sizes, grid=1, block=64, **options):
    """Run on float32 buffers that nobody has written."""
    memory = Memory()
    places = [memory.allocate(4 * n, f"array{i}", 4) for i, n in enumerate(sizes)]
    program = load(compile_ptx(kernel, [Pointer(np.float32)] * len(sizes)))
    return program.run(memory, grid, block, [np.uint64(p) for p in places], **options)


def test_global_memory_never_written():
    with pytest.raises(KernelFault, match=r"reads array0\[37\], which nothing has written") as e:
        launch(partly_filled, 64, 64, checks=True)
    assert e.value.line == line_of(partly_filled, "nobody wrote")
    assert e.value.thread == (37, 0, 0)
    launch(partly_filled, 64, 64, checks=Checks(uninitialized=False))
    x, y = np.full(64, 5, np.float32), np.zeros(64, np.float32)
    ptx.emulate(partly_filled, 1, 64, x, y)
    assert y[37] == 5


def test_what_an_earlier_kernel_wrote_counts():
    @cuda.jit
    def fill(x):
        x[cuda.grid(1)] = 2

    @cuda.jit
    def double(x):
        x[cuda.grid(1)] *= 2

    memory = Memory()
    x = [np.uint64(memory.allocate(256, "x", 4))]
    programs = [load(compile_ptx(k, [Pointer(np.float32)])) for k in (fill, double)]
    with pytest.raises(KernelFault, match="nothing has written"):
        programs[1].run(memory, 1, 64, x, checks=True)
    programs[0].run(memory, 1, 64, x, checks=True)
    programs[1].run(memory, 1, 64, x, checks=True)
    assert (memory.read(int(x[0]), np.float32, 64) == 4).all()


@cuda.jit
def shared_never_written(x):
    box = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    if t < 63:
        box[t] = x[t]
    cuda.syncthreads()
    x[t] = box[63 - t]  # box[63] is nobody's


# Numba clears its local arrays, so this one is declared in the PTX; thread 5 does not store.
scratch = ptx_op(
    (u32,), (u32, u32),
    "{ .reg .pred p; .local .align 4 .b8 own[8]; setp.ne.u32 p, $2, 5;"
    " @p st.local.u32 [own+4], $1; ld.local.u32 $0, [own+4]; }", memory=True,
)  # fmt: skip


@cuda.jit
def local_never_written(x):
    t = uint32(cuda.threadIdx.x)
    x[t] = scratch(t, t)  # not by thread 5


@pytest.mark.parametrize(
    ("kernel", "text", "thread"),
    [(shared_never_written, "nobody's", 0), (local_never_written, "not by thread", 5)],
)
def test_shared_and_local_memory_never_written(kernel, text, thread):
    fault = caught(kernel, 1, 64, np.zeros(64, np.float32))
    assert fault.line == line_of(kernel, text)
    assert fault.kind == "uninitialized"
    assert fault.thread == (thread, 0, 0)
    off = Checks(uninitialized=False)
    ptx.emulate(kernel, 1, 64, np.zeros(64, np.float32), checks=off)


copy = ptx_op((), (u32, u64), "cp.async.ca.shared.global [$0], [$1], 4;", memory=True)
commit = ptx_op((), (), "cp.async.commit_group;", memory=True)
wait_0 = ptx_op((), (), "cp.async.wait_group 0;", memory=True)
wait_1 = ptx_op((), (), "cp.async.wait_group 1;", memory=True)


def make_two_stages(wait, last):
    @cuda.jit
    def two_stages(x):
        box = cuda.shared.array(64, float32)
        t = uint32(cuda.threadIdx.x)
        copy(uint32(4 * t), u64(address_of(x) + 4 * t))
        commit()
        copy(uint32(128 + 4 * t), u64(address_of(x) + 4 * t))  # the second stage
        commit()
        wait()
        cuda.syncthreads()
        x[t] = box[31 - t] + box[63 - t]  # uses both
        last()

    return two_stages


def test_an_asynchronous_copy_used_too_early():
    x = np.arange(32, dtype=np.float32)
    kernel = make_two_stages(wait_1, wait_0)
    fault = caught(kernel, 1, 32, x)
    assert (fault.kind, fault.line) == ("copy", line_of(kernel, "uses both"))
    assert f"line {line_of(kernel, 'the second')}" in str(fault)
    ptx.emulate(kernel, 1, 32, x, checks=Checks(copies=False))
    x = np.arange(32, dtype=np.float32)
    ptx.emulate(make_two_stages(wait_0, wait_0), 1, 32, x)
    assert (x == 2 * np.arange(31, -1, -1)).all()


@cuda.jit
def never_waits(x):
    cuda.shared.array(32, float32)
    t = uint32(cuda.threadIdx.x)
    box = cuda.shared.array(32, float32)
    box[t] = x[t]
    copy(uint32(4 * t), u64(address_of(x) + 4 * t))  # and exits
    commit()


def test_an_asynchronous_copy_never_waited_for():
    fault = caught(never_waits, 1, 32, np.zeros(32, np.float32))
    assert (fault.kind, fault.line) == ("copy", line_of(never_waits, "and exits"))


@pytest.mark.parametrize("seed", [0, 1])
def test_approximations_move_within_their_bound(seed):
    """rsqrt.approx.f32: a relative error of 2^-22.9 (PTX ISA); results move, none by more."""
    rsqrt = ptx_op((f32,), (f32,), "rsqrt.approx.f32 $0, $1;")

    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        y[i] = rsqrt(x[i])

    x = np.random.default_rng(0).random(4096).astype(np.float32) + np.float32(0.01)
    exact, moved = np.zeros_like(x), np.zeros_like(x)
    ptx.emulate(kernel, 32, 128, x, exact)
    ptx.emulate(kernel, 32, 128, x, moved, checks=Checks(perturb=True), seed=seed)
    error = np.abs(moved.astype(np.float64) - exact) / exact
    assert (error <= 2**-22.9).all()
    assert (moved != exact).mean() > 0.3
