"""What an instruction reads, writes, and does besides: read off its opcode and operands."""

from zerfoo_numba.ptx.structure import Address, Constant, Negated, Pair, Register, Vector

FULL_WARP = Constant(-1)

_NO_RESULT = {
    "st", "red", "bra", "brx", "bar", "barrier", "membar", "fence", "ret", "exit", "trap", "cp",
    "prefetch", "prefetchu", "nanosleep", "discard", "griddepcontrol", "grid", "brkpt",
}  # fmt: skip
# Instructions that only compute: a guard on one of them selects between old and new result.
_EFFECTS = _NO_RESULT | {"ld", "ldu", "atom", "shfl", "vote", "match", "redux", "activemask"}
_EFFECTS |= {"mma", "ldmatrix", "elect", "wmma", "host"}


def operand_registers(operand):
    """The registers an operand mentions."""
    match operand:
        case Register():
            return [operand]
        case Negated(inner) | Address(inner, _):
            return operand_registers(inner)
        case Vector(items) | Pair(items):
            return [r for item in items for r in operand_registers(item)]
    return []


def has_result(instruction):
    parts = instruction.parts
    reduces = parts[0] in ("bar", "barrier") and "red" in parts
    if parts[:2] == ("host", "free"):
        return False
    return (parts[0] not in _NO_RESULT or reduces) and bool(instruction.operands)


def results(instruction):
    """The registers an instruction writes."""
    return operand_registers(instruction.operands[0]) if has_result(instruction) else []


def sources(instruction):
    """The registers an instruction reads; under a guard also the old values of its results."""
    first = 1 if has_result(instruction) else 0
    read = [r for o in instruction.operands[first:] for r in operand_registers(o)]
    if instruction.guard is not None:
        read += operand_registers(instruction.guard) + results(instruction)
    return read


def is_warp_synchronous(instruction):
    parts = instruction.parts
    if parts[0] in ("shfl", "vote", "match", "redux", "elect", "mma", "ldmatrix"):
        return "sync" in parts
    return parts[:2] in (("bar", "warp"), ("barrier", "warp"))


def has_effect(instruction):
    """True when the instruction does more than write its result registers."""
    parts = instruction.parts
    return (parts[0] in _EFFECTS and parts[1:2] != ("param",)) or "volatile" in parts


def member_mask(instruction):
    """The operand of a warp-synchronous instruction that names the lanes which must meet."""
    if instruction.parts[0] in ("mma", "ldmatrix"):
        return FULL_WARP
    mask = instruction.operands[-1]
    return FULL_WARP if mask == Constant(0xFFFFFFFF) else mask
