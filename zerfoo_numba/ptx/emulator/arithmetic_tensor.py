"""mma.sync as a pure function of fragments, and the lane mappings of ldmatrix and movmatrix.

A register of a warp-wide instruction is an array (warps, 32). Fragment layouts: PTX ISA,
"Matrix Fragments for mma.m16n8k8 / k16 / k32". Sums are taken in the order of k in float32,
starting from the accumulator; the ISA leaves order and intermediate precision open.
"""

from typing import NamedTuple

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_formats import FORMATS
from zerfoo_numba.ptx.emulator.arithmetic_integer import clamp
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    Operation,
    UnsupportedInstruction,
    halves,
    join,
)

_LANE = np.arange(32)
_GROUP, _MEMBER = _LANE >> 2, _LANE & 3
_WIDTH = {"f16": 16, "bf16": 16, "tf32": 32, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8}
_ACCUMULATOR = {"f16": ("b32",) * 2, "f32": ("f32",) * 4, "s32": ("s32",) * 4}


class _Family(NamedTuple):
    """Operand types that may meet in one mma, with its shapes and accumulator types."""

    operands: tuple[str, ...]
    shapes: tuple[str, ...]
    accumulators: set[str]


_FAMILIES = (
    _Family(("f16",), ("m16n8k8", "m16n8k16"), {"f16", "f32"}),
    _Family(("bf16",), ("m16n8k8", "m16n8k16"), {"f32"}),
    _Family(("tf32",), ("m16n8k4", "m16n8k8"), {"f32"}),
    _Family(("s8", "u8"), ("m16n8k16", "m16n8k32"), {"s32"}),
    _Family(("e4m3", "e5m2"), ("m16n8k16", "m16n8k32"), {"f16", "f32"}),
)


def _elements(register, kind):
    """(warps, 32, elements) values of a register of packed `kind`, low bits first."""
    if kind == "tf32":
        return np.bitwise_and(register, np.uint32(0xFFFFE000)).view(np.float32)[..., None]
    if _WIDTH[kind] == 16:
        return np.stack([FORMATS[kind].decode(h) for h in halves(register)], -1)
    shifts = np.arange(0, 32, 8, dtype=np.uint32)
    codes = np.right_shift(register[..., None], shifts).astype(np.uint8)
    if kind in FORMATS:
        return FORMATS[kind].decode(codes)
    return codes.view(np.int8 if kind == "s8" else np.uint8).astype(np.int32)


def _left(registers, kind, depth):
    """A of shape (warps, 16, depth) from its fragment registers."""
    values = [_elements(r, kind) for r in registers]
    per = values[0].shape[-1]
    matrix = np.empty((len(registers[0]), 16, depth), values[0].dtype)
    for i, value in enumerate(values):
        row = _GROUP + 8 * (i & 1)
        column = _MEMBER * per + 4 * per * (i >> 1)
        matrix[:, row[:, None], column[:, None] + np.arange(per)] = value
    return matrix


def _right(registers, kind, depth):
    """B of shape (warps, depth, 8) from its fragment registers."""
    values = [_elements(r, kind) for r in registers]
    per = values[0].shape[-1]
    matrix = np.empty((len(registers[0]), depth, 8), values[0].dtype)
    for i, value in enumerate(values):
        row = _MEMBER * per + 4 * per * i
        matrix[:, row[:, None] + np.arange(per), _GROUP[:, None]] = value
    return matrix


def _rows_columns(i):
    """Where accumulator element i (0 to 3) of each lane stands in the 16 x 8 result."""
    return _GROUP + 8 * (i >> 1), _MEMBER * 2 + (i & 1)


def _sum_products(a, b, c):
    """c + a @ b in float32, one k at a time."""
    for k in range(a.shape[-1]):
        c = np.add(c, np.multiply(a[:, :, k, None], b[:, k, None, :]))
    return c


