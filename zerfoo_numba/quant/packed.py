"""Packed layouts: the same weights, rearranged once at load so that a warp reads them in one piece.

The integer matvec gives 8 rows to a warp and one block of 32 elements of its row to each lane. A
chunk holds what the warp needs for one step: 8 rows by `step` elements, as planes that lie one
after another. A plane has one field of every block (its quants, its high bits, its scale), in lane
order, so every load of a warp is one contiguous piece; a lane that takes two blocks from a chunk
finds their narrow fields side by side, for one load. Chunks are whole sectors. All fields keep the
bits of the file (6-bit scales get a byte each); rows are padded to a multiple of 8 and columns to
one of `step`, with zero scales. Nothing is rounded.

An element of block b is scale * (u - zero) or scale * u - least, with u an unsigned byte: dp4a of u
with 8-bit activations gives the sum of u x, and the sum of x, known from their quantisation, the
rest.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

ROWS = 8  # of one warp
LANES_PER_ROW = 4
WIDE = 16  # bytes, the widest load of a lane
NIBBLES = np.uint32(0x0F0F0F0F)
SECTOR = 32  # bytes that one memory transaction moves at least
PART_BYTES = 1 << 18  # of the file, packed at a time
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
        return -(-used // SECTOR) * SECTOR

    @property
    def offsets(self):
        """Byte offsets in a chunk: of each plane's first unit, then of the shared field."""
        starts = [0]
        for width in self.planes:
            starts.append(starts[-1] + 32 * self.units * width)
        return tuple(starts)

    @property
    def lane_fields(self):
        """(bytes, offset in a chunk, whether of a row) of each piece that a lane loads."""
        fields = []
        for width, start in zip(self.planes, self.offsets, strict=False):
            if width == WIDE:
                fields += [(WIDE, start + 32 * WIDE * u, False) for u in range(self.units)]
            else:
                fields.append((width * self.units, start, False))
        if self.shared_bytes:
            fields.append((self.shared_bytes, self.offsets[-1], True))
        return fields

    def packed_bytes(self, rows, columns):
        return -(-rows // ROWS) * -(-columns // self.step) * self.chunk_bytes


def pack(layout, data, rows, columns, block_size, block_bytes):
    """File bytes of a (rows, columns) matrix to its chunks, (row groups, steps, chunk_bytes) uint8.

    `block_size` and `block_bytes` are those of the format in the file. A part of the rows at a
    time, so that what lies between stays in cache, and parts on all cores.
    """
    raw = data.reshape(rows, columns // block_size, block_bytes)
    groups, steps = -(-rows // ROWS), -(-columns // layout.step)
    chunks = np.zeros((groups, steps, layout.chunk_bytes), np.uint8)
    step = max(1, PART_BYTES // (ROWS * raw[0].nbytes))

    def part(first):
        last = min(first + step, groups)
        _pack_groups(layout, raw[first * ROWS : last * ROWS], chunks[first:last])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(part, range(0, groups, step)))
    return chunks


def _pack_groups(layout, raw, chunks):
    """Some rows' blocks (rows, blocks, block_bytes) into their chunks (groups, steps, bytes)."""
    rows, steps = raw.shape[0], chunks.shape[1]
    fields = layout.fields(raw.reshape(-1, raw.shape[2]))
    whole = (len(chunks) * ROWS, steps * layout.units * LANES_PER_ROW)
    for plane, width, start in zip(fields, layout.planes, layout.offsets, strict=False):
        blocks = _padded(plane.reshape(rows, -1, width), whole)
        tiles = blocks.reshape(len(chunks), ROWS, steps, layout.units, LANES_PER_ROW)
        _region(chunks, start, tiles)[...] = tiles.transpose(0, 2, 3, 1, 4)
    if layout.shared_bytes:
        shared = fields[-1].reshape(rows, -1, layout.shared_bytes)
        tiles = _padded(shared, (whole[0], steps)).reshape(len(chunks), ROWS, steps, 1, 1)
        _region(chunks, layout.offsets[-1], tiles)[...] = tiles.transpose(0, 2, 3, 1, 4)


def _padded(fields, whole):
    """(rows, blocks, bytes) uint8 as one wide element a block, padded with zeros to `whole`."""
    kind = np.dtype({1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}[fields.shape[2]])
    fields = np.ascontiguousarray(fields).view(kind)[..., 0]
    if fields.shape == whole:
        return fields
    padded = np.zeros(whole, kind)
    padded[: fields.shape[0], : fields.shape[1]] = fields
    return padded


def _region(chunks, start, tiles):
    """The part of every chunk from byte `start` on, as (groups, steps, units, rows, lanes).

    In memory the lane comes last where a field fills a load, else the unit.
    """
    groups, rows, steps, units, lanes = tiles.shape
    width = tiles.dtype.itemsize
    lane, unit = (width, rows * lanes * width) if width == WIDE else (units * width, width)
    strides = (*chunks.strides[:2], unit, lanes * lane, lane)
    shape = (groups, steps, units, rows, lanes)
    return np.ndarray(shape, tiles.dtype, chunks, start, strides)


# Fields of a block of 32: elements (n, blocks, 32) uint8 to bytes ------------------------------


def columns(raw):
    """Bytes (n, 4 w) as uint32 (w, n): long rows, on which NumPy is fast."""
    return np.ascontiguousarray(np.ascontiguousarray(raw).view("<u4").T)


def stacked(v, bits):
    """Values of 4, 5 or 6 bits, v (8, blocks, n) uint32 of four elements each, in as many words:
    the bytes (n, blocks, 16) of the first four and, where there are more, those of the others.

    The first words hold v[0], v[1] .. in the low bits of their bytes and parts of the last v[k]
    above them, so that masks and few shifts give v[k] for k < 4 and v[k] << (8 - bits) for k >= 4
    (`kernels.block_read`).
    """
    if bits == 4:
        words = [v[k] | v[k + 4] << 4 for k in range(4)]
    elif bits == 5:  # three bits of v[5], v[6], v[7] where they are wanted, two in other words
        three, two, one = 0xE0E0E0E0, 0xC0C0C0C0, 0x20202020
        words = [v[0] | v[5] << 3 & three, v[1] | v[5] << 6 & two | v[7] << 5 & one]
        words += [v[2] | v[6] << 3 & three, v[3] | v[6] << 6 & two | v[7] << 4 & one]
        words += [v[4] | v[7] << 3 & three]
    else:  # v[6] and v[7] as pairs of bits of three words each
        top, low = 0xC0C0C0C0, 0x03030303
        words = [v[0] | v[6] << 2 & top, v[1] | v[6] << 4 & top, v[2] | v[6] << 6 & top]
        words += [v[3] | v[7] << 2 & top, v[4] << 2 | v[7] >> 2 & low, v[5] << 2 | v[7] & low]
    parts = (words[:4], words[4:]) if bits > 4 else (words,)
    return [np.stack([w.T for w in part], axis=-1).view(np.uint8) for part in parts]


def pairs(q):
    """Nibbles in order: nibble j of word k is element 8k + j, as a byte permutation selects."""
    return q[..., 0::2] | q[..., 1::2] << 4


def _q8_0(raw):
    quants = raw[:, None, 2:] ^ 0x80
    return quants[..., :16], quants[..., 16:], raw[:, None, :2]


def _q4_0(raw):
    return raw[:, None, 2:], raw[:, None, :2]


def _q5_0(raw):
    qs, bits = columns(raw[:, 6:]), columns(raw[:, 2:6])
    v = np.concatenate([qs & NIBBLES, qs >> 4 & NIBBLES])[:, None]
    for k in range(8):
        v[k] |= ((bits >> 4 * k & 15) * np.uint32(0x00204081) & 0x01010101) << 4  # bit j to byte j
    return *stacked(v, 5), raw[:, None, :2]


def _six_bit_pairs(scales):
    """The 12 bytes of Q4_K and Q5_K to (n, 8, 2): scale and min of each sub-block."""
    a, b, c = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    least = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return np.stack([scale, least], axis=-1)


def _stacked_nibbles(qs):
    """(n, 128): 32 bytes hold two sub-blocks, the first in the low nibbles. To words (8, 8, n)."""
    words = columns(qs).reshape(4, 8, -1).swapaxes(0, 1)
    return np.stack([words & NIBBLES, words >> 4 & NIBBLES], axis=2).reshape(8, 8, -1)


def _q4_k(raw):
    return *stacked(_stacked_nibbles(raw[:, 16:]), 4), _six_bit_pairs(raw[:, 4:16]), raw[:, :4]


def _q5_k(raw):
    v, high = _stacked_nibbles(raw[:, 48:]), columns(raw[:, 16:48])
    for j in range(8):
        v[:, j] |= (high >> j & 0x01010101) << 4
    return *stacked(v, 5), _six_bit_pairs(raw[:, 4:16]), raw[:, :4]


def _q6_k(raw):
    words = columns(raw[:, :128]).reshape(2, 2, 8, -1)  # (half, pair, word, n)
    high = columns(raw[:, 128:192]).reshape(2, 8, -1)
    v = np.empty((8, 2, 4, len(raw)), np.uint32)
    for j in range(4):
        low = words[:, j % 2] >> j // 2 * 4 & NIBBLES
        v[:, :, j] = (low | (high >> 2 * j & 0x03030303) << 4).swapaxes(0, 1)
    return *stacked(v.reshape(8, 8, -1), 6), raw[:, 192:208].reshape(-1, 8, 2), raw[:, 208:]


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
