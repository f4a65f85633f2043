"""float32 and float64 arithmetic against fractions, correctly rounded in every mode."""

import math
import operator
import random
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import (
    F32,
    F64,
    FORMATS,
    bits_of_float,
    cases,
    check_floats,
    column,
    run,
)
from zerfoo_numba.ptx.emulator.arithmetic import operation

MODES = ("rn", "rz", "rm", "rp")


def added(x, y, z, mode, form):
    """x * y + z rounded once; the signs of exact zeros as IEEE 754 has them."""
    if math.isfinite(x) and math.isfinite(y) and not math.isfinite(z):
        return z  # the product is finite, however far beyond the format
    if not all(map(math.isfinite, (x, y, z))):
        return x * y + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    zero = -0.0 if mode == "rm" else 0.0
    signs = (math.copysign(1, x) * math.copysign(1, y), math.copysign(1, z))
    if signs[0] == signs[1]:
        zero = math.copysign(0.0, signs[0])
    return form.round(exact, mode, zero)


def multiplied(x, y, mode, form):
    if not (math.isfinite(x) and math.isfinite(y)):
        return x * y
    zero = math.copysign(0.0, math.copysign(1, x) * math.copysign(1, y))
    return form.round(Fraction(x) * Fraction(y), mode, zero)


def divided(x, y, mode, form):
    sign = math.copysign(1, x) * math.copysign(1, y)
    if math.isnan(x) or math.isnan(y) or (x == y == 0) or (math.isinf(x) and math.isinf(y)):
        return math.nan
    if math.isinf(x) or y == 0:
        return sign * math.inf
    if math.isinf(y) or x == 0:
        return sign * 0.0
    return form.round(Fraction(x) / Fraction(y), mode)


