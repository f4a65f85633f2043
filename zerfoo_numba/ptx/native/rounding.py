"""float32 results in the directed rounding modes, and halves, by way of float64.

A float64 that is not exact is first rounded to odd (its last bit is set where bits were lost), so
that the second rounding to fewer bits cannot be misled (Boldo and Melquiond, 2008).
"""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import apply, intrinsic, reinterpret, select
from zerfoo_numba.ptx.native.text import float_text
from zerfoo_numba.ptx.native.value import constant, uniform


def to_double(code, a):
    return apply(code, "fpext {t} {0} to {r}", a, result="double")


def _compare(code, test, a, b):
    return apply(code, f"fcmp {test} {{t}} {{0}}, {{1}}", a, b, result="i1")


def _binary(code, name, a, b):
    return apply(code, f"{name} {{t}} {{0}}, {{1}}", a, b)


def odd_sum(code, a, b):
    """a + b of float64 values, rounded to odd (two-sum, Knuth)."""
    total = _binary(code, "fadd", a, b)
    other = _binary(code, "fsub", total, a)
    left = _binary(code, "fsub", a, _binary(code, "fsub", total, other))
    error = _binary(code, "fadd", left, _binary(code, "fsub", b, other))
    return _to_odd(code, total, error)


def _to_odd(code, total, error):
    """`total` where `error` is zero; else the neighbour with an odd last bit on its side."""
    zero = uniform("double", "0.0")
    bits = reinterpret(code, total, "i64")
    inexact = _compare(code, "one", error, zero)
    # The sum was rounded away from zero when the error points against its sign.
    signs = integers.bitwise(code, "xor", bits, reinterpret(code, error, "i64"))
    against = apply(code, "icmp slt {t} {0}, {1}", signs, constant("i64", 0), result="i1")
    even = integers.bitwise(code, "and", bits, constant("i64", 1))
    is_even = apply(code, "icmp eq {t} {0}, {1}", even, constant("i64", 0), result="i1")
    down = integers.subtract(code, bits, constant("i64", 1))
    moved = select(code, against, down, integers.bitwise(code, "or", bits, constant("i64", 1)))
    change = integers.bitwise(code, "and", inexact, is_even)
    return reinterpret(code, select(code, change, moved, bits), "double")


def to_float(code, mode, exact):
    """A float64 (exact, or rounded to odd) as float32 in rounding mode rn, rz, rm or rp."""
    nearest = apply(code, "fptrunc {t} {0} to {r}", exact, result="float")
    if mode == "rn":
        return nearest
    back = to_double(code, nearest)
    over, under = _compare(code, "ogt", back, exact), _compare(code, "olt", back, exact)
    zero = uniform("double", "0.0")
    if mode == "rz":
        negative = _compare(code, "olt", exact, zero)
        too_far = select(code, negative, under, over)
        return select(code, too_far, _toward_zero(code, nearest), nearest)
    if mode == "rm":
        return select(code, over, _next_down(code, nearest), nearest)
    minus = apply(code, "fneg {t} {0}", nearest)
    up = apply(code, "fneg {t} {0}", _next_down(code, minus))
    return select(code, under, up, nearest)


def _toward_zero(code, a):
    bits = reinterpret(code, a, "i32")
    return reinterpret(code, integers.subtract(code, bits, constant("i32", 1)), "float")


def _next_down(code, a):
    """The next float32 below `a`, which may be a zero or +infinity."""
    bits = reinterpret(code, a, "i32")
    negative = apply(code, "icmp slt {t} {0}, {1}", bits, constant("i32", 0), result="i1")
    zero = _compare(code, "oeq", a, uniform("float", "0.0"))
    down = integers.subtract(code, bits, constant("i32", 1))
    moved = select(code, negative, integers.add(code, bits, constant("i32", 1)), down)
    moved = select(code, zero, constant("i32", 0x80000001), moved)
    return reinterpret(code, moved, "float")


def _signed_zero(code, mode, result, a, b):
    """An exact sum of zero is -0 when rounding down, unless both operands are +0."""
    if mode != "rm":
        return result
    zero = _compare(code, "oeq", _binary(code, "fadd", a, b), uniform("double", "0.0"))
    x, y = reinterpret(code, a, "i64"), reinterpret(code, b, "i64")
    positive = apply(
        code, "icmp eq {t} {0}, {1}", integers.bitwise(code, "or", x, y), constant("i64", 0),
        result="i1",
    )  # fmt: skip
    minus = uniform("float", float_text(-0.0))
    return select(code, zero, select(code, positive, uniform("float", "0.0"), minus), result)


def directed_sum(code, mode, a, b):
    x, y = to_double(code, a), to_double(code, b)
    return _signed_zero(code, mode, to_float(code, mode, odd_sum(code, x, y)), x, y)


def directed_difference(code, mode, a, b):
    return directed_sum(code, mode, a, apply(code, "fneg {t} {0}", b))


def directed_product(code, mode, a, b):
    return to_float(code, mode, _binary(code, "fmul", to_double(code, a), to_double(code, b)))


def directed_fma(code, mode, a, b, c):
    product = _binary(code, "fmul", to_double(code, a), to_double(code, b))
    c = to_double(code, c)
    return _signed_zero(code, mode, to_float(code, mode, odd_sum(code, product, c)), product, c)


def _settle(code, mode, nearest, error):
    """`nearest` in float32 moved by one where `error` (exact minus it) and the mode say so."""
    tiny = uniform("double", float_text(2.0**-200, "double"))
    sign = intrinsic(code, "copysign", tiny, error)
    moved = to_float(code, mode, odd_sum(code, _bounded(code, nearest), sign))
    inexact = _compare(code, "one", error, uniform("double", "0.0"))
    return select(code, inexact, moved, nearest)


def _bounded(code, nearest):
    """A float32 as float64; an infinity as 2**300, larger than every quotient of float32."""
    x = to_double(code, nearest)
    limit = uniform("double", float_text(2.0**300, "double"))
    size = intrinsic(code, "fabs", x)
    infinite = _compare(code, "ogt", size, limit)
    return select(code, infinite, intrinsic(code, "copysign", limit, x), x)


def directed_quotient(code, mode, a, b):
    nearest = _binary(code, "fdiv", a, b)
    x, y = to_double(code, a), to_double(code, b)
    minus = apply(code, "fneg {t} {0}", _bounded(code, nearest))
    rest = intrinsic(code, "fma", minus, y, x)
    one = uniform("double", float_text(1.0, "double"))
    error = _binary(code, "fmul", rest, intrinsic(code, "copysign", one, y))
    # The quotient of an infinity, or by zero, is exact.
    infinity = uniform("double", float_text(float("inf"), "double"))
    special = _compare(code, "oeq", intrinsic(code, "fabs", x), infinity)
    zero = _compare(code, "oeq", y, uniform("double", "0.0"))
    special = integers.bitwise(code, "or", special, zero)
    return select(code, special, nearest, _settle(code, mode, nearest, error))


def directed_root(code, mode, a):
    nearest = intrinsic(code, "sqrt", a)
    x = to_double(code, nearest)
    rest = intrinsic(code, "fma", apply(code, "fneg {t} {0}", x), x, to_double(code, a))
    return _settle(code, mode, nearest, rest)
