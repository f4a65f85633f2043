"""dp4a and dp2a: sums of byte products.

u8 x s8 is one `vpdpbusd` per 16 lanes with AVX-512 VNNI, per 8 lanes with AVX-VNNI. Plain AVX2
multiplies even and odd bytes apart as 16-bit pairs (`vpmaddwd`), because `vpmaddubsw` saturates
at 255 * 127 * 2; any other CPU gets shifts and 32-bit products. Signed times signed and unsigned
times unsigned bytes are shifted by 128 into that form and corrected.
"""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import apply, fold
from zerfoo_numba.ptx.native.text import splat_constant, vector_constant, wide
from zerfoo_numba.ptx.native.value import constant

_TOP_BITS, _HALVES = 0x80808080, 0x40404040


def dp4a(code, op):
    second, first = op.kind("u32", "s32"), op.kind("u32", "s32")
    a, b, c = code.operands(op, "b32", "b32", "b32")
    if all(v.is_uniform for v in (a, b, c)) or code.target.dot is None:
        return _by_bytes(code, a, b, c, first, second)
    if (first, second) == ("s32", "u32"):
        a, b, first, second = b, a, second, first
    top = constant("i32", _TOP_BITS)
    if first == second == "s32":  # a + 128, less 128 times the sum of b
        raised = integers.bitwise(code, "xor", a, top)
        excess = _dot(code, constant("i32", 0), top, b)
        return integers.subtract(code, _dot(code, c, raised, b), excess)
    if first == second == "u32":  # b - 128, and 64 times the sum of a twice
        half = constant("i32", _HALVES)
        c = _dot(code, _dot(code, c, a, half), a, half)
        return _dot(code, c, a, integers.bitwise(code, "xor", b, top))
    return _dot(code, c, a, b)


def _dot(code, c, a, b):
    """c + u8 bytes of a times s8 bytes of b."""
    kind, size = code.target.dot
    piece = {"vnni": _vnni, "madd": _multiply_pairs}[kind]
    return fold(code, lambda *x: piece(code, size, *x), "i32", size, c, a, b)


def _vnni(code, size, c, a, b):
    words, octets = wide("i32", size), wide("i8", 4 * size)
    if code.target.llvm_version >= 21:  # the operands became bytes
        a, b = (code.value(f"bitcast {words} {v} to {octets}") for v in (a, b))
    else:
        octets = words
    name = f"llvm.x86.avx512.vpdpbusd.{32 * size}"
    return code.call(words, name, (words, c), (octets, a), (octets, b))


def _multiply_pairs(code, size, c, a, b):
    words, pairs = wide("i32", size), wide("i16", 2 * size)
    a, b = (code.value(f"bitcast {words} {v} to {pairs}") for v in (a, b))
    eight = splat_constant("i16", "8", 2 * size)
    low = vector_constant("i16", [255] * (2 * size))
    even = code.value(f"and {pairs} {a}, {low}"), code.value(f"shl {pairs} {b}, {eight}")
    even = even[0], code.value(f"ashr {pairs} {even[1]}, {eight}")
    odd = code.value(f"lshr {pairs} {a}, {eight}"), code.value(f"ashr {pairs} {b}, {eight}")
    for x, y in (even, odd):
        product = code.call(words, "llvm.x86.avx2.pmadd.wd", (pairs, x), (pairs, y))
        c = code.value(f"add {words} {c}, {product}")
    return c


def _part(code, value, start, width, kind):
    """Bits start ... start + width - 1, extended to 32 as the type says."""
    value = integers.shift_left(code, value, 32 - start - width)
    return integers.shift_right(code, value, 32 - width, kind[0] == "s")


def _by_bytes(code, a, b, c, first, second):
    for i in range(4):
        x, y = _part(code, a, 8 * i, 8, first), _part(code, b, 8 * i, 8, second)
        c = integers.add(code, c, apply(code, "mul {t} {0}, {1}", x, y))
    return c


def dp2a(code, op):
    """c + two products of a's halfwords with the low or high two bytes of b."""
    second, first = op.kind("u32", "s32"), op.kind("u32", "s32")
    base = 0 if op.need("lo", "hi") == "lo" else 16
    a, b, c = code.operands(op, "b32", "b32", "b32")
    for i in range(2):
        x, y = _part(code, a, 16 * i, 16, first), _part(code, b, base + 8 * i, 8, second)
        c = integers.add(code, c, integers.multiply(code, x, y))
    return c


HANDLERS = {"dp4a": dp4a, "dp2a": dp2a}
