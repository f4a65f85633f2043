"""Comparison and selection: setp, set, selp, slct, and mov."""

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_formats import FORMATS
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    halves,
    join,
    select,
    unsigned,
)
from zerfoo_numba.ptx.emulator.arithmetic_rounding import flush

_ORDERED = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_INTEGERS = ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")
_HALVES = ("f16", "bf16", "f16x2", "bf16x2")


def _unordered(a, b):
    return np.isnan(a) | np.isnan(b)


def _not(function):
    return lambda a, b: np.logical_not(function(a, b))


# The unordered comparisons are the negations of the opposite ordered ones.
_FLOAT = {
    **_ORDERED,
    "ne": lambda a, b: np.less(a, b) | np.greater(a, b),
    "equ": lambda a, b: ~(np.less(a, b) | np.greater(a, b)),
    "neu": np.not_equal,
    "ltu": _not(np.greater_equal),
    "leu": _not(np.greater),
    "gtu": _not(np.less_equal),
    "geu": _not(np.less),
    "num": _not(_unordered),
    "nan": _unordered,
}


def _comparison(op, kind):
    """The comparison that `op` names, for operands of `kind`."""
    ftz = op.has("ftz")
    if kind in _INTEGERS:
        choices = {**_ORDERED, "ne": np.not_equal}
        if kind[0] == "b":
            choices = {"eq": np.equal, "ne": np.not_equal}
        elif kind[0] == "u":
            choices |= _UNSIGNED
        if ftz:
            raise UnsupportedInstruction(op.text)
        return choices[op.need(*choices)]
    function = _FLOAT[op.need(*_FLOAT)]
    if kind in _HALVES:
        form = FORMATS[kind.removesuffix("x2")]
        decode = form.decode_flushed if ftz else form.decode
        return lambda a, b: function(decode(a), decode(b))
    if ftz and kind == "f64":
        raise UnsupportedInstruction(op.text)
    return (lambda a, b: function(flush(a), flush(b))) if ftz else function


def _setp(op):
    kind = op.kind(*_INTEGERS, "f32", "f64", *_HALVES)
    # A comparison named like a combination ("and") does not exist, so the order is free.
    combine = op.take(*_COMBINE)
    compare = _comparison(op, kind)
    if kind.endswith("x2"):
        return _setp_pair(kind, compare, combine)
    if combine is None:
        if op.destinations == 1:
            return Operation((kind, kind), ("pred",), compare)

        def with_negation(a, b):
            p = compare(a, b)
            return p, np.logical_not(p)

        return Operation((kind, kind), ("pred", "pred"), with_negation)
    function = _COMBINE[combine]
    if op.destinations == 1:
        return Operation(
            (kind, kind, "pred"), ("pred",), lambda a, b, c: function(compare(a, b), c)
        )

    def combined(a, b, c):
        p = compare(a, b)
        return function(p, c), function(np.logical_not(p), c)

    return Operation((kind, kind, "pred"), ("pred", "pred"), combined)


def _setp_pair(kind, compare, combine):
    """setp on packed halves: one predicate for the low, one for the high half."""

    def pair(a, b):
        (a0, a1), (b0, b1) = halves(a), halves(b)
        return compare(a0, b0), compare(a1, b1)

    if combine is None:
        return Operation((kind, kind), ("pred", "pred"), pair)
    function = _COMBINE[combine]
    return Operation(
        (kind, kind, "pred"),
        ("pred", "pred"),
        lambda a, b, c: tuple(function(p, c) for p in pair(a, b)),
    )


_TRUE = {
    "u16": np.uint16(0xFFFF), "s16": np.uint16(0xFFFF), "u32": np.uint32(0xFFFFFFFF),
    "s32": np.uint32(0xFFFFFFFF), "f32": np.uint32(0x3F800000),
    "f16": np.uint16(0x3C00), "bf16": np.uint16(0x3F80),
}  # fmt: skip


def _set(op):
    """set: all ones, or 1.0, where the comparison holds."""
    kind = op.kind(*_INTEGERS, "f32", "f64", *_HALVES)
    result = op.kind("u16", "s16", "u32", "s32", "f32", "f16", "bf16", "f16x2", "bf16x2")
    combine = op.take(*_COMBINE)
    compare = _comparison(op, kind)
    if kind.endswith("x2") != result.endswith("x2") and result not in ("u32", "s32"):
        raise UnsupportedInstruction(op.text)
    pair = kind.endswith("x2")
    if pair and result in ("u32", "s32"):
        result = "u16"
    true = _TRUE[result.removesuffix("x2")]
    word = unsigned("f16x2" if pair else result)

    def run(a, b, *c):
        sides = zip(halves(a), halves(b), strict=True) if pair else [(a, b)]
        flags = [compare(*side) for side in sides]
        if combine:
            flags = [_COMBINE[combine](p, c[0]) for p in flags]
        values = [np.multiply(p, true) for p in flags]
        return join(*values) if pair else values[0]

    inputs = (kind, kind) + (("pred",) if combine else ())
    return Operation(inputs, (word,), run)


def _selp(op):
    word = unsigned(op.kind(*_INTEGERS, "f32", "f64"))
    return Operation((word, word, "pred"), (word,), lambda a, b, c: select(c, a, b))


def _slct(op):
    control = op.kind("s32", "f32")
    word = unsigned(op.kind(*_INTEGERS, "f32", "f64"))
    ftz = op.has("ftz")
    if ftz and control != "f32":
        raise UnsupportedInstruction(op.text)

    def choose(a, b, c):
        return select(np.greater_equal(flush(c) if ftz else c, 0), a, b)

    return Operation((word, word, control), (word,), choose)


def _mov(op):
    kind = op.kind("pred", *_INTEGERS, "f32", "f64")
    word = kind if kind == "pred" else unsigned(kind)
    return Operation((word,), (word,), lambda a: a)


def pack(parts, kind):
    """mov.b32 {a, b}, mov.b64 {a, b}, ...: registers side by side in a wider one, low first.

    `parts` are unsigned arrays or scalars of equal width; `kind` is "b16", "b32" or "b64".
    """
    dtype = np.dtype(DTYPES[kind]).type
    width = np.dtype(dtype).itemsize * 8 // len(parts)
    result = parts[0].astype(dtype)
    for i, part in enumerate(parts[1:], 1):
        result = np.bitwise_or(result, np.left_shift(part.astype(dtype), dtype(i * width)))
    return result


def unpack(value, count):
    """The inverse of `pack`: `count` unsigned parts of an unsigned value, low first."""
    dtype = value.dtype.type
    width = value.dtype.itemsize * 8 // count
    part = np.dtype(f"u{width // 8}")
    return tuple(np.right_shift(value, dtype(i * width)).astype(part) for i in range(count))


COMPARE = {"setp": _setp, "set": _set, "selp": _selp, "slct": _slct, "mov": _mov}
