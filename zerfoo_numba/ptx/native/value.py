"""What the translator knows about a register: its shape over the 32 lanes of a warp.

    uniform   one scalar for all lanes
    pattern   one scalar plus a constant per lane; integers only, and exact modulo the width
    vector    32 lanes of an LLVM vector

Thread indices start as patterns and address arithmetic keeps them, so most memory instructions see
at translation time how the addresses of a warp lie. `mask` holds the bits that the scalar may have
set; where the lane constants have none of them, no addition carries and bit operations keep the
pattern too.
"""

from dataclasses import dataclass

LANES = 32
FULL = (1 << LANES) - 1
BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "half": 16, "float": 32, "double": 64}


@dataclass(frozen=True)
class Shape:
    """The part of a value that holds at every definition of a register. Vectors carry no facts."""

    kind: str
    lanes: tuple[int, ...] | None = None
    mask: int = -1
    known: int | None = None


VECTOR = Shape("vector")


@dataclass(slots=True)
class Value:
    """LLVM operands of one value of type `type`; see the module for the three shapes.

    `scalar` and `lanes` are None where the shape does not have them; `vector` is also a cache of a
    uniform or pattern spread over the lanes. `known` is the scalar as a number. `tests`, on
    predicates, are two scalars: "true in all lanes" and "true in none"; each may be false when
    the test would be true, never the other way round.
    """

    type: str
    scalar: str | None = None
    lanes: tuple[int, ...] | None = None
    vector: str | None = None
    mask: int = -1
    known: int | None = None
    tests: tuple[str, str] | None = None

    @property
    def is_vector(self):
        return self.scalar is None

    @property
    def is_uniform(self):
        return self.scalar is not None and self.lanes is None

    @property
    def bits(self):
        return BITS[self.type]

    @property
    def shape(self):
        if self.is_vector:
            return VECTOR
        return Shape("pattern" if self.lanes else "uniform", self.lanes, self.mask, self.known)

    @property
    def low_lane(self):
        return min(self.lanes) if self.lanes else 0

    @property
    def high_lane(self):
        return max(self.lanes) if self.lanes else 0

    @property
    def carries_nothing(self):
        """True when scalar + lane constant is the same as scalar | lane constant in every lane."""
        if self.lanes is None:
            return self.scalar is not None
        return self.low_lane >= 0 and not any(c & self.mask for c in self.lanes)


def full_mask(type_name):
    return (1 << BITS[type_name]) - 1


def trailing_zeros(mask, bits):
    return (mask & -mask).bit_length() - 1 if mask else bits


def uniform(type_name, scalar, mask=None, tests=None):
    mask = full_mask(type_name) if mask is None else mask
    return Value(type_name, scalar, mask=mask, tests=tests)


def constant(type_name, number):
    """An integer constant, taken modulo the width."""
    number &= full_mask(type_name)
    text = str(number) if type_name != "i1" else ("true" if number else "false")
    return Value(type_name, text, mask=number, known=number)


def pattern(type_name, scalar, lanes, mask=None, known=None):
    """Scalar + lanes; normalises what turns out to be uniform or constant."""
    bits = BITS[type_name]
    mask = full_mask(type_name) if mask is None else mask & full_mask(type_name)
    if known is not None:
        result = constant(type_name, known)
    else:
        result = Value(type_name, scalar, mask=mask)
    half = 1 << (bits - 1)
    lanes = tuple((c + half) % (2 * half) - half for c in lanes) if lanes else None
    result.lanes = lanes if lanes and any(lanes) else None
    return result


def of_shape(type_name, shape, scalar, vector):
    """The value of a register with that shape, given what was loaded from its place."""
    if shape.kind == "vector":
        return Value(type_name, vector=vector)
    if shape.known is not None:
        scalar = constant(type_name, shape.known).scalar
    return Value(type_name, scalar, shape.lanes, mask=shape.mask, known=shape.known)


def join(a, b, bits):
    """The shape that covers both; None stands for a register without a definition so far."""
    if a is None or b is None:
        return a or b
    if a == b:
        return a
    if VECTOR in (a, b) or a.lanes != b.lanes:
        return VECTOR
    known = a.known if a.known == b.known else None
    mask = a.mask
    if (a.mask | b.mask) != a.mask:  # widen to the top: loop counters would grow bit by bit
        low = trailing_zeros(a.mask | b.mask, bits)
        mask = ((1 << bits) - 1) & -(1 << low)
    return Shape(a.kind, a.lanes, mask, known)


def sum_mask(a, b, bits):
    """Bits that a + b may have set, for numbers within the masks a and b."""
    total = a + b
    top = (1 << bits) - 1 if total >> bits else (1 << total.bit_length()) - 1
    return top & -(1 << trailing_zeros(a | b, bits))


def product_mask(a, b, bits):
    total = a * b
    top = (1 << bits) - 1 if total >> bits else (1 << total.bit_length()) - 1
    low = trailing_zeros(a, bits) + trailing_zeros(b, bits)
    return top & -(1 << low) if low < bits else 0
