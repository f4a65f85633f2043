"""Which experts a token is sent to, with what weight, and in which slots they are computed.

route: the U largest of logits[t] (E), the largest first and of equals the lowest index; weights
  w[u] = scale exp(l[u] - max) / (sum of exp(l - max)), the sum over all experts, or normed over the
  chosen ones (Shazeer et al., 2017; Jiang et al., Mixtral of Experts, 2024).
  logits (T, E) float32, experts (T, U) uint32, weights (T, U) float32.
place: the T U pairs of token and expert sorted by expert into tiles of TILE slots, so that a tile
  reads the weights of one expert. experts (T U,) -> tiles (M,) uint32: the expert of each tile or
  NONE; sources (M TILE,): the pair in each slot, or NONE;
  slots (T U,): the slot of each pair.
gather: out[s] = x[sources[s] / U], x (T, D), out (M TILE, D); zeros in the slots of no pair.

References: reference.ops.route; place and gather are bookkeeping.
version 1: route has a warp per token, and each of U rounds finds the next in the order of logit and
index; place one block, a thread per expert and per tile; gather a thread per element.
"""

import math

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_id, warp_sum
from zerfoo_numba.ptx.instructions import ex2, rcp

WARPS = 4
THREADS = 128
TILE = 4
NONE = 0xFFFFFFFF
MOST_USED = 32  # experts of a token: one to a lane
MOST_EXPERTS = 1024  # counted in shared memory
LOG2E = float(np.float32(math.log2(math.e)))


@cuda.jit(device=True)
def comes_before(value, index, other, other_index):
    """Of two logits: is the first larger, or as large with the lower index?"""
    return (value > other) | ((value == other) & (index < other_index))


@cuda.jit(device=True)
def next_best(logits, row, E, last, last_index, first):
    """(value, index) of the first of the logits after `last`; of all for the `first` round."""
    lane = lane_id()
    best, best_index = float32(-math.inf), uint32(NONE)
    start = uint32(0)
    while start < E:
        e = uint32(start + lane)
        if e < E:
            value = logits[uint32(row + e)]
            left = first | comes_before(last, last_index, value, e)
            if left & comes_before(value, e, best, best_index):
                best, best_index = value, e
        start = uint32(start + uint32(32))
    for distance in (16, 8, 4, 2, 1):
        value = cuda.shfl_xor_sync(FULL, best, distance)
        index = uint32(cuda.shfl_xor_sync(FULL, int32(best_index), distance))
        if comes_before(value, index, best, best_index):
            best, best_index = value, index
    # Where no logit is a number any expert will do: the weights are none either.
    return float32(best), uint32(min(best_index, uint32(E - uint32(1))))


@cuda.jit(device=True)
def sum_of_all(logits, row, E, largest):
    lane = lane_id()
    total = float32(0.0)
    start = uint32(0)
    while start < E:
        e = uint32(start + lane)
        if e < E:
            total += ex2((logits[uint32(row + e)] - largest) * float32(LOG2E))
        start = uint32(start + uint32(32))
    return warp_sum(total)


@cuda.jit
def route_kernel1(experts, weights, logits, E, U, T, normed, scale):
    lane = lane_id()
    t = madd(uint32(cuda.blockIdx.x), uint32(WARPS), warp_id())
    if t < T:
        row = uint32(t * E)
        largest, chosen = next_best(logits, row, E, float32(0.0), uint32(0), True)
        mine, value, index = chosen, largest, chosen
        share = float32(1.0) if lane == uint32(0) else float32(0.0)
        u = uint32(1)
        while u < U:
            value, index = next_best(logits, row, E, value, index, False)
            if lane == u:
                mine = index
                share = ex2((value - largest) * float32(LOG2E))
            u = uint32(u + uint32(1))
        total = warp_sum(share)
        if normed == uint32(0):
            total = sum_of_all(logits, row, E, largest)
        if lane < U:
            at = madd(t, U, lane)
            experts[at] = mine
            weights[at] = scale * share * rcp(total)


def route(device, experts, weights, logits, normed, scale=1.0):
    """`normed`: the weights of a token's experts add up to `scale`."""
    T, E = logits.shape
    sizes = [np.uint32(n) for n in (E, experts.shape[1], T, normed)]
    args = (experts, weights, logits, *sizes, np.float32(scale))
    device.launch(route_kernel1, blocks(T, WARPS), 32 * WARPS, args)


