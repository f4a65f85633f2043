"""qk_norm_rope_append: normalise and rotate q and k, and append k and v to the KV cache.

q (T, H, HD) is replaced by rope(norm(q)); k_cache[(position + t) % S] = rope(norm(k[t]))
and v_cache likewise from v[t], with k (T, KH, HD), v (T, KH, VD), caches (S, KH, HD), (S, KH, VD).
norm is rmsnorm or layernorm over each head, of q, of k, of both or of neither, with a weight (HD,)
or one row per head (H, HD). Rotation turns the pair (a, b) by the angle of its position and
frequency: (a cos - b sin, b cos + a sin), read from tables cos, sin (S, R/2) made in float64; a
pair is (i, i + R/2) or (2i, 2i + 1), and dimensions from R on pass. In sections (M-RoPE) the first
pairs turn by the time, those from `height` on by the row and those from `width` on by the column
of a token: turns (S, 3) holds these three for every position, all of them the same for text.
References: reference.ops.rmsnorm, reference.ops.layernorm, reference.ops.rope.
Su et al., RoFormer, 2021; GPT-NeoX for the half-split pairs; Qwen2-VL, arXiv:2409.12191.

version 1: one warp per token and head.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.kv import CACHE_TYPES, bytes_per_key, store_f32
from zerfoo_numba.kernels.warp import FULL, lane_id, madd, warp_sum
from zerfoo_numba.ptx.instructions import rsqrt


@cuda.jit(device=True)
def head_mean(x, offset, HD, mean_factor):
    """mean(x) over the HD elements of one head, by one warp."""
    lane = lane_id()
    total = float32(0.0)
    start = uint32(0)
    while start < HD:
        d = uint32(start + lane)
        if d < HD:
            total += x[uint32(offset + d)]
        start = uint32(start + uint32(32))
    return warp_sum(total) * mean_factor


@cuda.jit(device=True)
def head_scale(x, offset, mean, HD, mean_factor, eps):
    """1 / sqrt(mean((x - mean)^2) + eps) over the HD elements of one head, by one warp."""
    lane = lane_id()
    squares = float32(0.0)
    start = uint32(0)
    while start < HD:
        d = uint32(start + lane)
        if d < HD:
            value = x[uint32(offset + d)] - mean
            squares += value * value
        start = uint32(start + uint32(32))
    return rsqrt(warp_sum(squares) * mean_factor + eps)


def make_element(normed):
    @cuda.jit(device=True)
    def element(x, weight, offset, row, d, mean, scale):
        value = x[uint32(offset + d)]
        return (value - mean) * scale * weight[uint32(row + d)] if normed else value

    return element


def make_angle(sectioned):
    """Where the cosine and sine of a pair stand, for the token at position p."""

    @cuda.jit(device=True)
    def angle(turns, p, pair, half, height, width):
        row = p
        if sectioned:
            axis = uint32(uint32(pair >= height) + uint32(pair >= width))
            row = turns[madd(p, uint32(3), axis)]
        return madd(row, half, pair)

    return angle


def make_rotate(interleaved, sectioned, norm, put):
    """One warp normalises and rotates one head of x: `put(out, index, value)` gets every element.

    `norm`: None, "rms" or "layer"; `row` is where the head's weights begin, and p the position.
    """
    centred, normed = norm == "layer", norm is not None
    element, angle = make_element(normed), make_angle(sectioned)

    @cuda.jit(device=True)
    def rotate(
        out, to, x, offset, weight, row, cos, sin, turns, p, R, height, width, HD, mean_factor, eps
    ):
        lane = lane_id()
        mean, scale = float32(0.0), float32(1.0)
        if centred:
            mean = head_mean(x, offset, HD, mean_factor)
        if normed:
            scale = head_scale(x, offset, mean, HD, mean_factor, eps)
        half = uint32(R >> uint32(1))
        start = uint32(0)
        while start < half:
            pair = uint32(start + lane)
            if pair < half:
                i = uint32(pair << uint32(1)) if interleaved else pair
                j = uint32(i + uint32(1)) if interleaved else uint32(pair + half)
                a = element(x, weight, offset, row, i, mean, scale)
                b = element(x, weight, offset, row, j, mean, scale)
                at = angle(turns, p, pair, half, height, width)
                c = cos[at]
                s = sin[at]
                put(out, uint32(to + i), a * c - b * s)
                put(out, uint32(to + j), b * c + a * s)
            start = uint32(start + uint32(32))
        start = R
        while start < HD:
            d = uint32(start + lane)
            if d < HD:
                put(out, uint32(to + d), element(x, weight, offset, row, d, mean, scale))
            start = uint32(start + uint32(32))

    return rotate


def make_rotate_append(interleaved, sectioned, norm, cache_type):
    """`make_rotate` into a cache; where that stores blocks, in place first, then block by block."""
    rotate = make_rotate(interleaved, sectioned, norm, cache_type.store or store_f32)
    append = cache_type.append
    if not cache_type.blocked:
        return rotate

    @cuda.jit(device=True)
    def rotate_append(
        out, to, x, offset, weight, row, cos, sin, turns, p, R, height, width, HD, mean_factor, eps
    ):
        rotate(
            x, offset, x, offset, weight, row, cos, sin, turns, p, R, height, width, HD,
            mean_factor, eps,
        )  # fmt: skip
        cuda.syncwarp(FULL)
        append(out, to, x, offset, HD)

    return rotate_append


@functools.cache
def make_rope_kernel1(pairs, sectioned, q_norm, k_norm, k_type, v_type):
    interleaved = pairs == "interleaved"
    k_type, v_type = CACHE_TYPES[k_type], CACHE_TYPES[v_type]
    start_k, start_v, append_v = k_type.start, v_type.start, v_type.append
    rotate_q = make_rotate(interleaved, sectioned, q_norm, store_f32)
    rotate_k = make_rotate_append(interleaved, sectioned, k_norm, k_type)

    @cuda.jit
    def rope_kernel1(
        q, k, v, k_cache, v_cache, q_weight, k_weight, cos, sin, turns, position,
        H, KH, HD, VD, rows, R, height, width, q_stride, k_stride, mean_factor, eps,
    ):  # fmt: skip
        head = uint32(cuda.blockIdx.x)
        t = uint32(cuda.blockIdx.y)
        p = uint32(position[0] + t)
        kept = uint32(p % rows)
        if head < H:
            offset = uint32(madd(t, H, head) * HD)
            row = uint32(head * q_stride)
            rotate_q(
                q, offset, q, offset, q_weight, row, cos, sin, turns, p, R, height, width, HD,
                mean_factor, eps,
            )  # fmt: skip
        elif head < uint32(H + KH):
            kh = uint32(head - H)
            offset = uint32(madd(t, KH, kh) * HD)
            to = start_k(madd(kept, KH, kh), HD)
            row = uint32(kh * k_stride)
            rotate_k(
                k_cache, to, k, offset, k_weight, row, cos, sin, turns, p, R, height, width, HD,
                mean_factor, eps,
            )  # fmt: skip
        else:
            kh = uint32(uint32(head - H) - KH)
            offset = uint32(madd(t, KH, kh) * VD)
            append_v(v_cache, start_v(madd(kept, KH, kh), VD), v, offset, VD)

    return rope_kernel1


def chosen(position, table, norm, weights, HD):
    """(kinds of the norms, their weights' buffers, the steps between the rows of those; what of a
    head is rotated; the turns), as the kernels take them. A buffer that is not there is another."""
    kinds = [None if weight is None else norm for weight in weights]
    strides = [HD if weight is not None and len(weight.shape) == 2 else 0 for weight in weights]
    weights = [table.cos if weight is None else weight for weight in weights]  # never read
    time, height = table.sections[:2] if table.turns is not None else (0, 0)
    turns = position if table.turns is None else table.turns
    return kinds, weights, strides, (table.dims, time, time + height), turns


def qk_norm_rope_append(
    device, q, k, v, cache, position, table, norm="rms", weights=(None, None), eps=0.0
):
    """`cache` is a LayerCache, `table` a RopeTable, `norm` "rms" or "layer"; of the `weights` of
    the norms of q and k, either (HD,) or (H, HD), each may be None: no norm."""
    T, H, HD = q.shape
    KH, VD = v.shape[1:]
    kinds, weights, strides, rotated, turns = chosen(position, table, norm, weights, HD)
    kernel = make_rope_kernel1(table.pairs, table.turns is not None, *kinds, *cache.types)
    sizes = [np.uint32(n) for n in (H, KH, HD, VD, cache.rows, *rotated, *strides)]
    numbers = (np.float32(1.0 / HD), np.float32(eps))
    arrays = (q, k, v, cache.k, cache.v, *weights, table.cos, table.sin, turns, position)
    device.launch(kernel, (H + 2 * KH, T), 32, (*arrays, *sizes, *numbers))


def cost(T, H, KH, HD, VD, cache_types):
    moved = 4 * T * (2 * H * HD + KH * (HD + VD)) + T * KH * bytes_per_key(HD, VD, cache_types)
    return Cost(bytes=moved, flops=T * (H + KH) * HD * 7)
