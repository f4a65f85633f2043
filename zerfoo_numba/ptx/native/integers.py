"""Integer arithmetic on values: keeps uniforms and patterns wherever the result is one exactly."""

from zerfoo_numba.ptx.native.lanes import apply, vector
from zerfoo_numba.ptx.native.text import splat_constant, wide
from zerfoo_numba.ptx.native.value import (
    BITS,
    LANES,
    Value,
    constant,
    full_mask,
    pattern,
    product_mask,
    sum_mask,
    uniform,
)

NO_LANES = (0,) * LANES


def _lanes(value):
    return value.lanes or NO_LANES


def _signed(number, bits):
    return number - (1 << bits) if number >> (bits - 1) else number


def add(w, a, b):
    if a.is_vector or b.is_vector:
        return apply(w, "add {t} {0}, {1}", a, b)
    known = None if a.known is None or b.known is None else a.known + b.known
    lanes = [x + y for x, y in zip(_lanes(a), _lanes(b), strict=True)]
    if known is not None:
        scalar = None
    elif b.known == 0:
        scalar = a.scalar
    elif a.known == 0:
        scalar = b.scalar
    else:
        scalar = w.value(f"add {a.type} {a.scalar}, {b.scalar}")
    return pattern(a.type, scalar, lanes, sum_mask(a.mask, b.mask, a.bits), known)


def subtract(w, a, b):
    if a.is_vector or b.is_vector:
        return apply(w, "sub {t} {0}, {1}", a, b)
    known = None if a.known is None or b.known is None else a.known - b.known
    lanes = [x - y for x, y in zip(_lanes(a), _lanes(b), strict=True)]
    if known is None and b.known == 0:
        return pattern(a.type, a.scalar, lanes, a.mask)
    scalar = None if known is not None else w.value(f"sub {a.type} {a.scalar}, {b.scalar}")
    joint = a.mask | b.mask
    mask = full_mask(a.type) & -(joint & -joint) if joint else 0
    return pattern(a.type, scalar, lanes, mask, known)


def negate(w, a):
    return subtract(w, constant(a.type, 0), a)


def multiply(w, a, b):
    if a.lanes is None and b.lanes is not None:
        a, b = b, a
    scales = b.is_uniform and (b.known is not None or a.is_uniform)
    if a.is_vector or b.is_vector or not scales:
        return apply(w, "mul {t} {0}, {1}", a, b)
    known = None if a.known is None or b.known is None else a.known * b.known
    factor = _signed(b.known, b.bits) if b.known is not None else 0
    lanes = [c * factor for c in _lanes(a)]
    scalar = None if known is not None else w.value(f"mul {a.type} {a.scalar}, {b.scalar}")
    return pattern(a.type, scalar, lanes, product_mask(a.mask, b.mask, a.bits), known)


def shift_left(w, a, count):
    """`count` is a Python number below the width."""
    if a.is_vector:
        return apply(w, "shl {t} {0}, {1}", a, constant(a.type, count))
    if count == 0:
        return a
    known = None if a.known is None else a.known << count
    lanes = [c << count for c in _lanes(a)]
    scalar = None if known is not None else w.value(f"shl {a.type} {a.scalar}, {count}")
    return pattern(a.type, scalar, lanes, a.mask << count, known)


def shift_right(w, a, count, signed=False):
    """`count` is a Python number below the width."""
    name = "ashr" if signed else "lshr"
    if not a.carries_nothing or (signed and (a.low_lane < 0 or a.high_lane >> (a.bits - 1))):
        return apply(w, f"{name} {{t}} {{0}}, {{1}}", a, constant(a.type, count))
    if count == 0:
        return a
    known, mask = None, a.mask >> count
    if a.known is not None:
        known = (_signed(a.known, a.bits) if signed else a.known) >> count
    if signed and a.mask >> (a.bits - 1):
        mask |= full_mask(a.type) & -(1 << (a.bits - 1 - count))
    lanes = [c >> count for c in _lanes(a)]
    scalar = None if known is not None else w.value(f"{name} {a.type} {a.scalar}, {count}")
    return pattern(a.type, scalar, lanes, mask, known)


def shift(w, name, a, count):
    """shl, lshr or ashr by a 32-bit value; amounts from the width on shift everything out."""
    bits = a.bits
    if count.known is not None and count.is_uniform:
        number = count.known
        if number >= bits:
            if name != "ashr":
                return constant(a.type, 0)
            number = bits - 1
        if name == "shl":
            return shift_left(w, a, number)
        return shift_right(w, a, number, name == "ashr")
    last = constant("i32", bits - 1)
    over = apply(w, "icmp ugt {t} {0}, {1}", count, last, result="i1")
    amount = convert(w, count, a.type, exact=True)
    amount = bitwise(w, "and", amount, constant(a.type, bits - 1))
    shifted = apply(w, f"{name} {{t}} {{0}}, {{1}}", a, amount)
    if name == "ashr":
        beyond = apply(w, "ashr {t} {0}, {1}", a, constant(a.type, bits - 1))
    else:
        beyond = constant(a.type, 0)
    if over.is_uniform and shifted.is_uniform:
        text = f"select i1 {over.scalar}, {a.type} {beyond.scalar}, {a.type} {shifted.scalar}"
        return uniform(a.type, w.value(text))
    kind = wide(a.type)
    text = f"select {wide('i1')} {vector(w, over)}, {kind} {vector(w, beyond)}, "
    return Value(a.type, vector=w.value(text + f"{kind} {vector(w, shifted)}"))


