"""Integer instructions: sums, products, quotients, minima, and the carry chain."""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import (
    apply,
    conversion,
    intrinsic,
    reinterpret,
    select,
)
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.value import BITS, LANES, Value, constant, uniform
from zerfoo_numba.ptx.structure import Special

WORDS = ("u16", "s16", "u32", "s32", "u64", "s64", "b16", "b32", "b64")
PAIRS = ("u16x2", "s16x2")
DOUBLE = {"i8": "i16", "i16": "i32", "i32": "i64", "i64": "i128"}
BITS["i128"] = 128


def widened(code, value, signed):
    return integers.convert(code, value, DOUBLE[value.type], signed)


def product(code, op, kind, a, b):
    """mul's .lo, .hi or .wide."""
    part = op.need("lo", "hi", "wide")
    if part == "lo":
        return integers.multiply(code, a, b)
    signed = kind[0] == "s"
    full = integers.multiply(code, widened(code, a, signed), widened(code, b, signed))
    if part == "wide":
        op.signed = signed
        return full
    return integers.convert(code, integers.shift_right(code, full, a.bits), a.type)


def in_halves(code, function, *values):
    """A function of 16-bit values on both halves of 32-bit registers."""
    low = function(*(integers.convert(code, v, "i16") for v in values))
    high = (integers.convert(code, integers.shift_right(code, v, 16), "i16") for v in values)
    return join_halves(code, low, function(*high))


def join_halves(code, low, high):
    low = integers.convert(code, low, "i32", exact=True)
    high = integers.shift_left(code, integers.convert(code, high, "i32", exact=True), 16)
    return integers.bitwise(code, "or", high, low)


def add_or_sub(code, op):
    """add, sub, addc, subc; .cc leaves the carry in `code.carry`."""
    kind = op.kind(*WORDS, *PAIRS)
    a, b = code.operands(op, kind, kind)
    subtracts = op.name.startswith("sub")
    if kind in PAIRS:
        function = integers.subtract if subtracts else integers.add
        return in_halves(code, lambda x, y: function(code, x, y), a, b)
    if op.has("sat"):
        return intrinsic(code, "ssub.sat" if subtracts else "sadd.sat", a, b)
    carry_in, carry_out = op.name.endswith("c"), op.has("cc")
    if not carry_in and not carry_out:
        return (integers.subtract if subtracts else integers.add)(code, a, b)
    return with_carry(code, a, b, subtracts, carry_in, carry_out)


def with_carry(code, a, b, subtracts, carry_in, carry_out):
    """In twice the width; the carry of a subtraction is its borrow."""
    function = integers.subtract if subtracts else integers.add
    x, y = (integers.convert(code, v, DOUBLE[v.type], exact=True) for v in (a, b))
    total = function(code, x, y)
    if carry_in:
        carry = integers.convert(code, code.carry, x.type)
        total = function(code, total, carry)
    if carry_out:
        above = integers.shift_right(code, total, a.bits)
        code.carry = integers.convert(code, above, "i1")
    return integers.convert(code, total, a.type)


def mul(code, op):
    kind = op.kind(*WORDS)
    return product(code, op, kind, *code.operands(op, kind, kind))


def mad(code, op):
    """mad, and madc with a carry in."""
    kind = op.kind(*WORDS)
    wide = "wide" in op.parts
    third = f"{kind[0]}{2 * int(kind[1:])}" if wide else kind
    a, b, c = code.operands(op, kind, kind, third)
    result = product(code, op, kind, a, b)
    if op.has("sat"):
        return intrinsic(code, "sadd.sat", result, c)
    carry_in, carry_out = op.name == "madc", op.has("cc")
    if carry_in or carry_out:
        return with_carry(code, result, c, False, carry_in, carry_out)
    return integers.add(code, result, c)


def mul24(code, op):
    """mul24 and mad24: of the low 24 bits, the low or the high 32 of 48 bits."""
    kind = op.kind("u32", "s32")
    signed = kind[0] == "s"
    values = code.operands(op, *[kind] * (3 if op.name == "mad24" else 2))
    x, y = (
        integers.shift_right(code, integers.shift_left(code, v, 8), 8, signed) for v in values[:2]
    )
    full = integers.multiply(code, widened(code, x, signed), widened(code, y, signed))
    if op.need("lo", "hi") == "hi":
        full = integers.shift_right(code, full, 16)
    result = integers.convert(code, full, "i32")
    return integers.add(code, result, values[2]) if len(values) == 3 else result


def sad(code, op):
    kind = op.kind(*WORDS)
    a, b, c = code.operands(op, kind, kind, kind)
    sign = "s" if kind[0] == "s" else "u"
    high, low = intrinsic(code, f"{sign}max", a, b), intrinsic(code, f"{sign}min", a, b)
    return integers.add(code, integers.subtract(code, high, low), c)


