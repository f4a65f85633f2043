"""Random expressions as text: for a Numba kernel, and in NumPy over all its threads.

Integers wrap, shifts and divisors are kept in range, and floats hold whole numbers so small that no
product or sum of them rounds: every result is exact.
"""

from typing import NamedTuple

import numpy as np

ELEMENTS = 1024  # of each input array
LOCAL = 8  # elements of a thread's own array
LIMIT = 1 << 11  # of a float variable: sums of a few products stay below 2**24
ARRAYS = {"words": np.uint32, "octets": np.uint8, "halves": np.uint16, "longs": np.uint64,
          "floats": np.float32, "short_floats": np.float16}  # fmt: skip
NUMBA = {"u32": "uint32", "i32": "int32", "u64": "uint64", "f32": "float32"}
TYPES = {**NUMBA, "f64": "float64"}  # what values on the way may be besides


def leading_zeros(x):
    count = np.full(x.shape, 32, np.int32)
    for k in range(32):
        count = np.where(x >> np.uint32(k) != 0, 31 - k, count)
    return count


def bit_reverse(x):
    result = np.zeros_like(x)
    for k in range(32):
        result |= (x >> np.uint32(k) & np.uint32(1)) << np.uint32(31 - k)
    return result


def shifted(x, source):
    """Lane i of every warp gets the value of lane source(i), its own where there is none."""
    lanes = np.arange(32)
    found = source(lanes)
    return x.reshape(-1, 32)[:, np.where(found < 32, found, lanes)].reshape(-1)


class Expression(NamedTuple):
    """One expression as Numba and as NumPy text; floats are whole numbers within +-bound."""

    numba: str
    numpy: str
    bound: int = 0


def same(text, bound=0):
    return Expression(text, text, bound)


def number(kind, value):
    return Expression(f"{TYPES[kind]}({value})", f"np.{TYPES[kind]}({value})", abs(value))


def cast(kind, e, bound=0):
    return Expression(f"{TYPES[kind]}({e.numba})", f"({e.numpy}).astype(np.{TYPES[kind]})", bound)


def binary(kind, sign, a, b, bound=0):
    numba = f"{TYPES[kind]}({a.numba} {sign} {b.numba})"
    return Expression(numba, f"({a.numpy} {sign} {b.numpy})", bound)


