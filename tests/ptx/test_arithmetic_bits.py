"""Logic, shifts, bit fields, counting and permutation, as the ISA's own loops define them."""

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import cases, integers_of, run
from tests.ptx.test_arithmetic_integer import check, width
from zerfoo_numba.ptx.emulator.arithmetic import operation, pack, unpack

AMOUNTS = {"u32": [0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 2**31, 2**32 - 1]}


@pytest.mark.parametrize("kind", ["pred", "b16", "b32", "b64"])
def test_logic(kind):
    two = (kind, kind)
    check(f"and.{kind}", two, lambda a, b: a & b)
    check(f"or.{kind}", two, lambda a, b: a | b)
    check(f"xor.{kind}", two, lambda a, b: a ^ b)
    check(f"not.{kind}", (kind,), lambda a: ~a)
    if kind != "pred":
        check(f"cnot.{kind}", (kind,), lambda a: a == 0)


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"])
def test_shifts_clamp(kind):
    def left(a, n):
        return a << min(n, width(kind))

    def right(a, n):
        return a >> min(n, width(kind))

    edges = {"u32": AMOUNTS["u32"]}
    if kind != "u32":
        check(f"shr.{kind}", (kind, "u32"), right, edges=edges)
    if kind[0] == "b":
        check(f"shl.{kind}", (kind, "u32"), left, edges=edges)


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(mode):
    def amount(c):
        return c & 31 if mode == "wrap" else min(c, 32)

    three = ("b32", "b32", "u32")
    check(
        f"shf.l.{mode}.b32", three, lambda a, b, c: (b << 32 | a) << amount(c) >> 32, edges=AMOUNTS
    )
    check(f"shf.r.{mode}.b32", three, lambda a, b, c: (b << 32 | a) >> amount(c), edges=AMOUNTS)


def extracted(kind):
    def bfe(a, b, c):
        bits = width(kind)
        msb, position, length = bits - 1, b & 0xFF, c & 0xFF
        pattern = a & (1 << bits) - 1
        sign = 0
        if kind[0] == "s" and length:
            sign = pattern >> min(position + length - 1, msb) & 1
        result = 0
        for i in range(bits):
            inside = i < length and position + i <= msb
            result |= (pattern >> position + i & 1 if inside else sign) << i
        return result

    return bfe


def inserted(kind):
    def bfi(a, b, c, d):
        position, length = c & 0xFF, d & 0xFF
        for i in range(length):
            if position + i < width(kind):
                bit = 1 << position + i
                b = b & ~bit | (bit if a >> i & 1 else 0)
        return b

    return bfi


FIELDS = {"u32": [0, 1, 8, 31, 32, 33, 63, 64, 128, 255, 256, 257]}


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bfe(kind):
    values = [0, 1, 0x80000000, 0xDEADBEEF, 0x8000000000000001, 0x0123456789ABCDEF]
    edges = {**FIELDS, kind: [v & (1 << width(kind)) - 1 for v in values]}
    if kind == "u32":  # the operand and the fields share a type here
        edges = {"u32": sorted({*FIELDS["u32"], *edges["u32"]})}
    check(f"bfe.{kind}", (kind, "u32", "u32"), extracted(kind), edges=edges, limit=1500)


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_bfi(kind):
    edges = {**FIELDS, kind: [0, 1, 0xDEADBEEF, (1 << width(kind)) - 1]}
    kinds = (kind, kind, "u32", "u32")
    check(f"bfi.{kind}", kinds, inserted(kind), edges=edges, limit=1500)


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_bmsk_and_szext(mode):
    def bmsk(a, b):
        if mode == "wrap":
            a, b = a & 31, b & 31
        return ((1 << min(b, 32)) - 1 << min(a, 32)) & 0xFFFFFFFF

    def szext(kind):
        def extend(a, b):
            b = b & 31 if mode == "wrap" else min(b, 32)
            low = a & (1 << b) - 1
            return low - (1 << b) if kind == "s32" and b and low >> b - 1 else low

        return extend

    check(f"bmsk.{mode}.b32", ("u32", "u32"), bmsk, edges=AMOUNTS)
    check(f"szext.{mode}.u32", ("u32", "u32"), szext("u32"), edges=AMOUNTS)
    check(f"szext.{mode}.s32", ("s32", "u32"), szext("s32"), edges=AMOUNTS)


