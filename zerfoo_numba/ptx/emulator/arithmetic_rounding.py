"""Correct rounding where NumPy has none: directed modes, fused multiply-add, flushed subnormals.

An exact sum is kept as a float64 rounded to odd: where bits are lost, the last bit is 1. Such a
value can be rounded again to 50 bits or fewer, in any mode, as if it were the exact one
(Boldo and Melquiond, Emulation of FMA and correctly rounded sums, IEEE TC 57(4), 2008).
"""

from fractions import Fraction

import numpy as np

SMALLEST_NORMAL = np.float32(2.0**-126)
_TARGET = {"rm": -np.inf, "rp": np.inf}
MODES = ("rn", "rz", "rm", "rp")


def flush(x):
    """float32 with subnormals replaced by zeros of their sign."""
    normal = np.greater_equal(np.abs(x), SMALLEST_NORMAL)
    return x if normal.all() else np.multiply(x, normal)


def saturate(x):
    """Limited to [0, 1]; NaN and -0 become +0."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    return np.add(np.fmin(np.fmax(x, zero), one), zero)


def rectify(x):
    """Numbers below zero and -0 become +0; NaN stays."""
    return np.where(np.less_equal(x, 0), x.dtype.type(0), x)[()]


def sum_error(a, b, total):
    """`a + b - total` exactly, for total = a + b rounded to nearest (Knuth's two-sum)."""
    part = np.subtract(total, a)
    return np.add(np.subtract(a, np.subtract(total, part)), np.subtract(b, part))


def odd(x, error):
    """The float64 `x`, with the exact value x + error, rounded to odd instead of to nearest."""
    inexact = np.abs(error) > 0
    if not inexact.any():
        return x
    bits = x.view(np.int64)
    moves = inexact & np.equal(np.bitwise_and(bits, 1), 0)
    inward = moves & np.not_equal(np.signbit(error), np.signbit(x))
    return np.subtract(np.add(bits, moves), np.add(inward, inward, dtype=np.int64)).view(np.float64)


def odd_sum(a, b):
    """a + b of float64, rounded to odd."""
    total = np.add(a, b)
    return odd(total, sum_error(a, b, total))


def settle(nearest, error, mode):
    """From the nearest value and the sign of (exact - nearest) to the value that `mode` wants."""
    if mode == "rn":
        return nearest
    if mode == "rz":
        wrong = (np.greater(nearest, 0) & (error < 0)) | (np.less(nearest, 0) & (error > 0))
        other = np.nextafter(nearest, nearest.dtype.type(0))
    else:
        wrong = error < 0 if mode == "rm" else error > 0
        other = np.nextafter(nearest, nearest.dtype.type(_TARGET[mode]))
    return np.where(wrong, other, nearest)[()]


def to_f32(x, mode):
    """A float64 (exact, or rounded to odd) to float32."""
    nearest = x.astype(np.float32)
    if mode == "rn":
        return nearest
    return settle(nearest, np.subtract(x, nearest), mode)


def signed_zero(total, a, b, mode):
    """Rounding down, an exact zero sum is -0 unless both addends are +0."""
    if mode != "rm":
        return total
    minus = np.equal(total, 0) & (np.signbit(a) | np.signbit(b))
    return np.where(minus, total.dtype.type(-0.0), total)[()]


def fused(fraction_bits, smallest_normal):
    """A function a * b + c to a float64 that a format may be rounded to nearest even from.

    The product of numbers of the format is exact in float64; their sum, rounded there, then
    rounds wrongly only if it lies midway between two numbers of the format or below its normal
    range: those lanes are rounded to odd.
    """
    below = np.uint64((1 << 52 - fraction_bits) - 1)
    half = np.uint64(1 << 51 - fraction_bits)

    def total_of(a, b, c):
        product = np.multiply(a.astype(np.float64), b.astype(np.float64))
        total = np.add(product, c.astype(np.float64))
        doubtful = np.equal(np.bitwise_and(total.view(np.uint64), below), half)
        small = np.less(np.abs(total), smallest_normal)
        if small.any():
            doubtful = doubtful | (small & np.not_equal(total, 0))
        if not doubtful.any():
            return total
        addends = (np.broadcast_to(x, total.shape)[doubtful] for x in (product, c))
        again = odd_sum(*(x.astype(np.float64) for x in addends))
        if total.ndim == 0:
            return again[0]
        total[doubtful] = again
        return total

    return total_of


_fused_f32 = fused(23, 2.0**-126)


def fma_f32(a, b, c):
    """a * b + c of float32, rounded once to nearest even."""
    return _fused_f32(a, b, c).astype(np.float32)


def directed_fma_f32(mode):
    """`fma_f32` for another rounding mode."""

    def fma(a, b, c):
        product = np.multiply(a, b, dtype=np.float64)
        c = c.astype(np.float64)
        return to_f32(signed_zero(odd_sum(product, c), product, c, mode), mode)

    return fma


def _split(x):
    """Veltkamp's split of a float64 into two halves of 26 bits."""
    scaled = np.multiply(x, 134217729.0)
    high = np.subtract(scaled, np.subtract(scaled, x))
    return high, np.subtract(x, high)


def product_error(a, b, product):
    """`a * b - product` exactly (Dekker), barring overflow and underflow."""
    a1, a0 = _split(a)
    b1, b0 = _split(b)
    error = np.subtract(product, np.multiply(a1, b1))
    error = np.subtract(np.subtract(error, np.multiply(a0, b1)), np.multiply(a1, b0))
    return np.subtract(np.multiply(a0, b0), error)


def _within(x, low, high):
    size = np.abs(x)
    return (size > low) & (size < high)


def _exactly(function, result, chosen, *operands):
    """Lanes that error-free transformations cannot do, one by one with fractions."""
    if not chosen.any():
        return result
    result = np.array(np.broadcast_to(result, chosen.shape))
    columns = [np.broadcast_to(x, chosen.shape)[chosen].tolist() for x in operands]
    result[chosen] = [function(*row) for row in zip(*columns, strict=True)]
    return result[()]


def nearest_f64(value):
    """A Fraction to the nearest float64; beyond the range an infinity."""
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _fma_fraction(mode):
    def fma(a, b, c):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        if exact == 0:
            return -0.0 if mode == "rm" else 0.0
        nearest = nearest_f64(exact)
        if nearest == 0:
            nearest = float(np.copysign(0.0, float(exact > 0) - 0.5))
        return float(settle(np.float64(nearest), _sign(exact, nearest), mode))

    return fma


def _sign(exact, nearest):
    """The sign of exact - nearest, where nearest may be infinite."""
    if np.isinf(nearest):
        return -np.sign(nearest)
    return np.sign(float((exact > Fraction(nearest)) - (exact < Fraction(nearest))))


def fma_f64(mode):
    """a * b + c of float64 in rounding mode `mode`, rounded once (Boldo and Melquiond)."""
    slow = _fma_fraction(mode)

    def fma(a, b, c):
        product = np.multiply(a, b)
        error = product_error(a, b, product)
        low = np.add(c, error)
        high = np.add(product, low)
        rest = odd_sum(sum_error(c, error, low), sum_error(product, low, high))
        result = np.add(high, rest)
        result = settle(result, sum_error(high, rest, result), mode)
        finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
        plain = ~finite | np.equal(a, 0) | np.equal(b, 0)
        safe = _within(product, 2.0**-900, 2.0**990) & (np.abs(c) < 2.0**990)
        safe = safe & _within(a, 0, 2.0**990) & _within(b, 0, 2.0**990)
        # A product that overflows is still finite beside an infinite c.
        total = np.where(np.isfinite(a) & np.isfinite(b) & np.isinf(c), c, np.add(product, c))
        result = np.where(plain, total, result)[()]
        result = signed_zero(result, product, c, mode)
        return _exactly(slow, result, ~plain & ~safe, a, b, c)

    return fma


def directed_sum_f64(mode):
    """a + b of float64, rounded as `mode` says."""

    def add(a, b):
        total = np.add(a, b)
        error = sum_error(a, b, total)
        over = np.isinf(total) & np.isfinite(a) & np.isfinite(b)
        error = np.where(over, -np.sign(total), error)
        return signed_zero(settle(total, error, mode), a, b, mode)

    return add


def directed_product_f64(mode):
    """a * b of float64, rounded as `mode` says: the fused sum with a zero of the right sign."""
    fma = fma_f64(mode)
    return lambda a, b: fma(a, b, np.copysign(0.0, np.multiply(a, b)))


def directed_f64(function, exact_sign, mode):
    """`function` of float64 rounded to nearest, turned to `mode` by exact comparison.

    `exact_sign(q, *operands)` compares the exact value with q, lane by lane: f64 division and
    square root in another mode than rn are rare.
    """

    def directed(*operands):
        nearest = function(*operands)
        usable = np.isfinite(nearest) | np.isinf(nearest)
        for x in operands:
            usable = usable & np.isfinite(x) & np.not_equal(x, 0)
        error = np.zeros(usable.shape)
        error = _exactly(exact_sign, error, usable, nearest, *operands)
        return settle(nearest, error, mode)

    return directed


def quotient_sign(q, a, b):
    """The sign of a/b - q."""
    return _sign(Fraction(a) / Fraction(b), q)


def root_sign(q, a):
    """The sign of sqrt(a) - q, for q >= 0."""
    return float(Fraction(a) > Fraction(q) ** 2) - float(Fraction(a) < Fraction(q) ** 2)
