"""The blocks of 32 weights that a lane takes of a chunk, against 8-bit activations, per format.

With u a weight's bits, f the factors of a record (`block_read`) and q, d the activations and their
scale, the element is
  zero     f[0] (u - zero)                              Q8_0 Q4_0 Q5_0
  signed   f[0] u, or f[0] f[1 + unit] u                IQ4_NL MXFP4, or IQ4_XS
  least    f[0] f[2 + 2 unit] u - f[1] f[3 + 2 unit]    Q4_K Q5_K
  halves   f[0] f[1 + 2 unit] (u - zero), with f[2 + 2 unit] for the last 16 elements    Q6_K
`combine(total, words, f, x, x_scales, at)` adds to `total` what the activations from block `at` on
make of it; `value(u, f, unit, right)` is an element alone, bit for bit as the format defines it
(`right`: of the last 16), and `level(words, unit, i)` its u. `octets(words)` are a block's eight
words of plain unsigned bytes v, and `lines(f, unit)` the numbers a, b of its first 16 elements and
those of its last with which the element is a v - b.
"""

from typing import NamedTuple

from numba import cuda
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.types import float32, int32, uint32, uint64

from zerfoo_numba.kernels import block_read as read
from zerfoo_numba.ptx.instructions import (
    dp4a_u8,
    dp4a_u8_from_zero,
    load_f32x2,
    load_f32x4,
    load_u32x4,
    shift_right,
)
from zerfoo_numba.quant.fp4 import E2M1_LEVELS
from zerfoo_numba.quant.iquants import IQ4_LEVELS
from zerfoo_numba.quant.packed import LANES_PER_ROW, LAYOUTS

device = cuda.jit(device=True, forceinline=True)


class Family(NamedTuple):
    """How a packed format is read and what it means."""

    load: CUDADispatcher
    words: CUDADispatcher
    factors: CUDADispatcher
    combine: CUDADispatcher
    level: CUDADispatcher
    value: CUDADispatcher
    width: int  # words of a block
    octets: CUDADispatcher
    lines: CUDADispatcher


# Dots: d0 sum(u q), d1 sum(u q) of the two blocks of 16 of block `at` -----------------------------


@device
def dot16(a, b, c, d, p, q, r, s):
    """The sum of 16 products of unsigned with signed bytes."""
    total = dp4a_u8(b, int32(q), dp4a_u8_from_zero(a, int32(p)))
    total = dp4a_u8(c, int32(r), total)
    return dp4a_u8(d, int32(s), total)


def make_bits(bits):
    """Words that `block_read` makes of values of so many bits."""
    shift = 8 - bits

    @device
    def dots(w, x, at):
        byte = uint64(uint64(at) << uint64(5))
        p, q, r, s = load_u32x4(x, byte)
        left = dot16(w[0], w[1], w[2], w[3], p, q, r, s)
        p, q, r, s = load_u32x4(x, uint64(byte + uint64(16)))
        right = float32(dot16(w[4], w[5], w[6], w[7], p, q, r, s))
        return float32(left), float32(right * float32(1.0 / 2.0**shift)) if shift else right

    @device
    def level(words, unit, i):
        byte = byte_of(words, uint32(unit << uint32(3)), i)
        return int32(shift_right(byte, uint32(shift)) if i >= uint32(16) else byte)

    return dots, level


@device
def plain_octets(words):
    """Those of the last 16 elements stay the multiples that they are; `lines` has the factor."""
    return words


@device
def signed_octets(words):
    """Levels from -128 to 127, raised by 128. No byte carries into the next."""
    plus, minus = words[0:8], words[8:16]
    return (
        raised(plus[0], minus[0]), raised(plus[1], minus[1]),
        raised(plus[2], minus[2]), raised(plus[3], minus[3]),
        raised(plus[4], minus[4]), raised(plus[5], minus[5]),
        raised(plus[6], minus[6]), raised(plus[7], minus[7]),
    )  # fmt: skip


@device
def raised(plus, minus):
    return uint32(uint32(uint32(0x80808080) + plus) - minus)


@device
def signed_dots(w, x, at):
    """Words of a codebook."""
    byte = uint64(uint64(at) << uint64(5))
    p, q, r, s = load_u32x4(x, byte)
    left = dot16(w[0], w[1], w[2], w[3], p, q, r, s)
    left = int32(left - dot16(w[8], w[9], w[10], w[11], p, q, r, s))
    p, q, r, s = load_u32x4(x, uint64(byte + uint64(16)))
    right = dot16(w[4], w[5], w[6], w[7], p, q, r, s)
    right = int32(right - dot16(w[12], w[13], w[14], w[15], p, q, r, s))
    return float32(left), float32(right)


@device
def signed_level(words, unit, i):
    first = uint32(unit << uint32(4))
    plus, minus = byte_of(words, first, i), byte_of(words, uint32(first + uint32(8)), i)
    return int32(int32(plus) - int32(minus))


@device
def byte_of(words, first, i):
    word = words[uint32(first + uint32(i >> uint32(2)))]
    return uint32(shift_right(word, uint32(uint32(i & uint32(3)) << uint32(3))) & uint32(255))


@device
def scales4(x_scales, at):
    """d0, d1, d0 sum(q0), d1 sum(q1) of block `at` of 32."""
    return load_f32x4(x_scales, uint64(uint64(at) << uint64(4)))


@device
def scales2(x_scales, at):
    """d0, d1 of block `at` of 32."""
    return load_f32x2(x_scales, uint64(uint64(at) << uint64(4)))


# Kinds ----------------------------------------------------------------------------------------


