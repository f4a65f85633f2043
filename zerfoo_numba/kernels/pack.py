"""pack: a matrix from its bytes in the file to a packed layout (`quant.packed`), once at load.

raw: the blocks of (N, K) as they lie in the file, uint8 that begin at a multiple of 4; chunks
(groups of 8 rows, steps, chunk_bytes) uint8. Rows past N and blocks past K are zero.

Reference: `tests.parity.pack_by_numpy`, byte for byte.
version 1: one lane per row and quarter of a chunk, as the matvec will read it; 16 bytes to a store.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import uint8, uint16, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.pack_blocks import FIELDS, SHARED
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import byte_store, shift_right
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS, ROWS, WIDE

WARPS = 4
device = cuda.jit(device=True, forceinline=True)
store_u8, store_u16, store_u32 = byte_store(uint8), byte_store(uint16), byte_store(uint32)
store_u32x2, store_u32x4 = byte_store(uint32, 2), byte_store(uint32, 4)


@device
def put_one(chunks, at, words, mask):
    store_u8(chunks, at, uint8(uint32(words[0] & mask)))


@device
def put_two(chunks, at, words, mask):
    store_u16(chunks, at, uint16(uint32(words[0] & mask)))


@device
def put_four(chunks, at, words, mask):
    store_u32(chunks, at, uint32(words[0] & mask))


@device
def put_eight(chunks, at, words, mask):
    store_u32x2(chunks, at, (uint32(words[0] & mask), uint32(words[1] & mask)))


@device
def put_wide(chunks, at, words, mask):
    a, b, c, d = words
    store_u32x4(
        chunks, at, (uint32(a & mask), uint32(b & mask), uint32(c & mask), uint32(d & mask))
    )


PUT = {1: put_one, 2: put_two, 4: put_four, 8: put_eight, WIDE: put_wide}


def make_plane(layout, number, first):
    """`plane(chunks, chunk, lane, u, record, mask)`: one plane of a block; its words in the record
    begin at `first`."""
    width, start, units = layout.planes[number], layout.offsets[number], layout.units
    put, words = PUT[width], slice(first, first + max(1, width // 4))
    by_lane = width if width == WIDE else width * units
    by_unit = 32 * width if width == WIDE else width

    @device
    def plane(chunks, chunk, lane, u, record, mask):
        place = madd(u, uint32(by_unit), madd(lane, uint32(by_lane), uint32(start)))
        put(chunks, uint64(chunk + uint64(place)), record[words], mask)

    return plane


def make_both(first, second):
    @device
    def both(chunks, chunk, lane, u, record, mask):
        first(chunks, chunk, lane, u, record, mask)
        second(chunks, chunk, lane, u, record, mask)

    return both


def make_planes(layout):
    """All planes of a block, from its record."""
    at, planes = 0, None
    for number, width in enumerate(layout.planes):
        plane = make_plane(layout, number, at)
        planes = plane if planes is None else make_both(planes, plane)
        at += max(1, width // 4)
    return planes


@device
def nothing(chunks, chunk, lane, raw, block, mask):
    pass


def make_shared(layout):
    """The field of a super-block, from the first lane of its row."""
    if not layout.shared_bytes:
        return nothing
    take, put = SHARED[layout.name], PUT[layout.shared_bytes]
    start, width = layout.offsets[-1], layout.shared_bytes

    @device
    def shared(chunks, chunk, lane, raw, block, mask):
        if uint32(lane & uint32(3)) == uint32(0):
            place = madd(shift_right(lane, uint32(2)), uint32(width), uint32(start))
            put(chunks, uint64(chunk + uint64(place)), (take(raw, block),), mask)

    return shared


@functools.cache
def make_pack_kernel1(type_name):
    layout, quant = LAYOUTS[type_name], QUANTS[type_name]
    fields, planes, shared = FIELDS[type_name], make_planes(layout), make_shared(layout)
    units, chunk_bytes, block_bytes = layout.units, layout.chunk_bytes, quant.block_bytes
    per_block = quant.block_size // 32
    blocks_per_unit = 1 if per_block > 1 else 4  # of the file

    @cuda.jit
    def pack_kernel1(chunks, raw, N, row_blocks, steps):
        lane, group = lane_id(), uint32(cuda.blockIdx.x)
        step = madd(uint32(cuda.blockIdx.y), uint32(WARPS), warp_id())
        if step < steps:
            chunk = uint64(madd(group, steps, step))
            chunk = uint64(chunk * uint64(chunk_bytes))
            row = madd(group, uint32(ROWS), shift_right(lane, uint32(2)))
            q = uint32(lane & uint32(3))
            for unit in range(units):
                u = uint32(unit)
                column = step
                if blocks_per_unit > 1:
                    column = madd(madd(step, uint32(units), u), uint32(blocks_per_unit), q)
                # What lies outside is read where it does no harm, and not kept.
                inside = row < N and column < row_blocks
                mask = uint32(0xFFFFFFFF) if inside else uint32(0)
                number = madd(row, row_blocks, column) if inside else uint32(0)
                block = uint32(number * uint32(block_bytes))
                planes(chunks, chunk, lane, u, fields(raw, block, u, q), mask)
                if unit == 0:
                    shared(chunks, chunk, lane, raw, block, mask)

    return pack_kernel1


def pack(device, chunks, raw, type_name, N, K):
    """`raw` uint8: the (N, K) matrix of a format in LAYOUTS; `chunks` uint8, `packed_bytes` of it.

    Padding between a chunk's fields and its end is left as it is: nothing reads it.
    """
    layout, quant = LAYOUTS[type_name], QUANTS[type_name]
    steps = blocks(K, layout.step)
    args = (chunks, raw, np.uint32(N), np.uint32(K // quant.block_size), np.uint32(steps))
    grid = (blocks(N, ROWS), blocks(steps, WARPS))
    device.launch(make_pack_kernel1(type_name), grid, 32 * WARPS, args)


def cost(N, K, type_name):
    quant = QUANTS[type_name]
    file = N * K // quant.block_size * quant.block_bytes
    return Cost(bytes=file + LAYOUTS[type_name].packed_bytes(N, K), flops=0)
