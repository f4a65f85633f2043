"""Kernels made of single instructions, one after the other, for the native engine's tests."""

import functools
import itertools
import re

import numpy as np

from tests.ptx.arithmetic_exact import cases, column
from tests.ptx.native_agree import assembled, native
from zerfoo_numba.ptx.emulator.arithmetic import DTYPES, operation

BLOCK = 72  # two full warps and a partial one, which runs masked
ROWS = 5 * BLOCK
IMMEDIATE = 0xE8
_SIZES = (1, 2, 4, 8)


def spread(text):
    """`add.{s32,u32}` as two opcodes; every combination where there are several braces."""
    found = []
    for word in text.split():
        parts = re.split(r"\{(.*?)\}", word)
        choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(parts)]
        found += ["".join(c) for c in itertools.product(*choices)]
    return found


def _size(kind):
    return np.dtype(DTYPES[kind]).itemsize


def _stored_size(kind):
    """Bytes of a result: narrow ones are stored as the 16-bit registers that hold them."""
    return max(2, _size(kind))


def _operands(opcode, op):
    """Edge cases and random bits for ROWS threads, an array for each operand."""
    chosen = cases(op.inputs, count=60, limit=ROWS - 60)
    chosen = (chosen * (ROWS // len(chosen) + 1))[:ROWS]
    columns = zip(zip(*chosen, strict=True), op.inputs, strict=True)
    return [IMMEDIATE if k == "imm" else column(codes, k) for codes, k in columns]


class Table:
    """One kernel that runs `opcodes` in turn over ROWS rows of operands.

    `uniform`: a row is a block's, so that its lanes share every operand; else it is a thread's.
    The lanes of a block then store the same results, each at its own place.
    """

    def __init__(self, opcodes, uniform=False):
        self.uniform, self.threads = uniform, ROWS * (32 if uniform else 1)
        self.items, self.lines, self.declared, self.pieces = [], [], [], []
        self.input_bytes = self.output_bytes = 0
        for opcode in opcodes:
            op = operation(opcode)
            arrays = _operands(opcode, op)
            names = [self._load(k, a) for k, a in zip(op.inputs, arrays, strict=True)]
            results = [self._register(kind) for kind in op.outputs]
            self.lines.append(f"{opcode} {'|'.join(results)}, {', '.join(names)};")
            places = [self._store(k, n) for k, n in zip(op.outputs, results, strict=True)]
            self.items.append((opcode, op, arrays, places))

    def _register(self, kind):
        width = kind if kind in ("pred", "f32", "f64") else f"b{max(16, 8 * _size(kind))}"
        name = f"%x{len(self.declared)}"
        self.declared.append(f".reg .{width} {name};")
        return name

    def _load(self, kind, array):
        if kind == "imm":
            return str(IMMEDIATE)
        name, size, at = self._register(kind), _size(kind), self.input_bytes
        if kind == "pred":
            word = self._register("b16")
            self.lines.append(f"ld.global.u8 {word}, [%in1+{at}];")
            self.lines.append(f"setp.ne.b16 {name}, {word}, 0;")
        else:
            self.lines.append(f"ld.global.b{8 * size} {name}, [%in{size}+{at}];")
        self.pieces.append(array.view(np.uint8))
        self.input_bytes += array.nbytes
        return name

    def _store(self, kind, name):
        size, at = _stored_size(kind), self.output_bytes
        if kind == "pred":
            word = self._register("b16")
            self.lines.append(f"selp.b16 {word}, 1, 0, {name};")
            name = word
        self.lines.append(f"st.global.b{8 * size} [%out{size}+{at}], {name};")
        self.output_bytes += size * self.threads
        return at

    @functools.cached_property
    def ptx(self):
        row = "%cta" if self.uniform else "%number"
        pointers = [f"%{end}{size}" for end in ("in", "out") for size in _SIZES]
        addresses = [
            f"mul.wide.u32 %wide, {index}, {size}; add.u64 %{end}{size}, %{array}, %wide;"
            for end, array, index in (("in", "a", row), ("out", "b", "%number"))
            for size in _SIZES
        ]
        declared = [*self.declared, f".reg .b64 %wide, {', '.join(pointers)};"]
        return assembled([*addresses, *self.lines], declared)

    def run(self, target=None):
        """Yield (opcode, operation, its inputs, its results as the registers hold them)."""
        inputs, output = np.concatenate(self.pieces), np.zeros(self.output_bytes, np.uint8)
        grid, block = (ROWS, 32) if self.uniform else (ROWS // BLOCK, BLOCK)
        native(self.ptx, grid, block, inputs, output, target=target)
        for opcode, op, arrays, places in self.items:
            if self.uniform:
                arrays = [a if isinstance(a, int) else a.repeat(32) for a in arrays]
            results = []
            for at, kind in zip(places, op.outputs, strict=True):
                size = _stored_size(kind)
                results.append(output[at : at + size * self.threads].view(f"u{size}"))
            yield opcode, op, arrays, results


def expected(op, arrays):
    """What the emulator's arithmetic gives, as the registers hold it."""
    results = op(*arrays)
    results = results if isinstance(results, tuple) else (results,)
    for kind, value in zip(op.outputs, results, strict=True):
        if _size(kind) == 1:
            value = value.astype(np.int16 if kind[0] == "s" else np.uint16)
        yield value if value.dtype.kind == "f" else value.view(f"u{value.itemsize}")
