"""One entry with everything it calls put into its body: no calls, no parameter passing left.

A value that crosses a call in `.param` space becomes a register named after its place
(`param0+8`). Numba's compiler calls few functions: accurate powers, and the grid barrier of
cooperative groups, which becomes the pseudo-instruction `grid.sync`.
"""

from dataclasses import replace

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.structure import (
    KEPT_AS,
    SIZES,
    Address,
    Constant,
    Label,
    Negated,
    Pair,
    Register,
    Symbol,
    Vector,
)

DEEPEST_CALL = 16


def inline(module, name):
    """The body of entry `name`, a list of `Instruction` and `Label`, with all calls inlined."""
    entry = module.functions[name]
    kept = {v.name for v in entry.parameters}
    return _pass_in_registers(_expand(module, entry.body, "", 0), kept)


def _expand(module, body, prefix, depth):
    tables = {}
    expanded, pending = [], None
    for item in body:
        if isinstance(item, Label):
            pending = item.name
            expanded.append(item)
        elif item.opcode == ".branchtargets":
            tables[pending] = item.operands
        elif item.parts[0] == "call":
            if depth == DEEPEST_CALL:
                raise UnsupportedError(f"recursive call in PTX, {item.where}")
            expanded += _call(module, item, f"{prefix}{len(expanded)}:", depth)
        else:
            expanded.append(item)
    return [_with_targets(item, tables) for item in expanded]


def _with_targets(item, tables):
    if isinstance(item, Label) or item.parts[0] != "brx":
        return item
    index, table = item.operands
    targets = tables[table.name] if isinstance(table, Symbol) else table
    return replace(item, operands=(index, *targets))


def _call(module, call, prefix, depth):
    """The body of the called function between its arguments' and its results' places."""
    operands = list(call.operands)
    results = operands.pop(0).items if isinstance(operands[0], Vector) else ()
    name = operands.pop(0).name
    arguments = operands.pop(0).items if operands else ()
    if name == "cudaCGGetIntrinsicHandle":
        return [_move(call, "mov.b64", Register(f"{results[0].name}+0", "b64"), Constant(1))]
    if name == "cudaCGSynchronize":
        result = Register(f"{results[0].name}+0", "b32")
        return [replace(call, opcode="grid.sync", operands=()), _move(call, "mov.b32", result)]
    function = module.functions.get(name)
    if function is None or not function.body:
        raise UnsupportedError(f"the PTX calls `{name}`, which it does not define; {call.where}")
    places = {
        own.name: given.name
        for own, given in zip(
            [*function.parameters, *function.results], [*arguments, *results], strict=True
        )
    }
    body = _expand(module, function.body, prefix, depth + 1)
    end = f"{prefix}end"
    renamed = [_rename(item, prefix, places, end) for item in body]
    return [*renamed, Label(end)]


def _move(call, opcode, register, value=None):
    value = Constant(0) if value is None else value
    return replace(call, opcode=opcode, operands=(register, value))


def _rename(item, prefix, places, end):
    labels = isinstance(item, Label)
    if labels:
        return Label(prefix + item.name)
    if item.parts[0] == "ret":
        return replace(item, opcode="bra.uni", operands=(Symbol(end),))
    branch = item.parts[0] in ("bra", "brx")

    def new(operand):
        match operand:
            case Register():
                return Register(prefix + operand.name, operand.type)
            case Negated(register):
                return Negated(new(register))
            case Symbol(name):
                return Symbol(prefix + name if branch else places.get(name, name))
            case Address(base, offset):
                return Address(new(base), offset)
            case Vector(items):
                return Vector(tuple(new(i) for i in items))
            case Pair(items):
                return Pair(tuple(new(i) for i in items))
        return operand

    return replace(item, operands=tuple(new(o) for o in item.operands), guard=new(item.guard))


def _pass_in_registers(body, kept):
    """Loads and stores in `.param` space, except of the entry's own parameters, become moves."""
    result = []
    for item in body:
        parts = () if isinstance(item, Label) else item.parts
        address = next((o for o in getattr(item, "operands", ()) if isinstance(o, Address)), None)
        own = address is not None and isinstance(address.base, Symbol)
        if parts[1:2] != ("param",) or not own or address.base.name in kept:
            result.append(item)
            continue
        value = item.operands[0] if parts[0] == "ld" else item.operands[1]
        kind = parts[-1]
        for i, each in enumerate(value.items if isinstance(value, Vector) else [value]):
            at = address.offset + i * SIZES[kind]
            place = Register(f"{address.base.name}+{at}", KEPT_AS.get(kind, kind))
            pair = (each, place) if parts[0] == "ld" else (place, each)
            result.append(replace(item, opcode=f"mov.{kind}", operands=pair))
    return result
