"""One block of 32 weights of a packed layout against 32 8-bit activations, per block format.

With u the weight's bytes, a and b its factors, q and d the activations and their scale, a block is
one of three kinds, each a pair of device functions:
  zero   a (u - zero)                                  Q8_0 Q4_0 Q5_0 IQ4_NL IQ4_XS MXFP4
  least  a u - b                                       Q4_K Q5_K
  halves a (u - zero) for 16 elements, b for the rest  Q6_K
`combine(total, words, a, b, x, x_scales, at)` adds to `total` what block `at` of the activations
makes of it; `value(u, a, b, i)` is element i alone, bit for bit as the format defines it.
"""

from typing import NamedTuple

from numba import cuda
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.types import float32, int32, uint32, uint64

from zerfoo_numba.kernels import block_read as read
from zerfoo_numba.ptx.instructions import (
    dp4a_u8,
    dp4a_u8_from_zero,
    load_f32x4,
    load_u32x4,
)
from zerfoo_numba.quant.fp4 import E2M1_LEVELS
from zerfoo_numba.quant.iquants import IQ4_LEVELS
from zerfoo_numba.quant.packed import LAYOUTS

device = cuda.jit(device=True, forceinline=True)


class Family(NamedTuple):
    """How a packed format is read (`block_read`) and what it means."""

    unpack: CUDADispatcher
    scales: CUDADispatcher
    combine: CUDADispatcher
    value: CUDADispatcher


@device
def dot16(a, b, c, d, x, at):
    """The sum of 16 products, with the 16 bytes at byte `at` of x."""
    p, q, r, s = load_u32x4(x, at)
    total = dp4a_u8(b, int32(q), dp4a_u8_from_zero(a, int32(p)))
    total = dp4a_u8(c, int32(r), total)
    return dp4a_u8(d, int32(s), total)


@device
def two_dots(words, x, at):
    """d0 sum(u q), d1 sum(u q) of the two blocks of 16 that make up block `at` of 32."""
    byte = uint64(uint64(at) << uint64(5))
    left = dot16(words[0], words[1], words[2], words[3], x, byte)
    byte = uint64(byte + uint64(16))
    return float32(left), float32(dot16(words[4], words[5], words[6], words[7], x, byte))


@device
def factors(x_scales, at):
    """d0, d1, d0 sum(q0), d1 sum(q1) of block `at` of 32."""
    return load_f32x4(x_scales, uint64(uint64(at) << uint64(4)))


def make_zero(zero):
    @device
    def combine_zero(total, words, a, b, x, x_scales, at):
        left, right = two_dots(words, x, at)
        d0, d1, s0, s1 = factors(x_scales, at)
        return total + a * (d0 * left + d1 * right - float32(zero) * (s0 + s1))

    @device
    def value_zero(u, a, b, i):
        return a * float32(int32(u) - int32(zero))

    return combine_zero, value_zero


@device
def combine_least(total, words, a, b, x, x_scales, at):
    left, right = two_dots(words, x, at)
    d0, d1, s0, s1 = factors(x_scales, at)
    total += a * (d0 * left + d1 * right)
    return total - b * (s0 + s1)


@device
def value_least(u, a, b, i):
    return a * float32(u) - b


def make_halves(zero):
    @device
    def combine_halves(total, words, a, b, x, x_scales, at):
        left, right = two_dots(words, x, at)
        d0, d1, s0, s1 = factors(x_scales, at)
        total += a * (d0 * left - float32(zero) * s0)
        return total + b * (d1 * right - float32(zero) * s1)

    @device
    def value_halves(u, a, b, i):
        scale = a if i < uint32(16) else b
        return scale * float32(int32(u) - int32(zero))

    return combine_halves, value_halves


def _family(name, unpack, scales, meaning):
    """`unpack` and `scales` are device functions, or make one for the layout of `name`."""
    made = [f if isinstance(f, CUDADispatcher) else f(LAYOUTS[name]) for f in (unpack, scales)]
    return name, Family(*made, *meaning)


_nibbles, _five_bits = read.nibbles, read.make_fifth_bit
_f16, _least = read.make_f16_scale, (combine_least, value_least)
_iq4 = read.make_codebook(IQ4_LEVELS)

FAMILIES = dict(
    (
        _family("Q8_0", read.make_bytes, _f16, make_zero(128)),
        _family("Q4_0", _nibbles, _f16, make_zero(8)),
        _family("Q5_0", _five_bits, _f16, make_zero(16)),
        _family("Q4_K", _nibbles, read.make_scale_and_min, _least),
        _family("Q5_K", _five_bits, read.make_scale_and_min, _least),
        _family("Q6_K", read.make_two_more_bits, read.make_two_scales, make_halves(32)),
        _family("IQ4_NL", _iq4, _f16, make_zero(128)),
        _family("IQ4_XS", _iq4, read.make_signed_scale, make_zero(128)),
        _family("MXFP4", read.make_codebook(E2M1_LEVELS), read.make_e8m0_scale, make_zero(128)),
    )
)
