"""Every register-to-register instruction of the native engine against the emulator's arithmetic.

The lanes of two warps run unmasked and those of a partial one masked; then all lanes of a warp
share their operands, which is scalar code. Approximations are in test_native_approx.py.
"""

import numpy as np
import pytest

from tests.ptx.native_agree import LEVELS, assembled, assert_same, native
from tests.ptx.native_opcodes import Table, expected, spread

FAMILIES = {
    "sums": """
        {add,sub,mul.lo,mul.hi,min,max,div,rem,mad.lo,mad.hi,sad}.{u16,s16,u32,s32,u64,s64}
        {add,sub}.sat.s32 mad.hi.sat.s32 {mul,mad}.wide.{u16,s16,u32,s32}
        {mul24,mad24}.{lo,hi}.{u32,s32} {abs,neg}.{s16,s32,s64}
        add.{u16x2,s16x2} {min,max}.{u16x2,s16x2} {min,max}.relu.{s16x2,s32}
        {dp4a,dp2a.lo,dp2a.hi}.{u32,s32}.{u32,s32}""",
    "bits": """
        {and,or,xor,not}.{pred,b16,b32,b64} cnot.{b16,b32,b64} {shl.b,shr.u,shr.s}{16,32,64}
        shf.{l,r}.{wrap,clamp}.b32 {bfe,bfind,bfind.shiftamt}.{u32,s32,u64,s64} bfi.{b32,b64}
        bmsk.{clamp,wrap}.b32 szext.{clamp,wrap}.{u32,s32} {popc,clz,brev}.{b32,b64} lop3.b32
        prmt.b32 prmt.b32.{f4e,b4e,rc8,ecl,ecr,rc16}""",
    "comparisons": """
        setp.{eq,ne,lt,le,gt,ge}.{u16,s32,u64,s64} setp.{lo,ls,hi,hs}.u32
        setp.{eq,lt,equ,neu,ltu,leu,gtu,geu,num,nan}.f32 setp.{lt.ftz.f32,ge.f64,ne.f64}
        setp.{lt.and.s32,ge.or.f32,eq.xor.u32} setp.{lt,eq,neu,ge}.{f16,bf16} setp.lt.f16x2
        set.{lt,ge}.{u32,f32}.{s32,f32} selp.{b16,b32,b64,f32,f64}
        slct.{b32,b64,f32}.{s32,f32} testp.{finite,infinite,number,notanumber,normal,subnormal}.f32
        testp.{normal,subnormal}.f64""",
    "floats": """
        {add,sub,mul}.{f32,f64} {add,sub,mul}.{ftz,sat,ftz.sat}.f32 {add,sub,mul}.{rz,rm,rp}.f32
        fma.{rn,rz,rm,rp,rn.ftz,rn.sat}.f32 fma.rn.f64 {div,rcp,sqrt}.{rn,rz,rm,rp}.f32
        div.rn.ftz.f32 {div,rcp,sqrt}.rn.f64 {min,max}.{f32,f64,ftz.f32,NaN.f32}
        {min,max}.NaN.xorsign.abs.f32 {abs,neg}.{f32,ftz.f32,f64} copysign.{f32,f64}""",
    "float64 by its modes": """
        {add,sub,mul,div,fma}.{rz,rm,rp}.f64 {rcp,sqrt}.{rz,rm,rp}.f64
        {rcp,rsqrt}.approx.ftz.f64 cvt.{rm,rp,rz}.f64.{u64,s64}""",
    "halves": """
        {add,sub,mul}.{f16,bf16,f16x2,bf16x2} fma.rn.{f16,bf16,f16x2,bf16x2} {add,mul}.ftz.f16
        add.sat.f16 fma.rn.{relu,sat,ftz}.f16 fma.rn.relu.bf16x2 {min,max}.{f16,bf16,f16x2,NaN.f16}
        {abs,neg}.{f16,bf16,f16x2,bf16x2}""",
    "integer conversions": """
        cvt.{u8,s8,u16,s16,u32,s32,u64,s64}.{u8,s8,u16,s32,u64}
        cvt.sat.{u8,s8,u16,s16,u32,s32}.{u16,s32,u64,s64}
        cvt.{rn,rz,rm,rp}.f32.{u8,s16,u32,s32,u64,s64} cvt.rn.f64.{u32,s64}
        cvt.rn.f16.{s32,u64} cvt.rn.bf16.s32
        cvt.{rni,rzi,rmi,rpi}.{u32,s32}.f32 cvt.{rzi,rni}.{u8,s8,u16,s16,u64,s64}.f32
        cvt.{rni,rzi}.{s32,u32,s64,u8}.f64 cvt.{rni,rpi}.{s32,u16}.f16 cvt.rzi.s32.bf16
        cvt.rzi.{ftz,sat}.s32.f32""",
    "float conversions": """
        cvt.{rni,rzi,rmi,rpi}.f32.f32 cvt.rni.{f16.f16,f64.f64} cvt.{f32.f16,f32.bf16,f64.f32}
        cvt.{rn,rz,rm,rp}.f32.f64 cvt.{rn,rz}.{f16,bf16}.f32 cvt.rn.{relu,ftz}.f16.f32
        cvt.{sat,ftz,ftz.sat}.f32.f32 cvt.rn.{f16,bf16}.f64 cvt.f64.f16
        cvt.{rn,rz,rn.relu}.{f16x2,bf16x2}.f32 cvt.rn.satfinite.{e4m3x2,e5m2x2}.{f32,f16x2}
        cvt.rn.f16x2.{e4m3x2,e5m2x2} cvt.rn.relu.f16x2.e4m3x2
        cvt.{rm,rp}.{f16,bf16}.{f32,s32,u64} cvt.{rna,rn,rz,rna.satfinite,rn.relu}.tf32.f32""",
}


def check(table, target):
    for opcode, op, arrays, results in table.run(target):
        for value, got in zip(expected(op, arrays), results, strict=True):
            assert_same(got.view(value.dtype), value, opcode)


@pytest.mark.parametrize("level", LEVELS)
def test_halves_that_are_constants(level):
    """A known half is decoded like any other: 1.5 times 2, and 1.5 compared with 2."""
    lines = [
        "mov.b16 %h, 0x3E00; cvt.f32.f16 %f, %h; add.f32 %f, %f, %f; cvt.rn.f16.f32 %k, %f;",
        "setp.lt.f16 %p, %h, 0x4000; selp.b16 %h, %k, 0, %p; mul.wide.u32 %g, %number, 2;",
        "add.u64 %a, %a, %g; st.global.b16 [%a], %h;",
    ]
    declared = [".reg .b16 %h, %k; .reg .f32 %f; .reg .pred %p; .reg .b64 %g;"]
    x = np.zeros(40, np.float16)
    native(assembled(lines, declared, "a"), 1, 40, x, target=LEVELS[level])
    assert (x == 3).all()


FAST = [level for level in LEVELS if level != "generic"]


@pytest.mark.parametrize("level", FAST)
@pytest.mark.parametrize("family", FAMILIES)
def test_lane_by_lane(family, level):
    check(Table(spread(FAMILIES[family])), LEVELS[level])


@pytest.mark.parametrize("family", FAMILIES)
def test_operands_that_all_lanes_share(family):
    check(Table(spread(FAMILIES[family]), uniform=True), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_some_on_a_cpu_without_vector_instructions(family):
    check(Table(spread(FAMILIES[family])[::6]), LEVELS["generic"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_on_a_cpu_without_vector_instructions(family):
    check(Table(spread(FAMILIES[family])), LEVELS["generic"])
