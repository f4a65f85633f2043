"""Logic, shifts, bit fields and counts."""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import intrinsic, select
from zerfoo_numba.ptx.native.op_compare import combine, compare_integers, invert
from zerfoo_numba.ptx.native.opcode import INTEGERS
from zerfoo_numba.ptx.native.value import constant


def logic(code, op):
    kind = op.kind("pred", "b16", "b32", "b64")
    a, b = code.operands(op, kind, kind)
    if kind == "pred":
        return combine(code, op.name, a, b)
    return integers.bitwise(code, op.name, a, b)


def not_(code, op):
    kind = op.kind("pred", "b16", "b32", "b64")
    (a,) = code.operands(op, kind)
    if kind == "pred":
        return invert(code, a)
    return integers.subtract(code, constant(a.type, -1), a)


def cnot(code, op):
    kind = op.kind("b16", "b32", "b64")
    (a,) = code.operands(op, kind)
    p = compare_integers(code, "eq", False, a, constant(a.type, 0))
    return select(code, p, constant(a.type, 1), constant(a.type, 0))


def shift(code, op):
    kind = op.kind(*INTEGERS)
    a, count = code.operands(op, kind, "u32")
    name = "shl" if op.name == "shl" else "ashr" if kind[0] == "s" else "lshr"
    return integers.shift(code, name, a, count)


def funnel(code, op):
    """shf: a 64-bit value b:a shifted, and its upper (.l) or lower (.r) word kept."""
    op.kind("b32")
    direction, mode = op.need("l", "r"), op.need("clamp", "wrap")
    a, b, c = code.operands(op, "b32", "b32", "u32")
    if mode == "wrap":
        count = integers.bitwise(code, "and", c, constant("i32", 31))
        return intrinsic(code, "fshl" if direction == "l" else "fshr", b, a, count)
    count = intrinsic(code, "umin", c, constant("i32", 32))
    low = integers.convert(code, a, "i64", exact=True)
    high = integers.shift_left(code, integers.convert(code, b, "i64", exact=True), 32)
    both = integers.bitwise(code, "or", high, low)
    if direction == "r":
        return integers.convert(code, integers.shift(code, "lshr", both, count), "i32")
    moved = integers.shift(code, "shl", both, count)
    return integers.convert(code, integers.shift_right(code, moved, 32), "i32")


def lop3(code, op):
    """Any function of three bits: a sum of products over its truth table."""
    op.kind("b32")
    a, b, c, table = code.operands(op, "b32", "b32", "b32", "b32")
    if table.known is None:
        raise op.unsupported()
    values = (a, b, c)
    inverse = [integers.subtract(code, constant("i32", -1), v) for v in values]
    ones = [i for i in range(8) if table.known >> i & 1]
    result = constant("i32", 0)
    for i in ones:
        chosen = [values[j] if i >> (2 - j) & 1 else inverse[j] for j in range(3)]
        term = integers.bitwise(code, "and", chosen[0], chosen[1])
        term = integers.bitwise(code, "and", term, chosen[2])
        result = integers.bitwise(code, "or", result, term)
    return result


def _field(code, value):
    return integers.bitwise(code, "and", value, constant("i32", 0xFF))


def bfe(code, op):
    """Extract a bit field; a signed one is extended by the highest bit that it reaches."""
    kind = op.kind("u32", "s32", "u64", "s64")
    a, position, length = code.operands(op, kind, "u32", "u32")
    position, length = _field(code, position), _field(code, length)
    signed = kind[0] == "s"
    moved = integers.shift(code, "ashr" if signed else "lshr", a, position)
    if length.is_uniform and length.known is not None:
        length = constant("i32", min(length.known, a.bits))
    else:
        length = intrinsic(code, "umin", length, constant("i32", a.bits))
    spare = integers.subtract(code, constant("i32", a.bits), length)
    left = integers.shift(code, "shl", moved, spare)
    return integers.shift(code, "ashr" if signed else "lshr", left, spare)


def bfi(code, op):
    """Insert the low `length` bits of a into b at `position`."""
    kind = op.kind("b32", "b64")
    a, b, position, length = code.operands(op, kind, kind, "u32", "u32")
    position, length = _field(code, position), _field(code, length)
    ones = constant(a.type, -1)
    above = integers.shift(code, "shl", ones, length)
    field = integers.subtract(code, ones, above)
    mask = integers.shift(code, "shl", field, position)
    moved = integers.shift(code, "shl", a, position)
    kept = integers.bitwise(code, "and", b, integers.subtract(code, ones, mask))
    return integers.bitwise(code, "or", integers.bitwise(code, "and", moved, mask), kept)


def bmsk(code, op):
    """`b` ones from bit `a` upwards."""
    op.kind("b32")
    mode = op.need("clamp", "wrap")
    a, b = code.operands(op, "u32", "u32")
    if mode == "wrap":
        a, b = (integers.bitwise(code, "and", v, constant("i32", 31)) for v in (a, b))
    ones = constant("i32", -1)
    field = integers.subtract(code, ones, integers.shift(code, "shl", ones, b))
    return integers.shift(code, "shl", field, a)


def szext(code, op):
    """The low `b` bits of a, with their sign (s32) or zeros (u32) above."""
    kind = op.kind("u32", "s32")
    mode = op.need("clamp", "wrap")
    a, b = code.operands(op, kind, "u32")
    if mode == "wrap":
        b = integers.bitwise(code, "and", b, constant("i32", 31))
    else:
        b = intrinsic(code, "umin", b, constant("i32", 32))
    spare = integers.subtract(code, constant("i32", 32), b)
    left = integers.shift(code, "shl", a, spare)
    return integers.shift(code, "ashr" if kind == "s32" else "lshr", left, spare)


def popc(code, op):
    kind = op.kind("b32", "b64")
    (a,) = code.operands(op, kind)
    return _narrow(code, intrinsic(code, "ctpop", a))


def _narrow(code, value):
    return integers.convert(code, value, "i32")


def clz(code, op):
    kind = op.kind("b32", "b64")
    (a,) = code.operands(op, kind)
    return _narrow(code, _leading_zeros(code, a))


def _leading_zeros(code, a):
    return intrinsic(code, "ctlz", a, extra=[("i1", "false")])


def bfind(code, op):
    """The highest bit that differs from the sign; all ones if there is none."""
    kind = op.kind("u32", "s32", "u64", "s64")
    amount = op.has("shiftamt")
    (a,) = code.operands(op, kind)
    if kind[0] == "s":
        a = integers.bitwise(code, "xor", a, integers.shift_right(code, a, a.bits - 1, True))
    zeros = _narrow(code, _leading_zeros(code, a))
    if not amount:
        return integers.subtract(code, constant("i32", a.bits - 1), zeros)
    none = compare_integers(code, "eq", False, zeros, constant("i32", a.bits))
    return select(code, none, constant("i32", -1), zeros)


def brev(code, op):
    kind = op.kind("b32", "b64")
    (a,) = code.operands(op, kind)
    return intrinsic(code, "bitreverse", a)


HANDLERS = {
    "and": logic, "or": logic, "xor": logic, "not": not_, "cnot": cnot, "shl": shift,
    "shr": shift, "shf": funnel, "lop3": lop3, "bfe": bfe, "bfi": bfi, "bmsk": bmsk,
    "szext": szext, "popc": popc, "clz": clz, "bfind": bfind, "brev": brev,
}  # fmt: skip
