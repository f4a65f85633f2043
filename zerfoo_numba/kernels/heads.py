"""What the kernels of attention have in common: head widths, and which keys a query sees.

A head of HD (of V: VD) numbers lies in `parts` registers of a warp, element lane + 32 j in the
j-th. Widths that many models have get a kernel of their own.
"""

from numba import cuda
from numba.cuda.types import uint32

from zerfoo_numba.errors import UnsupportedError

HEAD_WIDTHS = (64, 80, 96, 128, 256)
MAX_HEAD_WIDTH = 256


def head_shape(HD, VD):
    """(width, parts) of the kernel for head widths HD and VD: exact for the listed widths, else the
    generic kernel with 1, 2, 4 or 8 registers of 32 dimensions."""
    parts = -(-max(HD, VD) // 32)
    if HD == VD and HD in HEAD_WIDTHS:
        return HD, parts
    if max(HD, VD) > MAX_HEAD_WIDTH:
        raise UnsupportedError(f"heads of {max(HD, VD)} are wider than {MAX_HEAD_WIDTH}")
    return 0, 1 << (parts - 1).bit_length()


def head_shapes():
    """Every (width, parts) that `head_shape` can answer."""
    return [(w, -(-w // 32)) for w in HEAD_WIDTHS] + [(0, parts) for parts in (1, 2, 4, 8)]


@cuda.jit(device=True)
def first_key(p, window):
    """The first key that position p sees; window 0 means all."""
    if window != uint32(0) and p >= window:
        return uint32(uint32(p - window) + uint32(1))
    return uint32(0)


@cuda.jit(device=True)
def row_after(row, count, rows):
    """The row of the cache, a ring of `rows`, that is `count` <= rows after `row`."""
    row = uint32(row + count)
    return uint32(row - rows) if row >= rows else row
