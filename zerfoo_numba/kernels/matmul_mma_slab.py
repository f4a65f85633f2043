"""What matmul_mma puts into shared memory: a slab of 128 elements of its tokens and of its rows.

Everything lies in units of 16 bytes, the rows of the matrices that ldmatrix takes, and so permuted
that no eight of them that are stored or loaded together meet in a bank.
"""

from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import byte_store
from zerfoo_numba.ptx.tensor import UNIT, copy_async, copy_commit, global_place
from zerfoo_numba.quant.packed import ROWS

WARPS = 4
TOKENS = 64  # of a block
ROWS_OF_WARP = 2 * ROWS
SLAB = 128  # elements of a row between two barriers
THREADS = 32 * WARPS
X_UNITS, SCALE_UNITS = TOKENS * SLAB // UNIT, TOKENS * SLAB // 32  # of a slab of all tokens
X_COPIES, SCALE_COPIES = X_UNITS // THREADS, SCALE_UNITS // THREADS
COPIES = X_COPIES + SCALE_COPIES
OWN_UNITS = ROWS_OF_WARP * SLAB // UNIT  # of a warp's rows

LEAST = ("Q4_K", "Q5_K")  # an element is a v - b, with unsigned v; elsewhere a v, with signed v
HALVES = ("Q6_K",)  # the first 16 elements of a block have a scale of their own
BITS = {"Q4_0": 4, "Q5_0": 5, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6}  # else 8

device = cuda.jit(device=True, forceinline=True)
store_u32x4 = byte_store(uint32, 4)

# Activations ----------------------------------------------------------------------------------


@device
def copy_slab(x, x_scales, x_place, scales_place, row_of, slab, buffer):
    """A slab of all tokens on its way: `row_of[i]` is the first block of 32 of a thread's token i.

    Unit c of token t lies where c ^ (t & 7) would; scales block by block, of all tokens each.
    """
    thread, lane = uint32(cuda.threadIdx.x), lane_id()
    block = uint32(slab * uint32(SLAB // 32))
    token, c = uint32(thread >> uint32(3)), uint32(thread & uint32(7))
    unit = madd(token, uint32(8), uint32(c ^ uint32(token & uint32(7))))
    to = uint32(madd(buffer, uint32(X_UNITS), unit) * uint32(UNIT))
    for i in range(X_COPIES):
        source = uint64(uint64(uint32(row_of[i] + block)) << uint64(5))
        source = uint64(source + uint64(c * uint32(UNIT)))
        copy_async(uint32(x_place + to), global_place(x, source))
        to = uint32(to + uint32(X_UNITS // X_COPIES * UNIT))
    b = uint32(lane >> uint32(3))
    token = madd(warp_id(), uint32(8), uint32(lane & uint32(7)))
    unit = madd(b, uint32(TOKENS), token)
    to = uint32(madd(buffer, uint32(SCALE_UNITS), unit) * uint32(UNIT))
    for i in range(SCALE_COPIES):
        place = uint32(uint32(row_of[X_COPIES + i] + block) + b)
        source = uint64(uint64(place) << uint64(4))
        copy_async(uint32(scales_place + to), global_place(x_scales, source))
        to = uint32(to + uint32(8 * WARPS * UNIT))
    copy_commit()


@device
def find_rows(row_of, first, row_blocks, T):
    """Past the last token it is repeated; only the store of results is guarded."""
    last, thread = uint32(T - uint32(1)), uint32(cuda.threadIdx.x)
    for i in range(X_COPIES):
        token = uint32(first + uint32(uint32(thread >> uint32(3)) + uint32(THREADS // 8 * i)))
        row_of[i] = uint32(min(token, last) * row_blocks)
    for i in range(SCALE_COPIES):
        token = madd(warp_id(), uint32(8), uint32(uint32(thread & uint32(7)) + uint32(32 * i)))
        row_of[X_COPIES + i] = uint32(min(uint32(first + token), last) * row_blocks)


# Weights --------------------------------------------------------------------------------------


def make_place(type_name, unit):
    """`place(own, half, words, lane)`: the lane's block of 32 into the warp's own memory.

    Row r of block b, its first or last 16 elements, lies where row (r + 2 b) % 8 would.
    """
    family = FAMILIES[type_name]
    octets, width, up = family.octets, family.width, 8 - BITS.get(type_name, 8)
    own_words = slice(unit * width, (unit + 1) * width)
    flip = 0 if type_name in LEAST else 0x80808080

    @device
    def even(word):
        # The last 16 elements come as 2^up times what they are: now the first do, too.
        return uint32(uint32(word << uint32(up)) ^ uint32(flip))

    @device
    def place(own, start, words, lane):
        a, b, c, d, e, f, g, h = octets(words[own_words])
        row, block = uint32(lane >> uint32(2)), uint32(lane & uint32(3))
        turned = uint32(uint32(row + uint32(block << uint32(1))) & uint32(7))
        at = uint64(uint32(start + madd(block, uint32(16), turned)) * uint32(UNIT))
        store_u32x4(own, at, (even(a), even(b), even(c), even(d)))
        e, f = uint32(e ^ uint32(flip)), uint32(f ^ uint32(flip))
        g, h = uint32(g ^ uint32(flip)), uint32(h ^ uint32(flip))
        store_u32x4(own, uint64(at + uint64(8 * UNIT)), (e, f, g, h))

    return place


def make_numbers(type_name, unit):
    """`numbers(f)`: scales of the first and the last 16 elements' bytes, and b."""
    lines, halves = FAMILIES[type_name].lines, type_name in HALVES
    part = 2.0 ** (BITS.get(type_name, 8) - 8)

    @device
    def numbers(f):
        first, least, last, _ = lines(f, unit)
        return (first * float32(part) if halves else last), last, least

    return numbers