def divide(code, op):
    """div and rem; a zero divisor gives all ones (PTX leaves it undefined, the CPU would trap)."""
    kind = op.kind(*WORDS)
    a, b = code.operands(op, kind, kind)
    remainder, signed = op.name == "rem", kind[0] == "s"
    if b.is_uniform and b.known and not signed:
        result = integers.divide_by_constant(code, a, b.known, remainder)
        if result is not None:
            return result
    name = ("s" if signed else "u") + ("rem" if remainder else "div")
    if b.is_uniform and b.known and b.known != (1 << b.bits) - 1:
        return apply(code, f"{name} {{t}} {{0}}, {{1}}", a, b)
    zero = apply(code, "icmp eq {t} {0}, {1}", b, constant(b.type, 0), result="i1")
    ones = constant(a.type, -1)
    if a.bits == 32 and not (a.is_uniform and b.is_uniform):
        result = _through_doubles(code, a, b, remainder, signed)
    else:
        divisor = select(code, zero, constant(b.type, 1), b)
        if signed:  # the least number by -1 would trap
            minus = apply(code, "icmp eq {t} {0}, {1}", b, ones, result="i1")
            divisor = select(code, minus, constant(b.type, 1), divisor)
        result = apply(code, f"{name} {{t}} {{0}}, {{1}}", a, divisor)
        if signed:
            other = constant(a.type, 0) if remainder else integers.negate(code, a)
            result = select(code, minus, other, result)
    return select(code, zero, ones, result)


def _through_doubles(code, a, b, remainder, signed):
    """Exact: a/b misses the next integer by at least 1/b, the rounding is below a/b 2**-53."""
    to, back = ("sitofp", "fptosi.sat") if signed else ("uitofp", "fptoui.sat")
    x, y = (apply(code, f"{to} {{t}} {{0}} to {{r}}", v, result="double") for v in (a, b))
    quotient = apply(code, "fdiv {t} {0}, {1}", x, y)
    if signed:  # 2**31 must wrap as the 32-bit quotient does
        wide = conversion(code, back, quotient, "i64")
        quotient = integers.convert(code, wide, "i32")
    else:
        quotient = conversion(code, back, quotient, "i32")
    if not remainder:
        return quotient
    return integers.subtract(code, a, integers.multiply(code, quotient, b))


def min_or_max(code, op):
    kind = op.kind(*WORDS, *PAIRS)
    name = ("s" if kind[0] == "s" else "u") + op.name
    values = code.operands(op, kind, kind)

    def function(x, y):
        result = intrinsic(code, name, x, y)
        if x.is_uniform and y.is_uniform:
            result.mask = x.mask | y.mask
        return result

    relu = op.has("relu")

    def rectified(x, y):
        found = function(x, y)
        return intrinsic(code, "smax", found, constant(found.type, 0)) if relu else found

    return in_halves(code, rectified, *values) if kind in PAIRS else rectified(*values)


def abs_or_neg(code, op):
    kind = op.kind("s16", "s32", "s64")
    (a,) = code.operands(op, kind)
    if op.name == "neg":
        return integers.negate(code, a)
    return intrinsic(code, "smax", a, integers.negate(code, a))


def mov(code, op):
    """mov, with the packing and unpacking of `{a, b}`."""
    kind = op.kind("pred", *WORDS, "f32", "f64")
    source = op.sources[0]
    if hasattr(source, "items"):
        return _pack(code, source.items, TYPES[kind])
    if len(op.destinations) == 1:
        return code.read(source, kind)
    value = reinterpret(code, code.read(source, kind), f"i{BITS[TYPES[kind]]}")
    width = value.bits // len(op.destinations)
    parts = []
    for i in range(len(op.destinations)):
        part = integers.shift_right(code, value, i * width)
        parts.append(integers.convert(code, part, f"i{width}"))
    return parts


def _pack(code, items, type_name):
    result = None
    for i, item in enumerate(items):
        part = code.read(item)
        part = reinterpret(code, part, f"i{part.bits}")
        width = part.bits
        wide = integers.convert(code, part, f"i{BITS[type_name]}", exact=True)
        wide = integers.shift_left(code, wide, i * width)
        result = wide if result is None else integers.bitwise(code, "or", result, wide)
    return reinterpret(code, result, type_name)


def cvta(code, op):
    op.kind("u64", "u32")
    to = op.has("to")
    space = op.need("global", "shared", "local", "const", "param")
    (a,) = code.operands(op, "u64")
    if space != "shared":
        return a
    base = Value("i64", code.value("ptrtoint ptr %shared to i64"), mask=(1 << 64) - 64)
    return (integers.subtract if to else integers.add)(code, a, base)


def isspacep(code, op):
    """Does a generic address, a real one here, lie in the space?"""
    space = op.need("global", "shared", "local", "shared::cta")
    op.parts = []
    (a,) = code.operands(op, "u64")
    ranges = {
        "shared": ("%shared", code.read(Special("%total_smem_size"), "u64")),
        "local": ("%local", constant("i64", LANES * code.plan.layout.local_bytes)),
    }

    def within(name):
        start, size = ranges[name]
        base = uniform("i64", code.value(f"ptrtoint ptr {start} to i64"))
        offset = integers.subtract(code, a, base)
        return apply(code, "icmp ult {t} {0}, {1}", offset, size, result="i1")

    if space != "global":
        return within(space.split("::")[0])
    either = integers.bitwise(code, "or", within("shared"), within("local"))
    return integers.bitwise(code, "xor", either, constant("i1", 1))


HANDLERS = {
    "isspacep": isspacep, "add": add_or_sub, "sub": add_or_sub, "addc": add_or_sub,
    "subc": add_or_sub, "mul": mul, "mad": mad, "madc": mad, "mul24": mul24, "mad24": mul24,
    "sad": sad, "div": divide, "rem": divide, "min": min_or_max, "max": min_or_max,
    "abs": abs_or_neg, "neg": abs_or_neg, "mov": mov, "cvta": cvta,
}  # fmt: skip
