"""The functions that PTX approximates: ex2, lg2, sin, cos, tanh; every result within 2 ulp.

The polynomials are those of the Taylor series (2**f, atanh, sin, cos), cut where the next term is
below the last place; where float32 would lose accuracy they are evaluated in float64.
"""

import math

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import apply, fold, intrinsic, reinterpret, select
from zerfoo_numba.ptx.native.op_float import flush, number
from zerfoo_numba.ptx.native.op_half import HALVES, PACKED, on_codes
from zerfoo_numba.ptx.native.op_integer import in_halves
from zerfoo_numba.ptx.native.rounding import to_double
from zerfoo_numba.ptx.native.value import constant

# 2**f on [-1/2, 1/2]: the first term left out is below 2**-27 of the result.
EXP2 = tuple(math.log(2) ** k / math.factorial(k) for k in range(8))


def _binary(code, name, a, b):
    return apply(code, f"{name} {{t}} {{0}}, {{1}}", a, b)


def horner(code, x, coefficients):
    """The polynomial with these coefficients, lowest first, by fused steps."""
    result = number(coefficients[-1], x.type)
    for c in reversed(coefficients[:-1]):
        result = intrinsic(code, "fma", result, x, number(c, x.type))
    return result


def _ordered(code, test, a, limit):
    return apply(code, f"fcmp {test} {{t}} {{0}}, {{1}}", a, number(limit, a.type), result="i1")


def exp2(code, x):
    """float32: 2**n by two exact powers, so that subnormal results round once."""
    low, high = number(-160.0), number(160.0)
    limited = select(code, _ordered(code, "olt", x, -160.0), low, x)
    limited = select(code, _ordered(code, "ogt", limited, 160.0), high, limited)
    whole = intrinsic(code, "roundeven", limited)
    power = horner(code, _binary(code, "fsub", limited, whole), EXP2)
    known = apply(code, "fcmp ord {t} {0}, {0}", x, result="i1")
    steps = apply(
        code, "fptosi {t} {0} to {r}", select(code, known, whole, number(0.0)), result="i32"
    )
    if code.target.has_scale and not power.is_uniform:
        result = _scaled(code, power, whole)
    else:
        half = integers.shift_right(code, steps, 1, signed=True)
        rest = integers.subtract(code, steps, half)
        result = _binary(code, "fmul", power, _power_of_two(code, half))
        result = _binary(code, "fmul", result, _power_of_two(code, rest))
    return select(code, known, result, x)


def _scaled(code, power, whole):
    ones, round_current = ("i16", "-1"), ("i32", "4")

    def piece(a, b):
        kind = "<16 x float>"
        arguments = ((kind, a), (kind, b), (kind, a), ones, round_current)
        return code.call(kind, "llvm.x86.avx512.mask.scalef.ps.512", *arguments)

    return fold(code, piece, "float", 16, power, whole)


def _power_of_two(code, n):
    """2**n for |n| <= 80, by its exponent field."""
    field = integers.add(code, n, constant("i32", 127))
    return reinterpret(code, integers.shift_left(code, field, 23), "float")


def exp2_wide(code, x):
    """float64 in, float64 out, with the accuracy that float32 results need."""
    limited = select(code, _ordered(code, "olt", x, -1000.0), number(-1000.0, "double"), x)
    high = number(1000.0, "double")
    limited = select(code, _ordered(code, "ogt", limited, 1000.0), high, limited)
    whole = intrinsic(code, "roundeven", limited)
    taylor = [math.log(2) ** k / math.factorial(k) for k in range(11)]
    power = horner(code, _binary(code, "fsub", limited, whole), taylor)
    known = apply(code, "fcmp ord {t} {0}, {0}", x, result="i1")
    steps = select(code, known, whole, number(0.0, "double"))
    n = apply(code, "fptosi {t} {0} to {r}", steps, result="i64")
    field = integers.shift_left(code, integers.add(code, n, constant("i64", 1023)), 52)
    result = _binary(code, "fmul", power, reinterpret(code, field, "double"))
    return select(code, known, result, x)


