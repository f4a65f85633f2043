"""What the native engine does not run it refuses, by instruction and source line."""

import inspect

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from tests.ptx.native_agree import assembled, native
from zerfoo_numba.errors import DeviceError, InputError, UnsupportedError
from zerfoo_numba.ptx import native as engine
from zerfoo_numba.ptx.compile import Ptx, ptx_op


@cuda.jit
def whole_grid(x):
    x[0] = 1
    cuda.cg.this_grid().sync()


barrier_1 = ptx_op((), (), "bar.sync 1;", memory=True)
barrier_of_64 = ptx_op((), (), "barrier.sync 0, 64;", memory=True)
arrive = ptx_op((), (), "bar.arrive 0, 128;", memory=True)
counted = ptx_op(
    (int32,), (int32,),
    "{ .reg .pred p; setp.ne.s32 p, $1, 0; bar.red.popc.u32 $0, 2, p; }", memory=True,
)  # fmt: skip
acquire = ptx_op((uint32,), (), "ld.acquire.gpu.global.u32 $0, [0];", memory=True)
take = ptx_op((uint32,), (), "atom.acquire.gpu.global.cas.b32 $0, [0], 0, 1;", memory=True)
tf32 = ptx_op((uint32,), (float32,), "cvt.rna.tf32.f32 $0, $1;")
cluster = ptx_op((uint32,), (), "mov.u32 $0, %clusterid.x;")


@cuda.jit
def named(x):
    barrier_1()


@cuda.jit
def of_some_threads(x):
    barrier_of_64()


@cuda.jit
def arriving(x):
    arrive()


@cuda.jit
def named_count(x):
    x[0] = counted(x[0])


@cuda.jit
def polling(x):
    while acquire() == uint32(0):
        x[0] += 1


@cuda.jit
def sleeping(x):
    while x[0] == 0:
        cuda.nanosleep(20)


@cuda.jit
def locked(x):
    while take() != uint32(0):
        x[0] += 1


@cuda.jit
def short_floats(x):
    x[0] = int32(tf32(float32(x[0])))


@cuda.jit
def clusters(x):
    x[0] = int32(cluster())


@pytest.mark.parametrize(
    ("kernel", "what", "instruction"),
    [
        (whole_grid, "whole grid", "sync()"),
        (named, "no barrier but the one for the whole block", "barrier_1()"),
        (of_some_threads, "no barrier but", "barrier_of_64()"),
        (arriving, "`bar.arrive 0, 128`", "arrive()"),
        (named_count, "no barrier but", "counted("),
        (polling, "wait for other threads in a loop", "acquire()"),
        (sleeping, "wait for other threads in a loop", "nanosleep"),
        (locked, "wait for other threads in a loop", "take()"),
        (short_floats, "`cvt.rna.tf32.f32 ", "tf32("),
        (clusters, "%clusterid.x`", "cluster()"),
    ],
)
def test_refused_by_instruction_and_line(kernel, what, instruction):
    with pytest.raises(UnsupportedError) as error:
        native(kernel, 1, 96, np.ones(32, np.int32))
    text, start = inspect.getsourcelines(kernel.py_func)
    line = start + next(i for i, row in enumerate(text) if instruction in row)
    assert what in str(error.value)
    assert str(error.value).split("`")[2].startswith(f" (test_native_refusals.py, line {line})")


@pytest.mark.parametrize(
    "instruction",
    ["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f, %f, %f, %f}, {%x, %x, %x, %x},"
     " {%x, %x}, {%f, %f, %f, %f};",
     "cvt.rn.satfinite.e2m1x2.f32 %h, %f, %f;",
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%x}, [%a];",
     "cp.async.ca.shared.global [%a], [%b], 16;", "fns.b32 %x, %x, %x, %x;", "no.such.u32 %x, %x;",
     "add.rn.oops.f32 %f, %f, %f;", "shfl.bfly.b32 %x, %x, 1, 31;", "isspacep.shared %p, %a;"],
)  # fmt: skip
def test_unknown_instructions(instruction):
    declared = [".reg .b32 %x; .reg .f32 %f; .reg .b16 %h; .reg .pred %p;"]
    kernel = assembled([instruction], declared)
    with pytest.raises(UnsupportedError) as error:
        native(kernel, 1, 32, np.zeros(8, np.uint8), np.zeros(8, np.uint8))
    opcode = instruction.split()[0]
    assert f"the native engine does not run `{opcode}" in str(error.value)


def test_variables_of_other_modules():
    text = assembled(["ld.global.u32 %x, [other];"], [".reg .b32 %x;"]).text
    text = text.replace(".visible", ".extern .global .align 4 .b8 other[4];\n.visible", 1)
    with pytest.raises(UnsupportedError, match="the variable other is external"):
        native(Ptx(text, "run", (9, 0)), 1, 32, np.zeros(4, np.uint8), np.zeros(4, np.uint8))


def test_the_number_of_arguments():
    kernel = assembled(["mov.u64 %a, %b;"])
    with pytest.raises(InputError, match="kernel run takes 2 arguments, 1 were given"):
        native(kernel, 1, 32, np.zeros(4, np.uint8))


def test_arrays_that_are_not_contiguous():
    @cuda.jit
    def nothing(x):
        pass

    with pytest.raises(InputError, match="contiguous"):
        engine.run(nothing, 1, 32, np.zeros((4, 4), np.int32)[:, 1])


def test_a_trap_names_its_kernel():
    kernel = assembled(["setp.eq.u32 %p, %number, 70; @%p trap;"], [".reg .pred %p;"])
    with pytest.raises(DeviceError, match="kernel run stopped itself"):
        native(kernel, 2, 64, np.zeros(4, np.uint8), np.zeros(4, np.uint8))
    native(kernel, 1, 64, np.zeros(4, np.uint8), np.zeros(4, np.uint8))
