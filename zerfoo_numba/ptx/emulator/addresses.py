"""Addresses of the form base + (index << scale), found in a block so that they are never computed.

Compiled kernels widen a 32-bit index, scale it and add it to a pointer before each access: three
passes over 64-bit lanes. Given the parts, an access gathers by the index itself.
"""

from dataclasses import dataclass, field

from zerfoo_numba.ptx import effects
from zerfoo_numba.ptx.structure import Address, Constant, Register

_WIDEN = {"mul.wide.u32", "mul.wide.s32", "cvt.u64.u32", "cvt.s64.s32", "cvt.u64.s32"}
_ADD = {"add.s64", "add.u64"}


@dataclass(eq=False)
class Definition:
    """One write of a register; `form` tells how, where that is of use."""

    item: object
    number: int
    form: str = ""  # "offset": a widened, scaled index; "sum": a pointer plus such an offset
    index: Register | None = None
    signed: bool = False
    scale: int = 0
    base: Register | None = None
    offset: "Definition | None" = None
    users: list = field(default_factory=list)  # definitions, accesses, or None for others
    skipped: bool = False


@dataclass(frozen=True)
class Place:
    """Names of the base and the index in the generated code, and the scale."""

    base: str
    index: str
    signed: bool
    scale: int


class Folding:
    """Which instructions of a block need no code, and the parts of which accesses' addresses.

    `aliases` maps an instruction to assignments that keep a part under a name of its own;
    `ends` maps one to the names that nothing uses after it.
    """

    def __init__(self, items, live_out):
        self.places, self.aliases, self.ends, self.skipped = {}, {}, {}, set()
        self._definitions = []
        current = {}
        for item in items:
            self._read(item, current)
            self._write(item, current)
        for register in live_out:
            if register in current:
                current[register].users.append(None)
        self._skip()
        self._name()

    def _read(self, item, current):
        """Tell the definitions that `item` reads of it."""
        for register in effects.sources(item):
            definition = current.get(register)
            if definition is None:
                continue
            address = _address(item)
            folds = address is not None and address.base == register
            others = [o for o in item.operands if o is not address]
            folds = folds and register not in [
                r for o in others for r in effects.operand_registers(o)
            ]
            definition.users.append(item if folds and definition.form == "sum" else None)
            if folds and definition.form == "sum":
                self.places[id(item)] = definition

    def _write(self, item, current):
        made = self._recognise(item, current)
        for register in effects.results(item):
            current[register] = made
        self._definitions.append(made)

    def _recognise(self, item, current):
        made = Definition(item, len(self._definitions))
        if item.guard is not None:
            return made
        _, *sources = item.operands or (None,)
        if item.opcode in _WIDEN and isinstance(sources[0], Register):
            scale = 0
            if item.parts[0] == "mul":
                factor = sources[1].value if isinstance(sources[1], Constant) else 0
                if factor <= 0 or factor & factor - 1:
                    return made
                scale = factor.bit_length() - 1
            made.form, made.index, made.scale = "offset", sources[0], scale
            made.signed = item.parts[-1] == "s32"
        elif item.opcode == "shl.b64":
            inner = current.get(sources[0]) if isinstance(sources[0], Register) else None
            if inner and inner.form == "offset" and isinstance(sources[1], Constant):
                self._shift(made, inner, sources[1].value)
        elif item.opcode in _ADD and all(isinstance(s, Register) for s in sources):
            for base, other in (sources, sources[::-1]):
                inner = current.get(other)
                if inner and inner.form == "offset":
                    made.form, made.base, made.offset = "sum", base, inner
                    _replace(inner.users, made)
                    break
        return made

    @staticmethod
    def _shift(made, inner, amount):
        if inner.scale + amount < 31:
            made.form, made.index, made.signed = "offset", inner.index, inner.signed
            made.scale, made.offset = inner.scale + amount, inner
            _replace(inner.users, made)

    def _skip(self):
        """A definition that only skipped ones and accesses use is never computed."""
        for made in reversed(self._definitions):
            if made.form and all(
                u is not None and (not isinstance(u, Definition) or u.skipped) for u in made.users
            ):
                made.skipped = bool(made.users)
                if made.skipped:
                    self.skipped.add(id(made.item))

    def _name(self):
        last = {}
        for key, made in self.places.items():
            inner = made.offset
            while inner.form == "offset" and inner.offset is not None:
                inner = inner.offset
            base, index = f"b{made.number}", f"i{inner.number}"
            self.aliases.setdefault(id(made.item), {})[base] = made.base
            self.aliases.setdefault(id(inner.item), {})[index] = inner.index
            self.places[key] = Place(base, index, made.offset.signed, made.offset.scale)
            last[base] = last[index] = key
        for name, key in last.items():
            self.ends.setdefault(key, []).append(name)


def _replace(users, made):
    """The last user, noted as any other, is the definition `made`."""
    users[-1] = made


def _address(item):
    """The address operand of a load or store of global or shared memory."""
    parts = item.parts
    if parts[0] in ("ld", "st") and ("global" in parts or "shared" in parts):
        return next((o for o in item.operands if isinstance(o, Address)), None)
    return None
