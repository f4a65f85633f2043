"""The independent side of the arithmetic tests: Python integers and fractions, one lane at a time.

Nothing here uses NumPy's arithmetic or the emulator's.
"""

import itertools
import math
import random
import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from zerfoo_numba.ptx.emulator.arithmetic import DTYPES, operation


@dataclass(frozen=True)
class Binary:
    """A binary floating-point format: precision with the hidden bit, exponent range, fields."""

    precision: int
    emin: int
    emax: int
    exponent_bits: int

    @property
    def bits(self):
        return self.precision + self.exponent_bits

    @property
    def largest(self):
        return (2 - Fraction(2) ** (1 - self.precision)) * Fraction(2) ** self.emax

    def value(self, code):
        """The Python float that a bit pattern stands for."""
        fraction_bits = self.precision - 1
        sign = -1.0 if code >> self.bits - 1 else 1.0
        exponent = code >> fraction_bits & (1 << self.exponent_bits) - 1
        fraction = code & (1 << fraction_bits) - 1
        if exponent == (1 << self.exponent_bits) - 1:
            return math.copysign(math.nan if fraction else math.inf, sign)
        if exponent:
            fraction |= 1 << fraction_bits
        return sign * math.ldexp(fraction, max(exponent, 1) - 1 + self.emin - fraction_bits)

    def round(self, x, mode="rn", zero=0.0):
        """The Fraction `x` rounded to this format, as a Python float; `zero` for an exact 0."""
        if x == 0:
            return zero
        size, negative = abs(x), x < 0
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        if Fraction(2) ** exponent > size:
            exponent -= 1
        quantum = Fraction(2) ** (max(exponent, self.emin) - self.precision + 1)
        count, rest = divmod(size, quantum)
        up = {"rz": False, "rm": negative and rest, "rp": not negative and rest}.get(mode)
        if up is None:
            up = rest * 2 > quantum or (rest * 2 == quantum and count % 2)
        result = (count + bool(up)) * quantum
        if result > self.largest:
            outward = mode == "rn" or mode == ("rm" if negative else "rp")
            result = math.inf if outward else float(self.largest)
        return math.copysign(float(result), -1.0 if negative else 1.0)

    def flush(self, x):
        """Subnormal numbers as zeros of their sign."""
        return math.copysign(0.0, x) if abs(x) < 2.0**self.emin else x


F16, BF16 = Binary(11, -14, 15, 5), Binary(8, -126, 127, 8)
F32, F64 = Binary(24, -126, 127, 8), Binary(53, -1022, 1023, 11)
FORMATS = {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64}


def float_edges(kind):
    """Bit patterns around everything that is special in a format, both signs."""
    form = FORMATS[kind]
    one = (1 << form.exponent_bits - 1) - 1 << form.precision - 1
    unit = 1 << form.precision - 1
    infinity = (1 << form.exponent_bits) - 1 << form.precision - 1
    codes = [0, 1, 2, unit - 1, unit, unit + 1, one - 1, one, one + 1, one - unit]
    codes += [one + unit, one + unit // 2, one + unit // 2 * 3, infinity - 1, infinity]
    codes += [infinity + unit // 2]
    return [c | s << form.bits - 1 for c in codes for s in (0, 1)]


def integer_edges(bits):
    """Patterns of `bits` bits around the ends and the middle."""
    top, half = 1 << bits, 1 << bits - 1
    return sorted({0, 1, 2, 3, 7, 31, 32, 33, 255, half - 1, half, half + 1, top - 2, top - 1})


def integers_of(code, kind):
    """A bit pattern as the integer that an operand of `kind` means."""
    bits = 8 * np.dtype(DTYPES[kind]).itemsize
    code &= (1 << bits) - 1
    return code - (1 << bits) if kind[0] == "s" and code >> bits - 1 else code


def cases(kinds, count=400, seed=0, edges=None, limit=3000):
    """Tuples of bit patterns: every combination of edge values (at most `limit`), then random."""
    rng = random.Random(seed)
    edges = edges or {}
    lists = []
    for kind in kinds:
        if kind in ("pred", "carry"):
            values = [0, 1]
        elif kind in FORMATS:
            values = float_edges(kind)
        else:
            values = integer_edges(8 * np.dtype(DTYPES[kind]).itemsize)
        lists.append(edges.get(kind, values))
    product = list(itertools.islice(itertools.product(*lists), 200000))
    chosen = product if len(product) <= limit else rng.sample(product, limit)
    widths = [1 if k in ("pred", "carry") else 8 * np.dtype(DTYPES[k]).itemsize for k in kinds]
    return chosen + [tuple(rng.getrandbits(w) for w in widths) for _ in range(count)]


def column(codes, kind):
    """Bit patterns as the array that an operand of `kind` is."""
    dtype = np.dtype(DTYPES[kind])
    if dtype == np.bool_:
        return np.array(codes, np.bool_)
    return np.array(codes, f"u{dtype.itemsize}").view(dtype)


def run(opcode, rows, *more, destinations=1):
    """An opcode's results for rows of bit patterns: a list of tuples of bit patterns."""
    op = operation(opcode, destinations)
    arrays = [column(c, k) for c, k in zip(zip(*rows, strict=True), op.inputs, strict=False)]
    results = op(*arrays, *more)
    results = results if isinstance(results, tuple) else (results,)
    for result, kind in zip(results, op.outputs, strict=True):
        assert result.dtype == DTYPES[kind], f"{opcode} returned {result.dtype} for {kind}"
        assert result.shape == (len(rows),)
    words = [r if r.dtype == bool else r.view(f"u{r.dtype.itemsize}") for r in results]
    return list(zip(*(w.tolist() for w in words), strict=True))


def bits_of_float(x, kind):
    """A Python float, exact in the format, as its bit pattern there; any NaN as None."""
    if math.isnan(x):
        return None
    if kind == "f64":
        return struct.unpack("<Q", struct.pack("<d", x))[0]
    form = FORMATS[kind]
    wide = struct.unpack("<Q", struct.pack("<d", x))[0]
    sign = wide >> 63 << form.bits - 1
    infinity = (1 << form.exponent_bits) - 1 << form.precision - 1
    if math.isinf(x):
        return sign | infinity
    exponent = max(math.frexp(x)[1] - 1, form.emin) if x else form.emin
    count = int(math.ldexp(abs(x), form.precision - 1 - exponent))
    assert math.ldexp(count, exponent - form.precision + 1) == abs(x)
    return sign | (exponent - form.emin << form.precision - 1) + count


def is_nan(code, kind):
    form = FORMATS[kind]
    infinity = (1 << form.exponent_bits) - 1 << form.precision - 1
    return code & (1 << form.bits - 1) - 1 > infinity


def check_floats(opcode, rows, got, want, kind):
    """Bit patterns `got` against Python floats `want`; a NaN matches any NaN."""
    for row, (code,), x in zip(rows, got, want, strict=True):
        expected = bits_of_float(x, kind)
        good = is_nan(code, kind) if expected is None else code == expected
        operands = [hex(c) for c in row]
        assert good, f"{opcode} {operands}: got {code:#x}, want {x!r} = {expected}"