def rooted(x, mode, form):
    if math.isnan(x) or x < 0:
        return math.nan
    if x == 0 or math.isinf(x):
        return x
    exact = Fraction(x)
    shift = 2 * (form.precision + 4 - (exact.numerator.bit_length() // 2))
    shift += 2 * exact.denominator.bit_length()
    scaled = exact * Fraction(2) ** shift
    root = math.isqrt(scaled.numerator // scaled.denominator)
    sticky = Fraction(1, 2) if root * root != scaled else 0
    return form.round((root + sticky) / Fraction(2) ** (shift // 2), mode)


def limited(x):
    return 0.0 if math.isnan(x) or x <= 0 else min(x, 1.0)


def check(opcode, kinds, function, modify=None, rows=None, **options):
    kind = kinds[0]
    form = FORMATS[kind]
    rows = rows or cases(kinds, **options)
    flush = form.flush if ".ftz" in opcode else float
    want = []
    for row in rows:
        result = flush(function(*(flush(form.value(c)) for c in row)))
        want.append(limited(result) if ".sat" in opcode else result)
    check_floats(opcode, rows, run(opcode, rows), want, kind)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
def test_rounded(kind, mode):
    form = FORMATS[kind]
    two = (kind, kind)
    limit = 1200 if kind == "f64" and mode != "rn" else 3000
    near = [(c, c + d) for c in (0x3F800000, 0x7F7FFFFF, 0x00800000) for d in (-1, 0, 1)]
    near = near if kind == "f32" else []
    for name, function in {
        "add": lambda x, y: added(x, 1.0, y, mode, form),
        "sub": lambda x, y: added(x, 1.0, -y, mode, form),
        "mul": lambda x, y: multiplied(x, y, mode, form),
        "div": lambda x, y: divided(x, y, mode, form),
    }.items():
        check(f"{name}.{mode}.{kind}", two, function, rows=near + cases(two, limit=limit))
    check(f"rcp.{mode}.{kind}", (kind,), lambda x: divided(1.0, x, mode, form))
    check(f"sqrt.{mode}.{kind}", (kind,), lambda x: rooted(x, mode, form))


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
def test_fma(kind, mode):
    form = FORMATS[kind]
    check(f"fma.{mode}.{kind}", (kind,) * 3, lambda x, y, z: added(x, y, z, mode, form))


def beside_midpoints(kind, subnormal, count=100):
    """fma operands whose product misses half a unit of the addend by less than float64 sees.

    The product is (1 + i u)(1 - i u) = 1 - (i u)**2 times half a unit, with every sign.
    """
    form, rng = FORMATS[kind], random.Random(5)
    unit = 2.0 ** (1 - form.precision)
    half = form.emin - form.precision if subnormal else -form.precision
    rows = []
    for i in range(1, count + 1):
        a = math.ldexp(1 + i * unit, half // 2) * rng.choice((1, -1))
        b = math.ldexp(1 - i * unit, half - half // 2)
        if subnormal:
            steps = rng.randrange(1 << form.precision // 2, 1 << form.precision - 2)
            c = math.ldexp(steps, form.emin - form.precision + 1)
        else:
            c = 1 + rng.randrange(8) * unit
        row = a, b, c * rng.choice((1, -1))
        rows.append(tuple(bits_of_float(x, kind) for x in row))
    return rows


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subnormal", [False, True])
def test_fma_rounds_once(kind, mode, subnormal):
    form = FORMATS[kind]
    rows = beside_midpoints(kind, subnormal)
    if kind == "f32" and mode == "rn":  # the cases must catch a second rounding
        a, b, c = (column(x, kind) for x in zip(*rows, strict=True))
        twice = (a.astype(np.float64) * b + c).astype(np.float32)
        assert (twice != operation("fma.rn.f32")(a, b, c)).sum() > 20
    check(f"fma.{mode}.{kind}", (kind,) * 3, lambda *x: added(*x, mode, form), rows=rows)
    scalars = [v[0] for v in (column(x, kind) for x in zip(*rows, strict=True))]
    got = operation(f"fma.{mode}.{kind}")(*scalars).reshape(1).view(f"u{form.bits // 8}")
    assert [tuple(got.tolist())] == run(f"fma.{mode}.{kind}", rows[:1])


def test_mad_is_fused():
    row = [tuple(bits_of_float(x, "f32") for x in (1 + 2.0**-12, 1 + 2.0**-12, -1.0))]
    check("mad.rn.f32", ("f32",) * 3, lambda *x: added(*x, "rn", F32), rows=row)


@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_flush_and_saturate(mode):
    two, three = ("f32", "f32"), ("f32",) * 3
    for modifier in (".ftz", ".sat", ".ftz.sat"):
        name = f".{mode}{modifier}.f32"
        check(f"add{name}", two, lambda x, y: added(x, 1.0, y, mode, F32), limit=900)
        check(f"fma{name}", three, lambda *x: added(*x, mode, F32), limit=900)
    check(f"mul.{mode}.ftz.f32", two, lambda x, y: multiplied(x, y, mode, F32))
    check(f"div.{mode}.ftz.f32", two, lambda x, y: divided(x, y, mode, F32))
    check(f"sqrt.{mode}.ftz.f32", ("f32",), lambda x: rooted(x, mode, F32))


@pytest.mark.parametrize("name", ["add.f32", "sub.rz.ftz.f32", "mul.rp.f32", "fma.rn.ftz.f32"])
def test_pairs(name):
    single = cases(("f32",) * (3 if "fma" in name else 2), limit=500)
    rows = list(zip(single, single[9:] + single[:9], strict=True))
    pairs = [tuple(x | y << 32 for x, y in zip(*row, strict=True)) for row in rows]
    want = [c for (c,) in run(name, single)]
    got = [c for (c,) in run(f"{name}x2", pairs)]
    assert [c & 0xFFFFFFFF for c in got] == want
    assert [c >> 32 for c in got] == want[9:] + want[:9]


def test_defaults_are_nearest():
    rows = cases(("f32", "f32"), limit=200)
    for name in ("add", "sub", "mul"):
        assert run(f"{name}.f32", rows) == run(f"{name}.rn.f32", rows)


def extreme(pick, x, y):
    if math.isnan(x) or math.isnan(y):
        return y if math.isnan(x) else x
    if x == y == 0:
        signs = pick(math.copysign(1, x), math.copysign(1, y))
        return math.copysign(0.0, signs)
    return pick(x, y)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_min_max(kind, name):
    pick = {"min": min, "max": max}[name]
    two = (kind, kind)
    check(f"{name}.{kind}", two, lambda x, y: extreme(pick, x, y))
    if kind == "f64":
        return

    def loud(x, y):
        return math.nan if math.isnan(x) or math.isnan(y) else extreme(pick, x, y)

    def crossed(inner):
        def function(x, y):
            sign = math.copysign(1, x) * math.copysign(1, y)
            return math.copysign(inner(abs(x), abs(y)), sign)

        return function

    check(f"{name}.ftz.f32", two, lambda x, y: extreme(pick, x, y))
    check(f"{name}.NaN.f32", two, loud)
    check(f"{name}.xorsign.abs.f32", two, crossed(lambda x, y: extreme(pick, x, y)))
    check(f"{name}.ftz.NaN.xorsign.abs.f32", two, crossed(loud))


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_signs(kind):
    check(f"abs.{kind}", (kind,), abs)
    check(f"neg.{kind}", (kind,), operator.neg)
    check(f"copysign.{kind}", (kind, kind), lambda x, y: math.copysign(y, x))
    if kind == "f32":
        check("abs.ftz.f32", (kind,), abs)
        check("neg.ftz.f32", (kind,), operator.neg)


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_testp(kind):
    smallest = 2.0 ** FORMATS[kind].emin
    tests = {
        "finite": math.isfinite,
        "infinite": math.isinf,
        "number": lambda x: not math.isnan(x),
        "notanumber": math.isnan,
        "normal": lambda x: math.isfinite(x) and (abs(x) >= smallest or x == 0),
        "subnormal": lambda x: 0 < abs(x) < smallest,
    }
    rows = cases((kind,))
    for name, function in tests.items():
        got = run(f"testp.{name}.{kind}", rows)
        assert got == [(function(FORMATS[kind].value(c)),) for (c,) in rows], name


def test_reference_rounds_like_the_machine():
    """The fractions' rounding itself, where Python has another way: float of a Fraction."""
    rng = random.Random(1)
    for _ in range(2000):
        x = Fraction(rng.getrandbits(120) + 1, rng.getrandbits(120) + 1)
        x *= Fraction(2) ** rng.choice((0, 0, -1040, 900))
        assert F64.round(x) == float(x)
        assert F64.round(x, "rm") <= x <= F64.round(x, "rp")
        assert F64.round(x, "rp") in (x, math.nextafter(F64.round(x, "rm"), math.inf))
