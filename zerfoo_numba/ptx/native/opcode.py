"""One instruction as the handlers see it: its modifiers are taken one by one, none overlooked."""

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.structure import Pair, Vector

# PTX type -> LLVM type in which an operand of it is handled; 16-bit floats are bit patterns.
TYPES = {
    "pred": "i1", "b8": "i8", "u8": "i8", "s8": "i8", "b16": "i16", "u16": "i16", "s16": "i16",
    "f16": "i16", "bf16": "i16", "b32": "i32", "u32": "i32", "s32": "i32", "f16x2": "i32",
    "bf16x2": "i32", "u16x2": "i32", "s16x2": "i32", "b64": "i64", "u64": "i64", "s64": "i64",
    "f32": "float", "f64": "double", "e4m3x2": "i16", "e5m2x2": "i16",
}  # fmt: skip
INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "b16", "b32", "b64")
ROUNDING = ("rn", "rz", "rm", "rp")


class Opcode:
    """`name` and the not yet taken `parts` of an instruction; `sources` are its inputs.

    `signed` says how a result narrower than its register is extended.
    """

    def __init__(self, instruction, has_result):
        self.instruction = instruction
        self.name, *self.parts = instruction.parts
        operands = instruction.operands
        self.destinations = _items(operands[0]) if has_result else ()
        self.sources = operands[1:] if has_result else operands
        self.signed = False

    def take(self, *choices, default=None):
        """Remove and return the first part that is among `choices`."""
        for part in self.parts:
            if part in choices:
                self.parts.remove(part)
                return part
        return default

    def has(self, part):
        return self.take(part) is not None

    def kind(self, *choices):
        """Remove and return the last part, a type among `choices`."""
        if not self.parts or self.parts[-1] not in (choices or TYPES):
            raise self.unsupported()
        return self.parts.pop()

    def need(self, *choices):
        part = self.take(*choices)
        if part is None:
            raise self.unsupported()
        return part

    def end(self):
        if self.parts:
            raise self.unsupported()

    def unsupported(self):
        return UnsupportedError(
            f"the native engine does not run {self.instruction.where}; the emulator may"
        )


def _items(operand):
    return operand.items if isinstance(operand, Vector | Pair) else (operand,)
