"""Arithmetic on f16 and bf16, single and packed in pairs, rounded once to nearest even.

Sums and products of two such numbers are computed in float32, from which a second rounding is
innocuous (24 >= 2 * 11 + 2 bits); the fused ones in float64, with its doubtful lanes repaired.
"""

import numpy as np

from zerfoo_numba.ptx.emulator import arithmetic_float as floats
from zerfoo_numba.ptx.emulator.arithmetic_formats import FORMATS
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    Operation,
    UnsupportedInstruction,
    in_halves,
)
from zerfoo_numba.ptx.emulator.arithmetic_rounding import fused, rectify, saturate

HALF_KINDS = ("f16", "bf16", "f16x2", "bf16x2")


def in_pairs(function, kind):
    """`function` of single codes, or of both halves at a time if `kind` is packed."""
    return in_halves(function) if kind.endswith("x2") else function


def on_codes(function, kind, ftz=False):
    """A function of float32 values as one of codes of the format `kind`."""
    form = FORMATS[kind]
    if ftz:
        return lambda *x: form.flush(form.encode(function(*(form.decode_flushed(v) for v in x))))
    return lambda *x: form.encode(function(*(form.decode(v) for v in x)))


def _arithmetic(by_format, count):
    def build(op):
        kind = op.kind(*HALF_KINDS)
        single = kind.removesuffix("x2")
        mode = op.take("rn")
        if op.name == "fma" and mode is None:
            raise UnsupportedInstruction(op.text)
        ftz, sat, relu = op.has("ftz"), op.has("sat"), op.name == "fma" and op.has("relu")
        if single == "bf16" and (ftz or sat):
            raise UnsupportedInstruction(op.text)
        function = by_format(FORMATS[single])

        def limited(*operands):
            result = function(*operands)
            if sat:
                result = saturate(result)
            return rectify(result) if relu else result

        return Operation((kind,) * count, (kind,), in_pairs(on_codes(limited, single, ftz), kind))

    return build


def _fused(form):
    return fused(form.mantissa, 2.0**form.smallest_exponent)


def _sign_operation(change):
    """neg and abs touch the sign bits only."""

    def build(op):
        kind = op.kind(*HALF_KINDS)
        ftz = op.has("ftz")
        form = FORMATS[kind.removesuffix("x2")]

        def function(a):
            return change(form.flush(a) if ftz else a)

        return Operation((kind,), (kind,), in_pairs(function, kind))

    return build


def _min_or_max(minimum):
    def build(op):
        kind = op.kind(*HALF_KINDS)
        ftz = op.has("ftz")
        function = floats.min_max_function(op, floats.minimum_or_maximum(minimum))
        code = on_codes(function, kind.removesuffix("x2"), ftz)
        return Operation((kind, kind), (kind,), in_pairs(code, kind))

    return build


HALF = {
    "add": _arithmetic(lambda form: np.add, 2),
    "sub": _arithmetic(lambda form: np.subtract, 2),
    "mul": _arithmetic(lambda form: np.multiply, 2),
    "fma": _arithmetic(_fused, 3),
    "neg": _sign_operation(lambda a: np.bitwise_xor(a, np.uint16(0x8000))),
    "abs": _sign_operation(lambda a: np.bitwise_and(a, np.uint16(0x7FFF))),
    "min": _min_or_max(True),
    "max": _min_or_max(False),
}
