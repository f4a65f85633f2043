"""mma fragments, ldmatrix and movmatrix, element by element from the ISA's index formulas."""

import math

import numpy as np
import pytest

from tests.ptx.arithmetic_exact import FORMATS, bits_of_float
from zerfoo_numba.ptx.emulator.arithmetic import (
    UnsupportedInstruction,
    ldmatrix_source,
    operation,
)

WARPS = 2
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8}


def left_place(lane, element, per):
    """Row and column in A of one element of a lane, ISA: groupID and threadID_in_group."""
    register, part = divmod(element, per)
    return lane // 4 + 8 * (register % 2), lane % 4 * per + part + 4 * per * (register // 2)


def right_place(lane, element, per):
    register, part = divmod(element, per)
    return lane % 4 * per + part + 4 * per * register, lane // 4


def result_place(lane, element):
    return lane // 4 + 8 * (element // 2), lane % 4 * 2 + element % 2


def encode(x, kind):
    """A small number as its code."""
    if kind in ("s8", "u8"):
        return int(x) & 0xFF
    if kind in ("e4m3", "e5m2"):
        high_byte = int(operation(f"cvt.rn.satfinite.{kind}x2.f32")(np.float32(x), np.float32(0)))
        return high_byte >> 8
    return bits_of_float(float(x), "f32" if kind == "tf32" else kind)


