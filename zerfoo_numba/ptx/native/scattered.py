"""Memory accesses whose lanes go to unrelated addresses.

AVX-512 gathers and scatters 32- and 64-bit elements; narrower ones are read as the aligned word
around them. Other CPUs walk the active lanes in a helper function.
"""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import extract, reinterpret, vector
from zerfoo_numba.ptx.native.text import SUFFIX, wide
from zerfoo_numba.ptx.native.value import BITS, LANES, Value, constant, uniform


def absolute(code, space, address):
    """Real addresses as an i64 value."""
    if space != "shared":
        return address
    base = uniform("i64", code.value("ptrtoint ptr %shared to i64"))
    return integers.add(code, address, base)


def load(code, access, address):
    address = absolute(code, access.space, address)
    return [
        _gather(code, access.type, integers.add(code, address, constant("i64", j * access.size)))
        for j in range(access.count)
    ]


def _gather(code, type_name, address):
    if not code.target.has_avx512:
        name = code.declarations.helper(f"gather.{type_name}", lambda: _walk_loads(type_name, ""))
        arguments = ((wide("i64"), vector(code, address)), ("i32", code.active))
        return Value(type_name, vector=code.call_defined(wide(type_name), name, *arguments))
    if BITS[type_name] < 32:
        return _gather_narrow(code, type_name, address)
    pointers = code.value(f"inttoptr {wide('i64')} {vector(code, address)} to {wide('ptr')}")
    suffix = SUFFIX.get(type_name, type_name)
    kind = wide(type_name)
    result = code.call(
        kind, f"llvm.masked.gather.v{LANES}{suffix}.v{LANES}p0", (wide("ptr"), pointers),
        ("i32", BITS[type_name] // 8), (wide("i1"), code.active_lanes()), (kind, "zeroinitializer"),
    )  # fmt: skip
    return Value(type_name, vector=result)


def _gather_narrow(code, type_name, address):
    """A naturally aligned byte or halfword lies within one aligned word."""
    address = Value("i64", vector=vector(code, address))
    word = _gather(code, "i32", integers.bitwise(code, "and", address, constant("i64", -4)))
    low = integers.convert(code, address, "i32")
    low = integers.bitwise(code, "and", low, constant("i32", 3))
    amount = integers.shift_left(code, low, 3)
    moved = code.value(f"lshr {wide('i32')} {vector(code, word)}, {vector(code, amount)}")
    return integers.convert(code, Value("i32", vector=moved), type_name)


def store(code, access, address, values):
    address = absolute(code, access.space, address)
    for j, value in enumerate(values):
        place = integers.add(code, address, constant("i64", j * access.size))
        _scatter(code, access.type, place, value)


def _scatter(code, type_name, address, value):
    kind = wide(type_name)
    if not code.target.has_avx512 or BITS[type_name] < 32:
        name = code.declarations.helper(f"scatter.{type_name}", lambda: _walk_stores(type_name, ""))
        arguments = (
            (wide("i64"), vector(code, address)), (kind, vector(code, value)), ("i32", code.active),
        )  # fmt: skip
        return code.call_defined("void", name, *arguments)
    pointers = code.value(f"inttoptr {wide('i64')} {vector(code, address)} to {wide('ptr')}")
    suffix = SUFFIX.get(type_name, type_name)
    return code.call(
        "void", f"llvm.masked.scatter.v{LANES}{suffix}.v{LANES}p0", (kind, vector(code, value)),
        (wide("ptr"), pointers), ("i32", BITS[type_name] // 8), (wide("i1"), code.active_lanes()),
    )  # fmt: skip


def load_strong(code, access, address):
    """Volatile, relaxed and acquire loads: real atomic ones, so that none is merged or moved."""
    address = absolute(code, access.space, address)
    results = []
    for j in range(access.count):
        place = integers.add(code, address, constant("i64", j * access.size))
        results.append(_load_atomic(code, access, place))
    if access.order == "acquire":
        code.line("fence acquire")
    return results


def _load_atomic(code, access, address):
    kind = access.type
    if address.is_uniform:
        at = code.value(f"inttoptr i64 {address.scalar} to ptr")
        text = f"load atomic {kind}, ptr {at} monotonic, align {access.size}"
        return uniform(kind, code.value(text))
    name = code.declarations.helper(f"gather.strong.{kind}", lambda: _walk_loads(kind, "monotonic"))
    arguments = ((wide("i64"), vector(code, address)), ("i32", code.active))
    return Value(kind, vector=code.call_defined(wide(kind), name, *arguments))


def store_strong(code, access, address, values):
    if access.order == "release":
        code.line("fence release")
    address = absolute(code, access.space, address)
    for j, value in enumerate(values):
        place = integers.add(code, address, constant("i64", j * access.size))
        kind = access.type
        if place.is_uniform:
            at = code.value(f"inttoptr i64 {place.scalar} to ptr")
            scalar = extract(code, reinterpret(code, value, kind), code.last_lane())
            code.line(f"store atomic {kind} {scalar}, ptr {at} monotonic, align {access.size}")
            continue
        name = code.declarations.helper(
            f"scatter.strong.{kind}", lambda kind=kind: _walk_stores(kind, "monotonic")
        )
        code.call_defined(
            "void", name, (wide("i64"), vector(code, place)), (wide(kind), vector(code, value)),
            ("i32", code.active),
        )  # fmt: skip


def lane_loop(name, result, parameters, prepare, body, finish):
    """Text of a helper that runs `body` for each lane of `%mask`, lowest first, as `%lane`."""
    return f"""define internal {result} @{name}({parameters}, i32 %mask) noinline {{
entry:
{prepare}
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %end, label %loop
loop:
  %left = phi i32 [%mask, %entry], [%rest, %next]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
{body}
  br label %next
next:
  %less = sub i32 %left, 1
  %rest = and i32 %left, %less
  %more = icmp ne i32 %rest, 0
  br i1 %more, label %loop, label %end
end:
{finish}
}}"""


def spill(name, type_name):
    """Text that puts a vector parameter in memory as an array that a lane number can index."""
    kind = wide(type_name)
    return f"  %{name}.m = alloca {kind}\n  store {kind} %{name}, ptr %{name}.m"


def fetch(name, type_name):
    """Text that reads lane `%lane` of a spilled vector into `%name.x`."""
    return (
        f"  %{name}.p = getelementptr {type_name}, ptr %{name}.m, i32 %lane\n"
        f"  %{name}.x = load {type_name}, ptr %{name}.p"
    )


def _walk_loads(type_name, order):
    kind, size = wide(type_name), BITS[type_name] // 8
    how = ("atomic ", f" {order}") if order else ("", "")
    return lane_loop(
        f"gather.{'strong.' if order else ''}{type_name}", kind, f"{wide('i64')} %a",
        f"{spill('a', 'i64')}\n  %r = alloca {kind}\n  store {kind} zeroinitializer, ptr %r",
        f"{fetch('a', 'i64')}\n  %at = inttoptr i64 %a.x to ptr\n"
        f"  %x = load {how[0]}{type_name}, ptr %at{how[1]}, align {size}\n"
        f"  %to = getelementptr {type_name}, ptr %r, i32 %lane\n  store {type_name} %x, ptr %to",
        f"  %result = load {kind}, ptr %r\n  ret {kind} %result",
    )  # fmt: skip


def _walk_stores(type_name, order):
    size = BITS[type_name] // 8
    how = ("atomic ", f" {order}") if order else ("", "")
    return lane_loop(
        f"scatter.{'strong.' if order else ''}{type_name}", "void",
        f"{wide('i64')} %a, {wide(type_name)} %v",
        f"{spill('a', 'i64')}\n{spill('v', type_name)}",
        f"{fetch('a', 'i64')}\n{fetch('v', type_name)}\n  %at = inttoptr i64 %a.x to ptr\n"
        f"  store {how[0]}{type_name} %v.x, ptr %at{how[1]}, align {size}",
        "  ret void",
    )  # fmt: skip
