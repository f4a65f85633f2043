"""Integer products: mul, mad and their carries, mul24 and mad24."""

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_integer import WORDS, carry_add, carrying, clamp
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    bits_of,
    unsigned,
)


def high_u64(a, b):
    """The upper 64 bits of the 128-bit product of unsigned 64-bit values."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1 = np.bitwise_and(a, low), np.right_shift(a, shift)
    b0, b1 = np.bitwise_and(b, low), np.right_shift(b, shift)
    middle = np.add(np.multiply(a1, b0), np.right_shift(np.multiply(a0, b0), shift))
    other = np.add(np.multiply(a0, b1), np.bitwise_and(middle, low))
    carry = np.add(np.right_shift(middle, shift), np.right_shift(other, shift))
    return np.add(np.multiply(a1, b1), carry)


def _high_s64(a, b):
    """`high_u64` for two's complement operands given as unsigned patterns."""
    sign = np.uint64(63)
    high = high_u64(a, b)
    high = np.subtract(high, np.multiply(np.right_shift(a, sign), b))
    return np.subtract(high, np.multiply(np.right_shift(b, sign), a))


def _high(kind):
    """The operation mul.hi for `kind`: operand type and function."""
    if bits_of(kind) == 64:
        return "u64", _high_s64 if kind == "s64" else high_u64
    bits = bits_of(kind)
    wide = np.dtype(DTYPES[f"{kind[0]}{2 * bits}"]).type
    narrow = DTYPES[kind]

    def high(a, b):
        product = np.multiply(a, b, dtype=wide)
        return np.right_shift(product, wide(bits)).astype(narrow)

    return kind, high


def _product(op, kind):
    """The part of a product that `.lo`, `.hi` or `.wide` names: operand, result, function."""
    part = op.need("lo", "hi", "wide")
    if part == "lo":
        word = unsigned(kind)
        return word, word, np.multiply
    if part == "hi":
        word, function = _high(kind)
        return word, word, function
    if bits_of(kind) == 64:
        raise UnsupportedInstruction(op.text)
    wide = f"{kind[0]}{2 * bits_of(kind)}"
    dtype = DTYPES[wide]
    return kind, wide, lambda a, b: np.multiply(a, b, dtype=dtype)


def _mul(op):
    word, result, function = _product(op, op.kind(*WORDS))
    return Operation((word, word), (result,), function)


def _mad(op):
    kind = op.kind(*WORDS)
    hi = "hi" in op.parts
    word, result, product = _product(op, kind)
    carry_in, carry_out = op.name == "madc", op.has("cc")
    if carry_in or carry_out:
        return _mad_carry(carrying(op, kind), word, product, carry_in, carry_out)
    if op.has("sat"):
        if kind != "s32" or not hi:
            raise UnsupportedInstruction(op.text)

        def saturated(a, b, c):
            return clamp(np.add(product(a, b), c, dtype=np.int64), "s32")

        return Operation(("s32",) * 3, ("s32",), saturated)
    return Operation((word, word, result), (result,), lambda a, b, c: np.add(product(a, b), c))


def _mad_carry(kind, word, product, carry_in, carry_out):
    flat = unsigned(kind)
    dtype = DTYPES[flat]
    outputs = (flat, "carry") if carry_out else (flat,)

    def run(a, b, c, carry=np.False_):
        result = carry_add(product(a, b).view(dtype), c, carry)
        return result if carry_out else result[0]

    return Operation((word, word, flat) + (("carry",) if carry_in else ()), outputs, run)


def _product24(op):
    """mul24: the low or high 32 bits of the 48-bit product of the low 24 bits."""
    kind = op.kind("u32", "s32")
    wide = np.int64 if kind == "s32" else np.uint64
    narrow = np.dtype(DTYPES[kind]).type
    shift = wide(16 if op.need("lo", "hi") == "hi" else 0)
    eight = narrow(8)

    def product(a, b):
        a = np.right_shift(np.left_shift(a, eight), eight)
        b = np.right_shift(np.left_shift(b, eight), eight)
        return np.right_shift(np.multiply(a, b, dtype=wide), shift).astype(narrow)

    return kind, product


def _mul24(op):
    kind, product = _product24(op)
    return Operation((kind, kind), (kind,), product)


def _mad24(op):
    hi, sat = "hi" in op.parts, op.has("sat")
    kind, product = _product24(op)
    if not sat:
        return Operation((kind,) * 3, (kind,), lambda a, b, c: np.add(product(a, b), c))
    if kind != "s32" or not hi:
        raise UnsupportedInstruction(op.text)
    wide = np.int64
    return Operation(
        (kind,) * 3, (kind,), lambda a, b, c: clamp(np.add(product(a, b), c, dtype=wide), "s32")
    )


PRODUCTS = {"mul": _mul, "mad": _mad, "madc": _mad, "mul24": _mul24, "mad24": _mad24}
