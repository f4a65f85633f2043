"""attention_decode: attention of one token's queries, out[h] = softmax(scale q[h] . K[kh]) V[kh].

q (1, H, HD), out (1, H, VD), caches and `kh`, windows and softcap as in `attention`; the token
stands at `position` and sees keys 0 .. p, or p - window + 1 .. p. Key s is in row s % rows of the
cache. Reference: reference.ops.attention. Dao et al., Flash-Decoding, 2023, for the split over the
keys; Milakov and Gimelshein, 2018, for the online softmax.

The grid depends on the heads alone: a few blocks of 8 warps for each tile of up to 8 query heads
of a KV head, which share its reads. Each warp finds its keys, one contiguous piece, from the
position, and blocks without keys leave at once; how many blocks, and how many keys are worth a
warp, is the device's to say. Warps meet in shared memory; blocks leave their sums in `partials`,
and the last to arrive at the ticket joins them and sets the ticket to zero for the next launch.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import blocks
from zerfoo_numba.kernels.attention_walk import keys_at_once, make_walk
from zerfoo_numba.kernels.heads import first_key, head_shape, head_shapes
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id
from zerfoo_numba.ptx.instructions import atomic_add, ex2

WARPS = 8
REGISTERS = 32  # of each kind that the heads of a tile may take: queries and sums
TILES = (1, 2, 4, 8)  # query heads of a tile
USUAL = ("f16", "f16")

device = cuda.jit(device=True, forceinline=True)


def make_join(tile, parts):
    """`join`: element i of the sums of `count` warps or blocks, one after another from `totals_at`
    on, faded to their common largest score: (sum of values, sum of weights, that score). Largest
    scores and sums of weights, one for each head, are from `tops_at` and `norms_at` on."""
    padded = 32 * parts

    @device
    def join(totals, totals_at, tops, tops_at, norms, norms_at, h, i, count):
        highest, w, at = float32(-np.inf), uint32(0), h
        while w < count:
            highest = max(highest, tops[uint32(tops_at + at)])
            at = uint32(at + uint32(tile))
            w = uint32(w + uint32(1))
        value, norm, w, at = float32(0.0), float32(0.0), uint32(0), h
        while w < count:
            fade = ex2(tops[uint32(tops_at + at)] - highest)
            value += fade * totals[uint32(totals_at + madd(w, uint32(tile * padded), i))]
            norm += fade * norms[uint32(norms_at + at)]
            at = uint32(at + uint32(tile))
            w = uint32(w + uint32(1))
        return value, norm, highest

    return join


def make_load_queries(tile, parts):
    @device
    def load_queries(mine, totals, q, q_head, first_head, G, HD, scale):
        for h in range(tile):
            # Past the last head the tile repeats it; only the store is guarded.
            head = min(uint32(first_head + uint32(h)), uint32(G - uint32(1)))
            at = uint32(uint32(q_head + head) * HD)
            for j in range(parts):
                d = uint32(lane_id() + uint32(32 * j))
                mine[h * parts + j] = q[uint32(at + d)] * scale if d < HD else float32(0.0)
                totals[h * parts + j] = float32(0.0)

    return load_queries


@device
def parts_of(count, part):
    """How many parts of `part` cover `count`."""
    return uint32(uint32(count + uint32(part - uint32(1))) // part)


def make_share(tile):
    keys = keys_at_once(tile)

    @device
    def share(position, window, least):
        """(the block's first key, the key after the last of all, the keys seen, those of each warp
        but the last): as many for a warp, a multiple of `keys`, that all warps reach."""
        oldest = first_key(position[0], window)
        end = uint32(position[0] + uint32(1))
        seen = uint32(end - oldest)
        together = uint32(uint32(uint32(cuda.gridDim.y) * uint32(WARPS)) * uint32(keys))
        each = max(least, uint32(parts_of(seen, together) * uint32(keys)))
        return madd(uint32(cuda.blockIdx.y), uint32(each * uint32(WARPS)), oldest), end, seen, each

    return share


@device
def last_to_arrive(tickets, pair, used):
    """Whether this is the last of `used` blocks; all that they have written is then to be seen."""
    arrived = cuda.shared.array(1, uint32)
    cuda.syncthreads()
    if uint32(cuda.threadIdx.x) == uint32(0):
        cuda.threadfence()  # after the barrier: for what all threads of the block have written
        arrived[0] = atomic_add(tickets, pair, uint32(1))
        cuda.threadfence()
    cuda.syncthreads()
    return uint32(arrived[0] + uint32(1)) == used


def make_walk_piece(tile, parts, k_type, v_type):
    walk, load_queries = make_walk(tile, parts, k_type, v_type), make_load_queries(tile, parts)
    padded, held, lanes = 32 * parts, tile * parts, 32 // (tile * keys_at_once(tile))
    size = tile * padded

    @device
    def walk_piece(
        totals, tops, norms, q, q_head, k_cache, v_cache, kh, first_head, G, KH, HD, VD, key, stop,
        rows, scale, cap,
    ):  # fmt: skip
        """One warp's keys; what comes out, into its place in shared memory."""
        mine, total = cuda.local.array(held, float32), cuda.local.array(held, float32)
        load_queries(mine, total, q, q_head, first_head, G, HD, scale)
        top, norm = walk(mine, total, k_cache, v_cache, kh, KH, HD, VD, key, stop, rows, cap)
        lane, warp = lane_id(), warp_id()
        for h in range(tile):
            for j in range(parts):
                at = madd(warp, uint32(size), uint32(lane + uint32(h * padded + 32 * j)))
                totals[at] = total[h * parts + j]
            if lane == uint32(h * lanes):
                tops[madd(warp, uint32(tile), uint32(h))] = top
                norms[madd(warp, uint32(tile), uint32(h))] = norm

    return walk_piece


