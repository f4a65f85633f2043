"""Floating-point formats narrower than float32: bit patterns to values and back, rounded once.

f16, bf16; e4m3 and e5m2 (OCP 8-bit floating point specification, 2023); e2m3, e3m2 and e2m1
(OCP microscaling formats specification, 2023); tf32, which stays in a float32 pattern.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_ROUND = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}


def odd_f32(x):
    """A float64 to float32, rounded to odd: any later rounding to 22 bits or fewer is exact."""
    nearest = x.astype(np.float32)
    beyond = np.greater(np.abs(nearest), np.abs(x))
    down = np.subtract(nearest.view(np.uint32), beyond, dtype=np.uint32)
    return np.bitwise_or(down, np.not_equal(nearest, x)).view(np.float32)


@dataclass(frozen=True)
class Format:
    """A sign, `exponent` bits and `mantissa` bits; `largest` is the greatest finite code.

    `infinity` and `nan` are codes, None where the format has none.
    """

    exponent: int
    mantissa: int
    largest: int
    infinity: int | None
    nan: int | None

    @property
    def bits(self):
        return 1 + self.exponent + self.mantissa

    @property
    def dtype(self):
        return np.uint16 if self.bits > 8 else np.uint8

    @property
    def smallest_exponent(self):
        """The exponent of the smallest normal number, 1 - bias."""
        return 2 - (1 << self.exponent - 1)

    @cached_property
    def values(self):
        """float32 value of every code."""
        code = np.arange(1 << self.bits)
        size = code & (1 << self.bits - 1) - 1
        exponent = np.maximum(size >> self.mantissa, 1)
        fraction = size - (exponent - 1 << self.mantissa)
        value = np.ldexp(fraction.astype(np.float64), exponent - 1 + self.quantum)
        if self.nan is not None:
            value[size > self.largest] = np.nan
        if self.infinity is not None:
            value[size == self.infinity] = np.inf
        return np.where(code == size, value, -value).astype(np.float32)

    @property
    def quantum(self):
        """log2 of the smallest positive value."""
        return self.smallest_exponent - self.mantissa

    def decode(self, code):
        """float32 values of an array of codes."""
        return self.values.take(code)

    def decode_flushed(self, code):
        """The same with zeros for subnormals."""
        return self.decode(self.flush(code))

    def flush(self, code):
        """Codes with subnormals replaced by zeros of their sign."""
        top = self.dtype((1 << self.exponent) - 1 << self.mantissa)
        sign = self.dtype(1 << self.bits - 1)
        subnormal = np.equal(np.bitwise_and(code, top), 0)
        kept = np.bitwise_and(code, sign)
        return np.where(subnormal, kept, code)[()]

    def encode(self, x, mode="rn", finite=False):
        """Codes of float32 or float64 values, rounded once; `finite` saturates (.satfinite).

        A float64 may stand for an exact value that it is the odd rounding of.
        """
        size = np.where(np.isfinite(x), np.abs(x), 0).astype(np.float64)
        # Zeros and subnormals share the exponent of the smallest normal number.
        exponent = np.frexp(np.maximum(size, 2.0**self.smallest_exponent))[1] - 1
        scaled = np.ldexp(size, self.mantissa - exponent)
        negative = np.signbit(x)
        whole = np.where(negative, -_ROUND[mode](-scaled), _ROUND[mode](scaled))
        code = (exponent - self.smallest_exponent << self.mantissa) + whole.astype(np.int64)
        beyond = self.largest if finite or self.infinity is None else self.infinity
        outward = {"rn": True, "rz": False, "rm": negative, "rp": ~negative}[mode]
        code = np.where(code > self.largest, np.where(outward, beyond, self.largest), code)
        code = np.where(np.isinf(x), beyond, code) | negative.astype(np.int64) << self.bits - 1
        nan = self.largest if self.nan is None else self.nan
        return np.where(np.isnan(x), nan, code).astype(self.dtype)[()]


def _canonical(code, x, nan):
    """Codes with every NaN replaced by `nan`."""
    bad = np.isnan(x)
    return np.where(bad, nan, code)[()] if bad.any() else code


class _F16(Format):
    def encode(self, x, mode="rn", finite=False):
        if mode != "rn" or finite:
            return super().encode(x, mode, finite)
        return _canonical(x.astype(np.float16).view(np.uint16), x, np.uint16(self.nan))


class _BF16(Format):
    def decode(self, code):
        return np.left_shift(code.astype(np.uint32), np.uint32(16)).view(np.float32)

    def encode(self, x, mode="rn", finite=False):
        if mode != "rn" or finite:
            return super().encode(x, mode, finite)
        bits = (odd_f32(x) if x.dtype == np.float64 else x).view(np.uint32)
        even = np.bitwise_and(np.right_shift(bits, np.uint32(16)), np.uint32(1))
        rounded = np.add(np.add(bits, np.uint32(0x7FFF)), even)
        code = np.right_shift(rounded, np.uint32(16)).astype(np.uint16)
        return _canonical(code, x, np.uint16(self.nan))


FORMATS = {
    "f16": _F16(5, 10, 0x7BFF, 0x7C00, 0x7FFF),
    "bf16": _BF16(8, 7, 0x7F7F, 0x7F80, 0x7FFF),
    "e4m3": Format(4, 3, 0x7E, None, 0x7F),
    "e5m2": Format(5, 2, 0x7B, 0x7C, 0x7F),
    "e2m3": Format(2, 3, 0x1F, None, None),
    "e3m2": Format(3, 2, 0x1F, None, None),
    "e2m1": Format(2, 1, 0x07, None, None),
}


def tf32(x, mode, finite=False):
    """float32 rounded to 10 fraction bits (rn, rz, or rna: ties away), as its bit pattern."""
    bits = x.view(np.uint32)
    if mode == "rna":
        rounded = np.add(bits, np.uint32(0x1000))
    elif mode == "rn":
        even = np.bitwise_and(np.right_shift(bits, np.uint32(13)), np.uint32(1))
        rounded = np.add(np.add(bits, np.uint32(0xFFF)), even)
    else:
        rounded = bits
    rounded = np.bitwise_and(rounded, np.uint32(0xFFFFE000))
    if finite:
        largest = np.uint32(0x7F7FE000)
        over = np.greater(np.bitwise_and(rounded, np.uint32(0x7FFFFFFF)), largest)
        sign = np.bitwise_and(rounded, np.uint32(0x80000000))
        rounded = np.where(over, np.bitwise_or(sign, largest), rounded)[()]
    return _canonical(rounded, x, np.uint32(0x7FFFE000))
