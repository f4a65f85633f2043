"""Code for loads, stores and atomics, by the accesses and the read-modify-write functions."""

from zerfoo_numba.ptx.emulator.access import access
from zerfoo_numba.ptx.emulator.atomics import OPERATIONS, Atomic
from zerfoo_numba.ptx.emulator.casting import cast
from zerfoo_numba.ptx.structure import SIZES, Constant, Symbol, Vector

# Modifiers that change nothing here: where to cache, whom to be visible to, in which order.
_MODIFIERS = {
    "global", "const", "shared", "shared::cta", "local", "param", "weak", "volatile", "relaxed",
    "acquire", "release", "acq_rel", "cta", "gpu", "sys", "ca", "cg", "cs", "lu", "cv", "wb", "wt",
    "nc", "v2", "v4", "noftz",
}  # fmt: skip


def _size_and_count(translator, item, operations=()):
    """Bytes and number of the elements; modifiers that could change the meaning are unknown."""
    *middle, kind = item.parts[1:]
    known = {p for p in middle if p in _MODIFIERS or p in operations or p.startswith(("L1", "L2"))}
    count = 2 if "v2" in middle else 4 if "v4" in middle else 1
    if kind not in SIZES or known != set(middle) or SIZES[kind] * count > 16:
        raise translator.unsupported(item)
    return SIZES[kind], count


def _trace(translator, site, address, values=""):
    if translator.traced:
        values = f", ({values},)" if values else ""
        translator.lines.append(f"w.trace.access({site}, w, g, {address}{values})")


def load(translator, item):
    """ld, ldu: parameters are scalars of the launch, everything else is gathered."""
    kind = item.parts[-1]
    size, count = _size_and_count(translator, item)
    destination = item.operands[0]
    registers = destination.items if isinstance(destination, Vector) else (destination,)
    if "param" in item.parts:
        base = item.operands[1]
        if not isinstance(base.base, Symbol):
            raise translator.unsupported(item, ": a parameter at a computed address")
        for i, register in enumerate(registers):
            if register is not None:
                at = (base.base.name, base.offset + i * size, kind)
                translator.assign(register, f"w.parameters[{at!r}]", kind)
        return
    base, offset = translator.address(item.operands[1])
    site = translator.constant(access(item, size, count, offset))
    if translator.traced:
        translator.lines.append(f"a = {base}")
        base = "a"
    _trace(translator, site, base)
    bits = f"u{8 * size}"
    place = translator.folding.places.get(id(item))
    call = f"{site}.load_at(w, g, {_parts(place)})" if place else f"{site}.load(w, g, {base})"
    if count == 1:
        translator.assign(registers[0], cast(call, bits, kind), kind)
        return
    translator.lines.append(f"t = {call}")
    for i, register in enumerate(registers):
        if register is not None:
            translator.assign(register, cast(f"t[{i}]", bits, kind), kind)
    translator.lines.append("del t")


def _parts(place):
    """The arguments base, index and scale of an access by the parts of its address."""
    index = f"{place.index}.view(np.int32)" if place.signed else place.index
    return f"{place.base}, {index}, {place.scale}"


def store(translator, item):
    """st: the values, cut to the width of the access, go to the lanes' addresses."""
    kind = item.parts[-1]
    size, count = _size_and_count(translator, item)
    bits = f"u{8 * size}"
    base, offset = translator.address(item.operands[0])
    source = item.operands[1]
    values = source.items if isinstance(source, Vector) else (source,)
    site = translator.constant(access(item, size, count, offset))
    if translator.traced:
        translator.lines.append(f"a = {base}")
        base = "a"
    arguments = ", ".join(_bits(translator, v, kind, bits) for v in values)
    _trace(translator, site, base, arguments)
    place = translator.folding.places.get(id(item))
    if place:
        translator.lines.append(f"{site}.store_at(w, g, {_parts(place)}, {arguments})")
    else:
        translator.lines.append(f"{site}.store(w, g, {base}, {arguments})")


def _bits(translator, operand, kind, bits):
    if kind in ("f32", "f64") and isinstance(operand, Constant):
        return cast(translator.operand(operand, kind), kind, bits)
    return translator.operand(operand, bits)


def atomic(translator, item):
    """atom and red: one Atomic per instruction."""
    returns = item.parts[0] == "atom"
    place = 1 if returns else 0
    base, offset = translator.address(item.operands[place])
    kind = item.parts[-1]
    _, count = _size_and_count(translator, item, OPERATIONS)
    if count > 1 or not OPERATIONS & set(item.parts):
        raise translator.unsupported(item)
    found = Atomic(item, kind, offset, returns)
    site = translator.constant(found)
    if translator.traced:
        translator.lines.append(f"a = {base}")
        base = "a"
    _trace(translator, f"{site}.access", base)
    values = ", ".join(translator.operand(o, kind) for o in item.operands[place + 1 :])
    call = f"{site}(w, g, {base}, {values})"
    if returns:
        translator.assign(item.operands[0], call, kind)
    else:
        translator.lines.append(call)


EMIT = {"ld": load, "ldu": load, "st": store, "atom": atomic, "red": atomic}
