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

from dataclasses import dataclass

ROWS = 8  # of one warp
LANES_PER_ROW = 4
WIDE = 16  # bytes, the widest load of a lane
SECTOR = 32  # bytes that one memory transaction moves at least
PADDING = 256  # activations are padded to this many elements, which every layout's step divides


@dataclass(frozen=True)
class Layout:
    """`planes`: bytes per block of 32, plane by plane; `shared_bytes`: per row and chunk (the
    scales of a super-block). `kernels.pack_blocks` takes them from the file."""

    name: str
    step: int  # elements of a row in one chunk: 128, or a super-block of 256
    planes: tuple[int, ...]
    shared_bytes: int

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


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("Q8_0", 128, (16, 16, 2), 0),
        Layout("Q4_0", 128, (16, 2), 0),
        Layout("Q5_0", 128, (16, 4, 2), 0),
        Layout("IQ4_NL", 128, (16, 2), 0),
        Layout("MXFP4", 128, (16, 1), 0),
        Layout("Q4_K", 256, (16, 2), 4),
        Layout("Q5_K", 256, (16, 4, 2), 4),
        Layout("Q6_K", 256, (16, 8, 2), 2),
        Layout("IQ4_XS", 256, (16, 1), 2),
    )
}
