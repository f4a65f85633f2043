"""One entry with everything it calls put into its body: no calls, no parameter passing left.

A value that crosses a call in `.param` space becomes a register named after its place
(`param0+8`). Functions that call themselves, or whose address is taken, are not put inline: see
`calls`. Calls into the system (`host_calls`) become one instruction each.
"""

from dataclasses import dataclass, field, replace

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.host_calls import host_call
from zerfoo_numba.ptx.structure import (
    SIZES,
    Address,
    Constant,
    Instruction,
    Label,
    Negated,
    Pair,
    Register,
    Symbol,
    Variable,
    Vector,
)

PLACES = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}  # how a value in `.param` space is kept, by size


@dataclass
class Inliner:
    """Expands calls. `apart` are the functions that stay functions; calls of those, and through a
    register, are left in the body as `Call`s."""

    module: object
    apart: set = field(default_factory=set)

    def expand(self, body, prefix):
        tables = {}
        expanded, pending = [], None
        for item in body:
            if isinstance(item, Label):
                pending = item.name
                expanded.append(item)
            elif item.opcode == ".branchtargets":
                tables[pending] = item.operands
            elif item.parts[0] == "call":
                expanded += self.call(item, f"{prefix}{len(expanded)}:")
            else:
                expanded.append(item)
        return [_with_targets(item, tables) for item in expanded]

    def call(self, item, prefix):
        """What a call becomes; one under a guard is skipped by a branch."""
        if item.guard is None:
            return self.plain_call(item, prefix)
        skip = f"{prefix}skip"
        negated = isinstance(item.guard, Negated)
        guard = item.guard.register if negated else Negated(item.guard)
        branch = replace(item, opcode="bra", operands=(Symbol(skip),), guard=guard)
        return [branch, *self.plain_call(replace(item, guard=None), prefix), Label(skip)]

    def plain_call(self, item, prefix):
        results, target, arguments = call_parts(item)
        if isinstance(target, Register):
            return [item]
        found = host_call(item, target.name, results, arguments)
        if found is not None:
            return found
        function = self.module.functions.get(target.name)
        if function is None or not function.body:
            raise UnsupportedError(
                f"the PTX calls `{target.name}`, which it does not define; {item.where}"
            )
        if function.name in self.apart:
            return [item]
        # A caller compiled against another declaration may expect a result that never comes.
        places = dict(zip((p.name for p in function.parameters), arguments, strict=False))
        places |= dict(zip((r.name for r in function.results), results, strict=False))
        places = {own: given.name for own, given in places.items()}
        places |= own_places(function, prefix)
        body = self.expand(function.body, prefix)
        end = f"{prefix}end"
        return [*(rename(item, prefix, places, end) for item in body), Label(end)]


def call_parts(call):
    """-> the places of the results, what is called, and the places of the arguments."""
    operands = list(call.operands)
    results = operands.pop(0).items if isinstance(operands[0], Vector) else ()
    target = operands.pop(0)
    return results, target, operands.pop(0).items if operands else ()


def _with_targets(item, tables):
    if isinstance(item, Label) or item.parts[0] != "brx":
        return item
    index, table = item.operands
    targets = tables[table.name] if isinstance(table, Symbol) else table
    return replace(item, operands=(index, *targets))


def rename(item, prefix, places, end):
    """An item of a function's body with registers and labels of its own; returns go to `end`."""
    if isinstance(item, Label):
        return Label(prefix + item.name)
    branch = item.parts[0] in ("bra", "brx")

    def new(operand):
        match operand:
            case Register():
                return _renamed(operand, prefix, places)
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

    guard = new(item.guard)
    if item.parts[0] == "ret":
        return replace(item, opcode="bra.uni", operands=(Symbol(end),), guard=guard)
    return replace(item, operands=tuple(new(o) for o in item.operands), guard=guard)


def own_places(function, prefix):
    """{name: new name} of the places in `.param` space for what a function itself calls."""
    return {v.name: prefix + v.name for v in function.variables if v.space == "param"}


def _renamed(register, prefix, places):
    """A register of its own, unless it stands for a piece of a place, which has its new name."""
    name, plus, offset = register.name.rpartition("+")
    new = places.get(name, name) + plus + offset if plus else prefix + offset
    return Register(new, register.type)


def pass_in_registers(body, kept):
    """Loads and stores in `.param` space become moves, except of the parameters `kept`.

    -> the new body, and local variables for what is written in other pieces than it is read in.
    """
    uneven = _uneven(body, kept)
    result = []
    for item in body:
        place = param_place(item, kept)
        if place is None:
            result.append(item)
        elif place in uneven:
            parts = ("local" if p == "param" else p for p in item.parts)
            result.append(replace(item, opcode=".".join(parts)))
        else:
            result += _moves(item)
    return result, [Variable(name, "local", 16, size) for name, size in uneven.items()]


def param_place(item, kept=()):
    """The name of the place that a load or store of `.param` space is about, or None."""
    if isinstance(item, Label) or item.parts[1:2] != ("param",):
        return None
    address = next((o for o in item.operands if isinstance(o, Address)), None)
    own = address is not None and isinstance(address.base, Symbol)
    return address.base.name if own and address.base.name not in kept else None


def _pieces(item):
    """(value, byte offset) of each element that an access of `.param` space moves."""
    address = next(o for o in item.operands if isinstance(o, Address))
    value = item.operands[0] if item.parts[0] == "ld" else item.operands[1]
    size = SIZES[item.parts[-1]]
    for i, each in enumerate(value.items if isinstance(value, Vector) else [value]):
        yield each, address.offset + i * size


def _uneven(body, kept):
    """{place: bytes} of those where some load has no store of the same bytes."""
    stored, loaded, ends = {}, {}, {}
    for item in body:
        place = param_place(item, kept)
        if place is None:
            continue
        size = SIZES[item.parts[-1]]
        pieces = {(at, size) for _, at in _pieces(item)}
        (loaded if item.parts[0] == "ld" else stored).setdefault(place, set()).update(pieces)
        ends[place] = max([ends.get(place, 0), *(at + size for at, _ in pieces)])
    return {p: ends[p] for p in loaded if p in stored and not loaded[p] <= stored[p]}


def _moves(item):
    """An access of `.param` space as moves; narrow values are cut and extended by conversions."""
    kind, loads = item.parts[-1], item.parts[0] == "ld"
    size = SIZES[kind]
    for each, at in _pieces(item):
        if each is None:
            continue
        name = next(o for o in item.operands if isinstance(o, Address)).base.name
        place = Register(f"{name}+{at}", PLACES[size])
        pair = (each, place) if loads else (place, each)
        kept = 8 * max(size, 2)
        opcode = f"mov.b{kept}"
        if loads and SIZES[each.type] != size:
            sign = "s" if kind[0] == "s" else "u"
            opcode = f"cvt.{sign}{8 * SIZES[each.type]}.{sign}{8 * size}"
        elif isinstance(each, Register) and SIZES[each.type] != size:
            opcode = f"cvt.u{kept}.u{8 * size}"
        yield replace(item, opcode=opcode, operands=pair)


def move(source, opcode, register, value=None):
    """A move that stands for a part of the instruction `source`."""
    value = Constant(0) if value is None else value
    return Instruction(opcode, (register, value), None, source.file, source.line, source.text)
