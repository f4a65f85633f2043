"""Loaded modules: PTX texts, their kernels under the names that the source gave them."""

import functools
import math
import re

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx import control_flow
from zerfoo_numba.ptx.compile import Ptx

MOST_THREADS = 1024  # of a block, on every architecture
_ENTRY = re.compile(r"\.entry\s+([\w$]+)")
_WORD = re.compile(r"(B?)(\d+)")  # a tag begins with B; the length, then the word
_FUNCTION = re.compile(r"\.func\b\s*(?:\([^)]*\)\s*)?([\w$]+)")
_TARGET = re.compile(r"^\.target\s+sm_(\d+)(\d)([af]?)", re.M)


class Module:
    """One PTX text. `kernels` by the names in the text as it was given.

    Numba's names hold module, arguments and flags (`_ZN8__main__3addB2v1...`); here a kernel is
    known as `add` where no other symbol of the text is.
    """

    def __init__(self, text):
        target = _TARGET.search(text)
        if target is None:
            raise UnsupportedError("the module holds no PTX text; cubins and archives do not run")
        major, minor, suffix = target.groups()
        self.cc = (int(major), int(minor), suffix) if suffix else (int(major), int(minor))
        self.kernels, taken = {}, set(_FUNCTION.findall(text))
        for name in _ENTRY.findall(text):
            short = plain_name(name)
            if short in taken:
                short = name
            taken.add(short)
            text = re.sub(rf"(?<![\w$]){re.escape(name)}(?![\w$])", short, text)
            self.kernels[name] = short
        self.text = text
        self.kernels = {name: Kernel(self, short) for name, short in self.kernels.items()}
        self.addresses = {}  # of its variables, by name, where a machine has placed them

    @functools.cached_property
    def variables(self):
        """Variables in global and constant memory, by name."""
        if not self.kernels:
            return {}
        parsed = next(iter(self.kernels.values())).parsed
        return {v.name: v for v in parsed.variables if v.space in ("global", "const")}


class Kernel:
    """One entry of a module; `dynamic` is the dynamic shared memory it may be launched with."""

    def __init__(self, module, name):
        self.module, self.name = module, name
        self.ptx = Ptx(module.text, name, module.cc)
        self.dynamic = 48 << 10

    @functools.cached_property
    def parsed(self):
        return control_flow.parse(self.ptx.text, self.name)

    @functools.cached_property
    def parameter_sizes(self):
        return [p.size for p in self.parsed.parameters]

    @functools.cached_property
    def most_threads(self):
        """Threads of a block at most: fewer than the device's where the kernel declares bounds."""
        head = re.search(rf"\.entry\s+{re.escape(self.name)}(?![\w$])[^{{]*", self.ptx.text)[0]
        bounds = re.search(r"\.(?:max|req)ntid\s+(\d+(?:\s*,\s*\d+)*)", head)
        sizes = bounds[1].split(",") if bounds else [MOST_THREADS]
        return min(MOST_THREADS, math.prod(int(n) for n in sizes))

    def space_bytes(self, space):
        """Bytes of the variables in `shared`, `local` or `const` space, as declared."""
        found = (v for v in self.parsed.variables if v.space == space and not v.external)
        return sum(v.size for v in found)

    @functools.cached_property
    def registers(self):
        """Registers per thread, as the CUDA libraries assemble the kernel."""
        from zerfoo_numba.ptx.link import cubin

        return cubin(self.ptx)[1].registers


def plain_name(name):
    """The last name of an Itanium-mangled function, without tags and arguments: `add`."""
    if not name.startswith("_Z"):
        return name
    nested = name.startswith("_ZN")
    at, words = 3 if nested else 2, []
    while match := _WORD.match(name, at):
        at = match.end() + int(match[2])
        if not match[1]:
            words.append(name[match.end() : at])
        if not nested:
            break
    return words[-1] if words and words[-1].isidentifier() else name
