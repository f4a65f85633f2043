"""Which of a kernel's pointers it reads through and which it writes through: read off its PTX.

Flow is not followed: an address comes from every pointer that any instruction may have made it of,
so that what is said not to be read or written is not. Pointers that a kernel finds in memory are
not followed. Statements are taken apart here no further than that needs, many times faster than
`parse` does it, since a model asks for all its kernels when it is loaded.
"""

import functools
import re
from typing import NamedTuple

_NO_STATEMENT = re.compile(r"//.*$|^\s*\.(?:loc|file|pragma)\b.*$|^\s*[$\w]+:", re.M)
_STATEMENT = re.compile(r"\s*[{}]?\s*(@!?[%\w]+\s+)?([a-z][\w.:]*)\s+(.*)", re.S)
_RESULT = re.compile(r"\s*(\{[^}]*\}|\([^)]*\)|[^,]*)(.*)", re.S)
_NAME = re.compile(r"[%$A-Za-z_][%$\w]*")
_ADDRESS = re.compile(r"\[\s*([%$\w]+)")
_NOT_GLOBAL = {"param", "shared", "local", "const"}
_NO_RESULT = {"st", "red", "cp", "prefetch", "prefetchu", "discard", "call"}


class Access(NamedTuple):
    reads: bool
    writes: bool


@functools.cache
def accesses(ptx):
    """One Access per parameter of the kernel `ptx` (a Ptx); scalars have neither."""
    signature, body = ptx.text.split(f".entry {ptx.entry}(", 1)[1].split(")", 1)
    parameters = [line.split()[-1] for line in signature.split(",")]
    pointers = {n: 1 << i for i, n in enumerate(parameters) if f"64 {n}" in signature}
    statements = list(_statements(body))
    origins = _origins(statements, pointers)
    reads = writes = 0
    for kind, parts, operands in statements:
        read, written = _memory(kind, parts, operands, origins)
        reads, writes = reads | read, writes | written
    return tuple(
        Access(bool(reads >> i & 1), bool(writes >> i & 1)) for i in range(len(parameters))
    )


def _statements(body):
    """(instruction, its modifiers, its operands as text) of each."""
    for text in _NO_STATEMENT.sub("", body).split(";"):
        match = _STATEMENT.match(text)
        if match:
            kind, *parts = match[2].split(".")
            yield kind, set(parts), match[3]


def _origins(statements, pointers):
    """{register: the pointers, as bits, of which its value may be made}."""
    origins, steps = {}, []
    for kind, parts, operands in statements:
        if kind in _NO_RESULT:
            continue
        result, rest = _RESULT.match(operands).groups()
        results, sources = _NAME.findall(result), _NAME.findall(rest)
        if kind == "ld" and "param" in parts:
            origins |= {register: pointers.get(sources[0], 0) for register in results}
        elif kind not in ("ld", "ldu", "atom"):  # what lies in memory is no pointer
            steps.append((results, sources))
    grown = True
    while grown:
        grown = False
        for results, sources in steps:
            known = _joined(sources, origins)
            for register in results if known else ():
                if known & ~origins.get(register, 0):
                    origins[register] = origins.get(register, 0) | known
                    grown = True
    return origins


def _memory(kind, parts, operands, origins):
    """(read, written): pointers, as bits, through which an instruction accesses global memory."""
    if kind == "call":  # a pointer that is handed on may be used for anything
        return (_joined(_NAME.findall(operands), origins),) * 2
    read = written = 0
    if kind == "st":
        read = written = _joined(_NAME.findall(operands.split(",", 1)[1]), origins)
    if kind == "cp":  # to shared memory
        return _joined(_ADDRESS.findall(operands)[1:], origins), 0
    if kind in ("prefetch", "prefetchu") or parts & _NOT_GLOBAL:
        return read, written
    through = _joined(_ADDRESS.findall(operands), origins)
    return read | through * (kind != "st"), written | through * (kind not in ("ld", "ldu"))


def _joined(names, origins):
    found = 0
    for name in names:
        found |= origins.get(name, 0)
    return found
