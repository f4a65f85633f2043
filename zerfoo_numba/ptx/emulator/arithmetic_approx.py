"""The `.approx` instructions: the correctly rounded answer, and how far hardware may be from it.

Every function is evaluated in float64 and rounded once, the best answer within the ISA's bound.
"""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic_float import ROUNDED, flushing
from zerfoo_numba.ptx.emulator.arithmetic_formats import FORMATS
from zerfoo_numba.ptx.emulator.arithmetic_half import HALF_KINDS, in_pairs, on_codes
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Operation,
    UnsupportedInstruction,
    halves,
    join,
)


@dataclass(frozen=True)
class Bound:
    """How far a result of type `kind` may be from the correctly rounded one.

    The largest of: `ulp` units in the last place, `relative` times the result, `absolute`.
    """

    kind: str
    ulp: int = 0
    relative: float = 0.0
    absolute: float = 0.0

    def perturb(self, result, rng, operands=()):
        """`result` moved at random within the bound.

        Zeros, infinities and NaN stay, and results of operands that are zero or not finite:
        the ISA tabulates those.
        """
        if self.kind.endswith("x2"):
            single = Bound(self.kind[:-2], self.ulp, self.relative, self.absolute)
            sides = zip(halves(result), *(halves(x) for x in operands), strict=True)
            return join(*(single.perturb(r, rng, x) for r, *x in sides))
        exact = self._values(result)
        free = np.isfinite(exact) & (exact != 0)
        for operand in operands:
            x = self._values(operand)
            free = free & np.isfinite(x) & (x != 0)
        return np.where(free, self._move(result, exact, rng), result)[()]

    def _values(self, x):
        """float64 values of a result or operand."""
        return (FORMATS[self.kind].decode(x) if self.kind in FORMATS else x).astype(np.float64)

    def _move(self, result, exact, rng):
        word = np.dtype(DTYPES[self.kind]).itemsize
        bits = np.asarray(result).view(f"i{word}")
        if self.ulp:
            return self._step(bits, rng.integers(-self.ulp, self.ulp + 1, exact.shape))
        width = np.maximum(self.relative * np.abs(exact), self.absolute)
        wanted = exact + width * rng.uniform(-1, 1, exact.shape)
        if self.kind in FORMATS:
            moved = FORMATS[self.kind].encode(wanted)
        else:
            moved = wanted.astype(DTYPES[self.kind])
        within = np.abs(self._values(moved) - exact) <= width
        return np.where(within, moved, result)

    def _step(self, bits, steps):
        """Results some units away, neither infinite nor (of normal numbers) subnormal."""
        sign = np.bitwise_and(bits, np.iinfo(bits.dtype).min)
        size = np.bitwise_xor(bits, sign)
        limits = np.finfo(DTYPES[self.kind])
        low, high = (np.array(x).view(bits.dtype) for x in (limits.smallest_normal, limits.max))
        moved = np.clip(size + steps, np.minimum(size, low), high).astype(bits.dtype)
        return np.bitwise_or(moved, sign).view(DTYPES[self.kind])


def _in_f64(function):
    """A float32 function evaluated in float64 and rounded."""
    return lambda a: function(a.astype(np.float64)).astype(np.float32)


def _rsqrt(a):
    # NumPy's 1/sqrt(-0) is -inf, which is also what the ISA tabulates.
    return np.divide(1.0, np.sqrt(a))


