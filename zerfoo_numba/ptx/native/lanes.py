"""Values as 32-lane vectors, and operations that treat every lane alike."""

from zerfoo_numba.ptx.native.text import (
    SUFFIX,
    float_bits_text,
    indices,
    splat_constant,
    vector_constant,
    wide,
)
from zerfoo_numba.ptx.native.value import BITS, LANES, Value, constant, full_mask, uniform


def integer_type(type_name):
    return f"i{BITS[type_name]}"


def splat(w, type_name, scalar, lanes=LANES):
    """A scalar operand in every lane."""
    if not scalar.startswith("%"):
        return splat_constant(type_name, scalar, lanes)
    kind = wide(type_name, lanes)
    first = w.value(f"insertelement {kind} poison, {type_name} {scalar}, i32 0")
    return w.value(f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer")


def vector(w, value):
    """The operand of `value` as a 32-lane vector."""
    if value.vector is None:
        if value.lanes is not None and value.known is not None:
            numbers = [value.known + c for c in value.lanes]
            value.vector = vector_constant(value.type, numbers)
        else:
            spread = splat(w, value.type, value.scalar)
            if value.lanes is not None:
                addend = vector_constant(value.type, value.lanes)
                spread = w.value(f"add {wide(value.type)} {spread}, {addend}")
            value.vector = spread
    return value.vector


def apply(w, text, *values, result=None):
    """An LLVM instruction on every lane; `text` has `{t}` for the operand type and `{0}`, `{1}`.

    Scalar where all values are uniform. `{r}` stands for the result type in that form.
    """
    result = result or values[0].type
    if all(v.is_uniform for v in values):
        operands = [v.scalar for v in values]
        return uniform(result, w.value(text.format(*operands, t=values[0].type, r=result)))
    operands = [vector(w, v) for v in values]
    filled = text.format(*operands, t=wide(values[0].type), r=wide(result))
    return Value(result, vector=w.value(filled))


def suffix(type_name):
    return SUFFIX.get(type_name, type_name)


def intrinsic(w, name, *values, result=None, extra=()):
    """A lane-wise `@llvm.name` overloaded on the type of its operands."""
    kind = values[0].type
    result = result or kind
    if all(v.is_uniform for v in values):
        operands = [(v.type, v.scalar) for v in values]
        full = f"llvm.{name}.{suffix(kind)}"
        return uniform(result, w.call(result, full, *operands, *extra))
    operands = [(wide(v.type), vector(w, v)) for v in values]
    full = f"llvm.{name}.v{LANES}{suffix(kind)}"
    return Value(result, vector=w.call(wide(result), full, *operands, *extra))


def conversion(w, name, value, result):
    """A lane-wise intrinsic overloaded on result and operand type, as llvm.fptosi.sat is."""
    if value.is_uniform:
        full = f"llvm.{name}.{suffix(result)}.{suffix(value.type)}"
        return uniform(result, w.call(result, full, (value.type, value.scalar)))
    full = f"llvm.{name}.v{LANES}{suffix(result)}.v{LANES}{suffix(value.type)}"
    operand = (wide(value.type), vector(w, value))
    return Value(result, vector=w.call(wide(result), full, operand))


def reinterpret(w, value, type_name):
    """The same bits as another type of the same width."""
    if value.type == type_name:
        return value
    if value.known is not None and value.lanes is None:
        if type_name in ("float", "double"):
            return uniform(type_name, float_bits_text(value.known, type_name))
        if type_name == "half":
            return uniform(type_name, f"0xH{value.known:04X}")
        return constant(type_name, value.known)
    if value.lanes is not None:
        value = Value(value.type, vector=vector(w, value))
    return apply(w, "bitcast {t} {0} to {r}", value, result=type_name)


def select(w, condition, a, b):
    """Lane-wise `condition ? a : b`."""
    if condition.known is not None:
        return a if condition.known else b
    if condition.is_uniform and not a.is_vector and not b.is_vector and a.lanes == b.lanes:
        text = f"select i1 {condition.scalar}, {a.type} {a.scalar}, {b.type} {b.scalar}"
        mask = (a.mask | b.mask) & full_mask(a.type)
        return Value(a.type, w.value(text), a.lanes, mask=mask)
    x, y = vector(w, a), vector(w, b)
    if condition.is_uniform:
        kind, test = "i1", condition.scalar
    else:
        kind, test = wide("i1"), vector(w, condition)
    text = f"select {kind} {test}, {wide(a.type)} {x}, {wide(b.type)} {y}"
    return Value(a.type, vector=w.value(text))


def bits_of(w, predicate):
    """The lanes of a predicate as an i32 operand, lane 0 in the lowest bit."""
    return w.value(f"bitcast {wide('i1')} {vector(w, predicate)} to i32")


def predicate_of(w, bits):
    """The inverse of `bits_of`, as a vector operand."""
    return w.value(f"bitcast i32 {bits} to {wide('i1')}")


def extract(w, value, lane):
    """One lane (a number or an i32 operand) as a scalar operand."""
    if value.is_uniform:
        return value.scalar
    return w.value(f"extractelement {wide(value.type)} {vector(w, value)}, i32 {lane}")


def shuffle(w, type_name, a, b, numbers, lanes):
    """shufflevector of two vectors of `lanes` elements; `b` None is poison."""
    kind = wide(type_name, lanes)
    return w.value(f"shufflevector {kind} {a}, {kind} {b or 'poison'}, {indices(numbers)}")


def split(w, type_name, operand, size):
    """A 32-lane vector in pieces of `size` lanes."""
    return [
        shuffle(w, type_name, operand, None, range(i, i + size), LANES)
        for i in range(0, LANES, size)
    ]


def concatenate(w, type_name, parts, size):
    """Vectors of `size` lanes side by side; their number is a power of two."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [
            shuffle(w, type_name, a, b, range(2 * size), size)
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        size *= 2
    return parts[0]


def fold(w, vectors_to_vector, type_name, size, *values, result=None):
    """Apply a function of `size`-lane operands to 32-lane values, piece by piece."""
    pieces = [split(w, v.type, vector(w, v), size) for v in values]
    results = [vectors_to_vector(*piece) for piece in zip(*pieces, strict=True)]
    result = result or type_name
    return Value(result, vector=concatenate(w, result, results, size))