class Expressions:
    """Random expressions of each type over the variables that there are."""

    def __init__(self, rng):
        self.rng = rng
        self.variables = {
            kind: [f"{kind[0]}{k}" for k in range(3)] if kind != "u64" else ["w0", "w1"]
            for kind in NUMBA
        }
        self.counters = []

    def make(self, kind, depth):
        return getattr(self, f"_{kind}")(depth - 1 - self.rng.randrange(2))

    def _pick(self, *choices):
        return self.rng.choice(choices)

    def _small(self):
        return self._pick(0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 32, 33, 63, 64, 100)

    def _leaf(self, kind):
        names = self.variables[kind]
        if kind == "u32":
            names = [*names, "t", "lane", "i", "block", "n0", "n1", *self.counters]
        return same(self._pick(*names), LIMIT)

    def _index(self):
        """An element number: mostly a simple function of the thread, which keeps its pattern."""
        t = same(self._pick("t", "t", "lane", "block", *self.counters))
        way = self.rng.randrange(6)
        if way < 3:
            scaled = binary("u32", "*", t, number("u32", self._pick(1, 2, 3, 4)))
            return binary("u32", "+", scaled, number("u32", self.rng.randrange(400)))
        e = self.make("u32", 1) if way == 3 else t
        if way == 4:
            e = binary("u32", self._pick("^", ">>", "&"), t, number("u32", self._pick(1, 2, 3, 7)))
        return binary("u32", "&", e, number("u32", ELEMENTS - 1))

    def _load(self, array):
        at = self._index()
        return Expression(f"{array}[{at.numba}]", f"{array}[{at.numpy}]", LIMIT)

    def _u32(self, depth):
        rng = self.rng
        if depth <= 0:
            constant = number("u32", rng.choice((1, 3, 5, 255, 65535, 0x9E3779B1)))
            return self._pick(self._leaf("u32"), self._leaf("u32"), self._load("words"), constant)
        way = rng.randrange(10)
        if way < 4:
            sign = self._pick("+", "-", "*", "&", "|", "^")
            # One operand is an array in NumPy, where two scalars would warn of overflow.
            return binary("u32", sign, self._leaf("u32"), self.make("u32", depth))
        if way == 4:
            sign, amount = self._pick("<<", ">>"), number("u32", rng.randrange(32))
            if rng.randrange(2):
                amount = binary("u32", "&", self._leaf("u32"), number("u32", 31))
            return binary("u32", sign, self._leaf("u32"), amount)
        if way == 5:
            divisor = number("u32", self._pick(3, 7, 8, 10, 32, 100))
            if rng.randrange(2):
                divisor = binary("u32", "|", self.make("u32", depth), number("u32", 1))
            return binary("u32", self._pick("//", "%"), self._leaf("u32"), divisor)
        if way == 6:
            return self._function(self.make("u32", depth), self._leaf("u32"))
        if way == 7:
            return self._choice("u32", depth)
        if way == 8:
            e = self._pick(self._load("octets"), self._load("halves"), same(f"own[{LOCAL - 1}]"))
            if e.numba.startswith("own"):
                at = binary("u32", "&", self._leaf("u32"), number("u32", LOCAL - 1))
                return Expression(f"own[{at.numba}]", f"own[i, {at.numpy}]")
            return cast("u32", e)
        kind = self._pick("i32", "u64")
        e = self.make(kind, depth)
        if kind == "u64" and rng.randrange(2):
            e = binary("u64", ">>", self._leaf("u64"), number("u64", self._pick(9, 32, 40)))
        return cast("u32", e)

    def _function(self, a, b):
        name = self._pick("min", "max", "popc", "clz", "brev", "byte", "half")
        if name in ("min", "max"):
            return Expression(f"uint32({name}({a.numba}, {b.numba}))",
                              f"np.{name}imum({a.numpy}, {b.numpy})")  # fmt: skip
        if name in ("byte", "half"):
            short = {"byte": "uint8", "half": "uint16"}[name]
            return Expression(f"uint32({short}({b.numba}))",
                              f"({b.numpy}).astype(np.{short}).astype(np.uint32)")  # fmt: skip
        numpy = {"popc": "np.bitwise_count", "clz": "leading_zeros", "brev": "bit_reverse"}[name]
        return Expression(
            f"uint32(cuda.{name}({b.numba}))", f"{numpy}({b.numpy}).astype(np.uint32)"
        )

    def _choice(self, kind, depth):
        condition, a, b = self.condition(depth), self.make(kind, depth), self._leaf(kind)
        numba = f"{NUMBA[kind]}({a.numba} if {condition.numba} else {b.numba})"
        numpy = f"np.where({condition.numpy}, {a.numpy}, {b.numpy})"
        return Expression(numba, numpy, max(a.bound, b.bound))

    def _i32(self, depth):
        if depth <= 0:
            return self._pick(self._leaf("i32"), cast("i32", self._leaf("u32")),
                              number("i32", self._pick(-7, -1, 2, 1000)))  # fmt: skip
        way = self.rng.randrange(7)
        if way < 3:
            sign = self._pick("+", "-", "*", "^", "&")
            return binary("i32", sign, self._leaf("i32"), self.make("i32", depth))
        if way == 3:
            return binary("i32", ">>", self._leaf("i32"), number("i32", self.rng.randrange(32)))
        if way == 4:
            return binary("i32", self._pick("//", "%"), self._leaf("i32"),
                          number("i32", self._pick(3, 8, 100)))  # fmt: skip
        if way == 5:
            return self._choice("i32", depth)
        return self._whole(depth)

    def _whole(self, depth):
        """The whole part of a quotient or root, in float32 or float64."""
        e, kind = self.make("f32", depth), self._pick("f32", "f64")
        if kind == "f64":
            parts = binary("f64", "*", cast("f64", self._leaf("i32")), number("f64", 0.015625))
            e = binary("f64", "+", cast("f64", e), parts)
            e = binary("f64", "*", e, number("f64", 0.03125))
        if self.rng.randrange(2):
            root = f"math.sqrt(abs({e.numba}))", f"np.sqrt(np.abs({e.numpy}))"
            return cast("i32", Expression(*root))
        return cast("i32", binary(kind, "/", e, number(kind, self._pick(3, 7, 10))))

    def _u64(self, depth):
        if depth <= 0:
            return self._pick(
                self._leaf("u64"), cast("u64", self._leaf("u32")), self._load("longs")
            )
        if self.rng.randrange(4) == 0:
            return binary("u64", ">>", self._leaf("u64"), number("u64", self.rng.randrange(64)))
        sign = self._pick("+", "-", "*", "^", "|")
        return binary("u64", sign, self._leaf("u64"), self.make("u64", depth))

    def _f32(self, depth):
        if depth <= 0:
            low = binary("u32", "&", self._leaf("u32"), number("u32", LIMIT - 1))
            loads = self._load("floats"), self._load("short_floats")
            return self._pick(self._leaf("f32"), *(cast("f32", e, LIMIT) for e in loads),
                              cast("f32", cast("i32", low), LIMIT))  # fmt: skip
        way, a, b = self.rng.randrange(6), self._leaf("f32"), self.make("f32", depth)
        if way == 0:
            return self._choice("f32", depth)
        if way == 1:
            name = self._pick("min", "max")
            numba = f"float32({name}({a.numba}, {b.numba}))"
            return Expression(numba, f"np.{name}imum({a.numpy}, {b.numpy})", max(a.bound, b.bound))
        sign = self._pick("+", "-", "*") if b.bound <= LIMIT else self._pick("+", "-")
        bound = a.bound * b.bound if sign == "*" else a.bound + b.bound
        return binary("f32", sign, a, b, bound) if bound < 1 << 24 else a

    def condition(self, depth):
        kind = self._pick("u32", "u32", "i32", "f32", "u64")
        sign = self._pick("<", "<=", ">", ">=", "==", "!=")
        left = self.make(kind, depth)
        right = number(kind, self._small()) if self.rng.randrange(2) else self._leaf(kind)
        if left.numpy.startswith("np.") and right.numpy.startswith("np."):
            left = self._leaf(kind)
        e = Expression(
            f"({left.numba} {sign} {right.numba})", f"({left.numpy} {sign} {right.numpy})"
        )
        if self.rng.randrange(4) == 0:
            bit = binary("u32", "&", self._leaf("u32"), number("u32", self._pick(1, 3, 16)))
            word, symbol = self._pick(("and", "&"), ("or", "|"))
            return Expression(f"({e.numba} {word} {bit.numba} != uint32(0))",
                              f"({e.numpy} {symbol} ({bit.numpy} != np.uint32(0)))")  # fmt: skip
        return e
