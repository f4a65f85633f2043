"""Tensor-core instructions by shuffles: mma.sync, movmatrix, ldmatrix.

An element of a fragment is moved to the lanes that need it by a constant shuffle, and the products
are added one k after the other, in float32 or 32-bit integers. Fragment layouts: PTX ISA, "Matrix
Fragments for mma.m16n8k8 / k16 / k32".
"""

from dataclasses import dataclass

from zerfoo_numba.ptx.native import formats, integers, scattered
from zerfoo_numba.ptx.native.lanes import apply, intrinsic, reinterpret, shuffle, vector
from zerfoo_numba.ptx.native.memory import address_of
from zerfoo_numba.ptx.native.op_half import halves_of
from zerfoo_numba.ptx.native.op_integer import join_halves
from zerfoo_numba.ptx.native.text import vector_constant
from zerfoo_numba.ptx.native.value import LANES, Value, constant

_WIDTH = {"f16": 16, "bf16": 16, "tf32": 32, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8}
_SHAPES = {"f16": (8, 16), "bf16": (8, 16), "tf32": (4, 8), "s8": (16, 32), "u8": (16, 32),
           "e4m3": (16, 32), "e5m2": (16, 32)}  # fmt: skip


def _elements(code, register, kind):
    """The values packed in a register, low bits first: float32 or 32-bit integers."""
    if kind == "tf32":
        bits = integers.bitwise(code, "and", register, constant("i32", 0xFFFFE000))
        return [reinterpret(code, bits, "float")]
    if _WIDTH[kind] == 16:
        return [formats.decode(code, half, kind) for half in halves_of(code, register)]
    found = []
    for i in range(4):
        up = integers.shift_left(code, register, 24 - 8 * i)
        octet = integers.shift_right(code, up, 24, kind == "s8")
        found.append(formats.decode(code, octet, kind) if kind in formats.FORMATS else octet)
    return found


def _moved(code, value, sources):
    """Lane i of the result is lane sources[i] of `value`."""
    operand = vector(code, value)
    return Value(value.type, vector=shuffle(code, value.type, operand, None, sources, LANES))


def _registers(code, operands, kinds):
    items = [i for o in operands for i in (o.items if hasattr(o, "items") else (o,))]
    return [code.read(i, kind) for i, kind in zip(items, kinds, strict=True)]


def mma(code, op):
    """mma.sync.aligned.SHAPE.row.col{.satfinite}.D.A.B.C d, a, b, c"""
    c, b, a, d = (op.parts.pop() for _ in range(4))
    shape = op.need(*(f"m16n8k{k}" for k in _SHAPES[a]))
    depth = int(shape.partition("k")[2])
    for part in ("sync", "aligned", "row", "col"):
        op.need(part)
    finite = op.has("satfinite")
    integer = c == d == "s32" and {a, b} <= {"s8", "u8"}
    floats = {c, d} <= {"f32", "f16"} and not {a, b} & {"s8", "u8"} and not finite
    if _WIDTH[a] != _WIDTH[b] or not (integer or floats):
        raise op.unsupported()
    right = depth * _WIDTH[a] // 128
    kinds = ["b32"] * (3 * right) + {"f16": ["b32"] * 2, "f32": ["f32"] * 4, "s32": ["s32"] * 4}[c]
    registers = _registers(code, op.sources, kinds)
    left = [_elements(code, r, a) for r in registers[: 2 * right]]
    second = [_elements(code, r, b) for r in registers[2 * right : 3 * right]]
    start = _start(code, registers[3 * right :], c)
    return _result(code, _products(code, left, second, depth, start, finite), d)


def _start(code, registers, kind):
    if kind != "f16":
        return registers
    return [formats.decode(code, h, "f16") for r in registers for h in halves_of(code, r)]


def _result(code, sums, kind):
    if kind != "f16":
        return sums
    codes = [integers.convert(code, formats.encode(code, s, "f16"), "i16") for s in sums]
    return [join_halves(code, codes[0], codes[1]), join_halves(code, codes[2], codes[3])]


