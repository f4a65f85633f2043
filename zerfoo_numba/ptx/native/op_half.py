"""f16 and bf16 arithmetic, single and in pairs: computed in float32 or wider, rounded once.

From float32 the second rounding of a sum or product of halves is innocuous (24 >= 2 * 11 + 2
bits; Figueroa, 1995); fused ones go through float64 rounded to odd.
"""

from zerfoo_numba.ptx.native import formats, integers
from zerfoo_numba.ptx.native.lanes import apply, select
from zerfoo_numba.ptx.native.op_float import extremum, number, saturate
from zerfoo_numba.ptx.native.op_integer import in_halves
from zerfoo_numba.ptx.native.rounding import odd_sum, to_double
from zerfoo_numba.ptx.native.value import constant

HALVES = ("f16", "bf16")
PACKED = ("f16x2", "bf16x2")


def to_float(code, value, kind):
    return formats.decode(code, value, kind)


def halves_of(code, value):
    high = integers.shift_right(code, value, 16)
    return integers.convert(code, value, "i16"), integers.convert(code, high, "i16")


def flush(code, value, kind):
    """Codes with subnormals replaced by zeros of their sign."""
    form = formats.FORMATS[kind]
    top = ((1 << form.exponent) - 1) << form.fraction
    exponent = integers.bitwise(code, "and", value, constant("i16", top))
    small = apply(code, "icmp eq {t} {0}, {1}", exponent, constant("i16", 0), result="i1")
    zero = integers.bitwise(code, "and", value, constant("i16", 0x8000))
    return select(code, small, zero, value)


def _sum(name):
    return lambda code, a, b: apply(code, f"{name} {{t}} {{0}}, {{1}}", a, b)


def _fused(code, a, b, c):
    x, y = to_double(code, a), to_double(code, b)
    product = apply(code, "fmul {t} {0}, {1}", x, y)
    return odd_sum(code, product, to_double(code, c))


_FUNCTIONS = {
    "add": (2, _sum("fadd")),
    "sub": (2, _sum("fsub")),
    "mul": (2, _sum("fmul")),
    "fma": (3, _fused),
}


def rectify(code, a):
    """max(a, +0); NaN stays."""
    zero = number(0.0, a.type)
    positive = apply(code, "fcmp ugt {t} {0}, {1}", a, zero, result="i1")
    return select(code, positive, a, zero)


def on_codes(code, function, kind, ftz):
    """A function of float32 values as one of i16 codes."""

    def run(*values):
        if ftz:
            values = [flush(code, v, kind) for v in values]
        result = function(*(to_float(code, v, kind) for v in values))
        word = integers.convert(code, formats.encode(code, result, kind), "i16")
        return flush(code, word, kind) if ftz else word

    return run


def arithmetic(code, op):
    kind = op.kind(*HALVES, *PACKED)
    op.has("rn")
    ftz, sat, relu = op.has("ftz"), op.has("sat"), op.has("relu")
    count, function = _FUNCTIONS[op.name]

    def limited(*values):
        result = function(code, *values)
        result = saturate(code, result) if sat else result
        return rectify(code, result) if relu else result

    return _run(code, op, kind, count, on_codes(code, limited, kind.removesuffix("x2"), ftz))


def _run(code, op, kind, count, function):
    values = code.operands(op, *[kind] * count)
    return in_halves(code, function, *values) if kind in PACKED else function(*values)


def half_min_or_max(code, op):
    kind = op.kind(*HALVES, *PACKED)
    ftz, propagates = op.has("ftz"), op.has("NaN")

    def function(a, b):
        return extremum(code, op.name, a, b, propagates)

    return _run(code, op, kind, 2, on_codes(code, function, kind.removesuffix("x2"), ftz))


def half_sign(code, op):
    """neg and abs touch the sign bits only."""
    kind = op.kind(*HALVES, *PACKED)
    ftz = op.has("ftz")

    def function(a):
        a = flush(code, a, kind.removesuffix("x2")) if ftz else a
        name, mask = ("xor", 0x8000) if op.name == "neg" else ("and", 0x7FFF)
        return integers.bitwise(code, name, a, constant("i16", mask))

    return _run(code, op, kind, 1, function)


HANDLERS = {
    **dict.fromkeys(_FUNCTIONS, arithmetic),
    "min": half_min_or_max, "max": half_min_or_max, "neg": half_sign, "abs": half_sign,
}  # fmt: skip
