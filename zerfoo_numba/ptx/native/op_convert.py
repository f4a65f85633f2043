"""cvt: between integers, floats, halves, and the packed 8-bit floats."""

from zerfoo_numba.ptx.native import formats, integers, rounding
from zerfoo_numba.ptx.native.directed import directed_conversion
from zerfoo_numba.ptx.native.lanes import apply, conversion, intrinsic, reinterpret, select
from zerfoo_numba.ptx.native.op_float import flush, saturate
from zerfoo_numba.ptx.native.op_half import halves_of, rectify
from zerfoo_numba.ptx.native.op_integer import join_halves
from zerfoo_numba.ptx.native.opcode import ROUNDING, TYPES
from zerfoo_numba.ptx.native.text import float_text
from zerfoo_numba.ptx.native.value import BITS, constant, uniform

_INTEGERS = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64")
_FLOATS = ("f16", "bf16", "f32", "f64")
_PACKED = ("f16x2", "bf16x2", "e4m3x2", "e5m2x2")
_INTEGRAL = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
_SIZE = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}


def cvt(code, op):
    kinds = (*_INTEGERS, *_FLOATS, *_PACKED)
    source = op.kind(*kinds)
    if op.parts[-1:] == ["tf32"] and source == "f32":
        return _to_tf32(code, op)
    result = op.kind(*kinds)
    op.signed = result[0] == "s"
    if source in _PACKED or result in _PACKED:
        return _packed(code, op, source, result)
    (a,) = code.operands(op, source)
    if source in _INTEGERS:
        convert = _integer_to_integer if result in _INTEGERS else _integer_to_float
    else:
        convert = _float_to_integer if result in _INTEGERS else _float_to_float
    return convert(code, op, source, result, a)


def _integer_to_integer(code, op, source, result, a):
    if op.has("sat"):
        a = _clamp(code, a, source, result)
    return integers.convert(code, a, TYPES[result], source[0] == "s")


def _clamp(code, a, source, result):
    """`a` within the range of `result`, as far as that cuts anything off."""
    bits = int(result[1:])
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - 1) if result[0] == "s" else (0, (1 << bits) - 1)
    )
    own = a.bits
    signed = source[0] == "s"
    least, most = (-(1 << own - 1), (1 << own - 1) - 1) if signed else (0, (1 << own) - 1)
    sign = "s" if signed else "u"
    if low > least:
        a = intrinsic(code, f"{sign}max", a, constant(a.type, low))
    if high < most:
        a = intrinsic(code, f"{sign}min", a, constant(a.type, high))
    return a


def _integer_to_float(code, op, source, result, a):
    mode = op.need(*ROUNDING)
    name = "sitofp" if source[0] == "s" else "uitofp"
    if mode == "rn" and result in ("f32", "f64"):
        return apply(code, f"{name} {{t}} {{0}} to {{r}}", a, result=TYPES[result])
    if a.bits == 64:
        exact = _wide_to_double(code, a, name)
    else:
        exact = apply(code, f"{name} {{t}} {{0}} to {{r}}", a, result="double")
    if result == "f64":
        return directed_conversion(code, name, mode, a) if a.bits == 64 else exact
    if result == "f32":
        return rounding.to_float(code, mode, exact)
    return formats.encode(code, exact, result, mode)


def _wide_to_double(code, a, name):
    """A 64-bit integer as float64, rounded to odd."""
    high = integers.shift_right(code, a, 32, name == "sitofp")
    low = integers.bitwise(code, "and", a, constant("i64", 0xFFFFFFFF))
    x, y = (apply(code, f"{name} {{t}} {{0}} to {{r}}", v, result="double") for v in (high, low))
    scale = uniform("double", float_text(2.0**32, "double"))
    return rounding.odd_sum(code, apply(code, "fmul {t} {0}, {1}", x, scale), y)


def _value(code, kind, ftz, a):
    """A float operand, at least float32."""
    if kind in formats.FORMATS:
        return formats.decode(code, a, kind)
    return flush(code, a) if ftz and kind == "f32" else a


def _float_to_integer(code, op, source, result, a):
    mode = op.need(*_INTEGRAL)
    ftz = op.has("ftz")
    op.has("sat")  # redundant: these conversions always saturate
    x = _value(code, source, ftz, a)
    if mode != "rzi":
        x = intrinsic(code, _INTEGRAL[mode], x)
    signed, bits = result[0] == "s", int(result[1:])
    converted = _saturated(code, x, signed, bits)
    if source != "f64" and bits < 64:
        return converted  # NaN gives 0
    nan = apply(code, "fcmp uno {t} {0}, {0}", x, result="i1")
    return select(code, nan, constant(f"i{bits}", 1 << bits - 1), converted)


