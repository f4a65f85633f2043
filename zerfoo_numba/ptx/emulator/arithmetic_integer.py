"""Integer arithmetic without the products: add, sub, div, rem, min, max and the like.

Wherever the sign of an operand does not matter its type is unsigned: NumPy's unsigned ufuncs
wrap silently, and no view is needed.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    bits_of,
    in_halves,
    unsigned,
)

WORDS = ("u16", "s16", "u32", "s32", "u64", "s64")
PAIRS = ("u16x2", "s16x2")
_LIMITS = {k: np.iinfo(DTYPES[k]) for k in ("u8", "s8", *WORDS)}


def clamp(x, kind):
    """Integers of any type, limited to the range of `kind` and converted to it."""
    limit, own = _LIMITS[kind], np.iinfo(x.dtype)
    low, high = max(limit.min, own.min), min(limit.max, own.max)
    return np.minimum(np.maximum(x, own.dtype.type(low)), own.dtype.type(high)).astype(limit.dtype)


def _packed(op, function, count):
    """`add.u16x2` and its kin, if that is the type; None otherwise."""
    kind = op.take(*PAIRS)
    if kind is None:
        return None
    return Operation(("b32",) * count, ("b32",), in_halves(function, DTYPES[kind[:3]]))


def carry_add(a, b, carry):
    total = np.add(a, b)
    out = np.less(total, a)
    result = np.add(total, carry.astype(total.dtype))
    return result, out | (np.less(result, total))


def _carry_sub(a, b, borrow):
    difference = np.subtract(a, b)
    out = np.less(a, b)
    result = np.subtract(difference, borrow.astype(difference.dtype))
    return result, out | (np.less(difference, result))


def _with_carry(kind, function, carry_in, carry_out):
    """add.cc, addc, sub.cc and subc: `function(a, b, carry) -> (result, carry)`."""
    word = unsigned(kind)
    outputs = (word, "carry") if carry_out else (word,)

    def run(a, b, carry=np.False_):
        result = function(a, b, carry)
        return result if carry_out else result[0]

    return Operation((word, word) + (("carry",) if carry_in else ()), outputs, run)


def _add_or_sub(plain, carried):
    def build(op):
        if packed := _packed(op, plain, 2):
            return packed
        kind = op.kind(*WORDS)
        carry_in, carry_out = op.name in ("addc", "subc"), op.has("cc")
        if carry_in or carry_out:
            return _with_carry(carrying(op, kind), carried, carry_in, carry_out)
        if op.has("sat"):
            if kind != "s32":
                raise UnsupportedInstruction(op.text)
            wide = np.int64
            return Operation(
                ("s32", "s32"), ("s32",), lambda a, b: clamp(plain(a, b, dtype=wide), "s32")
            )
        word = unsigned(kind)
        return Operation((word, word), (word,), plain)

    return build


def carrying(op, kind):
    """Carries exist for 32 and 64 bits only."""
    if bits_of(kind) < 32:
        raise UnsupportedInstruction(op.text)
    return kind


def _nonzero(divisor):
    """The divisor with 1 for every 0, and where those are."""
    zero = np.equal(divisor, 0)
    return np.add(divisor, zero.astype(divisor.dtype)), zero


def _all_ones(result, zero):
    """What hardware answers to a division by zero, which PTX leaves open."""
    return np.bitwise_or(result, np.negative(zero.astype(result.dtype)))


def _divide_unsigned(a, b):
    b, zero = _nonzero(b)
    return _all_ones(np.floor_divide(a, b), zero)


def _remainder_unsigned(a, b):
    b, zero = _nonzero(b)
    return _all_ones(np.remainder(a, b), zero)


def _magnitude(x):
    return np.abs(x).view(DTYPES[unsigned(f"s{8 * x.itemsize}")])


def _quotient_s32(a, b):
    # Exact: two 32-bit integers' quotient is never within 2**-53 of an integer it does not reach.
    return np.divide(a, b, dtype=np.float64).astype(np.int64).astype(np.int32)


def _divide_signed(a, b):
    b, zero = _nonzero(b)
    if a.itemsize == 4:
        return _all_ones(_quotient_s32(a, b), zero)
    quotient = np.floor_divide(_magnitude(a), _magnitude(b)).view(a.dtype)
    negative = np.less(np.bitwise_xor(a, b), 0).astype(a.dtype)
    quotient = np.subtract(np.bitwise_xor(quotient, np.negative(negative)), np.negative(negative))
    return _all_ones(quotient, zero)


def _remainder_signed(a, b):
    b, zero = _nonzero(b)
    if a.itemsize == 4:
        return _all_ones(np.subtract(a, np.multiply(_quotient_s32(a, b), b)), zero)
    rest = np.remainder(_magnitude(a), _magnitude(b)).view(a.dtype)
    negative = np.negative(np.less(a, 0).astype(a.dtype))
    return _all_ones(np.subtract(np.bitwise_xor(rest, negative), negative), zero)


def _division(by_unsigned, by_signed):
    def build(op):
        kind = op.kind(*WORDS)
        return Operation((kind, kind), (kind,), by_signed if kind[0] == "s" else by_unsigned)

    return build


def _min_or_max(function):
    def build(op):
        relu = op.has("relu")
        if (packed := _packed_min_max(op, function, relu)) is not None:
            return packed
        kind = op.kind(*WORDS)
        if not relu:
            return Operation((kind, kind), (kind,), function)
        if kind != "s32":
            raise UnsupportedInstruction(op.text)
        zero = np.int32(0)
        return Operation((kind, kind), (kind,), lambda a, b: np.maximum(function(a, b), zero))

    return build


def _packed_min_max(op, function, relu):
    if relu and "s16x2" in op.parts:
        zero = np.int16(0)
        return _packed(op, lambda a, b: np.maximum(function(a, b), zero), 2)
    return _packed(op, function, 2)


def _unary(function):
    def build(op):
        kind = op.kind("s16", "s32", "s64")
        return Operation((kind,), (kind,), function)

    return build


def _neg(op):
    if packed := _packed(op, np.negative, 1):
        return packed
    word = unsigned(op.kind("s16", "s32", "s64"))
    return Operation((word,), (word,), np.negative)


def _sad(op):
    kind = op.kind(*WORDS)
    dtype = DTYPES[unsigned(kind)]

    def sad(a, b, c):
        distance = np.subtract(np.maximum(a, b).view(dtype), np.minimum(a, b).view(dtype))
        return np.add(distance, c)

    return Operation((kind, kind, unsigned(kind)), (unsigned(kind),), sad)


INTEGER = {
    "add": _add_or_sub(np.add, carry_add),
    "addc": _add_or_sub(np.add, carry_add),
    "sub": _add_or_sub(np.subtract, _carry_sub),
    "subc": _add_or_sub(np.subtract, _carry_sub),
    "div": _division(_divide_unsigned, _divide_signed),
    "rem": _division(_remainder_unsigned, _remainder_signed),
    "min": _min_or_max(np.minimum),
    "max": _min_or_max(np.maximum),
    "abs": _unary(np.abs),
    "neg": _neg,
    "sad": _sad,
}
