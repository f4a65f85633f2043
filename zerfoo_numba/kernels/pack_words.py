"""Elements as the planes of a packed layout have them: words of 4, 5 and 6 bits an element.

A block's 32 elements are eight words v[0] .. v[7] of four, a byte each. The first words of a plane
hold v[0], v[1] .. in the low bits of their bytes and parts of the last v[k] above them, so that
masks and few shifts give v[k] for k < 4 and v[k] << (8 - bits) for k >= 4 (`block_read`).
"""

from numba import cuda
from numba.cuda.types import uint32

from zerfoo_numba.ptx.instructions import shift_right

device = cuda.jit(device=True, forceinline=True)
LOW = 0x0F0F0F0F


@device
def up(word, count, mask):
    return uint32(uint32(word << uint32(count)) & uint32(mask))


@device
def down(word, count, mask):
    return uint32(shift_right(word, uint32(count)) & uint32(mask))


@device
def stack4(v):
    a, b, c, d, e, f, g, h = v
    return (
        uint32(a | uint32(e << uint32(4))), uint32(b | uint32(f << uint32(4))),
        uint32(c | uint32(g << uint32(4))), uint32(d | uint32(h << uint32(4))),
    )  # fmt: skip


@device
def stack5(v):
    a, b, c, d, e, f, g, h = v
    three, two, one = 0xE0E0E0E0, 0xC0C0C0C0, 0x20202020
    return (
        uint32(a | up(f, 3, three)),
        uint32(uint32(b | up(f, 6, two)) | up(h, 5, one)),
        uint32(c | up(g, 3, three)),
        uint32(uint32(d | up(g, 6, two)) | up(h, 4, one)),
        uint32(e | up(h, 3, three)),
    )


@device
def stack6(v):
    a, b, c, d, e, f, g, h = v
    top, low = 0xC0C0C0C0, 0x03030303
    return (
        uint32(a | up(g, 2, top)),
        uint32(b | up(g, 4, top)),
        uint32(c | up(g, 6, top)),
        uint32(d | up(h, 2, top)),
        uint32(uint32(e << uint32(2)) | down(h, 2, low)),
        uint32(uint32(f << uint32(2)) | uint32(h & uint32(low))),
    )


@device
def even_pairs(word):
    """Four nibbles in the low halves of bytes to 16 bits."""
    near = uint32(uint32(word | shift_right(word, uint32(4))) & uint32(0x00FF00FF))
    return uint32(uint32(near | shift_right(near, uint32(8))) & uint32(0xFFFF))


@device
def in_order(words):
    """16 bytes, elements j and j + 16 in byte j, to nibbles in the order of the elements."""
    a, b, c, d = words
    low = uint32(LOW)
    x, y = shift_right(a, uint32(4)), shift_right(b, uint32(4))
    z, t = shift_right(c, uint32(4)), shift_right(d, uint32(4))
    return (
        uint32(even_pairs(uint32(a & low)) | uint32(even_pairs(uint32(b & low)) << uint32(16))),
        uint32(even_pairs(uint32(c & low)) | uint32(even_pairs(uint32(d & low)) << uint32(16))),
        uint32(even_pairs(uint32(x & low)) | uint32(even_pairs(uint32(y & low)) << uint32(16))),
        uint32(even_pairs(uint32(z & low)) | uint32(even_pairs(uint32(t & low)) << uint32(16))),
    )
