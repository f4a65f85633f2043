"""vision_attention: out[t, h] = softmax(scale q[t, h] . K[h]) V[h] over the patches in t's span.

q, k, v, out (N, H, HD) float32; spans (N, 2) uint32: query t sees the patches spans[t, 0] to
spans[t, 1], of which neither falls from one query to the next. One span for all is a whole image;
spans one after another are its windows. Reference: reference.vision.
Online softmax: Milakov and Gimelshein, 2018; tiles of keys: Dao et al., FlashAttention, 2022.

version 1: a block takes 32 queries of a head, 4 for each warp, and the keys 32 at a time through
shared memory. For the scores a lane is a key, for the sums a lane is a dimension of V.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.activation import LOG2E
from zerfoo_numba.kernels.warp import lane_id, madd, warp_id, warp_max, warp_sum
from zerfoo_numba.ptx.instructions import ex2

WARPS, QUERIES, KEYS = 8, 4, 32
TILE = WARPS * QUERIES
PITCH = KEYS + 1  # of a dimension's row of keys: lanes that write a column meet other banks
PARTS = (1, 2, 3, 4)  # of 32 dimensions
NEVER = -1e30  # below every score; an infinity minus itself would be no number


def make_load(parts):
    width = 32 * parts

    @cuda.jit(device=True)
    def load(keys, values, k, v, first, row, h, N, H, HD):
        """Patch first + row, or the last there is, to a column of keys and a row of values."""
        lane = lane_id()
        patch = min(uint32(first + row), uint32(N - uint32(1)))
        start = uint32(madd(patch, H, h) * HD)
        for j in range(parts):
            d = uint32(lane + uint32(32 * j))
            at = d if uint32(32 * j + 32) <= HD else min(d, uint32(HD - uint32(1)))
            keys[madd(d, uint32(PITCH), row)] = k[uint32(start + at)]
            values[madd(row, uint32(width), d)] = v[uint32(start + at)]

    return load


@cuda.jit(device=True)
def products(score, keys, q, starts, h, H, HD):
    """The products of a warp's queries with the key of each lane."""
    lane = lane_id()
    for i in range(QUERIES):
        score[i] = float32(0.0)
    d = uint32(0)
    while d < HD:
        value = keys[madd(d, uint32(PITCH), lane)]
        for i in range(QUERIES):
            score[i] += q[uint32(uint32(madd(starts[i], H, h) * HD) + d)] * value
        d = uint32(d + uint32(1))


def make_add_values(parts):
    width = 32 * parts

    @cuda.jit(device=True)
    def add_values(total, weights, values):
        """The rows of values, weighted, to the sums of a warp's queries."""
        lane, first = lane_id(), uint32(warp_id() * uint32(QUERIES))
        row = uint32(0)
        while row < uint32(KEYS):
            for j in range(parts):
                value = values[madd(row, uint32(width), uint32(lane + uint32(32 * j)))]
                for i in range(QUERIES):
                    weight = weights[madd(uint32(first + uint32(i)), uint32(KEYS), row)]
                    total[i * parts + j] += weight * value
            row = uint32(row + uint32(1))

    return add_values


@functools.cache
def make_vision_attention_kernel1(parts):
    load, add_values = make_load(parts), make_add_values(parts)
    key_room, value_room, weight_room = 32 * parts * PITCH, KEYS * 32 * parts, TILE * KEYS
    held, steps = QUERIES * parts, KEYS // WARPS

    @cuda.jit
    def vision_attention_kernel1(out, q, k, v, spans, N, H, HD, scale):
        lane, warp = lane_id(), warp_id()
        h = uint32(cuda.blockIdx.x)
        begin = uint32(uint32(cuda.blockIdx.y) * uint32(TILE))
        keys = cuda.shared.array(key_room, float32)
        values = cuda.shared.array(value_room, float32)
        weights = cuda.shared.array(weight_room, float32)
        score, top = cuda.local.array(QUERIES, float32), cuda.local.array(QUERIES, float32)
        norm, total = cuda.local.array(QUERIES, float32), cuda.local.array(held, float32)
        starts = cuda.local.array(QUERIES, uint32)
        end = min(uint32(begin + uint32(TILE)), N)
        for i in range(QUERIES):
            t = uint32(madd(warp, uint32(QUERIES), begin) + uint32(i))
            starts[i] = min(t, uint32(end - uint32(1)))
            top[i], norm[i] = float32(NEVER), float32(0.0)
            for j in range(parts):
                total[i * parts + j] = float32(0.0)
        key = spans[uint32(begin << uint32(1))]
        last = spans[uint32(uint32(end << uint32(1)) - uint32(1))]
        while key <= last:
            for i in range(steps):
                row = uint32(warp + uint32(WARPS * i))
                load(keys, values, k, v, key, row, h, N, H, HD)
            cuda.syncthreads()
            products(score, keys, q, starts, h, H, HD)
            mine = uint32(key + lane)
            for i in range(QUERIES):
                at = uint32(starts[i] << uint32(1))
                seen = (mine >= spans[at]) & (mine <= spans[uint32(at + uint32(1))])
                scaled = score[i] * scale if seen else float32(-np.inf)
                highest = max(top[i], warp_max(scaled))
                fade, weight = ex2(top[i] - highest), ex2(scaled - highest)
                norm[i] = norm[i] * fade + weight
                top[i] = highest
                for j in range(parts):
                    total[i * parts + j] *= fade
                query = uint32(madd(warp, uint32(QUERIES), uint32(i)))
                weights[madd(query, uint32(KEYS), lane)] = weight
            cuda.syncthreads()
            add_values(total, weights, values)
            cuda.syncthreads()
            key = uint32(key + uint32(KEYS))
        for i in range(QUERIES):
            t = uint32(madd(warp, uint32(QUERIES), begin) + uint32(i))
            inverse = float32(1.0) / warp_sum(norm[i])
            if t < N:
                for j in range(parts):
                    d = uint32(lane + uint32(32 * j))
                    if d < HD:
                        out[uint32(uint32(madd(t, H, h) * HD) + d)] = total[i * parts + j] * inverse

    return vision_attention_kernel1


def vision_attention(device, out, q, k, v, spans, scale):
    """Raises UnsupportedError for heads that do not fit the shared memory of a block."""
    N, H, HD = q.shape
    most = 32 * PARTS[-1]
    if most < HD:
        raise UnsupportedError(f"the heads of an image tower are {HD} wide; at most {most} is run")
    kernel = make_vision_attention_kernel1(blocks(HD, 32))
    sizes = (np.uint32(N), np.uint32(H), np.uint32(HD))
    args = (out, q, k, v, spans, *sizes, np.float32(scale * LOG2E))
    device.launch(kernel, (H, blocks(N, TILE)), 32 * WARPS, args)


def cost(N, seen, H, HD):
    """`seen`: patches in the spans of all queries together."""
    return Cost(bytes=16 * N * H * HD + 8 * N, flops=4 * H * HD * seen)
