"""Reading one block of 32 weights of a packed layout: eight words of bytes, and two factors.

`unpack(w, chunk, unit, lane)`: eight uint32 words of four unsigned bytes u each, in element order.
`scales(w, chunk, unit, lane)`: two float32 factors a and b; `block_dot` says what they mean.
`chunk` is the byte offset of a warp's chunk, in uint64 so that loads take their constants as
immediates. Layouts: `quant.packed`.
"""

from numba import cuda
from numba.cuda.types import float32, int8, uint32, uint64

from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.instructions import (
    and_or,
    f32_from_bits,
    f32_from_f16,
    load_u16,
    load_u32,
    load_u32x2,
    load_u32x4,
    prmt,
    shift_right,
)

device = cuda.jit(device=True, forceinline=True)
LOW = 0x0F0F0F0F


@device
def plane(chunk, start, unit, lane, width):
    """Byte offset of a lane's field: planes hold the units one after another, 32 lanes each."""
    first = uint32(uint32(start) + uint32(uint32(32 * width) * uint32(unit)))
    return uint64(chunk + uint64(uint32(lane * uint32(width))) + uint64(first))


# For each of four nibbles its place j, or 4 + j where the bit 3, moved down to 2, is set.
choose_half = ptx_op((uint32,), (uint32,), "lop3.b32 $0, $1, 0x44444444, 0x32103210, 0xEA;")

# Quants ---------------------------------------------------------------------------------------


def make_bytes(layout):
    """Whole bytes, in two planes of 16."""
    second = layout.offsets[1]

    @device
    def unpack(w, chunk, unit, lane):
        a, b, c, d = load_u32x4(w, plane(chunk, 0, unit, lane, 16))
        e, f, g, h = load_u32x4(w, plane(chunk, second, unit, lane, 16))
        return a, b, c, d, e, f, g, h

    return unpack


@device
def nibbles(w, chunk, unit, lane):
    a, b, c, d = load_u32x4(w, plane(chunk, 0, unit, lane, 16))
    low = uint32(LOW)
    e, f = uint32(shift_right(a, uint32(4)) & low), uint32(shift_right(b, uint32(4)) & low)
    g, h = uint32(shift_right(c, uint32(4)) & low), uint32(shift_right(d, uint32(4)) & low)
    return uint32(a & low), uint32(b & low), uint32(c & low), uint32(d & low), e, f, g, h


@device
def above(word, high, left, right, mask):
    """`word` with the masked bits of `high`, moved left or right to where they belong."""
    moved = uint32(high << uint32(left)) if left else shift_right(high, uint32(right))
    return and_or(moved, uint32(mask), word)


def make_fifth_bit(layout):
    """Nibbles, and bit m of every byte of one more word as the fifth bit of word m."""
    start = layout.offsets[1]

    @device
    def unpack(w, chunk, unit, lane):
        a, b, c, d, e, f, g, h = nibbles(w, chunk, unit, lane)
        high = load_u32(w, plane(chunk, start, unit, lane, 4))
        mask = 0x10101010
        a, b = above(a, high, 4, 0, mask), above(b, high, 3, 0, mask)
        c, d = above(c, high, 2, 0, mask), above(d, high, 1, 0, mask)
        e, f = above(e, high, 0, 0, mask), above(f, high, 0, 1, mask)
        return a, b, c, d, e, f, above(g, high, 0, 2, mask), above(h, high, 0, 3, mask)

    return unpack


def make_two_more_bits(layout):
    """Nibbles, and two more bits of each element from two more words."""
    start = layout.offsets[1]

    @device
    def unpack(w, chunk, unit, lane):
        a, b, c, d, e, f, g, h = nibbles(w, chunk, unit, lane)
        first, second = load_u32x2(w, plane(chunk, start, unit, lane, 8))
        mask = 0x30303030
        a, b = above(a, first, 4, 0, mask), above(b, first, 2, 0, mask)
        c, d = above(c, first, 0, 0, mask), above(d, first, 0, 2, mask)
        e, f = above(e, second, 4, 0, mask), above(f, second, 2, 0, mask)
        return a, b, c, d, e, f, above(g, second, 0, 0, mask), above(h, second, 0, 2, mask)

    return unpack


