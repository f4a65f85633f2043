"""PTX text to structure: declarations, and instructions with their operands and source lines.

`inline` puts what an entry calls into its body, `control_flow` turns that into basic blocks.
Reference: NVIDIA, Parallel Thread Execution ISA, sections 4 (syntax) and 5 (state spaces).
"""

import functools
import re
import struct
from dataclasses import replace

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.structure import (
    KEPT_AS,
    SIZES,
    Address,
    Constant,
    Function,
    Instruction,
    Label,
    Module,
    Negated,
    Pair,
    Register,
    Special,
    Symbol,
    Variable,
    Vector,
)

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_LINE = re.compile(r"\.(loc|file|version|target|address_size)\b([^\n]*)")
_LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")
_HEAD = re.compile(
    r"(?:\.(?:visible|extern|weak|common)\s+)*\.(entry|func)\s*(?:\(([^)]*)\)\s*)?([\w$]+)\s*"
    r"(?:\(([^)]*)\))?([^{;]*)"
)
_VARIABLE = re.compile(
    r"(?:\.(visible|extern|weak|common)\s+)?\.(shared|global|const|local|param)\s+"
    r"(?:\.align\s+(\d+)\s+)?(?:\.(v2|v4)\s+)?\.(\w+)\s+([\w$%]+)((?:\s*\[[^\]]*\])*)"
    r"(?:\s*=\s*(.*))?",
    re.S,
)
# What a pointer parameter may tell of its target, which changes nothing.
_POINTER = re.compile(r"\s\.ptr(\s+\.(const|global|local|shared))?(\s+\.align\s+\d+)?")
_INSTRUCTION = re.compile(r"(?:@(!?)\s*([\w$%]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_ADDRESS = re.compile(r"([^+\s]+?)\s*(?:\+\s*(-?\w+)|(-\d+))?")


@functools.lru_cache(maxsize=8)
def parse_module(text):
    """Every function and variable of a PTX text; one for all its entries, not to be changed."""
    return _Reader(_COMMENT.sub(" ", text)).module()


class _Reader:
    def __init__(self, text):
        self.text, self.at, self.result = text, 0, Module()

    def module(self):
        while self.skip_space():
            if match := self.take(_LINE):
                self.directive(match)
            elif self.text.startswith(".section", self.at):
                self.at = self.text.index("}", self.at) + 1
            elif match := self.take(_HEAD):
                self.function(match)
            else:
                self.result.variables.append(read_variable(self.statement()))
        for function in self.result.functions.values():
            function.body = [self.with_file(item) for item in function.body]
        return self.result

    def with_file(self, item):
        """`item` with the name of its source file; the text numbers files at its end."""
        if isinstance(item, Label):
            return item
        name = self.result.files.get(item.file, "").rsplit("/", 1)[-1]
        return replace(item, file=name or "PTX")

    def skip_space(self):
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def take(self, pattern):
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def statement(self):
        end = self.text.index(";", self.at)
        found, self.at = self.text[self.at : end].strip(), end + 1
        return found

    def directive(self, match):
        words = match[2].split()
        if match[1] == "file":
            self.result.files[int(words[0])] = match[2].split('"')[1]
        elif match[1] == "target":
            self.result.target = words[0].rstrip(",")

    def function(self, match):
        kind, results, name, parameters, _ = match.groups()
        function = Function(name, _variables(parameters), _variables(results))
        self.skip_space()
        self.at += 1
        if self.text[self.at - 1] == "{":
            _Body(self, function).read()
        if kind == "entry" or function.body or name not in self.result.functions:
            self.result.functions[name] = function


class _Body:
    """Reads a function body: nested scopes rename what they redeclare."""

    def __init__(self, reader, function):
        self.reader, self.function = reader, function
        self.scopes, self.opened = [{}], 0
        self.file, self.line = 0, 0

    def read(self):
        reader = self.reader
        while self.scopes:
            reader.skip_space()
            if match := reader.take(_LINE):
                if match[1] == "loc":
                    file, line = (int(w) for w in match[2].split()[:2])
                    if line:  # 0 is the compiler's own code, counted to the line before
                        self.file, self.line = file, line
            elif match := reader.take(_LABEL):
                self.function.body.append(Label(match[1]))
            elif reader.text[reader.at] in "{}":
                self.scope(reader.text[reader.at])
                reader.at += 1
            else:
                self.statement(reader.statement())

    def scope(self, brace):
        if brace == "{":
            self.opened += 1
            self.scopes.append({})
        else:
            self.scopes.pop()

    def statement(self, text):
        if text.startswith(".reg"):
            self.registers(text)
        elif text.startswith((".param", ".local", ".shared")):
            variable = read_variable(text)
            name = self.declare(variable.name, None)
            self.function.variables.append(
                Variable(name, variable.space, variable.align, variable.size, variable.data)
            )
        elif text.startswith(".branchtargets"):
            labels = tuple(Symbol(w.strip()) for w in text.split(None, 1)[1].split(","))
            self.function.body.append(Instruction(".branchtargets", labels))
        elif text and not text.startswith("."):
            self.function.body.append(self.instruction(text))

    def registers(self, text):
        kind, names = re.match(r"\.reg\s*\.(\w+)\s+(.*)", text, re.S).groups()
        if kind not in SIZES:
            raise UnsupportedError(f"PTX registers of type .{kind} are not supported")
        for name in names.split(","):
            prefix, count = re.match(r"\s*([\w$%]+)(?:<(\d+)>)?", name).groups()
            numbered = [prefix] if count is None else [f"{prefix}{i}" for i in range(int(count))]
            for each in numbered:
                self.declare(each, KEPT_AS.get(kind, kind))

    def declare(self, name, kind):
        taken = any(name in scope for scope in self.scopes) or name in self.function.registers
        unique = f"{name}@{self.opened}" if taken else name
        self.scopes[-1][name] = Register(unique, kind) if kind else Symbol(unique)
        if kind:
            self.function.registers[unique] = kind
        return unique

    def instruction(self, text):
        negated, guard, opcode, rest = _INSTRUCTION.match(text).groups()
        if guard is not None:
            guard = self.operand(guard)
            guard = Negated(guard) if negated else guard
        operands = tuple(self.operand(piece) for piece in split_operands(rest))
        text = " ".join(text.split())
        return Instruction(opcode, operands, guard, self.file, self.line, text)

    def operand(self, text):
        if text == "_":
            return None
        if text[0] in "{(":
            return Vector(tuple(self.operand(t) for t in split_operands(text[1:-1])))
        if text[0] == "[":
            base, plus, minus = _ADDRESS.fullmatch(text[1:-1].strip()).groups()
            return Address(self.operand(base), int(plus or minus or "0", 0))
        if text[0] == "!":
            return Negated(self.operand(text[1:].strip()))
        if "|" in text:
            return Pair(tuple(self.operand(t.strip()) for t in text.split("|")))
        for scope in reversed(self.scopes):
            if text in scope:
                return scope[text]
        if text[0] == "%":
            return Special(text)
        if text[0].isdigit() or text[0] in "-+.":
            return read_constant(text)
        return Symbol(text)


def split_operands(text):
    """The operands of a list, split at the commas outside all brackets."""
    pieces, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        elif character == "," and depth == 0:
            pieces.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*pieces, last] if last else pieces


