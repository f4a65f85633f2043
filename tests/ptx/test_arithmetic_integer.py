"""Integer instructions against Python integers: edge values of every operand, then random ones."""

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import cases, integers_of, run
from zerfoo_numba.ptx.emulator.arithmetic import DTYPES, operation

WORDS = ["u16", "s16", "u32", "s32", "u64", "s64"]


def width(kind):
    return 8 * np.dtype(DTYPES[kind]).itemsize


def check(opcode, kinds, function, results=None, **options):
    """`function(*integers) -> integer or tuple` must agree modulo the width of each result."""
    op = operation(opcode)
    rows = cases(kinds, **options)
    results = results or op.outputs
    masks = [1 if k in ("pred", "carry") else (1 << width(k)) - 1 for k in results]
    for row, got in zip(rows, run(opcode, rows), strict=True):
        want = function(*(integers_of(c, k) for c, k in zip(row, kinds, strict=True)))
        want = want if isinstance(want, tuple) else (want,)
        want = tuple(int(w) & m for w, m in zip(want, masks, strict=True))
        assert got == want, f"{opcode} {[hex(c) for c in row]}: got {got}, want {want}"


def limited(x, kind):
    low = -(1 << width(kind) - 1) if kind[0] == "s" else 0
    return min(max(x, low), low + (1 << width(kind)) - 1)


def truncated(a, b, kind):
    """Quotient and remainder as hardware gives them."""
    if b == 0:
        return -1, -1
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return quotient, a - quotient * b


@pytest.mark.parametrize("kind", WORDS)
def test_arithmetic(kind):
    two, three = (kind, kind), (kind, kind, kind)
    check(f"add.{kind}", two, lambda a, b: a + b)
    check(f"sub.{kind}", two, lambda a, b: a - b)
    check(f"mul.lo.{kind}", two, lambda a, b: a * b)
    check(f"mul.hi.{kind}", two, lambda a, b: a * b >> width(kind))
    check(f"mad.lo.{kind}", three, lambda a, b, c: a * b + c)
    check(f"mad.hi.{kind}", three, lambda a, b, c: (a * b >> width(kind)) + c)
    check(f"min.{kind}", two, min)
    check(f"max.{kind}", two, max)
    check(f"sad.{kind}", three, lambda a, b, c: c + abs(a - b))
    check(f"div.{kind}", two, lambda a, b: truncated(a, b, kind)[0])
    check(f"rem.{kind}", two, lambda a, b: truncated(a, b, kind)[1])


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide_products(kind):
    wide = f"{kind[0]}{2 * width(kind)}"
    check(f"mul.wide.{kind}", (kind, kind), lambda a, b: a * b)
    check(f"mad.wide.{kind}", (kind, kind, wide), lambda a, b, c: a * b + c)


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_signs(kind):
    check(f"abs.{kind}", (kind,), abs)
    check(f"neg.{kind}", (kind,), lambda a: -a)


def test_saturation():
    check("add.sat.s32", ("s32", "s32"), lambda a, b: limited(a + b, "s32"))
    check("sub.sat.s32", ("s32", "s32"), lambda a, b: limited(a - b, "s32"))
    three = ("s32",) * 3
    check("mad.hi.sat.s32", three, lambda a, b, c: limited((a * b >> 32) + c, "s32"))
    check("min.relu.s32", ("s32", "s32"), lambda a, b: max(min(a, b), 0))
    check("max.relu.s32", ("s32", "s32"), lambda a, b: max(a, b, 0))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_carries(kind):
    word = f"u{width(kind)}"
    top, mask = 1 << width(kind), (1 << width(kind)) - 1
    two, three = (word, word), (word, word, "carry")

    def add(a, b, c=0):
        return a + b + c, a + b + c >= top

    def sub(a, b, c=0):
        return a - b - c, a - b - c < 0

    check(f"add.cc.{kind}", two, add)
    check(f"addc.cc.{kind}", three, add)
    check(f"addc.{kind}", three, lambda a, b, c: a + b + c)
    check(f"sub.cc.{kind}", two, sub)
    check(f"subc.cc.{kind}", three, sub)
    check(f"subc.{kind}", three, lambda a, b, c: a - b - c)
    check(f"mad.lo.cc.{kind}", (word,) * 3, lambda a, b, c: add(a * b & mask, c))
    four = (kind, kind, word, "carry")
    check(f"madc.hi.cc.{kind}", four, lambda a, b, c, x: add((a * b >> width(kind)) & mask, c, x))
    check(f"madc.lo.{kind}", (word,) * 3 + ("carry",), lambda a, b, c, x: a * b + c + x)


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_products_of_24_bits(kind):
    def low24(x):
        x &= 0xFFFFFF
        return x - (1 << 24) if kind == "s32" and x >> 23 else x

    two, three = (kind, kind), (kind,) * 3
    check(f"mul24.lo.{kind}", two, lambda a, b: low24(a) * low24(b))
    check(f"mul24.hi.{kind}", two, lambda a, b: low24(a) * low24(b) >> 16)
    check(f"mad24.lo.{kind}", three, lambda a, b, c: low24(a) * low24(b) + c)
    if kind == "s32":
        check(
            "mad24.hi.sat.s32",
            three,
            lambda a, b, c: limited(
                integers_of((low24(a) * low24(b) >> 16) & 0xFFFFFFFF, "s32") + c, "s32"
            ),
        )


@pytest.mark.parametrize("kind", ["u16", "s16"])
def test_packed_halves(kind):
    def on_halves(function):
        def both(*words):
            result = 0
            for shift in (0, 16):
                parts = (integers_of(w >> shift & 0xFFFF, kind) for w in words)
                result |= (function(*parts) & 0xFFFF) << shift
            return result

        return both

    two = ("b32", "b32")
    check(f"add.{kind}x2", two, on_halves(lambda a, b: a + b))
    check(f"min.{kind}x2", two, on_halves(min))
    check(f"max.{kind}x2", two, on_halves(max))
    if kind == "s16":
        check("max.relu.s16x2", two, on_halves(lambda a, b: max(a, b, 0)))


@pytest.mark.parametrize("first", ["s32", "u32"])
@pytest.mark.parametrize("second", ["s32", "u32"])
def test_dot_products(first, second):
    def field(x, kind, shift, bits):
        x = x >> shift & (1 << bits) - 1
        return x - (1 << bits) if kind == "s32" and x >> bits - 1 else x

    def dp4a(a, b, c):
        return c + sum(field(a, first, s, 8) * field(b, second, s, 8) for s in (0, 8, 16, 24))

    def dp2a(base):
        def dot(a, b, c):
            pairs = ((0, base), (16, base + 8))
            return c + sum(field(a, first, s, 16) * field(b, second, t, 8) for s, t in pairs)

        return dot

    three = ("b32", "b32", "u32")
    bytes_at_ends = {"b32": [0, 0x7F7F7F7F, 0x80808080, 0xFFFFFFFF, 0x80FF017F, 0x00010203]}
    check(f"dp4a.{first}.{second}", three, dp4a, edges=bytes_at_ends)
    check(f"dp2a.lo.{first}.{second}", three, dp2a(0), edges=bytes_at_ends)
    check(f"dp2a.hi.{first}.{second}", three, dp2a(16), edges=bytes_at_ends)