def make_leave(tile, parts):
    join, padded, size = make_join(tile, parts), 32 * parts, tile * 32 * parts

    @device
    def leave(partials, at, totals, tops, norms, busy, live, split, splits):
        """What the `busy` warps of a block found together, for the block that joins all."""
        tops_at = madd(splits, uint32(size), at)
        norms_at = madd(splits, uint32(tile), tops_at)
        zero, base = uint32(0), uint32(warp_id() << uint32(5))
        while base < live:
            i, h = uint32(base + lane_id()), uint32(base // uint32(padded))
            value, norm, top = join(totals, zero, tops, zero, norms, zero, h, i, busy)
            partials[uint32(madd(split, uint32(size), i) + at)] = value
            if i == uint32(h * uint32(padded)):
                place = madd(split, uint32(tile), h)
                partials[uint32(tops_at + place)] = top
                partials[uint32(norms_at + place)] = norm
            base = uint32(base + uint32(32 * WARPS))

    return leave


def make_finish(tile, parts):
    join, padded = make_join(tile, parts), 32 * parts

    @device
    def finish(out, to, VD, totals, totals_at, tops, tops_at, norms, norms_at, count, live):
        """The heads of a tile, from the sums of `count` warps or blocks."""
        base = uint32(warp_id() << uint32(5))
        while base < live:
            i, h = uint32(base + lane_id()), uint32(base // uint32(padded))
            value, norm, _ = join(totals, totals_at, tops, tops_at, norms, norms_at, h, i, count)
            d = uint32(i - uint32(h * uint32(padded)))
            if d < VD:
                out[uint32(madd(h, VD, d) + to)] = value / norm
            base = uint32(base + uint32(32 * WARPS))

    return finish


def make_attend(tile, parts, k_type, v_type):
    """`attend`: a block's share of the keys for a tile of heads; cache types by their names. The
    heads of the block's KV head begin at `q_head` of those in q."""
    padded, size = 32 * parts, tile * 32 * parts
    walk_piece = make_walk_piece(tile, parts, CACHE_TYPES[k_type], CACHE_TYPES[v_type])
    leave, finish = make_leave(tile, parts), make_finish(tile, parts)
    rooms, slots = WARPS * size, WARPS * tile

    @device
    def attend(
        out, q, q_head, k_cache, v_cache, partials, tickets, kh, first_head, G, KH, HD, VD, rows,
        first, end, seen, each, scale, cap,
    ):  # fmt: skip
        totals = cuda.shared.array(rooms, float32)
        tops, norms = cuda.shared.array(slots, float32), cuda.shared.array(slots, float32)
        pair, split = uint32(cuda.blockIdx.x), uint32(cuda.blockIdx.y)
        splits = uint32(cuda.gridDim.y)
        key = madd(warp_id(), each, first)
        if key < end:
            stop = min(uint32(key + each), end)
            walk_piece(
                totals, tops, norms, q, q_head, k_cache, v_cache, kh, first_head, G, KH, HD, VD,
                key, stop, rows, scale, cap,
            )  # fmt: skip
        cuda.syncthreads()
        busy = min(uint32(WARPS), parts_of(uint32(end - first), each))
        used = parts_of(seen, uint32(each * uint32(WARPS)))
        live = uint32(min(uint32(tile), uint32(G - first_head)) * uint32(padded))
        to, zero = uint32(madd(kh, G, first_head) * VD), uint32(0)
        if used == uint32(1):
            finish(out, to, VD, totals, zero, tops, zero, norms, zero, busy, live)
            return
        at = uint32(uint32(pair * splits) * uint32(size + 2 * tile))
        leave(partials, at, totals, tops, norms, busy, live, split, splits)
        if last_to_arrive(tickets, pair, used):
            tops_at = madd(splits, uint32(size), at)
            norms_at = madd(splits, uint32(tile), tops_at)
            finish(out, to, VD, partials, at, partials, tops_at, partials, norms_at, used, live)
            if uint32(cuda.threadIdx.x) == zero:
                tickets[pair] = zero

    return attend


@functools.cache
def make_decode_kernel1(width, parts, tile, k_type, v_type):
    """`tile` query heads of one KV head share a block."""
    share, attend = make_share(tile), make_attend(tile, parts, k_type, v_type)

    @cuda.jit
    def attention_decode_kernel1(
        out, q, k_cache, v_cache, position, partials, tickets,
        G, KH, HD, VD, rows, least, scale, window, cap,
    ):  # fmt: skip
        if width:
            HD, VD = uint32(width), uint32(width)
        pair, tiles = uint32(cuda.blockIdx.x), parts_of(G, uint32(tile))
        kh, first_head = uint32(pair // tiles), uint32(uint32(pair % tiles) * uint32(tile))
        first, end, seen, each = share(position, window, least)
        if first >= end:
            return
        attend(
            out, q, uint32(kh * G), k_cache, v_cache, partials, tickets, kh, first_head, G, KH, HD,
            VD, rows, first, end, seen, each, scale, cap,
        )  # fmt: skip

    return attention_decode_kernel1


@dataclass(frozen=True)
class Scratch:
    """What blocks of one launch leave for each other; launches one after another may share it."""

    partials: object
    tickets: object


def tiles(parts):
    """The numbers of heads that a tile can have whose registers are `parts` a head."""
    return [tile for tile in TILES if tile * parts <= REGISTERS]


def tile_of(G, parts):
    """Query heads that share a block, of the G of one KV head."""
    possible = tiles(parts)
    return next((tile for tile in possible if tile >= G), possible[-1])


def kernel_shape(HD, VD, types):
    """(width, parts) as `head_shape`, where only the usual types have kernels of one width."""
    width, parts = head_shape(HD, VD)
    return (width, parts) if types == USUAL else (0, 1 << (parts - 1).bit_length())


def kernel_shapes(types):
    """Every (width, parts) that `kernel_shape` can answer."""
    return [shape for shape in head_shapes() if types == USUAL or not shape[0]]


def scratch(device, H, KH, HD, VD):
    """Of any cache types."""
    parts = kernel_shape(HD, VD, None)[1]
    tile = tile_of(H // KH, parts)
    pairs = KH * blocks(H // KH, tile)
    room = pairs * device.attention_splits * tile * (32 * parts + 2)
    partials = device.empty(room, np.float32, "attention_partials")
    return Scratch(partials, device.upload(np.zeros(pairs, np.uint32), "attention_tickets"))


def attention_decode(device, out, q, cache, position, scale, window=None, softcap=None):
    """`cache` is a LayerCache with a scratch and with the token's key appended."""
    _, H, HD = q.shape
    KH, VD = cache.k.shape[1], out.shape[2]
    width, parts = kernel_shape(HD, VD, cache.types)
    G, shared = H // KH, cache.scratch
    tile = tile_of(G, parts)
    sizes = [np.uint32(n) for n in (G, KH, HD, VD, cache.rows, device.attention_piece)]
    numbers = (np.float32(scale), np.uint32(window or 0), np.float32(softcap or 0.0))
    arrays = (out, q, cache.k, cache.v, position, shared.partials, shared.tickets)
    kernel = make_decode_kernel1(width, parts, tile, *cache.types)
    grid = (KH * blocks(G, tile), device.attention_splits)
    device.launch(kernel, grid, 32 * WARPS, (*arrays, *sizes, *numbers))
