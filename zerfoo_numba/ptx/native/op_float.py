"""float32 and float64 instructions: every rounding mode that f32 has, .ftz, .sat, minima."""

from zerfoo_numba.ptx.native import integers, rounding
from zerfoo_numba.ptx.native.directed import directed_double
from zerfoo_numba.ptx.native.lanes import apply, intrinsic, reinterpret, select
from zerfoo_numba.ptx.native.opcode import ROUNDING, TYPES
from zerfoo_numba.ptx.native.text import float_text
from zerfoo_numba.ptx.native.value import constant, uniform

SIGN = {"float": 1 << 31, "double": 1 << 63}


def number(value, type_name="float"):
    return uniform(type_name, float_text(value, type_name))


def flush(code, a):
    """Subnormal float32 numbers become zeros of their sign."""
    bits = reinterpret(code, a, "i32")
    exponent = integers.bitwise(code, "and", bits, constant("i32", 0x7F800000))
    small = apply(code, "icmp eq {t} {0}, {1}", exponent, constant("i32", 0), result="i1")
    zero = integers.bitwise(code, "and", bits, constant("i32", 0x80000000))
    return reinterpret(code, select(code, small, zero, bits), "float")


def saturate(code, a):
    """To [0, 1]; NaN becomes 0."""
    zero, one = number(0.0, a.type), number(1.0, a.type)
    above = apply(code, "fcmp ogt {t} {0}, {1}", a, zero, result="i1")
    positive = select(code, above, a, zero)
    over = apply(code, "fcmp ogt {t} {0}, {1}", positive, one, result="i1")
    return select(code, over, one, positive)


def rounded(exact, directed):
    """A handler: `exact(code, ...)` to nearest even, `directed(code, mode, ...)` otherwise."""

    def handler(code, op):
        kind = op.kind("f32", "f64")
        mode = op.take(*ROUNDING, default="rn")
        approximate = op.take("approx", "full")
        ftz, sat = op.has("ftz"), op.has("sat")
        if (kind == "f64" and ftz) or (approximate and mode != "rn"):
            raise op.unsupported()
        values = code.operands(op, *[kind] * len(op.sources))
        if ftz:
            values = [flush(code, v) for v in values]
        if mode == "rn":
            result = exact(code, *values)
        elif kind == "f64":
            result = directed_double(code, op.name, mode, values)
        else:
            result = directed(code, mode, *values)
        result = flush(code, result) if ftz else result
        return saturate(code, result) if sat else result

    return handler


def _binary(name):
    return lambda code, a, b: apply(code, f"{name} {{t}} {{0}}, {{1}}", a, b)


def fused(code, a, b, c):
    return intrinsic(code, "fma", a, b, c)


def _reciprocal(code, a):
    return apply(code, "fdiv {t} {0}, {1}", number(1.0, a.type), a)


def _directed_reciprocal(code, mode, a):
    return rounding.directed_quotient(code, mode, number(1.0), a)


def _root(code, a):
    return intrinsic(code, "sqrt", a)


def _inverse_root(code, a):
    """1 / sqrt(a): two roundings, together below 1.5 ulp."""
    return _reciprocal(code, _root(code, a))


def float_min_or_max(code, op):
    """The number if one operand is NaN (.NaN: NaN), and -0 below +0."""
    kind = op.kind("f32", "f64")
    ftz, propagates = op.has("ftz"), op.has("NaN")
    signs = op.has("xorsign")
    if signs:
        op.need("abs")
    a, b = code.operands(op, kind, kind)
    if ftz:
        a, b = flush(code, a), flush(code, b)
    if not signs:
        return extremum(code, op.name, a, b, propagates)
    result = extremum(code, op.name, absolute(code, a), absolute(code, b), propagates)
    word = f"i{a.bits}"
    sign = integers.bitwise(code, "xor", reinterpret(code, a, word), reinterpret(code, b, word))
    sign = integers.bitwise(code, "and", sign, constant(word, SIGN[a.type]))
    return reinterpret(
        code, integers.bitwise(code, "xor", reinterpret(code, result, word), sign), a.type
    )


