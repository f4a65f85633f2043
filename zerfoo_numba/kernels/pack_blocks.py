"""What a packed layout keeps of a block of 32, taken from the block's bytes in the file.

`FIELDS[name](w, block, u, q)` gives the planes of block j = 4u + q of the super-block at byte
`block` (for formats whose blocks are 32 elements, of that block itself) as uint32 words, plane
after plane; a field narrower than a word is the low bits of one. `SHARED[name](w, block)` gives the
field of a whole super-block. The layouts of the file are those of `quant`, of the planes those of
`quant.packed`; nothing is rounded.
"""

from numba import cuda
from numba.cuda.types import uint8, uint16, uint32

from zerfoo_numba.kernels.pack_words import LOW, in_order, stack4, stack5, stack6
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.instructions import and_or, byte_load, shift_right

device = cuda.jit(device=True, forceinline=True)
load_u8, load_u16 = byte_load(uint8), byte_load(uint16)

BITS = 0x01010101


@device
def byte(w, at):
    return uint32(load_u8(w, uint32(at)))


@device
def half(w, at):
    return uint32(load_u16(w, uint32(at)))


@device
def word(w, at):
    """Four bytes at a multiple of two."""
    return uint32(half(w, at) | uint32(half(w, uint32(at + uint32(2))) << uint32(16)))


@device
def four(w, at):
    """16 bytes at a multiple of two."""
    a, b = word(w, at), word(w, uint32(at + uint32(4)))
    return a, b, word(w, uint32(at + uint32(8))), word(w, uint32(at + uint32(12)))


@device
def nibbles(words, high):
    """The nibbles of eight words, the upper ones where `high` is 4 and not 0."""
    a, b, c, d, e, f, g, h = words
    return (
        uint32(shift_right(a, high) & uint32(LOW)), uint32(shift_right(b, high) & uint32(LOW)),
        uint32(shift_right(c, high) & uint32(LOW)), uint32(shift_right(d, high) & uint32(LOW)),
        uint32(shift_right(e, high) & uint32(LOW)), uint32(shift_right(f, high) & uint32(LOW)),
        uint32(shift_right(g, high) & uint32(LOW)), uint32(shift_right(h, high) & uint32(LOW)),
    )  # fmt: skip


@device
def fifth_bits(v, high, j):
    """Bit j of each byte of `high`, eight words, as bit 4 of the elements `v`."""
    a, b, c, d, e, f, g, h = v
    p, q, r, s, t, x, y, z = high
    return (
        fifth(a, p, j), fifth(b, q, j), fifth(c, r, j), fifth(d, s, j),
        fifth(e, t, j), fifth(f, x, j), fifth(g, y, j), fifth(h, z, j),
    )  # fmt: skip


@device
def fifth(element, high, j):
    return uint32(element | uint32(uint32(shift_right(high, j) & uint32(BITS)) << uint32(4)))


# Blocks of 32 ----------------------------------------------------------------------------------


@device
def q8_0(w, block, u, q):
    a, b, c, d = four(w, uint32(block + uint32(2)))
    e, f, g, h = four(w, uint32(block + uint32(18)))
    flip = uint32(0x80808080)  # signed to unsigned
    first = uint32(a ^ flip), uint32(b ^ flip), uint32(c ^ flip), uint32(d ^ flip)
    second = uint32(e ^ flip), uint32(f ^ flip), uint32(g ^ flip), uint32(h ^ flip)
    return first + second + (half(w, block),)


@device
def q4_0(w, block, u, q):
    return (*four(w, uint32(block + uint32(2))), half(w, block))


@device
def spread(bits, k):
    """Bits 4k .. 4k + 3 as bit 4 of the four bytes."""
    four_of_them = uint32(shift_right(bits, uint32(4 * k)) & uint32(15))
    return uint32(uint32(uint32(four_of_them * uint32(0x00204081)) & uint32(BITS)) << uint32(4))


@device
def q5_0(w, block, u, q):
    bits, words = word(w, uint32(block + uint32(2))), four(w, uint32(block + uint32(6)))
    a, b, c, d, e, f, g, h = (
        nibbles(words + words, uint32(0))[0:4] + nibbles(words + words, uint32(4))[0:4]
    )
    v = (
        uint32(a | spread(bits, 0)), uint32(b | spread(bits, 1)),
        uint32(c | spread(bits, 2)), uint32(d | spread(bits, 3)),
        uint32(e | spread(bits, 4)), uint32(f | spread(bits, 5)),
        uint32(g | spread(bits, 6)), uint32(h | spread(bits, 7)),
    )  # fmt: skip
    return (*stack5(v), half(w, block))


@device
def iq4_nl(w, block, u, q):
    return (*in_order(four(w, uint32(block + uint32(2)))), half(w, block))


@device
def odd_word(w, at):
    """Four bytes at any address."""
    low = uint32(byte(w, at) | uint32(byte(w, uint32(at + uint32(1))) << uint32(8)))
    high = uint32(byte(w, uint32(at + uint32(2))) << uint32(16))
    return uint32(low | uint32(high | uint32(byte(w, uint32(at + uint32(3))) << uint32(24))))


