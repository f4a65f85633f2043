"""Floats narrower than 32 bits as codes in integers: to float32, and back rounded once.

A code's exponent and fraction, moved to their places in a float32, make a number that is short of
the value by a power of two: one exact multiplication decodes normal and subnormal codes alike.
Formats: IEEE 754 binary16, bfloat16, and e4m3 and e5m2 of the OCP 8-bit floating point
specification (2023).
"""

from dataclasses import dataclass

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import apply, intrinsic, reinterpret, select
from zerfoo_numba.ptx.native.rounding import to_double
from zerfoo_numba.ptx.native.text import float_text
from zerfoo_numba.ptx.native.value import constant, uniform


@dataclass(frozen=True)
class Format:
    """`largest` is the greatest finite code, `infinity` a code or None, `nan` the canonical one."""

    exponent: int
    fraction: int
    largest: int
    infinity: int | None
    nan: int

    @property
    def bias(self):
        return (1 << self.exponent - 1) - 1

    @property
    def bits(self):
        return 1 + self.exponent + self.fraction


FORMATS = {
    "f16": Format(5, 10, 0x7BFF, 0x7C00, 0x7FFF),
    "bf16": Format(8, 7, 0x7F7F, 0x7F80, 0x7FFF),
    "e4m3": Format(4, 3, 0x7E, None, 0x7F),
    "e5m2": Format(5, 2, 0x7B, 0x7C, 0x7F),
}


def _and(code, a, number):
    return integers.bitwise(code, "and", a, constant(a.type, number))


def _or(code, a, b):
    return integers.bitwise(code, "or", a, b)


def _above(code, a, number):
    return apply(code, "icmp ugt {t} {0}, {1}", a, constant(a.type, number), result="i1")


def decode(code, value, name):
    """An integer value whose low bits are a code -> float32."""
    if name == "f16" and code.target.has_half:
        half = reinterpret(code, integers.convert(code, value, "i16"), "half")
        return apply(code, "fpext {t} {0} to {r}", half, result="float")
    form = FORMATS[name]
    word = integers.convert(code, value, "i32", exact=True)
    size = _and(code, word, (1 << form.bits - 1) - 1)
    sign = integers.shift_left(code, _and(code, word, 1 << form.bits - 1), 32 - form.bits)
    placed = integers.shift_left(code, size, 23 - form.fraction)
    factor = uniform("float", float_text(2.0 ** (127 - form.bias)))
    scaled = apply(code, "fmul {t} {0}, {1}", reinterpret(code, placed, "float"), factor)
    bits = reinterpret(code, scaled, "i32") if form.bias != 127 else placed
    if form.bias != 127:
        payload = _or(code, placed, constant("i32", 0x7F800000))
        nan = payload if form.infinity is not None else constant("i32", 0x7FFFFFFF)
        bits = select(code, _above(code, size, form.largest), nan, bits)
    return reinterpret(code, _or(code, bits, sign), "float")


def encode(code, value, name, mode="rn", finite=False):
    """float32, or float64 standing for itself, -> code in an i32 (i16 for f16 by hardware)."""
    form = FORMATS[name]
    if value.type == "double":
        value = _odd_float(code, value)
    if mode in ("rm", "rp"):
        return _directed(code, value, name, mode, finite)
    hardware = name == "f16" and code.target.has_half and mode == "rn" and not finite
    nan = apply(code, "fcmp uno {t} {0}, {0}", value, result="i1")
    if hardware:
        half = apply(code, "fptrunc {t} {0} to {r}", value, result="half")
        return select(code, nan, constant("i16", form.nan), reinterpret(code, half, "i16"))
    bits = reinterpret(code, value, "i32")
    size = _and(code, bits, 0x7FFFFFFF)
    rounded = _rounded_code(code, size, form, mode)
    beyond = form.largest if finite or form.infinity is None else form.infinity
    over = form.largest if mode == "rz" else beyond
    rounded = select(code, _above(code, rounded, form.largest), constant("i32", over), rounded)
    infinite = _above(code, size, 0x7F7FFFFF)
    rounded = select(code, infinite, constant("i32", beyond), rounded)
    sign = integers.shift_right(code, _and(code, bits, 1 << 31), 32 - form.bits)
    return select(code, nan, constant("i32", form.nan), _or(code, rounded, sign))