def _saturated(code, x, signed, bits):
    """A float to the nearest integer there is; NaN to 0.

    LLVM has an intrinsic for it, which it takes apart lane by lane for vectors.
    """
    name, kind = "fptosi" if signed else "fptoui", f"i{bits}"
    if x.is_uniform:
        return conversion(code, name + ".sat", x, kind)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    least, over = (uniform(x.type, float_text(float(n), x.type)) for n in (low, high))
    zero = uniform(x.type, float_text(0.0, x.type))
    enough = apply(code, "fcmp oge {t} {0}, {1}", x, least, result="i1")
    inside = apply(code, "fcmp olt {t} {0}, {1}", x, over, result="i1")
    above = apply(code, "fcmp oge {t} {0}, {1}", x, over, result="i1")
    below = apply(code, "fcmp olt {t} {0}, {1}", x, least, result="i1")
    safe = select(code, enough, select(code, inside, x, zero), zero)
    converted = apply(code, name + " {t} {0} to {r}", safe, result=kind)
    converted = select(code, above, constant(kind, high - 1), converted)
    return select(code, below, constant(kind, low), converted)


def _float_to_float(code, op, source, result, a):
    integral, mode = op.take(*_INTEGRAL), op.take(*ROUNDING)
    ftz, sat = op.has("ftz"), op.has("sat")
    relu, finite = op.has("relu"), op.has("satfinite")
    x = _value(code, source, ftz, a)
    if integral:
        x = intrinsic(code, _INTEGRAL[integral], x)
    x = saturate(code, x) if sat else x
    x = rectify(code, x) if relu else x
    if result in formats.FORMATS:
        return formats.encode(code, x, result, mode or "rn", finite)
    if result == "f64":
        return x if x.type == "double" else rounding.to_double(code, x)
    if x.type == "double":
        x = rounding.to_float(code, mode or "rn", x)
    return flush(code, x) if ftz else x


def _to_tf32(code, op):
    """float32 with 10 bits of fraction, in a float32's place; NaN is 0x7FFFE000."""
    op.kind("tf32")
    mode = op.need("rna", "rn", "rz")
    relu, finite = op.has("relu"), op.has("satfinite")
    (a,) = code.operands(op, "f32")
    x = rectify(code, a) if relu else a
    bits = reinterpret(code, x, "i32")
    if mode == "rna":
        moved = integers.add(code, bits, constant("i32", 0x1000))
    elif mode == "rn":
        odd = integers.bitwise(
            code, "and", integers.shift_right(code, bits, 13), constant("i32", 1)
        )
        moved = integers.add(code, integers.add(code, bits, constant("i32", 0xFFF)), odd)
    else:
        moved = bits
    size = intrinsic(code, "fabs", x)
    infinity = uniform("float", float_text(float("inf")))
    special = apply(code, "fcmp oeq {t} {0}, {1}", size, infinity, result="i1")
    result = integers.bitwise(code, "and", moved, constant("i32", 0xFFFFE000))
    result = select(code, special, bits, result)
    if finite:
        over = apply(code, "fcmp oge {t} {0}, {1}", _size_of(code, result), infinity, result="i1")
        sign = integers.bitwise(code, "and", result, constant("i32", 1 << 31))
        largest = integers.bitwise(code, "or", sign, constant("i32", 0x7F7FE000))
        result = select(code, over, largest, result)
    nan = apply(code, "fcmp uno {t} {0}, {0}", x, result="i1")
    return select(code, nan, constant("i32", 0x7FFFE000), result)


def _size_of(code, bits):
    return intrinsic(code, "fabs", reinterpret(code, bits, "float"))


def _packed(code, op, source, result):
    """Two float32 (the first into the upper half) or a packed pair, to a packed pair."""
    mode = op.need("rn", "rz")
    relu, finite = op.has("relu"), op.has("satfinite")

    def encode(x, kind):
        x = rectify(code, x) if relu else x
        found = formats.encode(code, x, kind, mode, finite)
        return integers.convert(code, found, "i16")

    kind = result[:-2]
    if source == "f32":
        high, low = code.operands(op, "f32", "f32")
    else:
        (pair,) = code.operands(op, source)
        low, high = _unpacked(code, pair, source)
    low, high = encode(low, kind), encode(high, kind)
    if BITS[TYPES[result]] == 32:
        return join_halves(code, low, high)
    return integers.bitwise(code, "or", integers.shift_left(code, high, 8), low)


def _unpacked(code, pair, source):
    """The two float32 values of a packed pair, low first."""
    if source in ("f16x2", "bf16x2"):
        return [formats.decode(code, h, source[:-2]) for h in halves_of(code, pair)]
    low = integers.bitwise(code, "and", pair, constant("i16", 0xFF))
    high = integers.shift_right(code, pair, 8)
    return [formats.decode(code, h, source[:-2]) for h in (low, high)]


HANDLERS = {"cvt": cvt}
