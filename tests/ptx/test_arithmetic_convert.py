"""cvt between every pair of scalar types, and cvt.pack, against fractions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import (
    BF16,
    F16,
    F32,
    FORMATS,
    bits_of_float,
    cases,
    check_floats,
    integers_of,
    run,
)
from zerfoo_numba.ptx.emulator.arithmetic import DTYPES, UnsupportedInstruction, operation

INTEGERS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]
FLOATS = ["f16", "bf16", "f32", "f64"]
MODES = ["rn", "rz", "rm", "rp"]
TO_INTEGRAL = {
    "rni": lambda x: float(round(x)),
    "rzi": lambda x: float(math.trunc(x)),
    "rmi": lambda x: float(math.floor(x)),
    "rpi": lambda x: float(math.ceil(x)),
}


def width(kind):
    return 8 * np.dtype(DTYPES[kind]).itemsize


def limits(kind):
    low = -(1 << width(kind) - 1) if kind[0] == "s" else 0
    return low, low + (1 << width(kind)) - 1


def integral(x, name):
    """A float rounded to an integral value, signed zeros kept."""
    return math.copysign(TO_INTEGRAL[name](x), x) if math.isfinite(x) else x


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_integers(source):
    rows = cases((source,))
    for result in INTEGERS:
        if result == source:
            continue
        mask = (1 << width(result)) - 1
        values = [integers_of(c, source) for (c,) in rows]
        assert run(f"cvt.{result}.{source}", rows) == [(v & mask,) for v in values]
        low, high = limits(result)
        want = [(min(max(v, low), high) & mask,) for v in values]
        assert run(f"cvt.sat.{result}.{source}", rows) == want


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_floats(source):
    """Rounding positions of every format are among the values: 2**k and half a unit beside it."""
    mask = (1 << width(source)) - 1
    steps = [s << k for k in range(width(source)) for s in (1, 3, 0x801, 0x1000001, 0x1000003)]
    steps += [(1 << k) + d for k in (11, 24, 25, 53, 54, 60, 63) for d in (-1, 0, 1, 2)]
    steps += [((1 << 53) + 1 << 10) + d for d in (-1, 0, 1)] + [65519, 65520, 65504]
    rows = [(x & mask,) for v in steps for x in (v, -v)] + cases((source,))
    for result, mode in itertools.product(FLOATS, MODES):
        opcode = f"cvt.{mode}.{result}.{source}"
        form = FORMATS[result]
        want = [form.round(Fraction(integers_of(c, source)), mode) for (c,) in rows]
        check_floats(opcode, rows, run(opcode, rows), want, result)


@pytest.mark.parametrize("source", FLOATS)
def test_floats_to_integers(source):
    form = FORMATS[source]
    numbers = [0.5, 1.5, 2.5, 0.49999997, 127.5, 128.5, 254.5, 255.5, 32767.5, 65535.5]
    numbers += [2.0**k + d for k in (7, 8, 15, 16, 31, 32, 63, 64) for d in (-1, -0.5, 0, 0.5)]
    numbers += [1e30, math.inf, math.nextafter(2.0**63, 0), math.nextafter(2.0**64, 0)]
    fitting = [form.round(Fraction(x)) if math.isfinite(x) else x for x in numbers]
    rows = [(bits_of_float(x, source),) for v in fitting for x in (v, -v)] + cases((source,))
    for result, name in itertools.product(INTEGERS, TO_INTEGRAL):
        low, high = limits(result)

        def convert(x, name=name, low=low, high=high, result=result):
            if math.isnan(x):
                wide = source == "f64" or width(result) == 64
                return 1 << width(result) - 1 if wide else 0
            if math.isinf(x):
                return high if x > 0 else low
            return min(max(int(TO_INTEGRAL[name](x)), low), high)

        mask = (1 << width(result)) - 1
        for opcode in (f"cvt.{name}.{result}.{source}", f"cvt.{name}.sat.{result}.{source}"):
            got = run(opcode, rows)
            for (c,), (code,) in zip(rows, got, strict=True):
                want = convert(form.value(c)) & mask
                assert code == want, f"{opcode} {form.value(c)!r}: got {code}, want {want}"


@pytest.mark.parametrize("source,result", list(itertools.product(FLOATS, FLOATS)))
def test_floats_to_floats(source, result):
    form, to = FORMATS[source], FORMATS[result]
    exact = to.bits > form.bits or source == result
    rows = cases((source,))
    # Values beside the rounding positions of the narrower format.
    for x in (1.0, 3.0, 65504.0, 2.0**-14, 2.0**-24, 2.0**-126, 2.0**-133, 2.0**127, 2.0**-149):
        unit = 2.0 ** -min(form.precision, 40)
        for d in (0, 2.0**-9, 3 * 2.0**-9, 2.0**-12, 3 * 2.0**-12, 2.0**-25, unit, -unit):
            sizes = [form.round(Fraction(x) * (1 + Fraction(d)) * f) for f in (1, Fraction(1, 2))]
            rows += [(bits_of_float(s * y, source),) for s in (1, -1) for y in sizes]
    for mode in [None] if exact else MODES:
        opcode = ".".join(filter(None, ("cvt", mode, result, source)))

        def convert(x, mode=mode):
            if not math.isfinite(x) or x == 0:
                return x
            return to.round(Fraction(x), mode or "rn")

        want = [convert(form.value(c)) for (c,) in rows]
        check_floats(opcode, rows, run(opcode, rows), want, result)


def test_modifiers():
    rows = cases(("f32",), count=300) + [(bits_of_float(x, "f32"),) for x in (0.5, 0.25, 1.5)]
    values = [F32.value(c) for (c,) in rows]
    for name in TO_INTEGRAL:
        for ftz, load in (("", float), (".ftz", F32.flush)):
            opcode = f"cvt.{name}{ftz}.f32.f32"
            want = [integral(load(x), name) for x in values]
            check_floats(opcode, rows, run(opcode, rows), want, "f32")
    saturated = [0.0 if math.isnan(x) or x <= 0 else min(x, 1.0) for x in values]
    check_floats("cvt.sat.f32.f32", rows, run("cvt.sat.f32.f32", rows), saturated, "f32")
    want = [min(max(x, 0.0), 1.0) if x == x else 0.0 for x in values]
    want = [F16.round(Fraction(x)) for x in want]
    check_floats("cvt.rn.sat.f16.f32", rows, run("cvt.rn.sat.f16.f32", rows), want, "f16")
    doubles = cases(("f64",)) + [(bits_of_float(x, "f64"),) for x in (1e-40, -1e-40, 1e-46)]
    want = []
    for (c,) in doubles:
        x = FORMATS["f64"].value(c)
        want.append(F32.flush(F32.round(Fraction(x), "rp", x)) if math.isfinite(x) else x)
    opcode = "cvt.rp.ftz.f32.f64"
    check_floats(opcode, doubles, run(opcode, doubles), want, "f32")
    flushed = [int(F32.flush(x) > 0) for x in values if abs(x) < 2.0**-126]
    small = [row for row, x in zip(rows, values, strict=True) if abs(x) < 2.0**-126]
    assert [c for (c,) in run("cvt.rpi.ftz.u32.f32", small)] == flushed


def test_saturating_pack():
    rows = cases(("s32", "s32"), limit=300)
    for kind in ("u16", "s16"):
        low, high = limits(kind)
        for row, (got,) in zip(rows, run(f"cvt.pack.sat.{kind}.s32", rows), strict=True):
            a, b = (min(max(integers_of(c, "s32"), low), high) & 0xFFFF for c in row)
            assert got == a << 16 | b
    rows = cases(("s32", "s32", "b32"), limit=300)
    for kind, bits in (("u8", 8), ("s8", 8), ("u4", 4), ("s4", 4), ("u2", 2), ("s2", 2)):
        low = -(1 << bits - 1) if kind[0] == "s" else 0
        high, mask = low + (1 << bits) - 1, (1 << bits) - 1
        for row, (got,) in zip(rows, run(f"cvt.pack.sat.{kind}.s32.b32", rows), strict=True):
            a, b = (min(max(integers_of(c, "s32"), low), high) & mask for c in row[:2])
            assert got == (row[2] << 2 * bits & 0xFFFFFFFF) | a << bits | b


def test_every_code_of_the_16_bit_formats():
    codes = np.arange(65536, dtype=np.uint16)
    for kind, form in (("f16", F16), ("bf16", BF16)):
        wide = operation(f"cvt.f32.{kind}")(codes)
        want = np.array([form.value(int(c)) for c in codes], np.float32)
        np.testing.assert_array_equal(wide, want)
        number = ~np.isnan(want)
        back = operation(f"cvt.rn.{kind}.f32")(wide)
        assert (back[number] == codes[number]).all()
        assert (back[~number] == 0x7FFF).all()


@pytest.mark.parametrize(
    "opcode",
    ["cvt.f32.s32", "cvt.rn.s32.f32", "cvt.s32.f32", "cvt.f16.f32", "cvt.rn.f32.f16",
     "cvt.rni.f32.f64", "cvt.rn.e4m3x2.f32", "cvt.ftz.f64.f16", "cvt.rn.ue8m0x2.f32", "cvt"],
)  # fmt: skip
def test_illegal_conversions(opcode):
    with pytest.raises(UnsupportedInstruction):
        operation(opcode)