def _directed(code, value, name, mode, finite):
    """Towards zero, or where `mode` points away from it to the next code."""
    near = integers.convert(code, encode(code, value, name, "rz", finite), "i32")
    back, size = (intrinsic(code, "fabs", v) for v in (decode(code, near, name), value))
    below = apply(code, "fcmp olt {t} {0}, {1}", back, size, result="i1")
    bits = reinterpret(code, value, "i32")
    test = "slt" if mode == "rm" else "sge"
    away = apply(code, f"icmp {test} {{t}} {{0}}, {{1}}", bits, constant("i32", 0), result="i1")
    step = integers.bitwise(code, "and", below, away)
    if finite or FORMATS[name].infinity is None:
        top = _and(code, near, (1 << FORMATS[name].bits - 1) - 1)
        full = apply(
            code, "icmp ne {t} {0}, {1}", top, constant("i32", FORMATS[name].largest), result="i1"
        )
        step = integers.bitwise(code, "and", step, full)
    return integers.add(code, near, integers.convert(code, step, "i32"))


def _rounded_code(code, size, form, mode):
    """The code of a positive float32's bits, normal or subnormal in the format."""
    drop = 23 - form.fraction
    moved = size
    if mode == "rn":
        odd = _and(code, integers.shift_right(code, size, drop), 1)
        moved = integers.add(code, size, constant("i32", (1 << drop - 1) - 1))
        moved = integers.add(code, moved, odd)
    rebias = (127 - form.bias) << form.fraction
    normal = integers.shift_right(code, moved, drop)
    normal = integers.subtract(code, normal, constant("i32", rebias))
    quantum = 2.0 ** (1 - form.bias - form.fraction)
    if mode == "rn":  # the sum's unit in the last place is the format's smallest number
        magic = quantum * 2.0**23
        total = apply(
            code, "fadd {t} {0}, {1}", reinterpret(code, size, "float"),
            uniform("float", float_text(magic)),
        )  # fmt: skip
        base = reinterpret(code, uniform("float", float_text(magic)), "i32")
        small = integers.subtract(code, reinterpret(code, total, "i32"), base)
    else:
        wide = to_double(code, reinterpret(code, size, "float"))
        scale = uniform("double", float_text(1 / quantum, "double"))
        scaled = apply(code, "fmul {t} {0}, {1}", wide, scale)
        limit = uniform("double", float_text(2.0**30, "double"))
        under = apply(code, "fcmp olt {t} {0}, {1}", scaled, limit, result="i1")
        scaled = select(code, under, scaled, uniform("double", "0.0"))
        small = apply(code, "fptoui {t} {0} to {r}", scaled, result="i32")
    smallest = (128 - form.bias) << 23
    tiny = apply(code, "icmp ult {t} {0}, {1}", size, constant("i32", smallest), result="i1")
    return select(code, tiny, small, normal)


def _odd_float(code, value):
    """A float64 to float32, rounded to odd."""
    nearest = apply(code, "fptrunc {t} {0} to {r}", value, result="float")
    back = to_double(code, nearest)
    size, back_size = intrinsic(code, "fabs", value), intrinsic(code, "fabs", back)
    beyond = apply(code, "fcmp ogt {t} {0}, {1}", back_size, size, result="i1")
    inexact = apply(code, "fcmp one {t} {0}, {1}", back, value, result="i1")
    bits = reinterpret(code, nearest, "i32")
    down = integers.subtract(code, bits, integers.convert(code, beyond, "i32"))
    odd = _or(code, down, integers.convert(code, inexact, "i32"))
    return reinterpret(code, odd, "float")