def _sum_integers(a, b, c, finite):
    """c + a @ b in 32 bits, wrapped or (`finite`) saturated; exact in float64 until then."""
    products = np.matmul(a.astype(np.float64), b.astype(np.float64))
    exact = np.add(products.astype(np.int64), c)
    return clamp(exact, "s32") if finite else exact.astype(np.int32)


def _accumulator(registers, kind):
    if kind == "f16":
        low_high = [h for r in registers for h in halves(r)]
        registers = [FORMATS["f16"].decode(h) for h in low_high]
    matrix = np.empty((len(registers[0]), 16, 8), registers[0].dtype)
    for i, register in enumerate(registers):
        row, column = _rows_columns(i)
        matrix[:, row, column] = register
    return matrix


def _scatter(matrix, kind):
    parts = [matrix[:, row, column] for row, column in map(_rows_columns, range(4))]
    if kind != "f16":
        return tuple(parts)
    codes = [FORMATS["f16"].encode(p) for p in parts]
    return join(codes[0], codes[1]), join(codes[2], codes[3])


def _by_warp(registers):
    """Registers or scalars as arrays (warps, 32)."""
    return np.broadcast_arrays(*registers, np.empty((1, 32), np.bool_))[:-1]


def _mma_types(op):
    """(depth, types of d, a, b and c) of an mma that has a meaning here."""
    for part in ("sync", "aligned", "row", "col"):
        op.need(part)
    if len(op.parts) not in (5, 6):
        raise UnsupportedInstruction(op.text)
    c, b, a, d = (op.parts.pop() for _ in range(4))
    family = next((f for f in _FAMILIES if a in f.operands and b in f.operands), None)
    if family is None or not {c, d} <= family.accumulators:
        raise UnsupportedInstruction(op.text)
    return int(op.need(*family.shapes).partition("k")[2]), d, a, b, c


def _mma(op):
    depth, d, a, b, c = _mma_types(op)
    integers, finite = c == "s32", op.has("satfinite")
    if finite and not integers:
        raise UnsupportedInstruction(op.text)
    right_count = depth * _WIDTH[a] // 128
    left_count = 2 * right_count

    def run(*registers):
        registers = _by_warp(registers)
        left = _left(registers[:left_count], a, depth)
        right = _right(registers[left_count : left_count + right_count], b, depth)
        start = _accumulator(registers[left_count + right_count :], c)
        if integers:
            return _scatter(_sum_integers(left, right, start, finite), d)
        return _scatter(_sum_products(left, right, start), d)

    fragments = ("b32",) * (left_count + right_count)
    return Operation(fragments + _ACCUMULATOR[c], _ACCUMULATOR[d], run)


def ldmatrix_source(transposed=False):
    """Where each lane's two b16 elements of an 8 x 8 matrix come from.

    Lane 8 * m + r holds the address of row r of matrix m. Returns (rows, bytes) of shape
    (32, 2): the row, and the byte offset in it, of the low and high half of each lane's register.
    """
    if transposed:
        rows = _MEMBER[:, None] * 2 + np.arange(2)
        return rows, np.broadcast_to(_GROUP[:, None] * 2, (32, 2))
    return np.broadcast_to(_GROUP[:, None], (32, 2)), _MEMBER[:, None] * 4 + np.array([0, 2])


def _movmatrix(op):
    """movmatrix: the transpose of an 8 x 8 matrix of b16 spread over a warp."""
    op.kind("b16")
    for part in ("sync", "aligned", "m8n8", "trans"):
        op.need(part)

    def transpose(register):
        (register,) = _by_warp([register])
        values = np.stack(halves(register), -1).reshape(len(register), 8, 8)
        moved = np.swapaxes(values, 1, 2).reshape(len(register), 32, 2)
        return join(moved[..., 0], moved[..., 1])

    return Operation(("b32",), ("b32",), transpose)


TENSOR = {"mma": _mma, "movmatrix": _movmatrix}
