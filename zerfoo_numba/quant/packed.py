"""Packed layouts: the same weights, rearranged once at load so that a warp reads them in one piece.

The integer matvec gives 8 rows to a warp and one block of 32 elements of its row to each lane. A
chunk holds what the warp needs for one step: 8 rows by `step` elements, as planes that lie one
after another. A plane has one field of every block (its quants, its high bits, its scale), in lane
order, so every load of a warp is one contiguous piece. All fields keep the bits of the file
(6-bit scales get a byte each); rows are padded to a multiple of 8 and columns to one of `step`,
with zero scales. Nothing is rounded.

An element of block b is scale * (u - zero) or scale * u - least, with u an unsigned byte: dp4a of u
with 8-bit activations gives the sum of u x, and the sum of x, known from their quantisation, the
rest.
"""

from dataclasses import dataclass

import numpy as np

ROWS = 8  # of one warp
LANES_PER_ROW = 4
PADDING = 256  # activations are padded to this many elements, which every layout's step divides


@dataclass(frozen=True)
class Layout:
    """`planes`: bytes per block of 32, plane by plane; `shared_bytes`: per row and chunk (the
    scales of a super-block); `fields(raw)`: (n, block_bytes) file bytes to one array
    (n, blocks of 32, bytes) per plane and, where there are shared bytes, (n, bytes)."""

    name: str
    step: int  # elements of a row in one chunk: 128, or a super-block of 256
    planes: tuple[int, ...]
    shared_bytes: int
    fields: object

    @property
    def units(self):
        """Blocks of 32 that one lane takes from a chunk."""
        return self.step // (32 * LANES_PER_ROW)

    @property
    def chunk_bytes(self):
        used = ROWS * (self.step // 32 * sum(self.planes) + self.shared_bytes)
        return -(-used // 16) * 16

    @property
    def offsets(self):
        """Byte offsets in a chunk: of each plane's first unit, then of the shared field."""
        starts = [0]
        for width in self.planes:
            starts.append(starts[-1] + 32 * self.units * width)
        return tuple(starts)

    def packed_bytes(self, rows, columns):
        return -(-rows // ROWS) * -(-columns // self.step) * self.chunk_bytes


def pack(layout, data, rows, columns, block_size, block_bytes):
    """File bytes of a (rows, columns) matrix to its chunks, (row groups, steps, chunk_bytes) uint8.

    `block_size` and `block_bytes` are those of the format in the file.
    """
    per_row = columns // block_size
    groups, steps = -(-rows // ROWS), -(-columns // layout.step)
    *planes, shared = (*layout.fields(data.reshape(-1, block_bytes)), None)[
        : len(layout.planes) + 1
    ]
    chunks = np.zeros((groups, steps, layout.chunk_bytes), np.uint8)
    for plane, width, start in zip(planes, layout.planes, layout.offsets, strict=False):
        blocks = np.zeros((groups * ROWS, steps * layout.step // 32, width), np.uint8)
        blocks[:rows, : columns // 32] = plane.reshape(rows, -1, width)
        # (group, row, step, unit, lane of the row, byte) to (group, step, unit, row, lane, byte)
        tiled = blocks.reshape(groups, ROWS, steps, layout.units, LANES_PER_ROW, width)
        tiled = tiled.transpose(0, 2, 3, 1, 4, 5).reshape(groups, steps, -1)
        chunks[:, :, start : start + tiled.shape[2]] = tiled
    if layout.shared_bytes:
        fields = np.zeros((groups * ROWS, steps, layout.shared_bytes), np.uint8)
        fields[:rows] = shared.reshape(rows, per_row, layout.shared_bytes)
        tiled = fields.reshape(groups, ROWS, steps, -1).transpose(0, 2, 1, 3)
        start = layout.offsets[-1]
        chunks[:, :, start : start + ROWS * layout.shared_bytes] = tiled.reshape(groups, steps, -1)
    return chunks


# Fields of a block of 32: elements (n, blocks, 32) uint8 to bytes ------------------------------


def halves(q):
    """Nibble pairs (j, j + 16) in byte j: a word masked low holds elements 4k .. 4k + 3."""
    return q[..., :16] | q[..., 16:] << 4


def pairs(q):
    """Nibbles in order: nibble j of word k is element 8k + j, as a byte permutation selects."""
    return q[..., 0::2] | q[..., 1::2] << 4


def bit_words(bits, width):
    """Fields of `width` bits, element 4k + b at bit 8b + width * (k % (8 / width)) of its word."""
    per_word = 8 // width
    words = bits.reshape(*bits.shape[:-1], 8 // per_word, per_word, 4)  # (..., word, k, byte)
    shifts = (width * np.arange(per_word, dtype=np.uint8))[:, None]
    return np.bitwise_or.reduce(words << shifts, axis=-2).reshape(*bits.shape[:-1], -1)


def _bits(data):
    """(n, bytes) to (n, 8 * bytes) single bits, the lowest first."""
    return np.unpackbits(np.ascontiguousarray(data), axis=-1, bitorder="little")


def _q8_0(raw):
    quants = raw[:, None, 2:] ^ 0x80
    return quants[..., :16], quants[..., 16:], raw[:, None, :2]


def _q4_0(raw):
    return raw[:, None, 2:], raw[:, None, :2]


def _q5_0(raw):
    return raw[:, None, 6:], bit_words(_bits(raw[:, 2:6])[:, None], 1), raw[:, None, :2]


def _six_bit_pairs(scales):
    """The 12 bytes of Q4_K and Q5_K to (n, 8, 2): scale and min of each sub-block."""
    a, b, c = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    least = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return np.stack([scale, least], axis=-1)


def _stacked_nibbles(qs):
    """(n, 128): 32 bytes hold two sub-blocks, the first in the low nibbles. To (n, 8, 32)."""
    runs = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(raw):
    quants = halves(_stacked_nibbles(raw[:, 16:]))
    return quants, _six_bit_pairs(raw[:, 4:16]), raw[:, :4]


def _q5_k(raw):
    quants = halves(_stacked_nibbles(raw[:, 48:]))
    high = raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1  # (n, 8, 32)
    return quants, bit_words(high, 1), _six_bit_pairs(raw[:, 4:16]), raw[:, :4]


def _q6_k(raw):
    low = raw[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 8, 32)
    high = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (high & 3).reshape(-1, 8, 32)
    return halves(low), bit_words(high, 2), raw[:, 192:208].reshape(-1, 8, 2), raw[:, 208:]


def _sixteenths(qs):
    """(n, 16 * blocks): byte j of a block holds elements j and j + 16. To (n, blocks, 32)."""
    runs = qs.reshape(len(qs), -1, 16)
    return np.concatenate([runs & 15, runs >> 4], axis=2)


def _iq4_nl(raw):
    return pairs(_sixteenths(raw[:, 2:])), raw[:, None, :2]


def _iq4_xs(raw):
    high = raw[:, 2].astype(np.uint16) | raw[:, 3].astype(np.uint16) << 8
    k = np.arange(8)
    low = raw[:, 4:8][:, k // 2] >> (4 * (k % 2)).astype(np.uint8) & 15
    scale = low | (high[:, None] >> (2 * k).astype(np.uint16) & 3).astype(np.uint8) << 4
    return pairs(_sixteenths(raw[:, 8:])), (scale - np.uint8(32))[..., None], raw[:, :2]


def _mxfp4(raw):
    return pairs(_sixteenths(raw[:, 1:])), raw[:, None, :1]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("Q8_0", 128, (16, 16, 2), 0, _q8_0),
        Layout("Q4_0", 128, (16, 2), 0, _q4_0),
        Layout("Q5_0", 128, (16, 4, 2), 0, _q5_0),
        Layout("IQ4_NL", 128, (16, 2), 0, _iq4_nl),
        Layout("MXFP4", 128, (16, 1), 0, _mxfp4),
        Layout("Q4_K", 256, (16, 2), 4, _q4_k),
        Layout("Q5_K", 256, (16, 4, 2), 4, _q5_k),
        Layout("Q6_K", 256, (16, 8, 2), 2, _q6_k),
        Layout("IQ4_XS", 256, (16, 1), 2, _iq4_xs),
    )
}
