"""prmt: four bytes chosen out of eight."""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import fold, select, shuffle
from zerfoo_numba.ptx.native.op_compare import compare_integers
from zerfoo_numba.ptx.native.text import vector_constant, wide
from zerfoo_numba.ptx.native.value import constant

_LOW_BITS = constant("i64", 0x0101010101010101)
_MODES = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


def prmt(code, op):
    """Four bytes out of eight: nibble j of the selector names byte j of the result."""
    mode = op.take(*_MODES)
    op.kind("b32")
    a, b, c = code.operands(op, "b32", "b32", "b32")
    if mode is not None:
        rows = [sum(byte << 4 * (3 - i) for i, byte in enumerate(row)) for row in _MODES[mode]]
        low = integers.bitwise(code, "and", c, constant("i32", 3))
        c = constant("i32", rows[3])
        for i in (2, 1, 0):
            here = compare_integers(code, "eq", False, low, constant("i32", i))
            c = select(code, here, constant("i32", rows[i]), c)
    low = integers.convert(code, a, "i64", exact=True)
    high = integers.shift_left(code, integers.convert(code, b, "i64", exact=True), 32)
    both = integers.bitwise(code, "or", high, low)
    if c.known is not None and c.is_uniform:
        return _permute(code, a, b, c.known)
    if both.is_uniform and not c.is_uniform and code.target.byte_shuffle is not None:
        return _look_up(code, both, c)
    result = constant("i32", 0)
    for j in range(4):
        byte = _chosen_byte(code, both, integers.shift_right(code, c, 4 * j))
        result = integers.bitwise(code, "or", result, integers.shift_left(code, byte, 8 * j))
    return result


def _look_up(code, both, c):
    """The same where all lanes choose from the same eight bytes: nibbles become bytes, and these
    choose from a table of 16, the eight and their signs."""
    name, size = code.target.byte_shuffle
    tops = integers.bitwise(code, "and", integers.shift_right(code, both, 7), _LOW_BITS)
    signs = integers.multiply(code, tops, constant("i64", 0xFF))
    numbers = _nibbles(code, c)
    table = "poison"
    for i, half in enumerate((both, signs)):
        table = code.value(f"insertelement <2 x i64> {table}, i64 {half.scalar}, i32 {i}")
    table = code.value(f"bitcast <2 x i64> {table} to <16 x i8>")
    table = shuffle(code, "i8", table, None, [i % 16 for i in range(size)], 16)
    words, octets = wide("i32", size // 4), wide("i8", size)

    def piece(numbers):
        chosen = code.value(f"bitcast {words} {numbers} to {octets}")
        chosen = code.call(octets, name, (octets, table), (octets, chosen))
        return code.value(f"bitcast {octets} {chosen} to {words}")

    return fold(code, piece, "i32", size // 4, numbers)


def _nibbles(code, c):
    """The lower four nibbles as the four bytes."""
    if code.target.has_multishift:  # byte i of 8 gets the bits from places[i] on
        places = vector_constant("i8", [half + 4 * j for half in (0, 32) for j in range(4)] * 8)

        def piece(words):
            words = code.value(f"bitcast {wide('i32', 16)} {words} to {wide('i8', 64)}")
            operands = (wide("i8", 64), places), (wide("i8", 64), words)
            found = code.call(wide("i8", 64), "llvm.x86.avx512.pmultishift.qb.512", *operands)
            return code.value(f"bitcast {wide('i8', 64)} {found} to {wide('i32', 16)}")

        moved = fold(code, piece, "i32", 16, c)
        return integers.bitwise(code, "and", moved, constant("i32", 0x0F0F0F0F))
    c = integers.bitwise(code, "and", c, constant("i32", 0xFFFF))
    for distance, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F)):
        c = integers.bitwise(code, "or", c, integers.shift_left(code, c, distance))
        c = integers.bitwise(code, "and", c, constant("i32", mask))
    return c


def _chosen_byte(code, both, nibble):
    """The byte that the low 4 bits of `nibble` name, or its sign eight times over."""
    index = integers.bitwise(code, "and", nibble, constant("i32", 7))
    moved = integers.shift(code, "lshr", both, integers.shift_left(code, index, 3))
    byte = integers.bitwise(
        code, "and", integers.convert(code, moved, "i32"), constant("i32", 0xFF)
    )
    top = integers.shift_right(code, byte, 7)
    spread = integers.multiply(code, top, constant("i32", 0xFF))
    flag = integers.bitwise(code, "and", nibble, constant("i32", 8))
    signs = compare_integers(code, "ne", False, flag, constant("i32", 0))
    return select(code, signs, spread, byte)


def _permute(code, a, b, selector):
    """The same for a constant selector: bytes that travel alike move together."""
    moves, result = {}, constant("i32", 0)
    for j in range(4):
        nibble = selector >> 4 * j & 15
        source, byte = (b if nibble & 4 else a), nibble & 3
        if nibble & 8:
            spread = integers.shift_right(
                code, integers.shift_left(code, source, 8 * (3 - byte)), 31, True
            )
            part = integers.bitwise(code, "and", spread, constant("i32", 0xFF << 8 * j))
            result = integers.bitwise(code, "or", result, part)
        else:
            key = (nibble >> 2 & 1, 8 * (j - byte))
            moves[key] = moves.get(key, 0) | 0xFF << 8 * j
    for (second, distance), mask in moves.items():
        moved = b if second else a
        if distance > 0:
            moved = integers.shift_left(code, moved, distance)
        elif distance < 0:
            moved = integers.shift_right(code, moved, -distance)
        part = integers.bitwise(code, "and", moved, constant("i32", mask))
        result = integers.bitwise(code, "or", result, part)
    return result


HANDLERS = {"prmt": prmt}
