"""What the native engine does not run it refuses, by instruction and source line."""

import inspect

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import int32, uint32

from tests.ptx.native_agree import assembled, native
from zerfoo_numba.errors import DeviceError, InputError, UnsupportedError
from zerfoo_numba.ptx import native as engine
from zerfoo_numba.ptx.compile import Ptx, ptx_op

nth = ptx_op((uint32,), (uint32,), "fns.b32 $0, $1, 0, 1;")
cluster = ptx_op((uint32,), (), "mov.u32 $0, %clusterid.x;")


@cuda.jit
def nth_bit(x):
    x[0] = int32(nth(uint32(x[0])))


@cuda.jit
def clusters(x):
    x[0] = int32(cluster())


@pytest.mark.parametrize(
    ("kernel", "what", "instruction"),
    [
        (nth_bit, "`fns.b32 ", "nth("),
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
    ["mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%f, %f}, {%f}, {%f}, {%f, %f};",
     "cvt.rn.satfinite.e2m1x2.f32 %h, %f, %f;",
     "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%a], {%x};",
     "cp.async.bulk.wait_group 0;", "fns.b32 %x, %x, %x, %x;", "no.such.u32 %x, %x;",
     "add.rn.oops.f32 %f, %f, %f;", "shfl.bfly.b32 %x, %x, 1, 31;", "isspacep.param %p, %a;"],
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