def bitwise(w, name, a, b):
    """and, or, xor."""
    if a.known is not None and b.known is None:
        a, b = b, a
    plan = None
    if a.carries_nothing and b.carries_nothing and a.type != "i1":
        plan = _and_plan(a, b) if name == "and" else _or_plan(name, a, b)
    if plan is None:
        if a.is_uniform and b.is_uniform and a.known is not None and b.known is not None:
            return constant(a.type, _fold(name, a.known, b.known))
        return apply(w, f"{name} {{t}} {{0}}, {{1}}", a, b)
    lanes, mask, takes_scalar = plan
    known = None
    if not takes_scalar:
        scalar, known = a.scalar, a.known
    elif mask == 0:
        scalar, known = None, 0
    elif a.known is not None and b.known is not None:
        scalar, known = None, _fold(name, a.known, b.known)
    else:
        scalar = w.value(f"{name} {a.type} {a.scalar}, {b.scalar}")
    return pattern(a.type, scalar, lanes, mask, known)


def _fold(name, a, b):
    return {"and": a & b, "or": a | b, "xor": a ^ b}[name]


def _and_plan(a, b):
    """-> (lanes, mask, combine the scalars?) or None where no pattern results."""
    if b.known is not None and b.lanes is None:
        return [c & b.known for c in _lanes(a)], a.mask & b.known, True
    crossing = any(a.mask & c for c in _lanes(b)) or any(b.mask & c for c in _lanes(a))
    if crossing:
        return None
    lanes = [x & y for x, y in zip(_lanes(a), _lanes(b), strict=True)]
    return lanes, a.mask & b.mask, True


def _or_plan(name, a, b):
    lanes = [_fold(name, x, y) for x, y in zip(_lanes(a), _lanes(b), strict=True)]
    mask = a.mask | b.mask
    if not any(c & mask for c in lanes):
        return lanes, mask, True
    if b.known is not None and b.lanes is None and not b.known & a.mask:
        return [_fold(name, c, b.known) for c in _lanes(a)], a.mask, False
    return None


def convert(w, value, type_name, signed=False, exact=False):
    """Truncate, zero-extend or sign-extend.

    A pattern that might wrap keeps its shape under a guard (`w.guard`), which leads to a version
    of the code without patterns; `exact` asks for a vector instead.
    """
    bits = BITS[type_name]
    if value.type == type_name:
        return value
    name = "trunc" if bits < value.bits else "sext" if signed else "zext"
    if value.is_vector or value.type == "i1":
        return apply(w, f"{name} {{t}} {{0}} to {{r}}", value, result=type_name)
    if name != "trunc" and not _extends_exactly(value, signed):
        if exact or not w.guards_patterns:
            spread = Value(value.type, vector=vector(w, value))
            return apply(w, f"{name} {{t}} {{0}} to {{r}}", spread, result=type_name)
        for failing in _wrap_tests(w, value, signed):
            w.guard(failing)
    known, mask = value.known, value.mask
    if known is not None and name == "sext":
        known = _signed(known, value.bits)
    if name == "sext" and mask >> (value.bits - 1):
        mask |= full_mask(type_name) & -(1 << value.bits)
    text = f"{name} {value.type} {value.scalar} to {type_name}"
    scalar = None if known is not None else w.value(text)
    return pattern(type_name, scalar, value.lanes, mask, known)


def _extends_exactly(value, signed):
    if value.lanes is None:
        return True
    limit = 1 << (value.bits - 1 if signed else value.bits)
    scalar = _signed(value.known, value.bits) if signed and value.known is not None else value.known
    if scalar is not None:
        return scalar + value.low_lane >= (-limit if signed else 0) and (
            scalar + value.high_lane < limit
        )
    return value.low_lane >= 0 and value.mask + value.high_lane < limit


def _wrap_tests(w, value, signed):
    """Scalar conditions under which some lane of a pattern wraps around."""
    bits, kind = value.bits, value.type
    top = (1 << (bits - 1 if signed else bits)) - 1
    bottom = -(1 << (bits - 1)) if signed else 0
    sign = "s" if signed else "u"
    if value.high_lane > 0:
        yield w.value(f"icmp {sign}gt {kind} {value.scalar}, {top - value.high_lane}")
    if value.low_lane < 0:
        yield w.value(f"icmp {sign}lt {kind} {value.scalar}, {bottom - value.low_lane}")


def divide_by_constant(w, a, divisor, remainder):
    """Unsigned a / divisor or a % divisor as a pattern, or None where it is none.

    With scalar s and lane constants C < g, where g is a power of two that divides s:
    if divisor | g then (s + C) / d = s/d + C/d; if g | divisor then C never reaches a multiple.
    """
    if a.is_vector or not a.carries_nothing:
        return None
    low = a.mask & -a.mask if a.mask else 1 << a.bits
    if a.lanes is not None and a.high_lane >= low:
        return None
    name = "urem" if remainder else "udiv"
    if a.lanes is None or low % divisor == 0:
        lanes = [c % divisor if remainder else c // divisor for c in _lanes(a)]
    elif divisor % low == 0:
        lanes = _lanes(a) if remainder else NO_LANES
    else:
        return None
    known = None
    if a.known is not None:
        known = a.known % divisor if remainder else a.known // divisor
    elif remainder and low % divisor == 0:
        known = 0
    scalar = None if known is not None else w.value(f"{name} {a.type} {a.scalar}, {divisor}")
    mask = (1 << a.mask.bit_length()) - 1
    if divisor % low == 0 and remainder:
        mask &= -low
    elif low % divisor == 0 and not remainder:
        mask &= -(low // divisor) if low // divisor else -1
    return pattern(a.type, scalar, lanes, mask, known)


__all__ = [
    "add", "bitwise", "convert", "divide_by_constant", "multiply", "negate", "shift", "shift_left",
    "shift_right", "splat_constant", "subtract",
]  # fmt: skip
