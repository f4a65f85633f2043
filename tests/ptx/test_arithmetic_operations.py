"""What holds for every operation: dtypes, broadcasting, silence, purity, unknown opcodes."""

import warnings

import numpy as np
import pytest

from zerfoo_numba.ptx.emulator.arithmetic import DTYPES, UnsupportedInstruction, operation

OPCODES = """
add.s32 add.sat.s32 add.cc.u32 addc.cc.u64 subc.u32 mul.lo.u16 mul.hi.s64 mul.wide.s32 mad.lo.u32
mad.hi.sat.s32 madc.hi.cc.u32 mul24.lo.s32 div.s32 div.u64 rem.s64 min.s32 max.u16 add.u16x2
max.relu.s16x2 abs.s32 neg.s64 sad.u16 and.pred or.b64 not.b16 cnot.b32 shl.b16 shr.s32 shl.b64
shf.l.wrap.b32 bfe.s64 bfi.b32 bmsk.clamp.b32 szext.wrap.s32 popc.b64 clz.b32 bfind.shiftamt.s32
brev.b64 fns.b32 lop3.b32 prmt.b32 prmt.b32.rc16 dp4a.s32.u32 dp2a.hi.u32.s32 add.f32 sub.rz.f64
mul.ftz.sat.f32 fma.rn.f32 fma.rm.ftz.f32 fma.rn.f64 div.rn.f32 div.rp.f64 rcp.rz.f32 sqrt.rn.f64
sqrt.rm.f32 min.f32 max.NaN.xorsign.abs.f32 copysign.f64 testp.normal.f32 setp.lt.s32
setp.neu.or.ftz.f32 setp.gt.bf16x2 set.eq.f16x2.f16x2 selp.f64 slct.ftz.b32.f32 mov.b32 mov.pred
cvt.s8.u64 cvt.sat.u8.s32 cvt.rn.f32.u64 cvt.rp.f16.s64 cvt.rzi.s64.f32 cvt.rni.u8.f16
cvt.rm.bf16.f64 cvt.rn.f16x2.f32 cvt.rn.satfinite.e4m3x2.f32 cvt.rn.f16x2.e2m1x2 cvt.rna.tf32.f32
cvt.pack.sat.s4.s32.b32 add.f16 fma.rn.relu.bf16x2 neg.f16x2 min.NaN.bf16 tanh.approx.f16x2
ex2.approx.ftz.f32 lg2.approx.f32 rsqrt.approx.ftz.f64 div.approx.f32 div.full.ftz.f32
"""


def operands(op, rng, count):
    """Random bit patterns of every operand type; an immediate is a Python integer."""
    for kind in op.inputs:
        dtype = np.dtype(DTYPES[kind])
        if kind == "imm":
            yield 0xE8
        elif dtype == np.bool_:
            yield rng.random(count) < 0.5
        else:
            yield rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8).view(dtype)


def results(op, arguments):
    result = op(*arguments)
    result = result if isinstance(result, tuple) else (result,)
    assert len(result) == len(op.outputs)
    for kind, value in zip(op.outputs, result, strict=True):
        assert value.dtype == DTYPES[kind], (kind, value.dtype)
    return result


@pytest.mark.parametrize("opcode", OPCODES.split())
def test_scalars_arrays_and_mixtures_agree(opcode):
    op, rng = operation(opcode), np.random.default_rng(0)
    arguments = list(operands(op, rng, 24))
    before = [np.array(a) for a in arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = results(op, arguments)
        for i in range(24):
            scalars = [a if isinstance(a, int) else a[i] for a in arguments]
            for value, array in zip(results(op, scalars), whole, strict=True):
                assert value.shape == ()
                assert value == array[i] or np.isnan(array[i])
        for j, fixed in enumerate(arguments):
            if isinstance(fixed, int) or len(arguments) == 1:
                continue
            mixed = [a if k != j else fixed[3] for k, a in enumerate(arguments)]
            same = [a if k != j else np.full_like(fixed, fixed[3]) for k, a in enumerate(arguments)]
            for value, array in zip(results(op, mixed), results(op, same), strict=True):
                assert np.array_equal(value, array, equal_nan=value.dtype.kind == "f")
    for a, b in zip(arguments, before, strict=True):
        assert np.array_equal(a, b, equal_nan=b.dtype.kind == "f"), "an operand was written to"


@pytest.mark.parametrize("opcode", OPCODES.split())
def test_two_dimensions(opcode):
    op, rng = operation(opcode), np.random.default_rng(1)
    arguments = list(operands(op, rng, 12))
    flat = results(op, arguments)
    square = results(op, [a if isinstance(a, int) else a.reshape(3, 4) for a in arguments])
    for one, two in zip(flat, square, strict=True):
        assert two.shape == (3, 4)
        assert np.array_equal(one, two.ravel(), equal_nan=one.dtype.kind == "f")


@pytest.mark.parametrize(
    "opcode",
    ["", "add", "foo.s32", "add.foo", "add.rn.s32", "add.s8", "add.sat.u32", "add.cc.u16",
     "mul.s32", "mul.wide.s64", "mad.lo.sat.s32", "shl.u32", "shl.s32", "bfe.b32", "fma.f32",
     "fma.rn.sat.f64", "add.sat.f32x2", "div.rn.f32x2", "add.ftz.f64", "add.f32.f16",
     "min.NaN.f64", "setp.lo.f32", "setp.lt.b32", "setp.hi.s32", "setp.ltu.s32", "setp.ftz.lt.s32",
     "slct.ftz.f32.s32", "prmt.b32.foo", "shf.l.b32", "dp4a.s32", "neg.u32", "abs.u32",
     "add.sat.bf16", "fma.f16", "div.f32", "min.relu.u32", "shfl.sync.bfly.b32", "ld.global.u32",
     "bra", "testp.zero.f32"],
)  # fmt: skip
def test_unknown_opcodes_are_refused(opcode):
    with pytest.raises(UnsupportedInstruction) as error:
        operation(opcode)
    assert error.value.args == (opcode,)
    assert isinstance(error.value, KeyError)