@device
def mxfp4(w, block, u, q):
    at = uint32(block + uint32(1))
    a, b = odd_word(w, at), odd_word(w, uint32(at + uint32(4)))
    c, d = odd_word(w, uint32(at + uint32(8))), odd_word(w, uint32(at + uint32(12)))
    return (*in_order((a, b, c, d)), byte(w, block))


# Super-blocks of 256 ---------------------------------------------------------------------------


@device
def scale_and_min(w, at, u, q):
    """The 12 bytes of Q4_K and Q5_K at byte `at`: scale and min of block 4u + q, a byte each."""
    a, b = byte(w, uint32(at + q)), byte(w, uint32(uint32(at + uint32(4)) + q))
    c = byte(w, uint32(uint32(at + uint32(8)) + q))
    scale, least = uint32(a & uint32(63)), uint32(b & uint32(63))
    if u != uint32(0):
        scale = and_or(c, uint32(15), uint32(shift_right(a, uint32(6)) << uint32(4)))
        least = shift_right(c, uint32(4))
        least = uint32(least | uint32(shift_right(b, uint32(6)) << uint32(4)))
    return uint32(scale | uint32(least << uint32(8)))


@device
def eight(w, at):
    return four(w, at) + four(w, uint32(at + uint32(16)))


@device
def pair_nibbles(w, at, u, q):
    """Elements of block j = 4u + q where 32 bytes hold two blocks, the first in the low nibbles."""
    pair = uint32(uint32(u << uint32(1)) | shift_right(q, uint32(1)))
    words = eight(w, madd(pair, uint32(32), at))
    return nibbles(words, uint32(uint32(q & uint32(1)) << uint32(2)))


@device
def q4_k(w, block, u, q):
    v = pair_nibbles(w, uint32(block + uint32(16)), u, q)
    return (*stack4(v), scale_and_min(w, uint32(block + uint32(4)), u, q))


@device
def q5_k(w, block, u, q):
    v = pair_nibbles(w, uint32(block + uint32(48)), u, q)
    high = eight(w, uint32(block + uint32(16)))
    v = fifth_bits(v, high, uint32(uint32(u << uint32(2)) | q))
    return (*stack5(v), scale_and_min(w, uint32(block + uint32(4)), u, q))


@device
def with_two(element, high, shift):
    """Two bits of each byte of `high` on top of the four of `element`."""
    bits = uint32(shift_right(high, shift) & uint32(0x03030303))
    return uint32(element | uint32(bits << uint32(4)))


@device
def q6_k(w, block, u, q):
    """Block 4u + q stands in half u: its nibbles with those of block q ^ 2, the first in the low
    ones; of the upper bits a byte has two of each of the four blocks."""
    low = madd(uint32(uint32(u << uint32(1)) | uint32(q & uint32(1))), uint32(32), block)
    high_nibbles = uint32(shift_right(q, uint32(1)) << uint32(2))
    a, b, c, d, e, f, g, h = nibbles(eight(w, low), high_nibbles)
    p, r, s, t, i, x, y, z = eight(w, madd(u, uint32(32), uint32(block + uint32(128))))
    shift = uint32(q << uint32(1))
    v = (
        with_two(a, p, shift), with_two(b, r, shift), with_two(c, s, shift), with_two(d, t, shift),
        with_two(e, i, shift), with_two(f, x, shift), with_two(g, y, shift), with_two(h, z, shift),
    )  # fmt: skip
    j = uint32(uint32(u << uint32(2)) | q)
    return (*stack6(v), half(w, madd(j, uint32(2), uint32(block + uint32(192)))))


@device
def iq4_xs(w, block, u, q):
    j = uint32(uint32(u << uint32(2)) | q)
    words = four(w, madd(j, uint32(16), uint32(block + uint32(8))))
    both = byte(w, uint32(uint32(block + uint32(4)) + shift_right(j, uint32(1))))
    low = shift_right(both, uint32(uint32(q & uint32(1)) << uint32(2)))
    high = shift_right(half(w, uint32(block + uint32(2))), uint32(j << uint32(1)))
    scale = and_or(low, uint32(15), uint32(uint32(high & uint32(3)) << uint32(4)))
    return (*in_order(words), uint32(scale - uint32(32)))


@device
def first_word(w, block):
    return word(w, block)


@device
def first_half(w, block):
    return half(w, block)


@device
def last_half(w, block):
    return half(w, uint32(block + uint32(208)))


FIELDS = {
    "Q8_0": q8_0, "Q4_0": q4_0, "Q5_0": q5_0, "IQ4_NL": iq4_nl, "MXFP4": mxfp4,
    "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_XS": iq4_xs,
}  # fmt: skip
SHARED = {"Q4_K": first_word, "Q5_K": first_word, "Q6_K": last_half, "IQ4_XS": first_half}
