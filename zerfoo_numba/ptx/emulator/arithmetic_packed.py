"""Bytes inside 32-bit registers: prmt, dp4a and dp2a."""

import functools

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_operation import Operation

_BYTE = np.uint64(0xFF)
# Source byte of every destination byte, by the two low bits of the selector.
_MODES = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


@functools.cache
def _plan(selector):
    """(moves, signs) of a constant selector: bytes that travel alike move together.

    moves: (from b, left shift, mask); signs: (from b, bit, destination mask).
    """
    moves, signs = {}, []
    for i in range(4):
        nibble = selector >> 4 * i & 15
        second, byte = nibble >> 2 & 1, nibble & 3
        if nibble & 8:
            signs.append((second, np.uint32(8 * byte + 7), np.uint32(0xFF << 8 * i)))
        else:
            key = second, 8 * (i - byte)
            moves[key] = moves.get(key, 0) | 0xFF << 8 * i
    return [(s, shift, np.uint32(mask)) for (s, shift), mask in moves.items()], signs


def _permute(a, b, selector):
    """The four bytes of b:a that a constant selector names."""
    moves, signs = _plan(selector)
    result = None
    for second, shift, mask in moves:
        x = b if second else a
        if shift:
            move = np.left_shift if shift > 0 else np.right_shift
            x = move(x, np.uint32(abs(shift)))
        x = np.bitwise_and(x, mask)
        result = x if result is None else np.bitwise_or(result, x)
    for second, bit, mask in signs:
        x = np.bitwise_and(np.right_shift(b if second else a, bit), np.uint32(1))
        x = np.multiply(x, mask)
        result = x if result is None else np.bitwise_or(result, x)
    shape = np.broadcast(a, b).shape
    return result if np.shape(result) == shape else np.full(shape, result)


def _permute_by_lane(a, b, nibbles):
    """The same with one selector nibble array for each destination byte."""
    both = np.bitwise_or(np.left_shift(b.astype(np.uint64), np.uint64(32)), a)
    result = np.uint32(0)
    for i, nibble in enumerate(nibbles):
        shift = np.left_shift(np.bitwise_and(nibble, np.uint64(7)), np.uint64(3))
        byte = np.bitwise_and(np.right_shift(both, shift), _BYTE)
        sign = np.multiply(np.right_shift(byte, np.uint64(7)), _BYTE)
        byte = np.where(np.bitwise_and(nibble, np.uint64(8)).astype(bool), sign, byte)
        result = np.bitwise_or(result, np.left_shift(byte.astype(np.uint32), np.uint32(8 * i)))
    return result


def _general(a, b, c):
    if np.ndim(c) == 0:
        return _permute(a, b, int(c) & 0xFFFF)
    c = c.astype(np.uint64)
    return _permute_by_lane(a, b, [np.right_shift(c, np.uint64(4 * i)) for i in range(4)])


def _prmt(op):
    op.need("b32")
    mode = op.take(*_MODES)
    if mode is None:
        return Operation(("b32", "b32", "b32"), ("b32",), _general)
    table = np.array(_MODES[mode], np.uint64)[:, ::-1]  # destination byte 0 first
    selectors = [sum(int(v) << 4 * i for i, v in enumerate(row)) for row in table]

    def permute(a, b, c):
        if np.ndim(c) == 0:
            return _permute(a, b, selectors[int(c) & 3])
        return _permute_by_lane(
            a, b, [row.take(np.bitwise_and(c, np.uint32(3))) for row in table.T]
        )

    return Operation(("b32", "b32", "b32"), ("b32",), permute)


def _halfwords(x, shape):
    """(..., 2): the halves of 32-bit patterns, as signed 16-bit integers."""
    if np.shape(x) != shape or not x.flags.c_contiguous:
        x = np.ascontiguousarray(np.broadcast_to(x, shape))
    return x.reshape((*shape, 1)).view(np.int16)


def _even_odd(x, kind):
    """Bytes 0, 2 and bytes 1, 3 of (..., 2) halfwords, widened to 16 bits by `kind`."""
    eight = np.int16(8)
    if kind == "s32":
        return np.right_shift(np.left_shift(x, eight), eight), np.right_shift(x, eight)
    x = x.view(np.uint16)
    low, high = np.bitwise_and(x, np.uint16(0xFF)), np.right_shift(x, np.uint16(8))
    return low.view(np.int16), high.view(np.int16)


def _sum_halfwords(products, unsigned, shape):
    """The sum of each pair of 16-bit numbers, as 32-bit patterns."""
    sixteen = np.int32(16)
    x = products.view(np.int32).reshape(shape)
    if unsigned:
        x = x.view(np.uint32)
        return np.add(np.bitwise_and(x, np.uint32(0xFFFF)), np.right_shift(x, np.uint32(16)))
    low = np.right_shift(np.left_shift(x, sixteen), sixteen)
    return np.add(low, np.right_shift(x, sixteen)).view(np.uint32)


def _dp4a(op):
    """dp4a: c + sum of the four byte products; each product fits in 16 bits."""
    second, first = op.kind("u32", "s32"), op.kind("u32", "s32")
    unsigned = first == second == "u32"

    def dot(a, b, c):
        shape = np.broadcast(a, b).shape
        a0, a1 = _even_odd(_halfwords(a, shape), first)
        b0, b1 = _even_odd(_halfwords(b, shape), second)
        even = _sum_halfwords(np.multiply(a0, b0), unsigned, shape)
        odd = _sum_halfwords(np.multiply(a1, b1), unsigned, shape)
        return np.add(np.add(even, odd), c)[()]

    return Operation(("b32", "b32", "u32"), ("u32",), dot)


def _dp2a(op):
    """dp2a: c + two products of a's halfwords with the low or high two bytes of b."""
    second, first = op.kind("u32", "s32"), op.kind("u32", "s32")
    base = 0 if op.need("lo", "hi") == "lo" else 16

    def part(x, kind, shift, width):
        x = np.left_shift(x, np.uint32(32 - shift - width))
        if kind == "s32":
            x = x.view(np.int32)
        return np.right_shift(x, x.dtype.type(32 - width)).view(np.uint32)

    def dot(a, b, c):
        for i in range(2):
            x, y = part(a, first, 16 * i, 16), part(b, second, base + 8 * i, 8)
            c = np.add(c, np.multiply(x, y))
        return c

    return Operation(("b32", "b32", "u32"), ("u32",), dot)


PACKED = {"prmt": _prmt, "dp4a": _dp4a, "dp2a": _dp2a}
