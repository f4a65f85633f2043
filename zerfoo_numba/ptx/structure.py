"""The parts of a PTX program: operands, instructions, variables, functions.

Reference: NVIDIA, Parallel Thread Execution ISA, sections 5 (state spaces and types) and 6
(operands).
"""

from dataclasses import dataclass, field

SIZES = {
    "pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8,
    "s64": 8, "f64": 8,
}  # fmt: skip
# How a register is kept: untyped bits of its width, except floats and predicates.
KEPT_AS = {
    "b8": "b16", "u8": "b16", "s8": "b16", "u16": "b16", "s16": "b16", "f16": "b16",
    "bf16": "b16", "u32": "b32", "s32": "b32", "f16x2": "b32", "bf16x2": "b32", "u64": "b64",
    "s64": "b64",
}  # fmt: skip


@dataclass(frozen=True)
class Register:
    """A virtual register; `type` is pred, b16, b32, b64, f32 or f64."""

    name: str
    type: str


@dataclass(frozen=True)
class Negated:
    """A predicate operand written `!%p`."""

    register: Register


@dataclass(frozen=True)
class Special:
    """A special register: `%tid.x`, `%laneid`, ..."""

    name: str


@dataclass(frozen=True)
class Constant:
    """An immediate: an integer, or the bits of a float of type `f32` or `f64`."""

    value: int
    type: str = "int"


@dataclass(frozen=True)
class Symbol:
    """The name of a variable, parameter, function or label."""

    name: str


@dataclass(frozen=True)
class Address:
    """`[base + offset]`."""

    base: Register | Symbol | Constant
    offset: int


@dataclass(frozen=True)
class Vector:
    """`{a, b, ...}`; an item is None where the text has the sink `_`."""

    items: tuple


@dataclass(frozen=True)
class Pair:
    """Two results, `a|b`; either may be None (the sink `_`)."""

    items: tuple


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple
    guard: Register | Negated | None = None
    file: str = ""
    line: int = 0
    text: str = ""

    @property
    def parts(self):
        return tuple(self.opcode.split("."))

    @property
    def where(self):
        """The instruction and its source line, for messages."""
        return f"`{self.text}` ({self.file}, line {self.line})"


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Variable:
    """A module or function variable; `data` is its initial bytes, None where it has none."""

    name: str
    space: str
    align: int
    size: int
    data: bytes | None = None
    external: bool = False


@dataclass
class Function:
    """An entry or device function: `parameters` and `results` are param-space variables."""

    name: str
    parameters: list
    results: list
    registers: dict = field(default_factory=dict)
    variables: list = field(default_factory=list)
    body: list = field(default_factory=list)


@dataclass
class Module:
    functions: dict = field(default_factory=dict)
    variables: list = field(default_factory=list)
    files: dict = field(default_factory=dict)
    target: str = ""
