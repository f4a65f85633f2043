"""f16 and bf16 arithmetic, single and packed, against fractions rounded once."""

import itertools
import math
import random
from fractions import Fraction

import pytest

from tests.ptx.arithmetic_exact import FORMATS, bits_of_float, cases, check_floats, run
from tests.ptx.test_arithmetic_float import added, extreme, limited, multiplied

KINDS = ["f16", "bf16"]


def check(opcode, kind, count, function, rows=None):
    """The single instruction, then the packed one on the same operands in both halves."""
    form = FORMATS[kind]
    rows = rows or cases((kind,) * count, limit=3000, count=800)
    flush = form.flush if ".ftz" in opcode else float
    want = []
    for row in rows:
        x = flush(function(*(flush(form.value(c)) for c in row)))
        if ".sat" in opcode:
            x = limited(x)
        want.append(0.0 if ".relu" in opcode and x <= 0 else x)
    got = run(f"{opcode}.{kind}", rows)
    check_floats(opcode, rows, got, want, kind)
    pairs = list(zip(rows, rows[7:] + rows[:7], strict=True))
    packed = [tuple(x | y << 16 for x, y in zip(*p, strict=True)) for p in pairs]
    both = run(f"{opcode}.{kind}x2", packed)
    assert [c & 0xFFFF for (c,) in both] == [c for (c,) in got]
    assert [c >> 16 for (c,) in both] == [c for (c,) in got[7:] + got[:7]]


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic(kind):
    form = FORMATS[kind]
    modifiers = ["", ".rn", ".ftz", ".sat", ".ftz.sat"] if kind == "f16" else ["", ".rn"]
    for m in modifiers:
        check(f"add{m}", kind, 2, lambda x, y: added(x, 1.0, y, "rn", form))
        check(f"sub{m}", kind, 2, lambda x, y: added(x, 1.0, -y, "rn", form))
        check(f"mul{m}", kind, 2, lambda x, y: multiplied(x, y, "rn", form))


@pytest.mark.parametrize("kind", KINDS)
def test_fma(kind):
    form = FORMATS[kind]
    modifiers = ["", ".relu"] + ([".ftz", ".sat"] if kind == "f16" else [])
    for m in modifiers:
        check(f"fma.rn{m}", kind, 3, lambda *x: added(*x, "rn", form))


@pytest.mark.parametrize("kind", KINDS)
def test_fma_rounds_once(kind):
    """Addends with half a unit less or more by a product far below float32's last bit."""
    form, rng = FORMATS[kind], random.Random(2)
    unit = 2.0 ** (1 - form.precision)
    rows = []
    for i, j in itertools.product(range(1, 12), repeat=2):
        a, b = 1 + i * unit, 1 - (i + j - 1) * unit / 2 * (j % 2)
        scale = 2.0 ** (-form.precision // 2), 2.0 ** -(form.precision + -form.precision // 2)
        c = 1 + rng.randrange(6) * unit
        x = a * scale[0] * rng.choice((1, -1)), b * scale[1], c * rng.choice((1, -1))
        rows.append(tuple(bits_of_float(form.round(Fraction(v)), kind) for v in x))
    tiny = 2.0**form.emin
    for c in (65504.0, 2048.0, 1.0, 2.0**-10) if kind == "f16" else (3e38, 1.0, 2.0**-120):
        for x, y in itertools.product((tiny, -tiny, tiny * unit, 1.0), repeat=2):
            rows.append(tuple(bits_of_float(form.round(Fraction(v)), kind) for v in (x, y, c)))
    check("fma.rn", kind, 3, lambda *x: added(*x, "rn", form), rows=rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["min", "max"])
def test_min_max(kind, name):
    pick = {"min": min, "max": max}[name]

    def loud(x, y):
        return math.nan if math.isnan(x) or math.isnan(y) else extreme(pick, x, y)

    def crossed(x, y):
        sign = math.copysign(1, x) * math.copysign(1, y)
        return math.copysign(extreme(pick, abs(x), abs(y)), sign)

    check(name, kind, 2, lambda x, y: extreme(pick, x, y))
    check(f"{name}.NaN", kind, 2, loud)
    check(f"{name}.xorsign.abs", kind, 2, crossed)
    if kind == "f16":
        check(f"{name}.ftz", kind, 2, lambda x, y: extreme(pick, x, y))


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_canonical(kind):
    nan, one = 0x7F81 if kind == "bf16" else 0xFC01, bits_of_float(1.0, kind)
    for opcode in (f"add.{kind}", f"min.NaN.{kind}", f"max.NaN.{kind}", f"mul.{kind}"):
        assert run(opcode, [(nan, one), (one, nan)]) == [(0x7FFF,), (0x7FFF,)]


@pytest.mark.parametrize("kind", KINDS)
def test_signs(kind):
    rows = cases((kind,))
    assert run(f"neg.{kind}", rows) == [(c ^ 0x8000,) for (c,) in rows]
    assert run(f"abs.{kind}", rows) == [(c & 0x7FFF,) for (c,) in rows]
    pairs = [(c << 16 | (c * 7 & 0xFFFF),) for (c,) in rows]
    assert run(f"neg.{kind}x2", pairs) == [(c ^ 0x80008000,) for (c,) in pairs]
    assert run(f"abs.{kind}x2", pairs) == [(c & 0x7FFF7FFF,) for (c,) in pairs]
