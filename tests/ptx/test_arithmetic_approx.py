"""The approximations: the best answer, the tabulated special cases, and perturbation in bounds."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import F32, FORMATS, bits_of_float, cases, run
from zerfoo_numba.ptx.emulator.arithmetic import UnsupportedInstruction, operation

INF, NAN = math.inf, math.nan

FUNCTIONS = {
    "sin.approx": math.sin,
    "cos.approx": math.cos,
    "lg2.approx": math.log2,
    "ex2.approx": math.exp2,
    "tanh.approx": math.tanh,
    "rsqrt.approx": lambda x: 1 / math.sqrt(x),
    "rcp.approx": lambda x: 1 / x,
    "sqrt.approx": math.sqrt,
}
POSITIVE = {"lg2.approx", "rsqrt.approx", "sqrt.approx"}
# The tables of special cases in the ISA: argument, result.
SPECIAL = {
    "sin.approx": [(-INF, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, NAN), (NAN, NAN)],
    "cos.approx": [(-INF, NAN), (-0.0, 1.0), (0.0, 1.0), (INF, NAN), (NAN, NAN)],
    "lg2.approx": [(-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, -INF), (INF, INF), (NAN, NAN)],
    "ex2.approx": [(-INF, 0.0), (-0.0, 1.0), (0.0, 1.0), (INF, INF), (NAN, NAN)],
    "tanh.approx": [(-INF, -1.0), (-0.0, -0.0), (0.0, 0.0), (INF, 1.0), (NAN, NAN)],
    "rsqrt.approx": [(-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN)],
    "rcp.approx": [(-INF, -0.0), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN)],
    "sqrt.approx": [(-INF, NAN), (-1.0, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, INF), (NAN, NAN)],
}


def arguments(name, rng):
    if name == "ex2.approx":
        return rng.uniform(-149, 128, 3000).astype(np.float32)
    spread = np.ldexp(rng.uniform(0.5, 1, 3000), rng.integers(-30, 7, 3000)).astype(np.float32)
    near_one = rng.uniform(0.9, 1.1, 1000).astype(np.float32)
    sign = 1 if name in POSITIVE else rng.choice((-1, 1), 4000)
    return np.concatenate([spread, near_one]) * np.float32(sign)


def ulp(x):
    """The spacing of float32 at x."""
    return 2.0 ** (max(math.frexp(x)[1] - 1, -126) - 23)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nearest_answer(name):
    x = arguments(name, np.random.default_rng(3))
    got = operation(f"{name}.f32")(x)
    for argument, result in zip(x.tolist(), got.tolist(), strict=True):
        exact = FUNCTIONS[name](argument)
        assert abs(result - exact) <= 0.50001 * ulp(exact), (name, argument)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_cases(name):
    rows = [(bits_of_float(x, "f32") if x == x else 0x7FC00000,) for x, _ in SPECIAL[name]]
    wanted = [bits_of_float(y, "f32") for _, y in SPECIAL[name]]
    for opcode in [f"{name}.f32"] + [f"{name}.ftz.f32"] * (name != "tanh.approx"):
        for want, (code,) in zip(wanted, run(opcode, rows), strict=True):
            assert code == want if want is not None else code & 0x7FFFFFFF > 0x7F800000


def test_subnormals():
    tiny = np.array([1, 0x7FFFFF, 0x80000001], np.uint32).view(np.float32)
    assert operation("rcp.approx.ftz.f32")(tiny).tolist() == [INF, INF, -INF]
    assert operation("lg2.approx.f32")(tiny[:1]).tolist() == [-149.0]
    assert operation("lg2.approx.ftz.f32")(tiny[:1]).tolist() == [-INF]
    low = np.array([-126, -127, -149, -151], np.float32)
    assert operation("ex2.approx.f32")(low).tolist() == [2.0**-126, 2.0**-127, 2.0**-149, 0]
    assert operation("ex2.approx.ftz.f32")(low).tolist() == [2.0**-126, 0, 0, 0]


@pytest.mark.parametrize("mode", ["approx", "full", "approx.ftz", "full.ftz"])
def test_division(mode):
    rows = cases(("f32", "f32"), limit=900, count=900)
    load = F32.flush if "ftz" in mode else float
    for row, (code,) in zip(rows, run(f"div.{mode}.f32", rows), strict=True):
        a, b = (load(F32.value(c)) for c in row)
        got = F32.value(code)
        if "approx" in mode and 2.0**126 < abs(b) < INF:
            want = NAN if math.isinf(a) or a != a else math.copysign(0.0, a) * math.copysign(1, b)
            assert got != got if want != want else bits_of_float(want, "f32") == code
        elif math.isnan(a) or math.isnan(b) or a == b == 0 or (math.isinf(a) and math.isinf(b)):
            assert math.isnan(got)
        elif b == 0 or math.isinf(a):
            assert got == math.copysign(INF, a) * math.copysign(1, b)
        else:
            want = load(F32.round(Fraction(a) / Fraction(b))) if not math.isinf(b) else 0.0
            assert got == want, (a, b)


def test_f64_estimates():
    """rcp and rsqrt.approx.ftz.f64 read and write the upper words only."""
    x = np.array([3.0, 1e300, -7.5, 2.0**-1022, 5e-324, 0.0, -0.0, INF, NAN])
    reciprocal = operation("rcp.approx.ftz.f64")(x)
    assert not (reciprocal.view(np.uint64) & np.uint64(0xFFFFFFFF)).any()
    np.testing.assert_allclose(reciprocal[:4], 1 / x[:4], rtol=2.0**-19)
    assert reciprocal[4:8].tolist() == [INF, INF, -INF, 0]
    assert reciprocal[8:].view(np.uint64)[0] == 0x7FFFFFFF00000000
    root = operation("rsqrt.approx.ftz.f64")(np.array([2.0, 3e-300, 5e-324, -1.0]))
    np.testing.assert_allclose(root[:2], [2**-0.5, 3e-300**-0.5], rtol=2.0**-19)
    assert root[2] == INF and math.isnan(root[3])
    np.testing.assert_allclose(operation("rsqrt.approx.f64")(np.array([2.0])), 2**-0.5, rtol=1e-15)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["ex2", "tanh"])
def test_halves(name, kind):
    form, function = FORMATS[kind], FUNCTIONS[f"{name}.approx"]
    ftz = ".ftz" if (name, kind) == ("ex2", "bf16") else ""
    codes = np.arange(65536, dtype=np.uint16)
    got = operation(f"{name}.approx{ftz}.{kind}")(codes)
    for code in range(0, 65536, 37):
        x = form.flush(form.value(code)) if ftz else form.value(code)
        result = form.value(int(got[code]))
        if x != x:
            assert result != result
            continue
        exact = (
            function(x)
            if abs(x) < 1000
            else {"tanh": math.copysign(1, x)}.get(name, INF if x > 0 else 0.0)
        )
        if exact >= 2.0**form.emax * 2:
            assert result == INF
            continue
        spacing = 2.0 ** (max(math.frexp(exact)[1] - 1, form.emin) - form.precision + 1)
        flushed = ftz and abs(exact) < 2.0**form.emin
        assert abs(result - exact) <= 0.5001 * spacing or (flushed and result == 0)
    pairs = codes.astype(np.uint32) << 16 | codes[::-1]
    both = operation(f"{name}.approx{ftz}.{kind}x2")(pairs)
    assert ((both >> 16 == got) & (both & 0xFFFF == got[::-1])).all()


PERTURBED = [f"{name}.f32" for name in FUNCTIONS] + ["div.approx.f32", "div.full.f32"]


@pytest.mark.parametrize("opcode", PERTURBED)
def test_perturbation_stays_within_the_bound(opcode):
    op, rng = operation(opcode), np.random.default_rng(7)
    name = opcode.removesuffix(".f32")
    x = arguments(name, rng)
    if name == "ex2.approx":
        x = x[np.abs(x) < 100]
    operands = (x, arguments("cos.approx", rng)) if "div" in name else (x,)
    result = op(*operands)
    moved = op.perturb(result, rng, *operands)
    assert moved.dtype == np.float32
    distance = np.abs(moved.astype(np.float64) - result)
    if op.bound.ulp:
        bound = op.bound.ulp * np.array([ulp(r) for r in result.tolist()])
        assert set(np.round(distance / (bound / op.bound.ulp)).astype(int)) == set(
            range(op.bound.ulp + 1)
        )
    else:
        bound = np.maximum(op.bound.relative * np.abs(result.astype(np.float64)), op.bound.absolute)
    assert (distance <= bound).all()
    assert (distance > bound / 2).any()


def test_perturbation_keeps_what_the_isa_tabulates():
    rng = np.random.default_rng(0)
    for name, table in SPECIAL.items():
        op = operation(f"{name}.f32")
        x = np.repeat(np.array([a for a, _ in table if a != -1], np.float32), 50)
        result = op(x)
        assert (op.perturb(result, rng, x).view("u4") == result.view("u4")).all(), name
    edge = np.full(100, -126, np.float32)  # a flushed result never becomes subnormal
    ex2 = operation("ex2.approx.ftz.f32")
    assert (ex2.perturb(ex2(edge), rng, edge) >= 2.0**-126).all()
    exact = operation("sqrt.rn.f32")
    x = np.float32([2, 3])
    assert exact.bound is None
    assert exact.perturb(x, rng, x) is x


def test_perturbation_of_halves():
    rng = np.random.default_rng(1)
    for kind, relative in (("f16", 2.0**-9.9), ("bf16", 2.0**-7)):
        form = FORMATS[kind]
        op = operation(f"ex2.approx{'.ftz' * (kind == 'bf16')}.{kind}x2")
        codes = [bits_of_float(v / 8, kind) for v in range(-63, 64, 2)]
        x = np.repeat(np.array([c << 16 | c for c in codes], np.uint32), 20)
        result, changed = op(x), 0
        moved = op.perturb(result, rng, x)
        for a, b in zip(result.tolist(), moved.tolist(), strict=True):
            for shift in (0, 16):
                before, after = (form.value(v >> shift & 0xFFFF) for v in (a, b))
                assert abs(after - before) <= relative * before
                changed += before != after
        assert changed > len(result) // 4


def test_unsupported():
    for opcode in ("ex2.f32", "tanh.approx.ftz.f32", "ex2.approx.bf16", "sin.approx.f64",
                   "rcp.approx.f64", "ex2.approx.ftz.f16", "lg2.approx.f16"):  # fmt: skip
        with pytest.raises(UnsupportedInstruction):
            operation(opcode)
