"""setp, set, selp, slct: every comparison on ordered, equal, signed-zero and NaN operands."""

import math
import operator

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import FORMATS, cases, integers_of, run
from zerfoo_numba.ptx.emulator.arithmetic import operation

ORDERED = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
UNSIGNED = {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}
COMBINE = {"and": lambda p, c: p and c, "or": lambda p, c: p or c, "xor": lambda p, c: p != c}


def float_comparisons():
    def unordered(x, y):
        return math.isnan(x) or math.isnan(y)

    table = {"num": lambda x, y: not unordered(x, y), "nan": unordered}
    for name, function in ORDERED.items():
        table[name] = lambda x, y, f=function: not unordered(x, y) and f(x, y)
        table[name + "u"] = lambda x, y, f=function: unordered(x, y) or f(x, y)
    return table


@pytest.mark.parametrize("kind", ["u16", "s16", "b32", "u32", "s32", "b64", "u64", "s64"])
def test_setp_of_integers(kind):
    table = dict(ORDERED)
    if kind[0] == "u":
        table |= UNSIGNED
    if kind[0] == "b":
        table = {"eq": operator.eq, "ne": operator.ne}
    rows = cases((kind, kind), limit=300, count=100)
    values = [[integers_of(c, kind) for c in row] for row in rows]
    for name, function in table.items():
        got = run(f"setp.{name}.{kind}", rows)
        assert got == [(function(*v),) for v in values], name


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_setp_of_floats(kind):
    form = FORMATS[kind]
    rows = cases((kind, kind), limit=800, count=100)
    flushed = ["", ".ftz"] if kind in ("f32", "f16") else [""]
    for ftz in flushed:
        load = form.flush if ftz else float
        values = [[load(form.value(c)) for c in row] for row in rows]
        for name, function in float_comparisons().items():
            got = run(f"setp.{name}{ftz}.{kind}", rows)
            assert got == [(function(*v),) for v in values], name + ftz


@pytest.mark.parametrize("combine", COMBINE)
def test_setp_combined(combine):
    rows = cases(("s32", "s32", "pred"), limit=300)
    want = []
    for a, b, c in rows:
        p = integers_of(a, "s32") < integers_of(b, "s32")
        want.append((COMBINE[combine](p, c), COMBINE[combine](not p, c)))
    both = run(f"setp.lt.{combine}.s32", rows, destinations=2)
    assert [tuple(map(bool, w)) for w in want] == both
    assert run(f"setp.lt.{combine}.s32", rows) == [(p,) for p, _ in both]


def test_setp_second_predicate():
    rows = cases(("f32", "f32"), limit=300)
    for p, q in run("setp.ltu.f32", rows, destinations=2):
        assert q == (not p)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_setp_of_pairs(kind):
    form, name = FORMATS[kind], f"{kind}x2"
    rows = [(a | b << 16, b | a << 16) for a, b in cases((kind, kind), limit=300, count=50)]
    want = []
    for a, b in rows:
        sides = [[form.value(x >> s & 0xFFFF) for x in (a, b)] for s in (0, 16)]
        want.append(tuple(x > y for x, y in sides))
    assert run(f"setp.gt.{name}", rows, destinations=2) == want


def test_set():
    rows = cases(("f32", "f32"), limit=400)
    holds = [less_f32(a, b) for a, b in rows]
    assert run("set.lt.u32.f32", rows) == [(0xFFFFFFFF * h,) for h in holds]
    assert run("set.lt.f32.f32", rows) == [(0x3F800000 * h,) for h in holds]
    integers = cases(("u32", "u32", "pred"), limit=300)
    want = [(0xFFFFFFFF * ((a >= b) != bool(c)),) for a, b, c in integers]
    assert run("set.ge.xor.s32.u32", integers) == want
    for kind, one in (("f16", 0x3C00), ("bf16", 0x3F80)):
        halves = cases((kind, kind), limit=300)
        load = FORMATS[kind].value
        holds = [load(a) != load(b) for a, b in halves]
        assert run(f"set.neu.{kind}.{kind}", halves) == [(one * h,) for h in holds]
        assert run(f"set.neu.u32.{kind}", halves) == [(0xFFFFFFFF * h,) for h in holds]
        assert run(f"set.neu.u16.{kind}", halves) == [(0xFFFF * h,) for h in holds]
    pairs = [(a << 16 | b, b << 16 | a) for a, b in cases(("f16", "f16"), limit=300)]
    for (a, b), (got,) in zip(pairs, run("set.eq.f16x2.f16x2", pairs), strict=True):
        for shift in (0, 16):
            x, y = (FORMATS["f16"].value(v >> shift & 0xFFFF) for v in (a, b))
            assert got >> shift & 0xFFFF == (0x3C00 if x == y else 0)
    flags = run("set.eq.u32.f16x2", pairs)
    for (got,), (flag,) in zip(run("set.eq.f16x2.f16x2", pairs), flags, strict=True):
        assert flag == got // 0x3C00 * 0xFFFF


def less_f32(a, b):
    return FORMATS["f32"].value(a) < FORMATS["f32"].value(b)


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "u32", "s64", "f32", "f64"])
def test_selection(kind):
    rows = cases((kind, kind, "pred"), limit=300)
    assert run(f"selp.{kind}", rows) == [(a if c else b,) for a, b, c in rows]
    rows = cases((kind, kind, "s32"), limit=300)
    want = [(a if integers_of(c, "s32") >= 0 else b,) for a, b, c in rows]
    assert run(f"slct.{kind}.s32", rows) == want
    rows = cases((kind, kind, "f32"), limit=300)
    for ftz in ("", ".ftz"):
        load = FORMATS["f32"].flush if ftz else float
        want = [(a if load(FORMATS["f32"].value(c)) >= 0 else b,) for a, b, c in rows]
        assert run(f"slct{ftz}.{kind}.f32", rows) == want


def test_mov_keeps_every_bit():
    for kind in ("b16", "b32", "u64", "f32", "f64", "pred"):
        rows = cases((kind,))
        assert run(f"mov.{kind}", rows) == rows


def test_scalars_broadcast():
    a = np.arange(6, dtype=np.uint32).reshape(2, 3)
    assert (operation("setp.lt.u32")(a, np.uint32(3)) == (a < 3)).all()
    assert (operation("selp.b32")(a, np.uint32(9), a > 2) == np.where(a > 2, a, 9)).all()
    assert operation("selp.b32")(np.uint32(1), np.uint32(2), np.True_) == 1
