"""atom and red: real atomic instructions, one active lane after the other; fences."""

from zerfoo_numba.ptx.native.lanes import reinterpret, vector
from zerfoo_numba.ptx.native.memory import address_of
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.scattered import absolute, fetch, lane_loop, spill
from zerfoo_numba.ptx.native.text import wide
from zerfoo_numba.ptx.native.value import BITS, Value

_ORDERS = {"relaxed": "monotonic", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}
_KINDS = ("b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64", "b16", "u16", "s16")


def _operation(op, name, kind):
    """LLVM's atomicrmw operation."""
    if kind[0] == "f":
        if name != "add":
            raise op.unsupported()
        return "fadd"
    if name in ("min", "max"):
        return name if kind[0] == "s" else f"u{name}"
    return {"exch": "xchg", "inc": "uinc_wrap", "dec": "udec_wrap"}.get(name, name)


def atomic(code, op):
    kind = op.kind(*_KINDS)
    space = op.take("global", "shared", default="generic")
    order = _ORDERS[op.take(*_ORDERS, default="relaxed")]
    name = op.need("add", "min", "max", "and", "or", "xor", "exch", "inc", "dec", "cas")
    op.take("cta", "cluster", "gpu", "sys", "gl")
    op.has("noftz")
    address = address_of(code, op.sources[0], space)
    values = [code.read(s, kind) for s in op.sources[1:]]
    code.settle()
    code.effect()
    type_name = TYPES[kind]
    if name == "cas":
        type_name = f"i{BITS[type_name]}"
        values = [reinterpret(code, v, type_name) for v in values]
    operation = name if name == "cas" else _operation(op, name, kind)
    arguments = [(wide("i64"), vector(code, absolute(code, space, address)))]
    arguments += [(wide(type_name), vector(code, v)) for v in values]
    helper = f"atomic.{operation}.{order}.{type_name}"
    if not code.dry:
        code.declarations.helper(helper, lambda: _helper(helper, operation, order, type_name))
    kind_text = wide(type_name)
    result = code.call_defined(kind_text, helper, *arguments, ("i32", code.active))
    result = reinterpret(code, Value(type_name, vector=result), TYPES[kind])
    op.signed = kind[0] == "s"
    return result if op.name == "atom" else ()


def _helper(name, operation, order, type_name):
    """One lane after the other; the old values come back as a vector."""
    kind, size = wide(type_name), BITS[type_name] // 8
    parameters = f"{wide('i64')} %a, {kind} %b"
    prepare = f"{spill('a', 'i64')}\n{spill('b', type_name)}"
    body = f"{fetch('a', 'i64')}\n{fetch('b', type_name)}\n  %at = inttoptr i64 %a.x to ptr\n"
    if operation == "cas":
        parameters += f", {kind} %c"
        prepare += f"\n{spill('c', type_name)}"
        failure = "monotonic" if order in ("monotonic", "release") else "acquire"
        body += (
            f"{fetch('c', type_name)}\n"
            f"  %pair = cmpxchg ptr %at, {type_name} %b.x, {type_name} %c.x {order} {failure}"
            f", align {size}\n  %x = extractvalue {{{type_name}, i1}} %pair, 0\n"
        )
    else:
        body += f"  %x = atomicrmw {operation} ptr %at, {type_name} %b.x {order}, align {size}\n"
    body += f"  %to = getelementptr {type_name}, ptr %r, i32 %lane\n  store {type_name} %x, ptr %to"
    prepare += f"\n  %r = alloca {kind}\n  store {kind} zeroinitializer, ptr %r"
    finish = f"  %result = load {kind}, ptr %r\n  ret {kind} %result"
    return lane_loop(name, kind, parameters, prepare, body, finish)


def fence(code, op):
    """membar and fence; the scope does not matter, all threads share one coherent memory."""
    order = "acq_rel" if op.has("acq_rel") else "seq_cst"
    op.has("sc")
    op.take("cta", "gl", "gpu", "sys", "cluster")
    code.line(f"fence {order}")
    return ()


HANDLERS = {"atom": atomic, "red": atomic, "membar": fence, "fence": fence}
