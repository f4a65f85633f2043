"""What the lanes of a warp do together: shuffles, votes, matches, reductions.

The lanes here are those that execute the instruction together: all 32 in unmasked code, the active
ones in masked code.
"""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import (
    bits_of,
    extract,
    fold,
    intrinsic,
    select,
    shuffle,
    splat,
    split,
    vector,
)
from zerfoo_numba.ptx.native.op_compare import compare_integers
from zerfoo_numba.ptx.native.scattered import fetch, lane_loop, spill
from zerfoo_numba.ptx.native.text import wide
from zerfoo_numba.ptx.native.value import LANES, Value, constant, pattern, uniform

_MODES = ("up", "down", "bfly", "idx")


def shuffle_source(mode, b, c):
    """-> for numbers b and c: the lane that each lane reads, and whether it is in its segment."""
    segment, limit, b = c >> 8 & 31, c & 31, b & 31
    sources, inside = [], []
    for lane in range(LANES):
        low = lane & segment
        high = low | (limit & ~segment)
        source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | (b & ~segment)}
        found = source[mode]
        within = found >= high if mode == "up" else found <= high
        sources.append(found & 31 if within else lane)
        inside.append(within)
    return sources, inside


def shfl(code, op):
    """shfl.sync.MODE.b32 d|p, a, b, c, membermask"""
    op.kind("b32")
    op.need("sync")
    mode = op.need(*_MODES)
    a = code.read(op.sources[0], "b32")
    b, c = (code.read(s, "u32") for s in op.sources[1:3])
    if b.known is not None and c.known is not None and b.is_uniform and c.is_uniform:
        sources, inside = shuffle_source(mode, b.known, c.known)
        result = _permute_constant(code, a, sources)
        within = constant("i1", 1)
        if not all(inside):
            text = "<" + ", ".join(f"i1 {'true' if x else 'false'}" for x in inside) + ">"
            within = Value("i1", vector=text)
    elif a.is_uniform and len(op.destinations) == 1:
        return a
    else:
        source, within = _general_source(code, mode, b, c)
        result = _permute(code, a, source)
    return [result, within] if len(op.destinations) == 2 else result


def _permute_constant(code, a, sources):
    if a.is_uniform:
        return a
    if not a.is_vector:
        return pattern(a.type, a.scalar, [a.lanes[s] for s in sources], a.mask, a.known)
    return Value(a.type, vector=shuffle(code, a.type, a.vector, None, sources, LANES))


def _general_source(code, mode, b, c):
    """The same as `shuffle_source` for values."""
    lane = code.lane_numbers()
    low_bits = constant("i32", 31)
    b, limit = (integers.bitwise(code, "and", x, low_bits) for x in (b, c))
    segment = integers.bitwise(code, "and", integers.shift_right(code, c, 8), low_bits)
    free = integers.subtract(code, constant("i32", -1), segment)
    low = integers.bitwise(code, "and", lane, segment)
    high = integers.bitwise(code, "or", low, integers.bitwise(code, "and", limit, free))
    if mode == "idx":
        source = integers.bitwise(code, "or", low, integers.bitwise(code, "and", b, free))
    elif mode == "bfly":
        source = integers.bitwise(code, "xor", lane, b)
    else:
        function = integers.subtract if mode == "up" else integers.add
        source = function(code, lane, b)
    test = "ge" if mode == "up" else "le"
    within = compare_integers(code, test, True, source, high)
    source = select(code, within, source, lane)
    return integers.bitwise(code, "and", source, low_bits), within


def _permute(code, a, source):
    """Lane i of the result is lane source[i] of `a`."""
    if a.is_uniform:
        return a
    if source.is_uniform:
        return uniform(a.type, extract(code, a, source.scalar))
    if code.target.has_avx512:
        low, high = split(code, "i32", vector(code, a), 16)
        kind, name = wide("i32", 16), "llvm.x86.avx512.vpermi2var.d.512"
        return fold(
            code, lambda s: code.call(kind, name, (kind, low), (kind, s), (kind, high)), "i32", 16,
            source,
        )  # fmt: skip
    kind = wide("i32")
    name = code.declarations.helper("permute", _permute_helper)
    arguments = ((kind, vector(code, a)), (kind, vector(code, source)), ("i32", code.active))
    return Value("i32", vector=code.call_defined(kind, name, *arguments))


def _permute_helper():
    kind = wide("i32")
    body = (
        f"{fetch('b', 'i32')}\n  %at = getelementptr i32, ptr %a.m, i32 %b.x\n"
        "  %x = load i32, ptr %at\n  %to = getelementptr i32, ptr %r, i32 %lane\n"
        "  store i32 %x, ptr %to"
    )
    return lane_loop(
        "permute", kind, f"{kind} %a, {kind} %b",
        f"{spill('a', 'i32')}\n{spill('b', 'i32')}\n  %r = alloca {kind}\n"
        f"  store {kind} zeroinitializer, ptr %r",
        body, f"  %result = load {kind}, ptr %r\n  ret {kind} %result",
    )  # fmt: skip


