"""LLVM IR as text: one function under construction, and the declarations it needs."""

import struct

from zerfoo_numba.ptx.native.value import BITS, LANES

SUFFIX = {"half": "f16", "float": "f32", "double": "f64"}


class Declarations:
    """External functions, constants and helper functions of one LLVM module."""

    def __init__(self, target):
        self.target = target
        self._declared = {}
        self.declare("i32", "llvm.cttz.i32", ["i32", "i1"])
        self._helpers = {}

    def declare(self, result, name, types):
        self._declared[name] = f"declare {result} @{name}({', '.join(types)})"

    def helper(self, name, write):
        """`@name`, defined once per module by the text that `write()` returns."""
        if name not in self._helpers:
            self._helpers[name] = ""
            self._helpers[name] = write()
        return name

    @property
    def text(self):
        return "\n".join([*self._helpers.values(), *self._declared.values()])


class Writer:
    """Appends instructions; `dry` computes values and facts but writes nothing."""

    def __init__(self, declarations, dry=False):
        self.declarations = declarations
        self.target = declarations.target
        self.dry = dry
        self.lines = []
        self._count = 0

    def fresh(self, prefix="v"):
        self._count += 1
        return f"{prefix}.{self._count}"

    def value(self, text):
        """`%name = text`, returns `%name`."""
        if self.dry:
            return "%dry"
        name = "%" + self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def line(self, text):
        if not self.dry:
            self.lines.append("  " + text)

    def label(self, name):
        if not self.dry:
            self.lines.append(f"{name}:")

    def call(self, result, name, *arguments):
        """Call an external function; `arguments` are (type, operand) pairs."""
        if self.dry:
            return "%dry"
        self.declarations.declare(result, name, [t for t, _ in arguments])
        return self.call_defined(result, name, *arguments)

    def call_defined(self, result, name, *arguments):
        text = f"call {result} @{name}({', '.join(f'{t} {v}' for t, v in arguments)})"
        if result == "void":
            return self.line(text)
        return self.value(text)

    def branch(self, condition, then, otherwise, weights=""):
        self.line(f"br i1 {condition}, label %{then}, label %{otherwise}{weights}")

    def jump(self, label):
        self.line(f"br label %{label}")

    def offset(self, pointer, bytes_):
        """A pointer `bytes_` after another; a number or an i64 operand."""
        if bytes_ == 0:
            return pointer
        return self.value(f"getelementptr i8, ptr {pointer}, i64 {bytes_}")


def wide(type_name, lanes=LANES):
    return f"<{lanes} x {type_name}>"


def vector_constant(type_name, numbers):
    bits = BITS[type_name]
    return "<" + ", ".join(f"{type_name} {int(n) & ((1 << bits) - 1)}" for n in numbers) + ">"


def splat_constant(type_name, text, lanes=LANES):
    return "<" + ", ".join([f"{type_name} {text}"] * lanes) + ">"


def indices(numbers):
    """The index vector of a shufflevector; None is any lane."""
    items = ", ".join("i32 poison" if n is None else f"i32 {n}" for n in numbers)
    return f"<{len(numbers)} x i32> <{items}>"


def float_text(number, type_name="float"):
    """LLVM writes a float as the 64-bit pattern of the double that equals it."""
    if type_name == "float":
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"


def float_bits_text(bits, type_name):
    """The same, from the bits of a float of that type; NaN payloads keep their top bits."""
    if type_name == "double":
        return f"0x{bits:016X}"
    sign, exponent, fraction = bits >> 31, bits >> 23 & 0xFF, bits & 0x7FFFFF
    if exponent == 0xFF:
        return f"0x{sign << 63 | 0x7FF << 52 | fraction << 29:016X}"
    return float_text(struct.unpack("<f", struct.pack("<I", bits))[0])
