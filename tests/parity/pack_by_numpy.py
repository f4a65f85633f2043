"""The packed layouts in NumPy, from their description: what `kernels.pack` is compared with.

A block's fields are cut out of the file's bytes for all blocks at once, and then every field is
put in its place of the chunks.
"""

import numpy as np

from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LANES_PER_ROW, LAYOUTS, ROWS, WIDE

NIBBLES = np.uint32(0x0F0F0F0F)


def pack(data, type_name, rows, columns):
    """File bytes of a (rows, columns) matrix to its chunks, (row groups, steps, chunk_bytes)."""
    layout, quant = LAYOUTS[type_name], QUANTS[type_name]
    raw = data.reshape(rows, columns // quant.block_size, quant.block_bytes)
    groups, steps = -(-rows // ROWS), -(-columns // layout.step)
    chunks = np.zeros((groups, steps, layout.chunk_bytes), np.uint8)
    fields = FIELDS[type_name](raw.reshape(-1, raw.shape[2]))
    whole = (len(chunks) * ROWS, steps * layout.units * LANES_PER_ROW)
    for plane, width, start in zip(fields, layout.planes, layout.offsets, strict=False):
        blocks = _padded(plane.reshape(rows, -1, width), whole)
        tiles = blocks.reshape(len(chunks), ROWS, steps, layout.units, LANES_PER_ROW)
        _region(chunks, start, tiles)[...] = tiles.transpose(0, 2, 3, 1, 4)
    if layout.shared_bytes:
        shared = fields[-1].reshape(rows, -1, layout.shared_bytes)
        tiles = _padded(shared, (whole[0], steps)).reshape(len(chunks), ROWS, steps, 1, 1)
        _region(chunks, layout.offsets[-1], tiles)[...] = tiles.transpose(0, 2, 3, 1, 4)
    return chunks


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


FIELDS = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q5_0": _q5_0, "IQ4_NL": _iq4_nl, "MXFP4": _mxfp4,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_XS": _iq4_xs,
}  # fmt: skip