def read_constant(text):
    """An integer, `0f`/`0d` bits or a decimal float (which PTX reads as f64)."""
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if digits[:2].lower() in ("0f", "0d") and len(digits) in (10, 18):
        return Constant(int(digits[2:], 16), "f32" if len(digits) == 10 else "f64")
    if re.fullmatch(r"[\d.]+(e[-+]?\d+)?", digits, re.I) and not digits.isdigit():
        return Constant(int.from_bytes(struct.pack("<d", sign * float(digits)), "little"), "f64")
    digits = digits.rstrip("U")
    octal = digits[0] == "0" and digits.isdigit() and len(digits) > 1
    return Constant(sign * int(digits, 8 if octal else 0))


def read_variable(text):
    """A `.shared`, `.global`, `.const`, `.local` or `.param` declaration."""
    match = _VARIABLE.fullmatch(text)
    if not match:
        raise UnsupportedError(f"the PTX statement `{' '.join(text.split())}` is not supported")
    linkage, space, align, vector, kind, name, shape, initial = match.groups()
    count = int(vector[1]) if vector else 1
    for extent in re.findall(r"\[([^\]]*)\]", shape):
        count *= int(extent or "0", 0)
    size = SIZES[kind] * count
    data = None
    if space in ("global", "const"):
        data = _initial_bytes(initial or "", kind).ljust(size, b"\0")
    align = int(align or SIZES[kind])
    return Variable(name, space, align, size, data, linkage == "extern")


def _initial_bytes(text, kind):
    words = re.findall(r"[^\s{},]+", text)
    values = [read_constant(w) for w in words]
    width = SIZES[kind]
    mask = (1 << 8 * width) - 1
    return b"".join((v.value & mask).to_bytes(width, "little") for v in values)


def _variables(text):
    pieces = [" ".join(p.split()) for p in (text or "").split(",")]
    return [read_variable(_POINTER.sub("", p)) for p in pieces if p]
