"""From an instruction to its handler."""

from zerfoo_numba.ptx.effects import has_result
from zerfoo_numba.ptx.native import (
    memory,
    op_approx,
    op_atomic,
    op_bits,
    op_compare,
    op_convert,
    op_copy,
    op_float,
    op_half,
    op_host,
    op_integer,
    op_packed,
    op_permute,
    op_tensor,
    op_wait,
    op_warp,
    waits,
)
from zerfoo_numba.ptx.native.opcode import Opcode

_FLOAT, _HALF = ("f32", "f64"), ("f16", "f16x2", "bf16", "bf16x2")
_ANY = {
    **op_integer.HANDLERS, **op_compare.HANDLERS, **op_bits.HANDLERS, **op_permute.HANDLERS,
    **op_convert.HANDLERS, **op_approx.HANDLERS, **op_packed.HANDLERS, **op_warp.HANDLERS,
    **op_atomic.HANDLERS, **op_host.HANDLERS, **memory.HANDLERS, **waits.HANDLERS,
    **op_wait.HANDLERS, **op_tensor.HANDLERS, **op_copy.HANDLERS,
}  # fmt: skip


def _handler(op):
    kind = op.parts[-1] if op.parts else ""
    families = [_ANY]
    if kind in _FLOAT and op.name != "mma":
        families = [op_float.HANDLERS, _ANY]
    elif kind in _HALF and op.name not in ("cvt", "ex2", "tanh", "mma"):
        families = [op_half.HANDLERS, _ANY]
    for family in families:
        if op.name in family:
            return family[op.name]
    if op.name in ("bar", "barrier") and op.parts[:1] == ["warp"]:
        return op_warp.meet
    raise op.unsupported()


def execute(code, instruction):
    """Translate one instruction into `code`."""
    op = Opcode(instruction, has_result(instruction))
    handler = _handler(op)
    guard = None if instruction.guard is None else code.read(instruction.guard)
    try:
        results = handler(code, op)
        op.end()
    except (KeyError, IndexError, ValueError, AttributeError, AssertionError) as error:
        raise op.unsupported() from error
    results = results if isinstance(results, list | tuple) else [results]
    for operand, value in zip(op.destinations, results, strict=False):
        code.write(operand, value, op, guard)
