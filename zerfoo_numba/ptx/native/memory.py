"""ld and st: by scalar, by pattern, or lane by lane."""

from zerfoo_numba.ptx.native import integers, patterns, scattered
from zerfoo_numba.ptx.native.lanes import extract, reinterpret, vector
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.text import wide
from zerfoo_numba.ptx.native.value import BITS, LANES, Value, constant, uniform
from zerfoo_numba.ptx.structure import Register, Vector

_LINE = 64
_SPACES = ("global", "shared", "local", "const", "param")
_SCOPES = ("cta", "cluster", "gpu", "sys", "gl")
_HINTS = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "weak")
_KINDS = (
    "b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64",
)  # fmt: skip


class Access:
    """The modifiers of one memory instruction."""

    def __init__(self, op):
        kind = op.kind(*_KINDS)
        self.kind, self.type = kind, TYPES[kind]
        self.size = BITS[self.type] // 8
        self.space = op.take(*_SPACES, default="generic")
        self.count = {"v2": 2, "v4": 4}.get(op.take("v2", "v4"), 1)
        order = op.take("volatile", "relaxed", "acquire", "release", "mmio")
        self.strong = order is not None
        self.order = order if order in ("acquire", "release") else "monotonic"
        op.take("cta", "cluster") if self.space == "shared" else None
        op.take(*_SCOPES)
        while op.take(*_HINTS):
            pass
        op.parts = [p for p in op.parts if "::" not in p]
        op.signed = kind[0] == "s"


def address_of(code, operand, space):
    """The address of `[base + offset]` as an i64 value: an offset in shared memory, else real."""
    base = operand.base
    value = code.read(base) if isinstance(base, Register) else code.symbol_or_number(base)
    if value.type != "i64":
        value = _widened_address(code, value, space)
    return integers.add(code, value, constant("i64", operand.offset))


def _widened_address(code, value, space):
    """A 32-bit address. An offset in shared memory is small, so that the signed extension of the
    scalar part plus the lane's constant is the offset, without any wrap."""
    if space != "shared" or value.is_vector:
        return integers.convert(code, value, "i64")
    scalar = Value(value.type, value.scalar, mask=value.mask, known=value.known)
    extended = integers.convert(code, scalar, "i64", signed=True)
    extended.lanes, extended.vector = value.lanes, None
    return extended


def pointer_to(code, space, address, extra=0):
    """The LLVM pointer of an address' scalar part plus a number."""
    if space == "shared":
        base = code.value(f"getelementptr i8, ptr %shared, i64 {address.scalar}")
    else:
        base = code.value(f"inttoptr i64 {address.scalar} to ptr")
    return code.offset(base, extra)


def load(code, op):
    access = Access(op)
    if access.space == "param":
        return _load_parameter(code, op, access)
    address = address_of(code, op.sources[0], access.space)
    code.settle()
    streams = op.sources[0].base in code.plan.streams and access.space == "global"
    return load_from(code, access, address, streams)


def load_from(code, access, address, streams=False):
    """The elements at an address; one that `streams` follows from the block's number."""
    if access.strong:
        return scattered.load_strong(code, access, address)
    if address.is_uniform:
        return _load_uniform(code, access, address)
    if not address.is_vector:
        places = patterns.positions(address, access.size, access.count)
        if places is not None and not code.masked:
            at = pointer_to(code, access.space, address, address.low_lane)
            if streams:
                _prefetch(code, at, (max(places) + access.count) * access.size)
            return patterns.load(code, at, access.type, access.count, places)
        if places == list(range(LANES)) and code.target.has_avx512:
            return [_load_masked(code, access, address)]
    return scattered.load(code, access, address)


def _prefetch(code, at, size):
    """Ask for every line of what a later turn or the next block will load."""
    ahead = code.target.prefetch
    for start in range(ahead, ahead + size, _LINE) if ahead else ():
        arguments = (("ptr", code.offset(at, start)), ("i32", 0), ("i32", 3), ("i32", 1))
        code.call("void", "llvm.prefetch.p0", *arguments)


def _load_uniform(code, access, address):
    at = pointer_to(code, access.space, address)
    results = []
    for j in range(access.count):
        align = access.size * (access.count if j == 0 else 1)
        place = code.offset(at, j * access.size)
        scalar = code.value(f"load {access.type}, ptr {place}, align {align}")
        results.append(uniform(access.type, scalar))
    return results


def _masked_name(verb, type_name):
    suffix = {"float": "f32", "double": "f64"}.get(type_name, type_name)
    return f"llvm.masked.{verb}.v{LANES}{suffix}.p0"


def _load_masked(code, access, address):
    at, kind = pointer_to(code, access.space, address, address.low_lane), wide(access.type)
    arguments = (("ptr", at), ("i32", access.size), (wide("i1"), code.active_lanes()))
    name = _masked_name("load", access.type)
    return Value(access.type, vector=code.call(kind, name, *arguments, (kind, "zeroinitializer")))


def _load_parameter(code, op, access):
    operand = op.sources[0]
    at = code.parameter(operand.base.name) + operand.offset
    results = []
    for j in range(access.count):
        place = code.offset("%params", at + j * access.size)
        text = f"load {access.type}, ptr {place}, align {access.size}, !invariant.load !0"
        results.append(uniform(access.type, code.value(text)))
    return results


def store(code, op):
    access = Access(op)
    source = op.sources[1]
    items = source.items if isinstance(source, Vector) else (source,)
    values = [_stored(code, item, access) for item in items]
    address = address_of(code, op.sources[0], access.space)
    code.settle()
    code.effect()
    return store_to(code, access, address, values)


def store_to(code, access, address, values):
    if access.strong:
        return scattered.store_strong(code, access, address, values)
    if address.is_uniform:
        return _store_uniform(code, access, address, values)
    if not address.is_vector:
        places = patterns.positions(address, access.size, access.count)
        order = places and patterns.store_order(places, access.count)
        if order and not code.masked:
            at = pointer_to(code, access.space, address, address.low_lane)
            return patterns.store(code, at, access.type, values, order)
        if places == list(range(LANES)) and code.target.has_avx512:
            return _store_masked(code, access, address, values[0])
    return scattered.store(code, access, address, values)


def _stored(code, item, access):
    value = code.read(item) if isinstance(item, Register) else code.read(item, access.kind)
    if value.bits != BITS[access.type]:
        value = integers.convert(code, value, f"i{BITS[access.type]}", exact=True)
    return reinterpret(code, value, access.type)


def _store_uniform(code, access, address, values):
    """All lanes store to one place: the highest active lane's value stays."""
    at = pointer_to(code, access.space, address)
    lane = code.last_lane()
    for j, value in enumerate(values):
        scalar = extract(code, value, lane)
        place = code.offset(at, j * access.size)
        code.line(f"store {access.type} {scalar}, ptr {place}, align {access.size}")


def _store_masked(code, access, address, value):
    at, kind = pointer_to(code, access.space, address, address.low_lane), wide(access.type)
    arguments = ((kind, vector(code, value)), ("ptr", at), ("i32", access.size))
    mask = (wide("i1"), code.active_lanes())
    code.call("void", _masked_name("store", access.type), *arguments, mask)


def nothing(code, op):
    """Prefetches, hints and naps (outside of loops that wait) have no effect here."""
    op.parts = []
    return ()


HANDLERS = {
    "ld": load, "ldu": load, "st": store, "prefetch": nothing, "prefetchu": nothing,
    "discard": nothing, "nanosleep": nothing, "griddepcontrol": nothing, "applypriority": nothing,
}  # fmt: skip
