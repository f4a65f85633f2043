"""Comparison, selection, and the logic of predicates."""

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import apply, reinterpret, select
from zerfoo_numba.ptx.native.op_float import flush
from zerfoo_numba.ptx.native.op_half import HALVES, halves_of, to_float
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.value import BITS, constant, uniform

_INTEGER = {
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "lo": "lt",
    "ls": "le", "hi": "gt", "hs": "ge",
}  # fmt: skip
_FLOAT = {
    "eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "equ": "ueq",
    "neu": "une", "ltu": "ult", "leu": "ule", "gtu": "ugt", "geu": "uge", "num": "ord",
    "nan": "uno",
}  # fmt: skip
_INVERSE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
_MIRROR = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
_WORDS = ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")


def compare_integers(code, test, signed, a, b):
    """-> predicate; a pattern against a uniform also gets scalar tests."""
    sign = "" if test in ("eq", "ne") else "s" if signed else "u"
    result = apply(code, f"icmp {sign}{test} {{t}} {{0}}, {{1}}", a, b, result="i1")
    if a.is_uniform and b.is_uniform:
        return result
    if a.is_uniform and b.lanes is not None:
        a, b, test = b, a, _MIRROR[test]
    if a.lanes is not None and b.is_uniform and test not in ("eq", "ne"):
        result.tests = _scalar_tests(code, test, signed, a, b)
    return result


def _scalar_tests(code, test, signed, a, b):
    """(all, none) from the first and last lane of the pattern `a`, unless it wraps around."""
    if code.dry:
        return None
    sign, kind = ("s" if signed else "u"), a.type
    fits = list(_fits(code, a, signed))
    high = code.value(f"add {kind} {a.scalar}, {a.high_lane}")
    low = code.value(f"add {kind} {a.scalar}, {a.low_lane}")
    worst, best = (high, low) if test in ("lt", "le") else (low, high)
    holds = code.value(f"icmp {sign}{test} {kind} {worst}, {b.scalar}")
    fails = code.value(f"icmp {sign}{_INVERSE[test]} {kind} {best}, {b.scalar}")
    for fit in fits:
        holds, fails = (code.value(f"and i1 {x}, {fit}") for x in (holds, fails))
    return holds, fails


def _fits(code, a, signed):
    half = 1 << (a.bits - 1)
    top, bottom = (half - 1, -half) if signed else (2 * half - 1, 0)
    sign = "s" if signed else "u"
    if a.high_lane > 0:
        yield code.value(f"icmp {sign}le {a.type} {a.scalar}, {top - a.high_lane}")
    if a.low_lane < 0:
        yield code.value(f"icmp {sign}ge {a.type} {a.scalar}, {bottom - a.low_lane}")


def _comparison(code, op, kind, a, b):
    ftz = op.has("ftz")
    if kind in _WORDS:
        return compare_integers(code, _INTEGER[op.need(*_INTEGER)], kind[0] == "s", a, b)
    test = _FLOAT[op.need(*_FLOAT)]
    if kind in HALVES:
        a, b = (to_float(code, v, kind) for v in (a, b))
    if ftz:
        a, b = flush(code, a), flush(code, b)
    return apply(code, f"fcmp {test} {{t}} {{0}}, {{1}}", a, b, result="i1")


def combine(code, name, p, q):
    """and, or, xor of predicates, with their scalar tests."""
    result = integers.bitwise(code, name, p, q)
    if name == "xor" or code.dry or (p.is_uniform and q.is_uniform):
        return result
    tests = [_tests_of(code, v) for v in (p, q)]
    both = [code.value(f"and i1 {x}, {y}") for x, y in zip(*tests, strict=True)]
    either = [code.value(f"or i1 {x}, {y}") for x, y in zip(*tests, strict=True)]
    result.tests = (both[0], either[1]) if name == "and" else (either[0], both[1])
    return result


def _tests_of(code, predicate):
    if predicate.is_uniform:
        return predicate.scalar, code.value(f"xor i1 {predicate.scalar}, true")
    return predicate.tests or ("false", "false")


def invert(code, predicate):
    if predicate.known is not None:
        return constant("i1", 1 - predicate.known)
    result = apply(code, "xor {t} {0}, {1}", predicate, constant("i1", 1))
    if predicate.tests:
        result.tests = predicate.tests[::-1]
    return result


def setp(code, op):
    """setp.test[.bool] p|q, a, b, c: q is the same with the inverse test; halves give two."""
    kind = op.kind(*_WORDS, "f32", "f64", *HALVES, "f16x2", "bf16x2")
    joined = op.take("and", "or", "xor")
    kinds = (kind, kind, *(["pred"] if joined else []))
    a, b, *third = code.operands(op, *kinds)
    if kind.endswith("x2"):
        pairs = zip(halves_of(code, a), halves_of(code, b), strict=True)
        parts = list(op.parts)
        found = []
        for x, y in pairs:
            op.parts = list(parts)
            found.append(_comparison(code, op, kind[:-2], x, y))
    else:
        p = _comparison(code, op, kind, a, b)
        found = [p] if len(op.destinations) == 1 else [p, invert(code, p)]
    if joined:
        found = [combine(code, joined, p, third[0]) for p in found]
    return found


def set_(code, op):
    kind = op.kind(*_WORDS, "f32", "f64", *HALVES)
    result = op.kind("u16", "s16", "u32", "s32", "f32", *HALVES)
    joined = op.take("and", "or", "xor")
    kinds = (kind, kind, *(["pred"] if joined else []))
    a, b, *third = code.operands(op, *kinds)
    p = _comparison(code, op, kind, a, b)
    if joined:
        p = combine(code, joined, p, third[0])
    true = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}.get(result, -1)
    word = f"i{BITS[TYPES[result]]}"
    chosen = select(code, p, constant(word, true), constant(word, 0))
    return reinterpret(code, chosen, TYPES[result])


def selp(code, op):
    kind = op.kind(*_WORDS, "f32", "f64")
    a, b, p = code.operands(op, kind, kind, "pred")
    return select(code, p, a, b)


def slct(code, op):
    control = op.kind("s32", "f32")
    kind = op.kind(*_WORDS, "f32", "f64")
    ftz = op.has("ftz")
    a, b, c = code.operands(op, kind, kind, control)
    if control == "s32":
        p = compare_integers(code, "ge", True, c, constant("i32", 0))
    else:
        c = flush(code, c) if ftz else c
        p = apply(code, "fcmp oge {t} {0}, {1}", c, uniform("float", "0.0"), result="i1")
    return select(code, p, a, b)


HANDLERS = {"setp": setp, "set": set_, "selp": selp, "slct": slct}