def make_codebook(values):
    """Nibbles in element order, each the index of one of 16 signed values; u is the value + 128."""
    table = bytes(v + 128 for v in values)
    t0, t1, t2, t3 = (int.from_bytes(table[i : i + 4], "little") for i in (0, 4, 8, 12))
    lower = ptx_op((uint32,), (uint32,), f"prmt.b32 $0, {t0}, {t1}, $1;")
    upper = ptx_op((uint32,), (uint32,), f"prmt.b32 $0, {t2}, {t3}, $1;")

    @device
    def look_up(selector, half):
        """Four values: `half` has, for each, 0 or 4 + the byte number: the lower or upper eight."""
        return prmt(lower(selector), upper(selector), half)

    @device
    def eight(q):
        selector = uint32(q & uint32(0x77777777))
        half = choose_half(shift_right(q, uint32(1)))
        first = look_up(selector, half)
        return first, look_up(shift_right(selector, uint32(16)), shift_right(half, uint32(16)))

    @device
    def unpack(w, chunk, unit, lane):
        p, q, r, s = load_u32x4(w, plane(chunk, 0, unit, lane, 16))
        a, b = eight(p)
        c, d = eight(q)
        e, f = eight(r)
        g, h = eight(s)
        return a, b, c, d, e, f, g, h

    return unpack


# Scales ---------------------------------------------------------------------------------------


def make_f16_scale(layout):
    """One float16 per block."""
    start = layout.offsets[len(layout.planes) - 1]

    @device
    def scales(w, chunk, unit, lane):
        d = f32_from_f16(load_u16(w, plane(chunk, start, unit, lane, 2)))
        return d, float32(0.0)

    return scales


def make_e8m0_scale(layout):
    """One exponent e per block: 2^(e - 128); the codebook holds twice the value."""
    start = layout.offsets[1]

    @device
    def scales(w, chunk, unit, lane):
        e = uint32(w[plane(chunk, start, unit, lane, 1)])
        # 2^(e - 127), then half of it; e = 0 is a subnormal, whose bits no shift gives.
        twice = max(uint32(e << uint32(23)), uint32(0x00400000))
        d = f32_from_bits(twice) * float32(0.5)
        return d, float32(0.0)

    return scales


@device
def shared_at(chunk, start, lane, width):
    """Byte offset of the shared field of a lane's row."""
    row = uint32(lane >> uint32(2))
    return uint64(chunk + uint64(uint32(row * uint32(width))) + uint64(start))


def make_scale_and_min(layout):
    """d, dmin of a super-block, a byte each of scale and min: d scale u - dmin min."""
    start, shared = layout.offsets[-2], layout.offsets[-1]

    @device
    def scales(w, chunk, unit, lane):
        both = load_u32(w, shared_at(chunk, shared, lane, 4))
        pair = uint32(load_u16(w, plane(chunk, start, unit, lane, 2)))
        d = f32_from_f16(both & uint32(0xFFFF))
        least = f32_from_f16(shift_right(both, uint32(16)))
        scale = float32(uint32(pair & uint32(0xFF)))
        return d * scale, least * float32(shift_right(pair, uint32(8)))

    return scales


def make_signed_scale(layout):
    """d of a super-block times one signed byte per block."""
    start, shared = layout.offsets[-2], layout.offsets[-1]

    @device
    def scales(w, chunk, unit, lane):
        d = f32_from_f16(load_u16(w, shared_at(chunk, shared, lane, 2)))
        d *= float32(int8(w[plane(chunk, start, unit, lane, 1)]))
        return d, float32(0.0)

    return scales


def make_two_scales(layout):
    """d of a super-block times a signed byte for each half of the block."""
    start, shared = layout.offsets[-2], layout.offsets[-1]

    @device
    def scales(w, chunk, unit, lane):
        d = f32_from_f16(load_u16(w, shared_at(chunk, shared, lane, 2)))
        pair = uint32(load_u16(w, plane(chunk, start, unit, lane, 2)))
        second = float32(int8(shift_right(pair, uint32(8))))
        return d * float32(int8(pair)), d * second

    return scales