def make_zero(dots, zero, part):
    @device
    def combine_zero(total, words, f, x, x_scales, at):
        left, right = dots(words, x, at)
        d0, d1, s0, s1 = scales4(x_scales, at)
        return total + f[0] * (d0 * left + cuda.fma(float32(-zero), s0 + s1, d1 * right))

    @device
    def value_zero(u, f, unit, right):
        return f[0] * float32(int32(u - int32(zero)))

    @device
    def lines_zero(f, unit):
        least = f[0] * float32(zero)
        return f[0], least, f[0] * float32(part), least

    return combine_zero, value_zero, lines_zero


@device
def combine_signed(total, words, f, x, x_scales, at):
    left, right = signed_dots(words, x, at)
    d0, d1 = scales2(x_scales, at)
    return total + f[0] * (d0 * left + d1 * right)


@device
def value_signed(u, f, unit, right):
    return f[0] * float32(u)


@device
def lines_signed(f, unit):
    least = f[0] * float32(128.0)
    return f[0], least, f[0], least


@device
def combine_two_signed(total, words, f, x, x_scales, at):
    left, right = signed_dots(words[0:16], x, at)
    d0, d1 = scales2(x_scales, at)
    inner = f[1] * (d0 * left + d1 * right)
    at = uint64(at + uint64(LANES_PER_ROW))
    left, right = signed_dots(words[16:32], x, at)
    d0, d1 = scales2(x_scales, at)
    return total + f[0] * (inner + f[2] * (d0 * left + d1 * right))


@device
def value_two_signed(u, f, unit, right):
    scale = f[2] if unit else f[1]
    return f[0] * scale * float32(u)


@device
def lines_two_signed(f, unit):
    scale = f[0] * (f[2] if unit else f[1])
    least = scale * float32(128.0)
    return scale, least, scale, least


def make_least(dots, _, part):
    @device
    def combine_least(total, words, f, x, x_scales, at):
        left, right = dots(words[0:8], x, at)
        d0, d1, s0, s1 = scales4(x_scales, at)
        inner = f[2] * (d0 * left + d1 * right)
        least = f[3] * (s0 + s1)
        at = uint64(at + uint64(LANES_PER_ROW))
        left, right = dots(words[8:16], x, at)
        d0, d1, s0, s1 = scales4(x_scales, at)
        inner += f[4] * (d0 * left + d1 * right)
        least += f[5] * (s0 + s1)
        return total + f[0] * inner - f[1] * least

    @device
    def value_least(u, f, unit, right):
        scale, least = (f[4], f[5]) if unit else (f[2], f[3])
        return f[0] * scale * float32(u) - f[1] * least

    @device
    def lines_least(f, unit):
        scale, least = (f[4], f[5]) if unit else (f[2], f[3])
        scale, least = f[0] * scale, f[1] * least
        return scale, least, scale * float32(part), least

    return combine_least, value_least, lines_least


def make_halves(dots, zero, part):
    @device
    def one(words, a, b, x, x_scales, at):
        left, right = dots(words, x, at)
        d0, d1, s0, s1 = scales4(x_scales, at)
        first = a * cuda.fma(float32(-zero), s0, d0 * left)
        return first + b * cuda.fma(float32(-zero), s1, d1 * right)

    @device
    def combine_halves(total, words, f, x, x_scales, at):
        inner = one(words[0:8], f[1], f[2], x, x_scales, at)
        at = uint64(at + uint64(LANES_PER_ROW))
        return total + f[0] * (inner + one(words[8:16], f[3], f[4], x, x_scales, at))

    @device
    def value_halves(u, f, unit, right):
        first, last = (f[3], f[4]) if unit else (f[1], f[2])
        scale = last if right else first
        return f[0] * scale * float32(int32(u - int32(zero)))

    @device
    def lines_halves(f, unit):
        first, last = (f[3], f[4]) if unit else (f[1], f[2])
        first, last = f[0] * first, f[0] * last
        return first, first * float32(zero), last * float32(part), last * float32(zero)

    return combine_halves, value_halves, lines_halves


def _family(name, decode, factors, kind, level, width, octets):
    layout, (combine, value, lines) = LAYOUTS[name], kind
    load, words = read.make_load(layout), read.make_words(layout, decode)
    return name, Family(load, words, factors, combine, level, value, width, octets, lines)


def _bits(name, bits, decode, factors, make_kind):
    dots, level = make_bits(bits)
    kind = make_kind(dots, 1 << bits - 1, 2.0 ** (bits - 8))
    return _family(name, decode, factors, kind, level, 8, plain_octets)


def _codebook(name, values, factors, kind):
    return _family(name, read.make_codebook(values), factors, kind, signed_level, 16, signed_octets)


_one_signed = combine_signed, value_signed, lines_signed
_two_signed = combine_two_signed, value_two_signed, lines_two_signed

FAMILIES = dict(
    (
        _bits("Q8_0", 8, read.whole_bytes, read.f16_scale, make_zero),
        _bits("Q4_0", 4, read.four_bits, read.f16_scale, make_zero),
        _bits("Q5_0", 5, read.five_bits, read.f16_scale, make_zero),
        _bits("Q4_K", 4, read.four_bits, read.scales_and_mins, make_least),
        _bits("Q5_K", 5, read.five_bits, read.scales_and_mins, make_least),
        _bits("Q6_K", 6, read.six_bits, read.scales_of_halves, make_halves),
        _codebook("IQ4_NL", IQ4_LEVELS, read.f16_scale, _one_signed),
        _codebook("IQ4_XS", IQ4_LEVELS, read.signed_scales, _two_signed),
        _codebook("MXFP4", E2M1_LEVELS, read.e8m0_scale, _one_signed),
    )
)
