"""Bit patterns: logic, shifts, fields, counting, byte permutation, and the byte dot products.

NumPy's shifts by the width of the type or more give 0 (or the sign), as PTX's do.
"""

import functools

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    bits_of,
    unsigned,
)

BITS = ("pred", "b16", "b32", "b64")


def _logic(function):
    def build(op):
        kind = op.kind(*BITS)
        return Operation((kind,) * function.nin, (kind,), function)

    return build


def _cnot(op):
    kind = op.kind("b16", "b32", "b64")
    dtype = DTYPES[kind]
    return Operation((kind,), (kind,), lambda a: np.equal(a, 0).astype(dtype))


def _amount(kind):
    """A function that brings a u32 shift amount to `kind`, never below a clamped one."""
    bits, dtype = bits_of(kind), DTYPES[kind]
    if bits == 16:
        return lambda amount: np.minimum(amount, np.uint32(16)).astype(dtype)
    if bits == 32:
        return lambda amount: amount.view(dtype)
    return lambda amount: amount.astype(dtype)


def _shift(function):
    def build(op):
        kind = op.kind("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")
        if op.name == "shl" and kind[0] != "b":
            raise UnsupportedInstruction(op.text)
        if kind in ("b32", "u32"):
            return Operation((kind, "u32"), (kind,), function)
        amount = _amount(kind)
        return Operation((kind, "u32"), (kind,), lambda a, n: function(a, amount(n)))

    return build


def _funnel(op):
    """shf: a 64-bit value b:a shifted, and its upper (.l) or lower (.r) word kept."""
    op.kind("b32")
    left = op.need("l", "r") == "l"
    wrap = op.need("wrap", "clamp") == "wrap"
    word, limit = np.uint64(32), np.uint32(32)

    def funnel(a, b, c):
        amount = np.bitwise_and(c, np.uint32(31)) if wrap else np.minimum(c, limit)
        amount = amount.astype(np.uint64)
        both = np.bitwise_or(np.left_shift(b.astype(np.uint64), word), a)
        if left:
            return np.right_shift(np.left_shift(both, amount), word).astype(np.uint32)
        return np.right_shift(both, amount).astype(np.uint32)

    return Operation(("b32", "b32", "u32"), ("b32",), funnel)


def _field(x):
    """A position or length: the low 8 bits of its operand."""
    return np.bitwise_and(x, np.uint32(0xFF))


def _bfe(op):
    kind = op.kind("u32", "s32", "u64", "s64")
    dtype = np.dtype(DTYPES[kind]).type
    width = bits_of(kind)

    def extract_unsigned(a, position, length):
        ones = np.left_shift(~dtype(0), _field(length).astype(dtype))
        return np.bitwise_and(np.right_shift(a, _field(position).astype(dtype)), ~ones)

    def extract_signed(a, position, length):
        length = np.minimum(_field(length), np.uint32(width))
        spare = np.subtract(np.uint32(width), length).astype(dtype)
        moved = np.right_shift(a, _field(position).astype(dtype))
        # A field of no bits is 0, of which shifting by the whole width makes sure.
        return np.right_shift(np.left_shift(moved, spare), spare)

    function = extract_signed if kind[0] == "s" else extract_unsigned
    return Operation((kind, "u32", "u32"), (kind,), function)


def _bfi(op):
    kind = op.kind("b32", "b64")
    dtype = np.dtype(DTYPES[kind]).type
    ones = ~dtype(0)

    def insert(a, b, position, length):
        position = _field(position).astype(dtype)
        field = ~np.left_shift(ones, _field(length).astype(dtype))
        mask = np.left_shift(field, position)
        changed = np.bitwise_and(np.bitwise_xor(np.left_shift(a, position), b), mask)
        return np.bitwise_xor(changed, b)

    return Operation((kind, kind, "u32", "u32"), (kind,), insert)


def _bmsk(op):
    """bmsk: `b` ones from bit `a` upwards."""
    op.kind("b32")
    clamped = op.need("clamp", "wrap") == "clamp"
    ones, low = np.uint32(0xFFFFFFFF), np.uint32(31)

    def mask(a, b):
        if not clamped:
            a, b = np.bitwise_and(a, low), np.bitwise_and(b, low)
        field = ~np.left_shift(ones, np.minimum(b, np.uint32(32)))
        return np.left_shift(field, a)

    return Operation(("u32", "u32"), ("b32",), mask)


def _szext(op):
    """szext: the low `b` bits of `a`, with their sign (s32) or zeros (u32) above."""
    kind = op.kind("u32", "s32")
    clamped = op.need("clamp", "wrap") == "clamp"
    dtype = np.dtype(DTYPES[kind]).type

    def extend(a, b):
        b = np.minimum(b, np.uint32(32)) if clamped else np.bitwise_and(b, np.uint32(31))
        spare = np.subtract(np.uint32(32), b).astype(dtype)
        return np.right_shift(np.left_shift(a, spare), spare)

    return Operation((kind, "u32"), (kind,), extend)


def smear(x):
    """`x` with every bit below its highest one set."""
    dtype = np.dtype(x.dtype).type
    for step in (1, 2, 4, 8, 16, 32)[: {4: 5, 8: 6}[x.itemsize]]:
        x = np.bitwise_or(x, np.right_shift(x, dtype(step)))
    return x


def _popc(op):
    kind = op.kind("b32", "b64")
    return Operation((kind,), ("u32",), lambda a: np.bitwise_count(a).astype(np.uint32))


