"""The approximations of the native engine: within 2 ulp of the exact value, special cases exact."""

import numpy as np
import pytest

from tests.ptx.native_agree import LEVELS, assembled, native
from tests.ptx.test_arithmetic_approx import FUNCTIONS, SPECIAL, arguments, ulp
from zerfoo_numba.ptx.emulator.arithmetic import operation


def outputs(opcode, x, target=None, uniform=False):
    """The results of a unary instruction on x, whose size is a multiple of 32.

    `uniform`: the lanes of a warp share one element of x, which is scalar code.
    """
    kind, size = {2: "b16", 4: "f32"}[x.itemsize], x.itemsize
    row = "%cta" if uniform else "%number"
    lines = [
        f"mul.wide.u32 %wide, {row}, {size}; add.u64 %a, %a, %wide;",
        f"mul.wide.u32 %wide, %number, {size}; add.u64 %b, %b, %wide;",
        f"ld.global.{kind} %x, [%a]; {opcode} %y, %x; st.global.{kind} [%b], %y;",
    ]
    kernel = assembled(lines, [".reg .b64 %wide;", f".reg .{kind} %x, %y;"])
    threads = x.size * (32 if uniform else 1)
    out = np.zeros(threads, x.dtype)
    native(kernel, threads // 32, 32, x, out, target=target)
    return out[::32] if uniform else out


def worst_error(name, x, got):
    """In units in the last place, and where."""
    exact = [FUNCTIONS[name](a) for a in x.tolist()]
    rows = zip(x.tolist(), got.tolist(), exact, strict=True)
    return max((abs(result - e) / ulp(e), argument) for argument, result, e in rows)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_two_ulp_of_the_exact_value(name, level):
    x = arguments(name, np.random.default_rng(3))
    x = x[: x.size // 32 * 32]
    error, where = worst_error(name, x, outputs(f"{name}.f32", x, LEVELS[level]))
    assert error <= 2, where
    few = x[::40][:64].copy()
    error, where = worst_error(name, few, outputs(f"{name}.f32", few, LEVELS[level], True))
    assert error <= 2, where


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_cases(name, level):
    x, expected = (np.resize(np.array(c, np.float32), 32) for c in zip(*SPECIAL[name], strict=True))
    got = outputs(f"{name}.f32", x, LEVELS[level])
    np.testing.assert_array_equal(got, expected)
    zeros = expected == 0
    assert (np.signbit(got[zeros]) == np.signbit(expected[zeros])).all()


@pytest.mark.parametrize("name", ["ex2.approx", "lg2.approx", "rsqrt.approx", "rcp.approx"])
def test_subnormal_numbers_are_flushed(name):
    tiny = np.array([1e-40, -1e-40, 1e-45, 2.0**-126], np.float32)
    got = outputs(f"{name}.ftz.f32", np.resize(tiny, 32))[:4]
    expected = operation(f"{name}.ftz.f32")(tiny)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("opcode", ["tanh.approx.f16", "ex2.approx.f16", "ex2.approx.ftz.bf16"])
def test_every_half(opcode):
    x = np.arange(1 << 16, dtype=np.uint16)
    got, best = outputs(opcode, x).astype(int), operation(opcode)(x).astype(int)
    assert (abs(got - best) <= 1).all()
    assert (got == best).mean() > 0.99
