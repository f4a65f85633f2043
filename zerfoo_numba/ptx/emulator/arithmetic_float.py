"""float32 and float64 arithmetic: every rounding mode, .ftz, .sat, and min/max by PTX's rules."""

import numpy as np

from zerfoo_numba.ptx.emulator import arithmetic_rounding as rounding
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    in_halves,
)
from zerfoo_numba.ptx.emulator.arithmetic_rounding import MODES, flush, saturate, to_f32


def flushing(function, ftz):
    """`function` with subnormal operands and results replaced by zeros, if `ftz`."""
    if not ftz:
        return function
    return lambda *operands: flush(function(*(flush(x) for x in operands)))


def _modifiers(op, kind):
    """(ftz, sat), which float64 does not have, and pairs only the first."""
    ftz, sat = op.has("ftz"), op.has("sat")
    if (kind == "f64" and ftz) or (kind != "f32" and sat):
        raise UnsupportedInstruction(op.text)
    return ftz, sat


def arithmetic(by_mode, count, default="rn", pairs=()):
    """An instruction with a rounding mode: `by_mode(kind, mode) -> function`."""

    def build(op):
        kind = op.kind("f32", "f64", *pairs)
        mode = op.take(*MODES, default=default)
        if mode is None:
            raise UnsupportedInstruction(op.text)
        ftz, sat = _modifiers(op, kind)
        function = flushing(by_mode(kind.removesuffix("x2"), mode), ftz)
        if kind == "f32x2":
            function = in_halves(function, np.float32)
        if sat:
            plain = function
            return Operation((kind,) * count, (kind,), lambda *x: saturate(plain(*x)))
        return Operation((kind,) * count, (kind,), function)

    return build


def _add(kind, mode):
    if mode == "rn":
        return np.add
    if kind == "f64":
        return rounding.directed_sum_f64(mode)

    def add(a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        return to_f32(rounding.signed_zero(rounding.odd_sum(a, b), a, b, mode), mode)

    return add


def _sub(kind, mode):
    if mode == "rn":
        return np.subtract
    add = _add(kind, mode)
    return lambda a, b: add(a, np.negative(b))


def _mul(kind, mode):
    if mode == "rn":
        return np.multiply
    if kind == "f64":
        return rounding.directed_product_f64(mode)
    return lambda a, b: to_f32(np.multiply(a, b, dtype=np.float64), mode)


def _fma(kind, mode):
    if kind == "f64":
        return rounding.fma_f64(mode)
    return rounding.fma_f32 if mode == "rn" else rounding.directed_fma_f32(mode)


def _div(kind, mode):
    if mode == "rn":
        return np.divide
    if kind == "f64":
        return rounding.directed_f64(np.divide, rounding.quotient_sign, mode)

    def divide(a, b):
        nearest = np.divide(a, b)
        rest = np.subtract(a, np.multiply(nearest, b, dtype=np.float64))
        return rounding.settle(nearest, np.multiply(rest, np.sign(b)), mode)

    return divide


def _rcp(kind, mode):
    divide, one = _div(kind, mode), DTYPES[kind](1)
    return lambda a: divide(one, a)


def _sqrt(kind, mode):
    if mode == "rn":
        return np.sqrt
    if kind == "f64":
        return rounding.directed_f64(np.sqrt, rounding.root_sign, mode)

    def root(a):
        nearest = np.sqrt(a)
        rest = np.subtract(a, np.multiply(nearest, nearest, dtype=np.float64))
        return rounding.settle(nearest, rest, mode)

    return root


def _sign_operation(function):
    def build(op):
        kind = op.kind("f32", "f64")
        ftz, _ = _modifiers(op, kind)
        return Operation((kind,), (kind,), flushing(function, ftz))

    return build


def minimum_or_maximum(minimum):
    """min or max of floats: the number if one operand is NaN, and -0 below +0."""
    choose = np.fmin if minimum else np.fmax

    def function(a, b):
        result = choose(a, b)
        zero = np.equal(result, 0)
        if not zero.any():
            return result
        # np.fmin may return either zero. The sign bits of two zeros settle it.
        minus = np.signbit(a), np.signbit(b)
        both = np.equal(a, 0) & np.equal(b, 0)
        minus = np.logical_or(*minus) if minimum else np.logical_and(*minus)
        wanted = np.where(minus, result.dtype.type(-0.0), result.dtype.type(0.0))
        return np.where(both, wanted, result)[()]

    return function


def propagating(function):
    """min.NaN and max.NaN: NaN if any operand is."""

    def run(a, b):
        nan = np.isnan(a) | np.isnan(b)
        return np.where(nan, a.dtype.type(np.nan), function(a, b))[()]

    return run


def _xor_sign(function):
    """.xorsign.abs: of the magnitudes, with the product of the signs."""

    def run(a, b):
        magnitude = function(np.abs(a), np.abs(b))
        sign = np.where(np.signbit(a) ^ np.signbit(b), a.dtype.type(-1), a.dtype.type(1))
        return np.copysign(magnitude, sign)

    return run


def min_max_function(op, function):
    """`function` with the modifiers .NaN and .xorsign.abs of `op` applied."""
    if op.has("NaN"):
        function = propagating(function)
    if op.has("xorsign"):
        op.need("abs")
        function = _xor_sign(function)
    return function


def _min_or_max(minimum):
    def build(op):
        kind = op.kind("f32", "f64")
        ftz, _ = _modifiers(op, kind)
        if kind == "f64" and op.parts:
            raise UnsupportedInstruction(op.text)
        function = min_max_function(op, minimum_or_maximum(minimum))
        return Operation((kind, kind), (kind,), flushing(function, ftz))

    return build


def _copysign(op):
    kind = op.kind("f32", "f64")
    return Operation((kind, kind), (kind,), lambda a, b: np.copysign(b, a))


def _testp(op):
    kind = op.kind("f32", "f64")
    smallest = np.finfo(DTYPES[kind]).smallest_normal
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & ((np.abs(a) >= smallest) | np.equal(a, 0)),
        "subnormal": lambda a: (np.abs(a) < smallest) & np.not_equal(a, 0),
    }
    return Operation((kind,), ("pred",), tests[op.need(*tests)])


FLOAT = {
    "add": arithmetic(_add, 2, pairs=("f32x2",)),
    "sub": arithmetic(_sub, 2, pairs=("f32x2",)),
    "mul": arithmetic(_mul, 2, pairs=("f32x2",)),
    "fma": arithmetic(_fma, 3, default=None, pairs=("f32x2",)),
    "mad": arithmetic(_fma, 3, default=None),
    "abs": _sign_operation(np.abs),
    "neg": _sign_operation(np.negative),
    "min": _min_or_max(True),
    "max": _min_or_max(False),
    "copysign": _copysign,
    "testp": _testp,
}
ROUNDED = {
    "div": arithmetic(_div, 2, default=None),
    "rcp": arithmetic(_rcp, 1, default=None),
    "sqrt": arithmetic(_sqrt, 1, default=None),
}