def _here(code, mask):
    """The lanes here that are members of the mask, as an i32 value."""
    return integers.bitwise(code, "and", code.active_value(), mask)


def vote(code, op):
    """vote.sync.MODE.{pred,b32} d, p, membermask"""
    op.need("sync")
    op.kind("pred", "b32")
    mode = op.need("ballot", "any", "all", "uni")
    p, mask = code.read(op.sources[0], "pred"), code.read(op.sources[1], "u32")
    flags = uniform("i32", bits_of(code, p))
    here = _here(code, mask)
    yes = integers.bitwise(code, "and", flags, here)
    if mode == "ballot":
        return yes
    none = compare_integers(code, "eq", False, yes, constant("i32", 0))
    if mode == "any":
        return compare_integers(code, "ne", False, yes, constant("i32", 0))
    every = compare_integers(code, "eq", False, yes, here)
    return every if mode == "all" else integers.bitwise(code, "or", every, none)


def activemask(code, op):
    op.kind("b32")
    return code.active_value()


def match(code, op):
    """match.MODE.sync.{b32,b64} d|p, a, membermask"""
    kind = op.kind("b32", "b64")
    op.need("sync")
    mode = op.need("any", "all")
    a, mask = code.read(op.sources[0], kind), code.read(op.sources[1], "u32")
    here = _here(code, mask)
    if mode == "any":
        name = f"match.{a.type}"
        code.declarations.helper(name, lambda: _match_helper(name, a.type))
        arguments = ((wide(a.type), vector(code, a)), ("i32", code.active))
        same = code.call_defined(wide("i32"), name, *arguments)
        return integers.bitwise(code, "and", Value("i32", vector=same), here)
    first = splat(code, a.type, extract(code, a, code.first_lane()))
    equal = code.value(f"icmp eq {wide(a.type)} {vector(code, a)}, {first}")
    flags = uniform("i32", bits_of(code, Value("i1", vector=equal)))
    same = integers.bitwise(code, "and", flags, here)
    agree = compare_integers(code, "eq", False, same, here)
    return [select(code, agree, same, constant("i32", 0)), agree][: len(op.destinations)]


def _match_helper(name, type_name):
    kind = wide(type_name)
    spread = (
        f"  %i = insertelement {kind} poison, {type_name} %a.x, i32 0\n"
        f"  %s = shufflevector {kind} %i, {kind} poison, <{LANES} x i32> zeroinitializer\n"
        f"  %e = icmp eq {kind} %a, %s\n  %x = bitcast {wide('i1')} %e to i32\n"
    )
    room = f"  %r = alloca {wide('i32')}\n  store {wide('i32')} zeroinitializer, ptr %r"
    body = (
        f"{fetch('a', type_name)}\n{spread}  %to = getelementptr i32, ptr %r, i32 %lane\n"
        "  store i32 %x, ptr %to"
    )
    result = wide("i32")
    return lane_loop(
        name, result, f"{kind} %a",
        f"{spill('a', type_name)}\n{room}",
        body, f"  %result = load {result}, ptr %r\n  ret {result} %result",
    )  # fmt: skip


_REDUCE = {"add": 0, "and": -1, "or": 0, "xor": 0}


def redux(code, op):
    """redux.sync.OP.{u32,s32,b32} d, a, membermask"""
    kind = op.kind("u32", "s32", "b32")
    op.need("sync")
    name = op.need("add", "min", "max", "and", "or", "xor")
    a, mask = code.read(op.sources[0], kind), code.read(op.sources[1], "u32")
    if name in ("min", "max"):
        low, high = (-(1 << 31), (1 << 31) - 1) if kind == "s32" else (0, (1 << 32) - 1)
        neutral = high if name == "min" else low
        name = ("s" if kind == "s32" else "u") + name
    else:
        neutral = _REDUCE[name]
    here = _here(code, mask)
    if not here.is_uniform:
        here = uniform("i32", extract(code, here, code.first_lane()))
    members = Value("i1", vector=code.value(f"bitcast i32 {here.scalar} to {wide('i1')}"))
    chosen = select(code, members, a, constant("i32", neutral))
    operand = (wide("i32"), vector(code, chosen))
    return uniform("i32", code.call("i32", f"llvm.vector.reduce.{name}.v{LANES}i32", operand))


def meet(code, op):
    """bar.warp.sync: the lanes of a warp are in step already; memory is ordered as written."""
    op.parts = []
    return ()


def elect(code, op):
    """elect.sync d|p, membermask: the lowest lane of the mask that is here; is it this one?"""
    op.need("sync")
    here = _here(code, code.read(op.sources[0], "u32"))
    none = constant("i1", 1)
    lowest = intrinsic(code, "cttz", here, extra=(("i1", none.scalar),))
    return [lowest, compare_integers(code, "eq", False, code.lane_numbers(), lowest)]


HANDLERS = {
    "elect": elect, "shfl": shfl, "vote": vote, "activemask": activemask, "match": match,
    "redux": redux,
}  # fmt: skip