def log2(code, x):
    """float32 x, evaluated in float64: x = m 2**n, log2 m = 2/ln2 atanh((m - 1) / (m + 1))."""
    wide = to_double(code, x)
    bits = reinterpret(code, wide, "i64")
    # m in [sqrt(1/2), sqrt(2)): the exponent is counted from the bits of sqrt(1/2).
    offset = constant("i64", 0x3FE6A09E667F3BCD)
    moved = integers.subtract(code, bits, offset)
    n = integers.shift_right(code, moved, 52, signed=True)
    m = integers.subtract(code, bits, integers.shift_left(code, n, 52))
    m = reinterpret(code, m, "double")
    one = number(1.0, "double")
    z = _binary(code, "fdiv", _binary(code, "fsub", m, one), _binary(code, "fadd", m, one))
    series = [2 / math.log(2) / (2 * k + 1) for k in range(10)]
    fraction = _binary(code, "fmul", z, horner(code, _binary(code, "fmul", z, z), series))
    count = apply(code, "sitofp {t} {0} to {r}", n, result="double")
    total = _binary(code, "fadd", count, fraction)
    result = apply(code, "fptrunc {t} {0} to {r}", total, result="float")
    inf = float("inf")
    result = select(code, _ordered(code, "oeq", x, inf), number(inf), result)
    result = select(code, _ordered(code, "oeq", x, 0.0), number(-inf), result)
    negative = _ordered(code, "ult", x, 0.0)
    return select(code, negative, number(float("nan")), result)


_PI_PARTS = (1.5707963267948966, 6.123233995736766e-17)


def sine(code, x, quarter=0):
    """sin(x + quarter pi/2) in float64; the reduction is exact enough below 2**30."""
    wide = to_double(code, x)
    n = intrinsic(code, "roundeven", _binary(code, "fmul", wide, number(2 / math.pi, "double")))
    rest = wide
    for part in _PI_PARTS:
        rest = intrinsic(code, "fma", n, number(-part, "double"), rest)
    square = _binary(code, "fmul", rest, rest)
    odd = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]
    even = [(-1) ** k / math.factorial(2 * k) for k in range(8)]
    s = _binary(code, "fmul", rest, horner(code, square, odd))
    c = horner(code, square, even)
    finite = _ordered(code, "olt", intrinsic(code, "fabs", wide), 2.0**31)
    n = select(code, finite, n, number(0.0, "double"))
    turn = apply(code, "fptosi {t} {0} to {r}", n, result="i64")
    turn = integers.add(code, turn, constant("i64", quarter))
    swap = _bit(code, turn, 1)
    chosen = select(code, swap, c, s)
    minus = apply(code, "fneg {t} {0}", chosen)
    result = select(code, _bit(code, turn, 2), minus, chosen)
    result = apply(code, "fptrunc {t} {0} to {r}", result, result="float")
    return result if quarter else select(code, _ordered(code, "oeq", x, 0.0), x, result)


def _bit(code, value, mask):
    bit = integers.bitwise(code, "and", value, constant(value.type, mask))
    return apply(code, "icmp ne {t} {0}, {1}", bit, constant(value.type, 0), result="i1")


def cosine(code, x):
    return sine(code, x, 1)


def tanh(code, x):
    """(e - 1) / (e + 1) with e = exp(2 |x|) in float64; x - x**3/3 + 2 x**5/15 near zero."""
    wide = to_double(code, x)
    size = intrinsic(code, "fabs", wide)
    one = number(1.0, "double")
    e = exp2_wide(code, _binary(code, "fmul", size, number(2 / math.log(2), "double")))
    far = _binary(code, "fdiv", _binary(code, "fsub", e, one), _binary(code, "fadd", e, one))
    far = select(code, _ordered(code, "ogt", size, 20.0), one, far)
    square = _binary(code, "fmul", size, size)
    near = _binary(code, "fmul", size, horner(code, square, [1.0, -1 / 3, 2 / 15, -17 / 315]))
    result = select(code, _ordered(code, "olt", size, 2.0**-7), near, far)
    result = intrinsic(code, "copysign", result, wide)
    return apply(code, "fptrunc {t} {0} to {r}", result, result="float")


_FUNCTIONS = {"ex2": exp2, "lg2": log2, "sin": sine, "cos": cosine, "tanh": tanh}


def approximate(code, op):
    kind = op.kind("f32", *HALVES, *PACKED)
    op.need("approx")
    ftz = op.has("ftz")
    function = _FUNCTIONS[op.name]
    values = code.operands(op, kind)
    if kind == "f32":
        result = function(code, flush(code, values[0]) if ftz else values[0])
        return flush(code, result) if ftz else result
    single = kind.removesuffix("x2")
    run = on_codes(code, lambda a: function(code, a), single, ftz)
    return in_halves(code, run, *values) if kind in PACKED else run(*values)


HANDLERS = dict.fromkeys(_FUNCTIONS, approximate)