def _leading_zeros(a):
    return np.bitwise_count(~smear(a)).astype(np.uint32)


def _clz(op):
    kind = op.kind("b32", "b64")
    return Operation((kind,), ("u32",), _leading_zeros)


def _bfind(op):
    """The highest bit that differs from the sign; all ones if there is none."""
    kind = op.kind("u32", "s32", "u64", "s64")
    shift_amount = op.has("shiftamt")
    word = DTYPES[unsigned(kind)]
    top = np.uint32(bits_of(kind) - 1)

    def find(a):
        if kind[0] == "s":
            a = np.bitwise_xor(a, np.right_shift(a, a.dtype.type(top))).view(word)
        zeros = _leading_zeros(a)
        if not shift_amount:
            return np.subtract(top, zeros)  # 31 - 32 wraps to all ones
        return np.bitwise_or(zeros, np.negative(np.greater(zeros, top).astype(np.uint32)))

    return Operation((kind,), ("u32",), find)


def _brev(op):
    kind = op.kind("b32", "b64")
    dtype = np.dtype(DTYPES[kind]).type
    width = bits_of(kind)
    pattern = {1: 0x5555555555555555, 2: 0x3333333333333333, 4: 0x0F0F0F0F0F0F0F0F}
    masks = [(dtype(s), dtype(m & ((1 << width) - 1))) for s, m in pattern.items()]

    def reverse(a):
        for shift, mask in masks:
            low = np.left_shift(np.bitwise_and(a, mask), shift)
            a = np.bitwise_or(low, np.bitwise_and(np.right_shift(a, shift), mask))
        return a.byteswap()

    return Operation((kind,), (kind,), reverse)


def _fns(op):
    """fns: the bit where the offset-th set bit of `mask`, counted from `base`, stands."""
    op.kind("b32")
    ones = np.uint32(0xFFFFFFFF)

    def find(mask, base, offset):
        count = np.abs(offset.astype(np.int64))
        upward = offset >= 0
        result = np.full(np.broadcast(mask, base, offset).shape, ones)
        for bit in range(32):
            above = np.left_shift(ones, base) & ~np.left_shift(ones, np.uint32(bit + 1))
            below = ~np.left_shift(ones, np.add(base, np.uint32(1))) & np.left_shift(
                ones, np.uint32(bit)
            )
            span = np.bitwise_and(mask, np.where(upward, above, below))
            set_here = np.bitwise_and(np.right_shift(mask, np.uint32(bit)), 1).astype(bool)
            beyond = np.where(upward, bit >= base, bit <= base)
            hit = set_here & beyond & (np.bitwise_count(span) == count)
            hit |= (count == 0) & (base == bit) & set_here
            result = np.where(hit, np.uint32(bit), result)
        return result[()]

    return Operation(("b32", "u32", "s32"), ("b32",), find)


def _two_inputs(table):
    """A function of two bits as (constant, a, b, ab), the terms of its xor normal form.

    `table` has the value for (a, b) = (0,0), (0,1), (1,0), (1,1) in bits 0 to 3.
    """
    f = [table >> i & 1 for i in range(4)]
    return f[0], f[0] ^ f[2], f[0] ^ f[1], f[0] ^ f[1] ^ f[2] ^ f[3]


@functools.cache
def lop3(table):
    """The three-input function with the truth table `table` (0xF0 & 0xCC is a & b)."""
    without = _two_inputs(sum((table >> 2 * i & 1) << i for i in range(4)))
    change = _two_inputs(sum(((table >> 2 * i ^ table >> 2 * i + 1) & 1) << i for i in range(4)))

    def terms(form, a, b):
        result = np.uint32(0xFFFFFFFF if form[0] else 0)
        for wanted, value in zip(form[1:], (a, b, None), strict=True):
            if wanted:
                result = np.bitwise_xor(result, np.bitwise_and(a, b) if value is None else value)
        return result

    def function(a, b, c):
        result = terms(without, a, b)
        if any(change):
            result = np.bitwise_xor(result, np.bitwise_and(terms(change, a, b), c))
        shape = np.broadcast(a, b, c).shape
        return result if np.shape(result) == shape else np.full(shape, result)

    return function


def _lop3(op):
    op.kind("b32")
    combine = op.take("or", "and")
    if combine is None:
        return Operation(
            ("b32", "b32", "b32", "imm"),
            ("b32",),
            lambda a, b, c, table: lop3(int(table) & 0xFF)(a, b, c),
        )
    function = np.logical_or if combine == "or" else np.logical_and

    def with_predicate(a, b, c, table, q):
        result = lop3(int(table) & 0xFF)(a, b, c)
        return result, function(np.not_equal(result, 0), q)

    return Operation(("b32", "b32", "b32", "imm", "pred"), ("b32", "pred"), with_predicate)


BIT_PATTERNS = {
    "and": _logic(np.bitwise_and),
    "or": _logic(np.bitwise_or),
    "xor": _logic(np.bitwise_xor),
    "not": _logic(np.bitwise_not),
    "cnot": _cnot,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "shf": _funnel,
    "bfe": _bfe,
    "bfi": _bfi,
    "bmsk": _bmsk,
    "szext": _szext,
    "popc": _popc,
    "clz": _clz,
    "bfind": _bfind,
    "brev": _brev,
    "fns": _fns,
    "lop3": _lop3,
}
