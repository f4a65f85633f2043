"""Special registers: thread, block, grid and lane numbers (PTX ISA, section 10)."""

from zerfoo_numba.ptx.native import integers, op_host
from zerfoo_numba.ptx.native.lanes import apply
from zerfoo_numba.ptx.native.text import vector_constant
from zerfoo_numba.ptx.native.value import LANES, Value, constant, pattern, uniform


def thread_number(code):
    """The thread's number in its block."""
    threads = code.plan.threads
    mask = ((1 << (threads - 1).bit_length()) - 1) & -LANES
    if threads <= LANES:
        return pattern("i32", None, range(LANES), known=0)
    return pattern("i32", code.value("shl i32 %warp, 5"), range(LANES), mask)


def _thread_index(code, axis):
    x, y, z = code.plan.block
    index = thread_number(code)
    if code.plan.block[axis] == 1:
        return constant("i32", 0)
    if axis > 0:
        index = _divide(code, index, x if axis == 1 else x * y, False)
    # The last axis that is not 1 needs no remainder: a block has no more threads.
    if (axis == 0 and y * z > 1) or (axis == 1 and z > 1):
        index = _divide(code, index, code.plan.block[axis], True)
    return index


def _divide(code, index, divisor, remainder):
    if divisor == 1:
        return constant("i32", 0) if remainder else index
    result = integers.divide_by_constant(code, index, divisor, remainder)
    if result is not None:
        return result
    name = "urem" if remainder else "udiv"
    return apply(code, f"{name} {{t}} {{0}}, {{1}}", index, constant("i32", divisor))


def _lane_mask(relation):
    def numbers():
        for lane in range(LANES):
            own, below = 1 << lane, (1 << lane) - 1
            yield {
                "eq": own, "lt": below, "le": below | own, "gt": ~(below | own), "ge": ~below,
            }[relation]  # fmt: skip

    return lambda code: Value("i32", vector=vector_constant("i32", numbers()))


_PLAIN = {
    "%laneid": lambda code: code.lane_numbers(),
    "%warpid": lambda code: uniform("i32", "%warp"),
    "%nwarpid": lambda code: constant("i32", code.plan.warps),
    "%smid": lambda code: constant("i32", 0),
    "%nsmid": lambda code: constant("i32", 1),
    "%gridid": lambda code: constant("i64", 1),
    "%clock": lambda code: integers.convert(code, _cycles(code), "i32"),
    "%clock64": lambda code: _cycles(code),
    "%clock_hi": lambda code: integers.convert(
        code, integers.shift_right(code, _cycles(code), 32), "i32"
    ),
    "%globaltimer": lambda code: _nanoseconds(code),
    "%dynamic_smem_size": lambda code: uniform("i32", "%dynamic"),
    "%total_smem_size": lambda code: integers.add(
        code, uniform("i32", "%dynamic"), constant("i32", code.plan.layout.shared_bytes)
    ),
}
_PLAIN |= {f"%lanemask_{r}": _lane_mask(r) for r in ("eq", "lt", "le", "gt", "ge")}


def _nanoseconds(code):
    """Python's clock; %globaltimer is no more than that on a GPU."""
    return uniform("i64", code.call("i64", op_host.TIME))


def _cycles(code):
    return uniform("i64", code.call("i64", "llvm.readcyclecounter"))


def special(code, operand):
    """The value of a special register; KeyError for one that is not known."""
    name = operand.name
    if name in _PLAIN:
        return _PLAIN[name](code)
    base, _, letter = name.partition(".")
    axis = "xyz".find(letter)
    if axis >= 0 and base == "%tid":
        return _thread_index(code, axis)
    if axis >= 0 and base == "%ntid":
        return constant("i32", code.plan.block[axis])
    if axis >= 0 and base in ("%ctaid", "%nctaid"):
        return uniform("i32", f"%{'c' if base == '%ctaid' else 'n'}{letter}")
    raise KeyError(name)