def most_tiles(pairs, E):
    """Tiles that `pairs` pairs fill at most, however they are spread over E experts."""
    return min(pairs, (pairs + E * (TILE - 1)) // TILE)


@cuda.jit(device=True)
def tiles_of(count):
    return uint32(uint32(count + uint32(TILE - 1)) // uint32(TILE))


@cuda.jit(device=True)
def count_pairs(counts, experts, pairs, E):
    """counts[e] = how many pairs go to expert e."""
    thread, start = uint32(cuda.threadIdx.x), uint32(0)
    while start < E:
        e, count, p = uint32(start + thread), uint32(0), uint32(0)
        while p < pairs:
            count = uint32(count + (uint32(1) if experts[p] == e else uint32(0)))
            p = uint32(p + uint32(1))
        if e < E:
            counts[e] = count
        start = uint32(start + uint32(THREADS))


@cuda.jit(device=True)
def first_tiles(firsts, counts, E):
    """firsts[e] = the tiles of the experts below e."""
    thread, start = uint32(cuda.threadIdx.x), uint32(0)
    while start < E:
        e, tile, other = uint32(start + thread), uint32(0), uint32(0)
        while other < E:
            tile = uint32(tile + (tiles_of(counts[other]) if other < e else uint32(0)))
            other = uint32(other + uint32(1))
        if e < E:
            firsts[e] = tile
        start = uint32(start + uint32(THREADS))


@cuda.jit(device=True)
def clear_tiles(tiles, sources, firsts, counts, E, M):
    """The expert of each tile; what stands in its slots is to come."""
    thread, start = uint32(cuda.threadIdx.x), uint32(0)
    while start < M:
        tile, expert, e = uint32(start + thread), uint32(NONE), uint32(0)
        while e < E:
            within = uint32(tile - firsts[e]) < tiles_of(counts[e])  # below it, this wraps around
            expert = e if within else expert
            e = uint32(e + uint32(1))
        if tile < M:
            tiles[tile] = expert
            for j in range(TILE):
                sources[madd(tile, uint32(TILE), uint32(j))] = uint32(NONE)
        start = uint32(start + uint32(THREADS))


@cuda.jit
def place_kernel1(tiles, sources, slots, experts, pairs, E, M):
    counts = cuda.shared.array(MOST_EXPERTS, uint32)
    firsts = cuda.shared.array(MOST_EXPERTS, uint32)
    count_pairs(counts, experts, pairs, E)
    cuda.syncthreads()
    first_tiles(firsts, counts, E)
    cuda.syncthreads()
    clear_tiles(tiles, sources, firsts, counts, E, M)
    cuda.syncthreads()
    thread, start = uint32(cuda.threadIdx.x), uint32(0)
    while start < E:
        e, p = uint32(start + thread), uint32(0)
        slot = uint32(firsts[min(e, uint32(E - uint32(1)))] * uint32(TILE))
        while p < pairs:
            if experts[p] == e:  # of no pair where e is no expert
                sources[slot] = p
                slots[p] = slot
                slot = uint32(slot + uint32(1))
            p = uint32(p + uint32(1))
        start = uint32(start + uint32(THREADS))


def place(device, tiles, sources, slots, experts, E):
    sizes = [np.uint32(n) for n in (experts.size, E, tiles.size)]
    device.launch(place_kernel1, 1, THREADS, (tiles, sources, slots, experts, *sizes))


@cuda.jit
def gather_kernel1(out, x, sources, D, U):
    d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
    slot = uint32(cuda.blockIdx.y)
    source = sources[slot]
    if d < D:
        value = float32(0.0)
        if source != uint32(NONE):
            value = x[madd(uint32(source // U), D, d)]
        out[madd(slot, D, d)] = value


def gather(device, out, x, sources, U):
    S, D = out.shape
    args = (out, x, sources, np.uint32(D), np.uint32(U))
    device.launch(gather_kernel1, (blocks(D, THREADS), S), THREADS, args)


def route_cost(T, E, U):
    return Cost(bytes=4 * T * (E + 2 * U), flops=4 * T * E)


def place_cost(pairs, tiles):
    return Cost(bytes=4 * (2 * pairs + tiles * (TILE + 1)), flops=0)


def gather_cost(T, S, D):
    return Cost(bytes=4 * (T * D + S * D + S), flops=0)


def inputs(rng, T, E):
    return {"logits": (2 * rng.standard_normal((T, E))).astype(np.float32)}


# Experts that fill no warp, one warp, and several; one of them used, and all.
SHAPES = (
    {"T": 1, "E": 8, "U": 2}, {"T": 5, "E": 60, "U": 4}, {"T": 3, "E": 128, "U": 8},
    {"T": 4, "E": 32, "U": 32}, {"T": 9, "E": 7, "U": 1},
)  # fmt: skip