def fragments(matrices, kind, place, count):
    """The registers (WARPS, 32) that hold `matrices`, and `count` elements in each lane."""
    per = 32 // BITS[kind]
    registers = [np.zeros((WARPS, 32), np.uint32) for _ in range(count // per)]
    for warp in range(WARPS):
        for lane in range(32):
            for element in range(count):
                code = encode(matrices[warp][place(lane, element, per)], kind)
                shift = element % per * BITS[kind]
                registers[element // per][warp, lane] |= np.uint32(code << shift)
    return registers


def numbers(rng, shape, kind):
    """Values exact in every format, whose sums of products are exact in float32."""
    if kind in ("s8", "u8"):
        low, high = (-128, 127) if kind == "s8" else (0, 255)
        return rng.choice([low, high, *range(low, high, 5)], shape)
    return rng.choice([-4, -2, -1.5, -1, -0.5, 0, 0.25, 1, 1.5, 3, 7], shape)


SHAPES = [
    ("m16n8k16", "f16", "f16"), ("m16n8k8", "f16", "f16"), ("m16n8k16", "bf16", "bf16"),
    ("m16n8k8", "bf16", "bf16"), ("m16n8k8", "tf32", "tf32"), ("m16n8k4", "tf32", "tf32"),
    ("m16n8k32", "s8", "s8"), ("m16n8k32", "u8", "s8"), ("m16n8k32", "s8", "u8"),
    ("m16n8k16", "u8", "u8"), ("m16n8k32", "e4m3", "e4m3"), ("m16n8k32", "e5m2", "e4m3"),
]  # fmt: skip


@pytest.mark.parametrize("shape,a,b", SHAPES)
def test_mma(shape, a, b):
    depth, rng = int(shape.split("k")[1]), np.random.default_rng(8)
    integer = a in ("s8", "u8")
    total = "s32" if integer else "f32"
    left, right = numbers(rng, (WARPS, 16, depth), a), numbers(rng, (WARPS, depth, 8), b)
    start = rng.integers(-1000, 1000, (WARPS, 16, 8))
    registers = fragments(left, a, left_place, depth // 2)
    registers += fragments(right, b, right_place, depth // 4)
    for element in range(4):
        places = [result_place(lane, element) for lane in range(32)]
        values = [[start[w][p] for p in places] for w in range(WARPS)]
        registers.append(np.array(values, np.int32 if integer else np.float32))
    op = operation(f"mma.sync.aligned.{shape}.row.col.{total}.{a}.{b}.{total}")
    assert len(op.inputs) == len(registers)
    results = op(*registers)
    for w in range(WARPS):
        for lane in range(32):
            for element, result in enumerate(results):
                i, j = result_place(lane, element)
                want = start[w][i][j] + sum(left[w][i][k] * right[w][k][j] for k in range(depth))
                assert result[w, lane] == want, (w, lane, element)
    assert all(r.dtype == (np.int32 if integer else np.float32) for r in results)


def random_fragments(rng, count):
    """f16 codes of normal numbers, two to a register."""
    halves = rng.standard_normal((count, WARPS, 32, 2)).astype(np.float16)
    return list(halves.view(np.uint32)[..., 0])


def test_mma_sums_in_the_order_of_k():
    """float32 sums, one k after the other; and so within 16 half-units of the exact sum."""
    rng = np.random.default_rng(0)
    a, b = random_fragments(rng, 4), random_fragments(rng, 2)
    c = [rng.standard_normal((WARPS, 32)).astype(np.float32) for _ in range(4)]
    results = operation("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")(*a, *b, *c)
    decode = FORMATS["f16"].value
    for w, lane, element in ((0, 0, 0), (1, 17, 3), (0, 31, 2), (1, 5, 1)):
        i, j = result_place(lane, element)
        left, right = {}, {}
        for source in range(32):
            for e in range(8):
                row, k = left_place(source, e, 2)
                if row == i:
                    left[k] = decode(int(a[e // 2][w, source]) >> 16 * (e % 2) & 0xFFFF)
            for e in range(4):
                k, column = right_place(source, e, 2)
                if column == j:
                    right[k] = decode(int(b[e // 2][w, source]) >> 16 * (e % 2) & 0xFFFF)
        total = c[element][w, lane]
        for k in range(16):
            total = np.float32(float(total) + left[k] * right[k])
        assert results[element][w, lane] == total
        exact = math.fsum([float(c[element][w, lane]), *(left[k] * right[k] for k in range(16))])
        assert abs(total - exact) < 16 * 2.0**-24 * 32


def test_mma_with_f16_accumulators():
    rng = np.random.default_rng(4)
    a, b = random_fragments(rng, 4), random_fragments(rng, 2)
    c = random_fragments(rng, 2)
    halves = [h for r in c for h in (r & 0xFFFF, r >> 16)]
    wide = [operation("cvt.f32.f16")(h.astype(np.uint16)) for h in halves]
    want = operation("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")(*a, *b, *wide)
    got = operation("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16")(*a, *b, *c)
    codes = [operation("cvt.rn.f16.f32")(x).astype(np.uint32) for x in want]
    assert (got[0] == codes[0] | codes[1] << 16).all()
    assert (got[1] == codes[2] | codes[3] << 16).all()


def test_integer_mma_wraps_or_saturates():
    full = np.full((1, 32), 0x7F7F7F7F, np.uint32)
    start = np.full((1, 32), 2**31 - 5, np.int32)
    operands = [full] * 6 + [start] * 4
    name = "mma.sync.aligned.m16n8k32.row.col{}.s32.s8.s8.s32"
    wrapped = operation(name.format(""))(*operands)
    saturated = operation(name.format(".satfinite"))(*operands)
    exact = 2**31 - 5 + 32 * 127 * 127
    assert all((r == exact - 2**32).all() for r in wrapped)
    assert all((r == 2**31 - 1).all() for r in saturated)


def test_mma_of_uniform_registers():
    """A register may be one scalar for all lanes, or one warp's row."""
    op = operation("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
    one, zero = np.uint32(0x3F803F80), np.float32(0.5)
    spread = np.full((WARPS, 32), one)
    for registers in ([one] * 6, [spread] * 6, [one] * 5 + [spread], [one] * 5 + [spread[0]]):
        for result in op(*registers, *[zero] * 4):
            assert result.shape[-1] == 32
            assert (result == 16.5).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed):
    """An 8 x 8 matrix in memory, gathered through the lane mapping."""
    matrix = np.arange(64, dtype=np.uint16).reshape(8, 8)
    rows, offsets = ldmatrix_source(transposed)
    for lane in range(32):
        for half in range(2):
            got = matrix[rows[lane, half], offsets[lane, half] // 2]
            row, column = lane // 4, lane % 4 * 2 + half
            assert got == (matrix[column, row] if transposed else matrix[row, column])


def test_movmatrix():
    matrix = np.arange(64).reshape(8, 8)
    pairs = matrix.reshape(32, 2)  # lane 4 * row + column // 2 holds two columns
    register = (pairs[:, 0] | pairs[:, 1] << 16).astype(np.uint32)
    moved = operation("movmatrix.sync.aligned.m8n8.trans.b16")(register)
    for lane in range(32):
        for half in range(2):
            got = int(moved[0, lane]) >> 16 * half & 0xFFFF
            assert got == matrix[lane % 4 * 2 + half, lane // 4]


@pytest.mark.parametrize(
    "rest",
    ["m16n8k16.row.row.f32.f16.f16.f32", "m16n8k16.row.col.f32.f16.bf16.f32", "m16n8k16",
     "m16n8k32.row.col.f32.f16.f16.f32", "m16n8k16.row.col.f16.bf16.bf16.f16",
     "m16n8k32.row.col.s32.s8.e4m3.s32", "m8n8k4.row.col.f64.f64.f64.f64"],
)  # fmt: skip
def test_unsupported_shapes(rest):
    with pytest.raises(UnsupportedInstruction):
        operation(f"mma.sync.aligned.{rest}")
