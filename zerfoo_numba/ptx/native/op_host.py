"""Calls into the system: printf by way of Python, malloc and free of the C library.

One active lane after the other makes its call.
"""

import ctypes
import sys
import time

import llvmlite.binding as llvm

from zerfoo_numba.ptx.formatted import formatted
from zerfoo_numba.ptx.native.lanes import vector
from zerfoo_numba.ptx.native.scattered import fetch, lane_loop, spill
from zerfoo_numba.ptx.native.text import wide
from zerfoo_numba.ptx.native.value import Value

PRINT, TIME = "zerfoo_numba_vprintf", "zerfoo_numba_time"
_FUNCTIONS = {
    "vprintf": ("i32", PRINT, ("i64", "i64")),
    "malloc": ("i64", "malloc", ("i64",)),
    "free": (None, "free", ("i64",)),
}


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)
def _print(pattern, arguments):
    text, count = formatted(ctypes.string_at, pattern, arguments)
    sys.stdout.write(text)
    return count


@ctypes.CFUNCTYPE(ctypes.c_uint64)
def _time():
    return time.time_ns()


def provide():
    """Let compiled code find what it calls here."""
    llvm.add_symbol(TIME, ctypes.cast(_time, ctypes.c_void_p).value)
    llvm.add_symbol(PRINT, ctypes.cast(_print, ctypes.c_void_p).value)


def host(code, op):
    """host.vprintf d, format, arguments; host.malloc d, size; host.free address"""
    name = op.parts.pop(0)
    result, function, kinds = _FUNCTIONS[name]
    values = [code.read(s, "b64") for s in op.sources]
    code.settle()
    code.effect()
    helper = f"host.{name}"
    if not code.dry:
        code.declarations.declare(result or "void", function, kinds)
        code.declarations.helper(helper, lambda: _helper(helper, result, function, len(kinds)))
    arguments = [(wide("i64"), vector(code, v)) for v in values]
    if result is None:
        code.call_defined("void", helper, *arguments, ("i32", code.active))
        return ()
    made = code.call_defined(wide(result), helper, *arguments, ("i32", code.active))
    return Value(result, vector=made)


def _helper(name, result, function, count):
    letters = "ab"[:count]
    parameters = ", ".join(f"{wide('i64')} %{x}" for x in letters)
    prepare = "\n".join(spill(x, "i64") for x in letters)
    given = ", ".join(f"i64 %{x}.x" for x in letters)
    body = "\n".join(fetch(x, "i64") for x in letters)
    if result is None:
        return lane_loop(
            name, "void", parameters, prepare, f"{body}\n  call void @{function}({given})",
            "  ret void",
        )  # fmt: skip
    kind = wide(result)
    prepare += f"\n  %r = alloca {kind}\n  store {kind} zeroinitializer, ptr %r"
    body += (
        f"\n  %x = call {result} @{function}({given})\n"
        f"  %to = getelementptr {result}, ptr %r, i32 %lane\n  store {result} %x, ptr %to"
    )
    finish = f"  %result = load {kind}, ptr %r\n  ret {kind} %result"
    return lane_loop(name, kind, parameters, prepare, body, finish)


HANDLERS = {"host": host}
