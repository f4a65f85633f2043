"""Reading a packed layout: what one lane takes of a chunk, as bytes to multiply and as factors.

`make_load(layout)` fetches a record, a tuple of uint32 words, field after field of the layout, so
that several records can be under way before the first is looked at. Of a record
  words     gives eight words of four unsigned bytes for each block of 32, in element order; where
            the quants have fewer than 8 bits the last four are 2^(8 - bits) times theirs
            (`pack_words`); of a codebook format sixteen (`make_codebook`)
  factors   gives float32 numbers; `block_dot` says what they mean
"""

from numba import cuda
from numba.cuda.types import float32, int8, uint8, uint16, uint32, uint64

from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.instructions import (
    and_or,
    byte_load,
    f32_from_bits,
    f32_from_f16,
    shift_right,
)
from zerfoo_numba.quant.packed import WIDE

device = cuda.jit(device=True, forceinline=True)

two_halves = ptx_op((uint16, uint16), (uint32,), "mov.b32 {$0, $1}, $2;")

# Loads ----------------------------------------------------------------------------------------


@device
def one(word):
    return (uint32(word),)


@device
def many(words):
    return words


def make_field(width, start, per_row):
    """`field(w, chunk, lane)`: the `width` bytes of a lane, or of its row, as uint32 words.

    `chunk` is a byte offset in uint64, so that the load takes `start` as an immediate.
    """
    load = byte_load({1: uint8, 2: uint16}.get(width, uint32), max(1, width // 4))
    words = many if width > 4 else one
    lanes = 2 if per_row else 0  # log2

    @device
    def field(w, chunk, lane):
        place = uint32(uint32(lane >> uint32(lanes)) * uint32(width))
        return words(load(w, uint64(chunk + uint64(place) + uint64(start))))

    return field


def make_both(first, second):
    @device
    def both(w, chunk, lane):
        return first(w, chunk, lane) + second(w, chunk, lane)

    return both


def make_load(layout):
    """`load(w, chunk, lane)`: the record of a lane."""
    fields = [make_field(*field) for field in layout.lane_fields]
    load = fields[0]
    for field in fields[1:]:
        load = make_both(load, field)
    return load


# Quants ---------------------------------------------------------------------------------------


@device
def whole_bytes(words):
    return words


@device
def four_bits(words):
    a, b, c, d = words
    low, high = uint32(0x0F0F0F0F), uint32(0xF0F0F0F0)
    return (
        uint32(a & low), uint32(b & low), uint32(c & low), uint32(d & low),
        uint32(a & high), uint32(b & high), uint32(c & high), uint32(d & high),
    )  # fmt: skip


@device
def five_bits(words):
    a, b, c, d, e = words
    low, high = uint32(0x1F1F1F1F), uint32(0xE0E0E0E0)
    p = uint32(uint32(e << uint32(3)) & uint32(0xF8F8F8F8))
    q = and_or(shift_right(b, uint32(3)), uint32(0x18181818), uint32(a & high))
    r = and_or(shift_right(d, uint32(3)), uint32(0x18181818), uint32(c & high))
    s = and_or(shift_right(b, uint32(2)), uint32(0x08080808), uint32(e & high))
    s = and_or(shift_right(d, uint32(1)), uint32(0x10101010), s)
    return uint32(a & low), uint32(b & low), uint32(c & low), uint32(d & low), p, q, r, s


@device
def six_bits(words):
    a, b, c, d, e, f = words
    low, high, six = uint32(0x3F3F3F3F), uint32(0xC0C0C0C0), uint32(0xFCFCFCFC)
    r = and_or(shift_right(b, uint32(2)), uint32(0x30303030), uint32(a & high))
    r = and_or(shift_right(c, uint32(4)), uint32(0x0C0C0C0C), r)
    s = and_or(uint32(e << uint32(4)), uint32(0x30303030), uint32(d & high))
    s = and_or(uint32(f << uint32(2)), uint32(0x0C0C0C0C), s)
    return (
        uint32(a & low), uint32(b & low), uint32(c & low), uint32(d & low),
        uint32(e & six), uint32(f & six), r, s,
    )  # fmt: skip


def make_lookup(values, wanted):
    """Four words of eight nibbles to the magnitudes of those whose bit 3 is `wanted`, else zero.

    A byte permutation whose selector has bit 3 set copies the top bit of a byte, here zero, in
    place of the byte.
    """
    table = bytes(abs(v) for v in values)
    t0, t1 = (int.from_bytes(table[i : i + 4], "little") for i in (0, 4))
    choose = ptx_op((uint32,), (uint32,), f"prmt.b32 $0, {t0}, {t1}, $1;")
    flip = 0x88888888 if wanted else 0

    @device
    def look_up(words):
        p, q, r, s = words
        p, q = uint32(p ^ uint32(flip)), uint32(q ^ uint32(flip))
        r, s = uint32(r ^ uint32(flip)), uint32(s ^ uint32(flip))
        first = choose(p), choose(shift_right(p, uint32(16)))
        second = choose(q), choose(shift_right(q, uint32(16)))
        third = choose(r), choose(shift_right(r, uint32(16)))
        return first + second + third + (choose(s), choose(shift_right(s, uint32(16))))

    return look_up


def make_codebook(values):
    """Nibbles in element order, indices of 16 values; the first eight have one sign, the rest the
    other. Eight words of the positive values' magnitudes, then eight of the negative ones'."""
    plus, minus = make_lookup(values[:8], 0), make_lookup(values[8:], 1)
    if min(values) in values[:8]:
        plus, minus = minus, plus

    @device
    def codebook(words):
        return plus(words) + minus(words)

    return codebook


def make_words(layout, decode):
    """`words(record)` of all blocks of a lane, one block after another."""
    wide = sum(width // 4 for width in layout.planes if width == WIDE)
    more = sum(width // 4 for width in layout.planes if 4 <= width < WIDE)
    if layout.units == 1:
        every = slice(0, wide + more)

        @device
        def words(record):
            return decode(record[every])

        return words
    one, other = slice(0, wide), slice(wide, 2 * wide)
    more_of_one = slice(2 * wide, 2 * wide + more)
    more_of_other = slice(2 * wide + more, 2 * wide + 2 * more)

    @device
    def words_of_two(record):
        first = decode(record[one] + record[more_of_one])
        return first + decode(record[other] + record[more_of_other])

    return words_of_two


# Factors --------------------------------------------------------------------------------------


@device
def f16_scale(record):
    """One float16 per block: its scale."""
    return (f32_from_f16(uint16(record[-1])),)


@device
def e8m0_scale(record):
    """One exponent e per block: 2^(e - 128); the codebook holds twice the value."""
    # 2^(e - 127), then half of it; e = 0 is a subnormal, whose bits no shift gives.
    twice = max(uint32(record[-1] << uint32(23)), uint32(0x00400000))
    return (f32_from_bits(twice) * float32(0.5),)


@device
def scales_and_mins(record):
    """d, dmin of a super-block; then scale and min of each of two blocks."""
    d, least = two_halves(record[-1])
    pairs = record[-2]
    return (
        f32_from_f16(d),
        f32_from_f16(least),
        float32(uint32(pairs & uint32(0xFF))),
        float32(uint32(shift_right(pairs, uint32(8)) & uint32(0xFF))),
        float32(uint32(shift_right(pairs, uint32(16)) & uint32(0xFF))),
        float32(shift_right(pairs, uint32(24))),
    )


@device
def signed_scales(record):
    """d of a super-block; then the scale of each of two blocks."""
    pair = record[-2]
    d = f32_from_f16(uint16(record[-1]))
    return d, float32(int8(pair)), float32(int8(shift_right(pair, uint32(8))))


@device
def scales_of_halves(record):
    """d of a super-block; then the scales of the halves of each of two blocks."""
    four = record[-2]
    return (
        f32_from_f16(uint16(record[-1])),
        float32(int8(four)),
        float32(int8(shift_right(four, uint32(8)))),
        float32(int8(shift_right(four, uint32(16)))),
        float32(int8(shift_right(four, uint32(24)))),
    )
