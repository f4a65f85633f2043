"""Calls into the system, which a PTX text declares but does not define.

They become one instruction each: `host.NAME` for what the machine that executes must do (text,
memory), the pseudo-instruction `grid.sync` for the grid barrier of cooperative groups, a trap for
a failed assertion. Reference: CUDA C++ Programming Guide, sections on formatted output, assertion
and dynamic global memory allocation.
"""

from dataclasses import replace

from zerfoo_numba.ptx.structure import Constant, Register

# name -> bytes of the result and of the arguments
HOST = {"vprintf": (4, (8, 8)), "malloc": (8, (8,)), "free": (None, (8,))}


def host_call(call, name, results, arguments):
    """The instructions of a call into the system, or None for any other function."""
    if name == "cudaCGGetIntrinsicHandle":
        return [_constant(call, "mov.b64", Register(f"{results[0].name}+0", "b64"), 1)]
    if name == "cudaCGSynchronize":
        barrier = replace(call, opcode="grid.sync", operands=())
        return [barrier, _constant(call, "mov.b32", Register(f"{results[0].name}+0", "b32"), 0)]
    if name == "__assertfail":
        text = f"{call.text}: an assertion failed"
        return [replace(call, opcode="trap", operands=(), text=text)]
    if name not in HOST:
        return None
    size, sizes = HOST[name]
    given = [_value(place, n) for place, n in zip(arguments, sizes, strict=True)]
    if size:
        given.insert(0, _value(results[0], size) if results else Register("host:unused", "b32"))
    return [replace(call, opcode=f"host.{name}", operands=tuple(given))]


def _value(place, size):
    """What an argument or result is in the body: a register after its place, or its own."""
    return place if isinstance(place, Register) else Register(f"{place.name}+0", f"b{8 * size}")


def _constant(call, opcode, register, value):
    return replace(call, opcode=opcode, operands=(register, Constant(value)))
