"""cvt to and from packed 16, 8, 6 and 4-bit floats and tf32, against searches and fractions."""

import itertools
import math
from fractions import Fraction

import pytest

from tests.ptx.arithmetic_exact import (
    F16,
    F32,
    FORMATS,
    bits_of_float,
    cases,
    check_floats,
    is_nan,
    run,
)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
def test_pairs_from_f32(kind, mode):
    form = FORMATS[kind]
    rows = cases(("f32", "f32"), limit=800)
    for relu, finite in itertools.product((False, True), repeat=2):
        suffix = ".relu" * relu + ".satfinite" * finite

        def convert(code, relu=relu, finite=finite):
            x = F32.value(code)
            if relu and x <= 0:
                return 0.0
            if math.isnan(x):
                return x
            y = x if math.isinf(x) else form.round(Fraction(x), mode, x)
            return math.copysign(float(form.largest), y) if finite and math.isinf(y) else y

        got = run(f"cvt.{mode}{suffix}.{kind}x2.f32", rows)
        for (a, b), (code,) in zip(rows, got, strict=True):
            for part, x in ((code >> 16, convert(a)), (code & 0xFFFF, convert(b))):
                bits = bits_of_float(x, kind)
                assert part == bits if bits is not None else part == 0x7FFF
        singles = [(a,) for a, _ in rows]
        want = [convert(a) for (a,) in singles]
        opcode = f"cvt.{mode}{suffix}.{kind}.f32"
        check_floats(opcode, singles, run(opcode, singles), want, kind)


# format: (exponent bits, fraction bits, greatest finite code), values from the OCP documents
NARROW = {
    "e4m3": (4, 3, 0x7E, 448.0), "e5m2": (5, 2, 0x7B, 57344.0), "e2m3": (2, 3, 0x1F, 7.5),
    "e3m2": (3, 2, 0x1F, 28.0), "e2m1": (2, 1, 0x7, 6.0),
}  # fmt: skip


def narrow_values(name):
    """Every nonnegative finite value, in the order of the codes."""
    exponent_bits, fraction_bits, last, greatest = NARROW[name]
    bias = (1 << exponent_bits - 1) - 1
    values = []
    for code in range(last + 1):
        exponent, fraction = code >> fraction_bits, code & (1 << fraction_bits) - 1
        lead = 1 << fraction_bits if exponent else 0
        values.append((lead + fraction) * 2.0 ** (max(exponent, 1) - bias - fraction_bits))
    assert values[-1] == greatest
    return values


def nearest_code(x, name):
    """By search: the code of the closest value, the even code of two; NaN and signs apart."""
    values = narrow_values(name)
    if math.isnan(x):
        return 0x7F if name in ("e4m3", "e5m2") else NARROW[name][2]
    sign = (math.copysign(1, x) < 0) << sum(NARROW[name][:2])
    size = min(abs(x), values[-1])
    code = min(range(len(values)), key=lambda c: (abs(values[c] - size), c % 2))
    return code | sign


@pytest.mark.parametrize("name", NARROW)
def test_narrow_formats(name):
    values = narrow_values(name)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    beside = [math.nextafter(m, d) for m in middles for d in (0, 1e9)]
    numbers = [s * F32.round(Fraction(v)) for v in values + middles + beside for s in (1, -1)]
    rows = [(bits_of_float(x, "f32"),) for x in numbers] + cases(("f32",), count=200)
    pairs = [(a, b) for (a,), (b,) in itertools.pairwise(rows)]
    bits = 4 if name == "e2m1" else 8
    for relu in ("", ".relu"):
        got = run(f"cvt.rn.satfinite{relu}.{name}x2.f32", pairs)
        for row, (code,) in zip(pairs, got, strict=True):
            high, low = (F32.value(c) for c in row)
            if relu:
                high, low = (0.0 if x <= 0 else x for x in (high, low))
            want = nearest_code(high, name) << bits | nearest_code(low, name)
            assert code == want, (name, high, low)
    halves = [(a | b << 16,) for a, b in cases(("f16", "f16"), limit=400)]
    for (pair,), (code,) in zip(
        halves, run(f"cvt.rn.satfinite.{name}x2.f16x2", halves), strict=True
    ):
        low, high = (F16.value(pair >> s & 0xFFFF) for s in (0, 16))
        assert code == nearest_code(high, name) << bits | nearest_code(low, name)


@pytest.mark.parametrize("name", NARROW)
def test_narrow_formats_to_f16(name):
    values, (exponent_bits, fraction_bits, last, _) = narrow_values(name), NARROW[name]
    sign = 1 << exponent_bits + fraction_bits
    width = 4 if name == "e2m1" else 8
    codes = range(2 * sign)
    rows = [(c << width | codes[-1 - c],) for c in codes]
    for (pair,), (got,) in zip(rows, run(f"cvt.rn.f16x2.{name}x2", rows), strict=True):
        for shift in (0, 1):
            code = pair >> width * shift & (1 << width) - 1
            half = got >> 16 * shift & 0xFFFF
            if code & sign - 1 <= last:
                x = math.copysign(values[code & sign - 1], -1 if code & sign else 1)
                assert half == bits_of_float(x, "f16")
            elif name == "e5m2" and code & 0x7F == 0x7C:
                assert half == (0xFC00 if code & sign else 0x7C00)
            else:
                assert half == 0x7FFF


def test_tf32():
    rows = [*cases(("f32",), count=1000), (0x3F801000,), (0x3F803000,), (0x3F800FFF,)]
    for mode in ("rn", "rz", "rna"):
        for (c,), (got,) in zip(rows, run(f"cvt.{mode}.tf32.f32", rows), strict=True):
            if is_nan(c, "f32"):
                assert is_nan(got, "f32")
                continue
            size, rest = c & 0x7FFFE000, c & 0x1FFF
            up = mode != "rz" and (
                rest > 0x1000 or (rest == 0x1000 and (mode == "rna" or c >> 13 & 1))
            )
            infinite = c & 0x7FFFFFFF == 0x7F800000
            want = size + 0x2000 * (up and not infinite) | c & 0x80000000
            assert got == want, (mode, hex(c))
