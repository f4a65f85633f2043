"""What an arithmetic instruction is to the emulator: operand types, a NumPy function, a bound.

Reference for every `arithmetic_*` file: NVIDIA, Parallel Thread Execution ISA, version 9.0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The NumPy dtype in which an operand of a PTX type is passed. 16-bit floats and everything
# packed are bit patterns; "carry" is the condition-code register, "imm" a Python integer.
DTYPES = {
    "pred": np.bool_, "carry": np.bool_,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64,
    "f16": np.uint16, "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32,
    "f32": np.float32, "f64": np.float64, "f32x2": np.uint64, "imm": np.int64,
}  # fmt: skip


class UnsupportedInstruction(KeyError):
    """An opcode that has no exact meaning here; `args[0]` is the opcode."""


@dataclass(frozen=True)
class Operation:
    """One instruction over all lanes.

    `inputs` and `outputs` name PTX types (`DTYPES` has their dtypes), operands in the order of
    the PTX text. `function` takes arrays or NumPy scalars of exactly those dtypes, broadcasts
    them, and returns an array for one output, a tuple for more; it may return an operand
    itself and never writes to one. It expects `np.errstate(all="ignore")`, which calling the
    Operation instead of its `function` provides.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable
    bound: object = None  # `arithmetic_approx.Bound` of an `.approx` instruction

    def __call__(self, *operands):
        with np.errstate(all="ignore"):
            return self.function(*operands)

    def perturb(self, result, rng, *operands):
        """`result` moved at random within `bound`; unchanged where there is none.

        `operands` are the instruction's: with them, results that the ISA tabulates (of zeros
        and infinities) stay exact.
        """
        if self.bound is None:
            return result
        with np.errstate(all="ignore"):
            return self.bound.perturb(result, rng, operands)


class Opcode:
    """An opcode's parts, taken one by one, so that none can be overlooked."""

    def __init__(self, text, destinations=1):
        self.text = text
        self.destinations = destinations
        self.name, *self.parts = text.split(".")

    def take(self, *choices, default=None):
        """Remove and return the first part that is among `choices`."""
        for part in self.parts:
            if part in choices:
                self.parts.remove(part)
                return part
        return default

    def has(self, part):
        """Remove `part` if it is there."""
        return self.take(part) is not None

    def kind(self, *choices):
        """Remove and return the last part, a type among `choices` (default: any known)."""
        if not self.parts or self.parts[-1] not in (choices or DTYPES):
            raise UnsupportedInstruction(self.text)
        return self.parts.pop()

    def need(self, *choices):
        """Like `take`, but the part must be there."""
        part = self.take(*choices)
        if part is None:
            raise UnsupportedInstruction(self.text)
        return part

    def end(self):
        """Every part must have been taken."""
        if self.parts:
            raise UnsupportedInstruction(self.text)


def bits_of(kind):
    """The width of a PTX type in bits."""
    return 8 * np.dtype(DTYPES[kind]).itemsize


def unsigned(kind):
    """The unsigned type as wide as `kind`: what a register of that width is."""
    return f"u{bits_of(kind)}"


def signed(kind):
    """The signed type as wide as `kind`."""
    return f"s{bits_of(kind)}"


def halves(x):
    """The low and high 16 bits of 32-bit patterns, as uint16."""
    return x.astype(np.uint16), np.right_shift(x, np.uint32(16)).astype(np.uint16)


def join(low, high):
    """The inverse of `halves`."""
    return np.left_shift(high.astype(np.uint32), np.uint32(16)) | low.astype(np.uint32)


def in_halves(function, dtype=np.uint16):
    """An elementwise function of `dtype` as one of both halves of patterns twice as wide."""
    word = np.dtype(f"u{2 * np.dtype(dtype).itemsize}")

    def both(*operands):
        shape = np.broadcast_shapes(*(x.shape for x in operands))
        flat = (np.ascontiguousarray(np.broadcast_to(x, shape)).ravel() for x in operands)
        return function(*(x.view(dtype) for x in flat)).view(word).reshape(shape)[()]

    return both


def select(condition, a, b):
    """`a` where `condition`, else `b`, for unsigned integers.

    A product with the mask costs one pass however the condition is scattered; `np.where` on an
    unpredictable one is eight times slower.
    """
    return np.bitwise_xor(np.multiply(condition, np.bitwise_xor(a, b)), b)
