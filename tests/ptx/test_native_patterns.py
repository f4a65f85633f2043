"""Arithmetic on thread numbers, which the native engine keeps as a scalar and a constant per lane.

Random chains of instructions over %tid, %ctaid and constants; every intermediate result is stored,
so that a wrong bit anywhere in the bookkeeping of shapes shows.
"""

import random

import numpy as np
import pytest

from tests.ptx.native_agree import LEVELS, assembled, assert_same, native
from zerfoo_numba.ptx.emulator.arithmetic import DTYPES, operation
from zerfoo_numba.ptx.native.value import product_mask, sum_mask

CHAINS, STEPS, BLOCKS = 40, 8, 3
CONSTANTS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 24, 31, 32, 33, 48, 64, 96, 100, 127, 128, 255, 256)
CONSTANTS += (1 << 16, (1 << 31) - 1, 1 << 31, *((1 << 32) - n for n in (1, 32, 100)))
DIVISORS = (1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 33, 64, 96, 100, 128, 1000, 1 << 31)
OPCODES = ["add.u32", "sub.u32", "mul.lo.u32", "and.b32", "or.b32", "xor.b32", "shl.b32",
           "shr.u32", "shr.s32", "div.u32", "rem.u32", "min.u32", "max.s32", "mad.lo.u32",
           "cvt.u32.u8", "cvt.u32.u16", "cvt.s32.s8", "cvt.s32.s16", "bfe.u32", "not.b32",
           "mul.wide.u32", "mul.wide.s32"]  # fmt: skip


class Chains:
    """PTX lines and, beside them, what every register holds in every thread."""

    def __init__(self, seed, threads):
        self.rng = random.Random(seed)
        number = np.arange(BLOCKS * threads, dtype=np.uint32)
        thread, block = number % np.uint32(threads), number // np.uint32(threads)
        self.size = number.size
        self.starts = {"%tid": thread, "%cta": block, "%number": number, "%lane": thread & 31}
        self.lines = ["and.b32 %lane, %tid, 31; mad.wide.u32 %to, %number, 8, %a;"]
        self.declared = [".reg .b32 %lane; .reg .b64 %to;"]
        self.expected = []
        for _ in range(CHAINS):
            self.registers = list(self.starts.items())
            for _ in range(STEPS):
                self.step()

    def constant(self, opcode):
        if opcode.startswith("sh") or opcode == "bfe.u32":
            return self.rng.randrange(33)
        if opcode[:3] in ("div", "rem"):
            return self.rng.choice(DIVISORS)
        return self.rng.choice(CONSTANTS)

    def step(self):
        """One instruction on one of the last registers, and on constants, seldom on two of them."""
        opcode = self.rng.choice(OPCODES)
        op = operation(opcode)
        recent = self.registers[-3:] if len(self.registers) > len(self.starts) else self.registers
        operands = [self.rng.choice(recent)]
        for _ in op.inputs[1:]:
            number = self.constant(opcode)
            known = opcode[:3] in ("div", "rem") or self.rng.randrange(5)
            other = (str(number), np.full(self.size, number, np.uint32))
            operands.append(other if known else self.rng.choice(self.registers))
        inputs = [_as_kind(v, kind) for kind, (_, v) in zip(op.inputs, operands, strict=True)]
        result = _unsigned(op(*inputs))
        bits = 8 * result.itemsize
        name = f"%x{len(self.declared)}"
        self.declared.append(f".reg .b{bits} {name};")
        self.lines.append(f"{opcode} {name}, {', '.join(n for n, _ in operands)};")
        at = 8 * self.size * len(self.expected)
        self.lines.append(f"st.global.b{bits} [%to+{at}], {name};")
        self.expected.append(result.astype(np.uint64))
        if bits == 32:
            self.registers.append((name, result))


def _as_kind(words, kind):
    """32-bit registers as an operand of a type of at most 32 bits."""
    dtype = np.dtype(DTYPES[kind])
    return words.astype(f"u{dtype.itemsize}").view(dtype)


def _unsigned(result):
    """A result as the register holds it: narrow ones extended to 32 bits."""
    if result.itemsize < 4:
        result = result.astype(np.int32 if result.dtype.kind == "i" else np.uint32)
    return result.view(f"u{result.itemsize}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("seed", "threads"), [(1, 128), (2, 96), (3, 50), (4, 256), (5, 1024)])
def test_chains(seed, threads, level):
    chains = Chains(seed, threads)
    kernel = assembled(chains.lines, chains.declared, "a")
    out = np.zeros((len(chains.expected), chains.size), np.uint64)
    native(kernel, BLOCKS, threads, out, target=LEVELS[level])
    for row, expected in zip(out, chains.expected, strict=True):
        assert_same(row, expected, chains.lines[-1])


@pytest.mark.parametrize(
    ("joint", "function"), [(sum_mask, int.__add__), (product_mask, int.__mul__)]
)
def test_bits_that_a_result_may_have(joint, function):
    """Every sum or product of numbers within two masks lies within the mask of the result."""
    rng = random.Random(6)
    for _ in range(3000):
        bits = rng.choice((8, 16, 32))
        top = (1 << rng.randrange(1, bits + 1)) - 1
        masks = [rng.getrandbits(bits) & rng.choice((-1, top, -32)) & top for _ in range(2)]
        numbers = [rng.choice((m, m & rng.getrandbits(bits))) for m in masks]
        result = function(*numbers) & ((1 << bits) - 1)
        assert result & ~joint(*masks, bits) == 0, (masks, numbers)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_chains(seed):
    test_chains(seed, (128, 96, 50, 256, 1024)[seed % 5], "host")