def extremum(code, name, a, b, propagates=False):
    """min or max; equal operands differ at most in the signs of zeros, which and / or settles."""
    word = f"i{a.bits}"
    test = "olt" if name == "min" else "ogt"
    first = apply(code, f"fcmp {test} {{t}} {{0}}, {{1}}", a, b, result="i1")
    result = select(code, first, a, b)
    equal = apply(code, "fcmp oeq {t} {0}, {1}", a, b, result="i1")
    x, y = reinterpret(code, a, word), reinterpret(code, b, word)
    both = integers.bitwise(code, "or" if name == "min" else "and", x, y)
    result = select(code, equal, reinterpret(code, both, a.type), result)
    if propagates:
        unordered = apply(code, "fcmp uno {t} {0}, {1}", a, b, result="i1")
        nan = apply(code, "fadd {t} {0}, {1}", a, b)
        return select(code, unordered, nan, result)
    missing = apply(code, "fcmp uno {t} {0}, {0}", b, result="i1")
    return select(code, missing, a, result)


def absolute(code, a):
    return intrinsic(code, "fabs", a)


def sign_operation(code, op):
    kind = op.kind("f32", "f64")
    ftz = op.has("ftz")
    (a,) = code.operands(op, kind)
    a = flush(code, a) if ftz else a
    return absolute(code, a) if op.name == "abs" else apply(code, "fneg {t} {0}", a)


def copysign(code, op):
    """copysign d, a, b: the magnitude of b with the sign of a."""
    kind = op.kind("f32", "f64")
    a, b = code.operands(op, kind, kind)
    return intrinsic(code, "copysign", b, a)


def testp(code, op):
    kind = op.kind("f32", "f64")
    test = op.need("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    (a,) = code.operands(op, kind)
    size = absolute(code, a)
    smallest = number(2.0**-126 if kind == "f32" else 2.0**-1022, TYPES[kind])
    infinity = number(float("inf"), TYPES[kind])
    zero = number(0.0, TYPES[kind])

    def holds(comparison, x, y):
        return apply(code, f"fcmp {comparison} {{t}} {{0}}, {{1}}", x, y, result="i1")

    if test in ("finite", "infinite"):
        return holds("olt" if test == "finite" else "oeq", size, infinity)
    if test in ("number", "notanumber"):
        return holds("ord" if test == "number" else "uno", a, a)
    is_zero = holds("oeq", size, zero)
    if test == "normal":
        large = holds("oge", size, smallest)
        finite = holds("olt", size, infinity)
        return integers.bitwise(code, "and", finite, integers.bitwise(code, "or", large, is_zero))
    return integers.bitwise(code, "and", holds("olt", size, smallest), holds("one", size, zero))


def _upper_word(code, a, function):
    """rcp and rsqrt.approx.ftz.f64: of the upper 32 bits, into the upper 32 bits."""
    upper = constant("i64", 0xFFFFFFFF00000000)

    def cut(x):
        """Without the lower word; subnormal numbers as zeros of their sign."""
        bits = integers.bitwise(code, "and", reinterpret(code, x, "i64"), upper)
        exponent = integers.bitwise(code, "and", bits, constant("i64", 0x7FF << 52))
        small = apply(code, "icmp eq {t} {0}, {1}", exponent, constant("i64", 0), result="i1")
        zero = integers.bitwise(code, "and", bits, constant("i64", SIGN["double"]))
        return reinterpret(code, select(code, small, zero, bits), "double")

    result = cut(function(code, cut(a)))
    nan = apply(code, "fcmp uno {t} {0}, {0}", a, result="i1")
    quiet = reinterpret(code, constant("i64", 0x7FFFFFFF00000000), "double")
    return select(code, nan, quiet, result)


def or_upper_word(function):
    """A handler of rcp or rsqrt: exact, or in float64 `.approx.ftz`."""
    directed = _directed_reciprocal if function is _reciprocal else None
    exact = rounded(function, directed)

    def handler(code, op):
        if op.parts[-1:] != ["f64"] or not {"approx", "ftz"} <= set(op.parts):
            return exact(code, op)
        op.parts = []
        return _upper_word(code, *code.operands(op, "f64"), function)

    return handler


HANDLERS = {
    "add": rounded(_binary("fadd"), rounding.directed_sum),
    "sub": rounded(_binary("fsub"), rounding.directed_difference),
    "mul": rounded(_binary("fmul"), rounding.directed_product),
    "fma": rounded(fused, rounding.directed_fma),
    "mad": rounded(fused, rounding.directed_fma),
    "div": rounded(_binary("fdiv"), rounding.directed_quotient),
    "rcp": or_upper_word(_reciprocal),
    "sqrt": rounded(_root, rounding.directed_root),
    "rsqrt": or_upper_word(_inverse_root),
    "min": float_min_or_max, "max": float_min_or_max, "abs": sign_operation,
    "neg": sign_operation, "copysign": copysign, "testp": testp,
}  # fmt: skip