def _products(code, left, right, depth, start, finite):
    """The four elements of every lane: rows g and g + 8, columns 2 m and 2 m + 1."""
    per = len(left[0])
    floats = start[0].type == "float"
    sums = list(start) if floats else [constant("i32", 0)] * 4
    for k in range(depth):
        block, member, j = k // (4 * per), k % (4 * per) // per, k % per
        rows = [
            _moved(code, left[2 * block + h][j], [4 * (n >> 2) + member for n in range(LANES)])
            for h in (0, 1)
        ]
        columns = [
            _moved(code, right[block][j], [4 * (2 * (n & 3) + h) + member for n in range(LANES)])
            for h in (0, 1)
        ]
        for i in range(4):
            if floats:
                product = apply(code, "fmul {t} {0}, {1}", rows[i >> 1], columns[i & 1])
                sums[i] = apply(code, "fadd {t} {0}, {1}", sums[i], product)
            else:
                product = integers.multiply(code, rows[i >> 1], columns[i & 1])
                sums[i] = integers.add(code, sums[i], product)
    if floats:
        return sums
    add = (lambda s, c: intrinsic(code, "sadd.sat", s, c)) if finite else (
        lambda s, c: integers.add(code, s, c))  # fmt: skip
    return [add(s, c) for s, c in zip(sums, start, strict=True)]


def movmatrix(code, op):
    """movmatrix.sync.aligned.m8n8.trans.b16 d, a: the transpose of an 8 x 8 matrix"""
    for part in ("sync", "aligned", "m8n8", "trans", "b16"):
        op.need(part)
    low, high = halves_of(code, code.read(op.sources[0], "b32"))
    halves = []
    for j in (0, 1):
        # Row 2 m + j, column g of the source, which holds two columns in each lane.
        sources = [4 * (2 * (n & 3) + j) + (n >> 3) for n in range(LANES)]
        even, odd = (vector(code, _moved(code, x, sources)) for x in (low, high))
        odd_columns = vector_constant("i1", [n >> 2 & 1 for n in range(LANES)])
        kind = f"<{LANES} x i16>"
        text = f"select <{LANES} x i1> {odd_columns}, {kind} {odd}, {kind} {even}"
        halves.append(Value("i16", vector=code.value(text)))
    return join_halves(code, *halves)


@dataclass(frozen=True)
class _Place:
    """An access of shared memory as `scattered` wants it."""

    type: str
    size: int
    count: int = 1
    space: str = "shared"


def ldmatrix(code, op):
    """ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{.trans}.shared.b16 d, [a]"""
    for part in ("sync", "aligned", "m8n8", "b16"):
        op.need(part)
    count = {"x1": 1, "x2": 2, "x4": 4}[op.need("x1", "x2", "x4")]
    transposed = op.has("trans")
    op.need("shared", "shared::cta")
    address = address_of(code, op.sources[0], "shared")
    code.settle()
    results = []
    for m in range(count):
        if transposed:
            halves = [
                _read(code, address, "i16", [8 * m + 2 * (n & 3) + j for n in range(LANES)],
                      [2 * (n >> 2) for n in range(LANES)])
                for j in (0, 1)
            ]  # fmt: skip
            results.append(join_halves(code, *halves))
        else:
            rows = [8 * m + (n >> 2) for n in range(LANES)]
            results.append(_read(code, address, "i32", rows, [4 * (n & 3) for n in range(LANES)]))
    return results


def _read(code, address, type_name, rows, columns):
    """An element of the row whose address lane rows[i] has, `columns[i]` bytes on."""
    place = _moved(code, Value("i64", vector=vector(code, address)), rows)
    place = integers.add(code, place, Value("i64", vector=vector_constant("i64", columns)))
    size = {"i16": 2, "i32": 4}[type_name]
    return scattered.load(code, _Place(type_name, size), place)[0]


HANDLERS = {"mma": mma, "movmatrix": movmatrix, "ldmatrix": ldmatrix}