@pytest.mark.parametrize("bits", [32, 64])
def test_counting(bits):
    kind = f"b{bits}"
    check(f"popc.{kind}", (kind,), lambda a: bin(a).count("1"))
    check(f"clz.{kind}", (kind,), lambda a: bits - a.bit_length())
    check(f"brev.{kind}", (kind,), lambda a: int(f"{a:0{bits}b}"[::-1], 2))
    for sign in "us":
        source = f"{sign}{bits}"

        def highest(a):
            return (~a if a < 0 else a).bit_length() - 1

        check(f"bfind.{source}", (source,), highest)
        check(
            f"bfind.shiftamt.{source}",
            (source,),
            lambda a: -1 if highest(a) < 0 else bits - 1 - highest(a),
        )


def test_fns():
    def find(mask, base, offset):
        if offset == 0:
            return base if mask >> base & 1 else -1
        step = 1 if offset > 0 else -1
        position, count = base, abs(offset) - 1
        while 0 <= position < 32:
            if mask >> position & 1:
                if count == 0:
                    return position
                count -= 1
            position += step
        return -1

    edges = {
        "b32": [0, 1, 0x80000000, 0xFFFFFFFF, 0xAAAAAAAA, 0x00F0F00F],
        "u32": [0, 1, 15, 30, 31],
        "s32": [0, 1, 2, 3, 31, 32, 2**32 - 1, 2**32 - 2, 2**32 - 5, 2**32 - 32],
    }
    check("fns.b32", ("b32", "u32", "s32"), find, edges=edges, count=0)


def test_lop3_every_table():
    """All 256 tables on operands that hold all eight combinations of bits."""
    rows = [(0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA), (0x12345678, 0x9ABCDEF0, 0x0F1E2D3C)]
    for table in range(256):
        for row, (got,) in zip(rows, run("lop3.b32", rows, table), strict=True):
            want = 0
            for i in range(32):
                a, b, c = (x >> i & 1 for x in row)
                want |= (table >> (4 * a + 2 * b + c) & 1) << i
            assert got == want, f"lop3 with table {table:#x}"


def test_lop3_predicate():
    op = operation("lop3.and.b32")
    rows = cases(("b32", "b32", "b32"), count=50, limit=50)
    arrays = [np.array(c, "u4") for c in zip(*rows, strict=True)]
    q = arrays[0] % 2 == 1
    result, p = op(*arrays, 0x80, q)
    for (a, b, c), d, flag, given in zip(rows, result, p, q, strict=True):
        assert d == a & b & c
        assert flag == (bool(d) and given)


def permuted(mode):
    def prmt(a, b, c):
        source = [(b << 32 | a) >> 8 * i & 0xFF for i in range(8)]
        n = c & 3
        if mode == "":
            result = []
            for i in range(4):
                byte = source[c >> 4 * i & 7]
                result.append(0xFF * (byte >> 7) if c >> 4 * i & 8 else byte)
        elif mode == ".f4e":
            result = [source[n + i] for i in range(4)]
        elif mode == ".b4e":
            result = [source[(n - i) % 8] for i in range(4)]
        elif mode == ".rc8":
            result = [source[n]] * 4
        elif mode == ".ecl":
            result = [source[max(i, n)] for i in range(4)]
        elif mode == ".ecr":
            result = [source[min(i, n)] for i in range(4)]
        else:
            result = [source[(n & 1) * 2 + i % 2] for i in range(4)]
        return sum(byte << 8 * i for i, byte in enumerate(result))

    return prmt


@pytest.mark.parametrize("mode", ["", ".f4e", ".b4e", ".rc8", ".ecl", ".ecr", ".rc16"])
def test_prmt(mode):
    opcode, want = f"prmt.b32{mode}", permuted(mode)
    check(opcode, ("b32", "b32", "b32"), want, count=600)
    a, b = np.array([0x83028100, 0x7F], "u4"), np.array([0x87868504, 0x80FF], "u4")
    for selector in (0, 0x3210, 0x5410, 0x7632, 0x4440, 0xBA98, 0xFFFF, 0x0808, 0x7777, 1, 2, 3):
        got = operation(opcode)(a, b, np.uint32(selector)).tolist()
        pairs = zip(a.tolist(), b.tolist(), strict=True)
        assert got == [want(x, y, selector) for x, y in pairs], hex(selector)


def test_pack_and_unpack():
    value = np.array([0x0123456789ABCDEF, 2**64 - 1, 1], "u8")
    parts = unpack(value, 4)
    assert [p.dtype for p in parts] == [np.uint16] * 4
    assert [int(p[0]) for p in parts] == [0xCDEF, 0x89AB, 0x4567, 0x0123]
    assert (pack(parts, "b64") == value).all()
    low, high = unpack(np.uint32(0x89ABCDEF), 2)
    assert (low, high) == (0xCDEF, 0x89AB)
    assert integers_of(int(pack((low, high), "b32")), "b32") == 0x89ABCDEF