# name: function of float64, and its bound for float32
_SINGLE = {
    "sin": (np.sin, Bound("f32", absolute=2.0**-20.5)),  # for |a| <= 2 pi
    "cos": (np.cos, Bound("f32", absolute=2.0**-20.5)),
    "lg2": (np.log2, Bound("f32", relative=2.0**-22, absolute=2.0**-22)),
    "ex2": (np.exp2, Bound("f32", ulp=2)),
    "tanh": (np.tanh, Bound("f32", relative=2.0**-11)),
    "rsqrt": (_rsqrt, Bound("f32", relative=2.0**-22.9)),
    "rcp": (lambda a: np.divide(1.0, a), Bound("f32", ulp=1)),
    "sqrt": (np.sqrt, Bound("f32", relative=2.0**-23)),
}
_HALVES = {
    "ex2": (np.exp2, {"f16": {"relative": 2.0**-9.9}, "bf16": {"relative": 2.0**-7}}),
    "tanh": (np.tanh, {"f16": {"absolute": 2.0**-10.987}, "bf16": {"absolute": 2.0**-8}}),
}


def _single(op):
    """An approximation of one float32 argument."""
    function, bound = _SINGLE[op.name]
    ftz = op.has("ftz")
    if ftz and op.name == "tanh":
        raise UnsupportedInstruction(op.text)
    return Operation(("f32",), ("f32",), flushing(_in_f64(function), ftz), bound)


def _half(op, kind):
    """ex2 and tanh of f16, bf16 and their pairs."""
    function, bounds = _HALVES[op.name]
    single = kind.removesuffix("x2")
    ftz = op.has("ftz")
    if ftz != (op.name == "ex2" and single == "bf16"):
        raise UnsupportedInstruction(op.text)
    code = on_codes(lambda a: function(a.astype(np.float64)), single, ftz)
    return Operation((kind,), (kind,), in_pairs(code, kind), Bound(kind, **bounds[single]))


def _upper_word(function):
    """rcp and rsqrt.approx.ftz.f64: of the upper 32 bits, into the upper 32 bits."""
    upper = np.uint64(0xFFFFFFFF00000000)
    smallest = np.finfo(np.float64).smallest_normal

    def flush(x):
        return np.multiply(x, np.greater_equal(np.abs(x), smallest))

    def run(a):
        a = np.bitwise_and(a.view(np.uint64), upper).view(np.float64)
        result = np.bitwise_and(flush(function(flush(a))).view(np.uint64), upper)
        nan = np.isnan(a)
        return np.where(nan, np.uint64(0x7FFFFFFF00000000), result)[()].view(np.float64)

    return run


def _double(op):
    """The float64 approximations; the ISA states no bound for them."""
    function = _SINGLE[op.name][0]
    ftz = op.has("ftz")
    if op.name == "rsqrt" and not ftz:
        return Operation(("f64",), ("f64",), function)
    if op.name in ("rcp", "rsqrt") and ftz:
        return Operation(("f64",), ("f64",), _upper_word(function))
    raise UnsupportedInstruction(op.text)


def _approximate(op):
    if not op.has("approx"):
        if op.name not in ROUNDED:
            raise UnsupportedInstruction(op.text)
        return ROUNDED[op.name](op)
    kind = op.kind("f32", "f64", *HALF_KINDS)
    if kind == "f64":
        return _double(op)
    if kind in HALF_KINDS:
        if op.name not in _HALVES:
            raise UnsupportedInstruction(op.text)
        return _half(op, kind)
    return _single(op)


def _fast_quotient(a, b):
    """div.approx: a times the reciprocal of b, which is 0 beyond 2**126."""
    quotient = np.divide(a.astype(np.float64), b.astype(np.float64)).astype(np.float32)
    huge = np.greater(np.abs(b), np.float32(2.0**126)) & np.isfinite(b)
    if not huge.any():
        return quotient
    zero = np.multiply(np.copysign(np.float32(0), b), a)
    return np.where(huge, zero, quotient)[()]


def _div(op):
    if op.has("approx"):
        function = _fast_quotient
    elif op.has("full"):
        function = np.divide
    else:
        return ROUNDED["div"](op)
    op.kind("f32")
    function = flushing(function, op.has("ftz"))
    return Operation(("f32", "f32"), ("f32",), function, Bound("f32", ulp=2))


APPROXIMATE = {**dict.fromkeys(_SINGLE, _approximate), "div": _div}
