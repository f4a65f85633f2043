"""How the KV cache stores a number: one row per cache type, closed over by append and attention.

A head of `width` numbers takes `items(width)` elements. q8_0 is ggml's Q8_0 along the head: blocks
of 32, a half-precision scale d = max |x| / 127 and then 32 signed bytes x / d, to the nearest; the
last block of a head is filled up with zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int8, int32, uint32, uint64

from zerfoo_numba.kernels.warp import lane_id, warp_max
from zerfoo_numba.ptx.instructions import f16_from_f32, f32_from_f16, load_u16, rcp, round_to_i32

Q8_BLOCK = 34  # bytes: the scale and 32 numbers


@dataclass(frozen=True)
class CacheType:
    """`start(head, width)` is where head number `head` begins; `load(pointer, start, d)` is its
    element d as float32; `append(pointer, start, x, offset, width)` stores x[offset ...] by one
    warp. `store(pointer, i, float32)` writes one element, where the type has no blocks.
    """

    name: str
    dtype: type
    items: Callable[[int], int]
    start: object
    load: object
    append: object
    store: object = None

    @property
    def blocked(self):
        return self.store is None

    def to_float32(self, array, width=None):
        """The cached numbers of `array` (any shape, `dtype`) as float32, `width` of them a head."""
        if not self.blocked:
            return array.view(np.float16).astype(np.float32) if self.name == "f16" else array
        blocks = np.ascontiguousarray(array).reshape(*array.shape[:-1], -1, Q8_BLOCK)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
        return (scales * blocks[..., 2:]).reshape(*array.shape[:-1], -1)[..., :width]


def bytes_per_key(HD, VD, types):
    """Of one KV head; `types` names the cache types of K and V."""
    kinds = [CACHE_TYPES[name] for name in types]
    return sum(
        k.items(w) * np.dtype(k.dtype).itemsize for k, w in zip(kinds, (HD, VD), strict=True)
    )


@cuda.jit(device=True)
def load_f32(pointer, start, d):
    return pointer[uint32(start + d)]


@cuda.jit(device=True)
def store_f32(pointer, i, value):
    pointer[i] = value


@cuda.jit(device=True)
def load_f16(pointer, start, d):
    return f32_from_f16(pointer[uint32(start + d)])


@cuda.jit(device=True)
def store_f16(pointer, i, value):
    pointer[i] = f16_from_f32(value)


@cuda.jit(device=True)
def start_of_elements(head, width):
    return uint32(head * width)


def make_append(store):
    @cuda.jit(device=True)
    def append(pointer, start, x, offset, width):
        lane, first = lane_id(), uint32(0)
        while first < width:
            d = uint32(first + lane)
            if d < width:
                store(pointer, uint32(start + d), x[uint32(offset + d)])
            first = uint32(first + uint32(32))

    return append


@cuda.jit(device=True)
def start_of_blocks(head, width):
    return uint32(head * uint32(uint32(uint32(width + uint32(31)) >> uint32(5)) * uint32(Q8_BLOCK)))


@cuda.jit(device=True)
def load_q8_0(pointer, start, d):
    block = uint32(start + uint32(uint32(d >> uint32(5)) * uint32(Q8_BLOCK)))
    scale = f32_from_f16(load_u16(pointer, uint64(block)))
    return scale * float32(pointer[uint32(uint32(block + uint32(2)) + uint32(d & uint32(31)))])


@cuda.jit(device=True)
def append_q8_0(pointer, start, x, offset, width):
    lane, first, block = lane_id(), uint32(0), start
    while first < width:
        d = uint32(first + lane)
        value = float32(0.0)
        if d < width:
            value = x[uint32(offset + d)]
        largest = warp_max(abs(value))
        inverse = float32(127.0) * rcp(largest) if largest > float32(0.0) else float32(0.0)
        pointer[uint32(uint32(block + uint32(2)) + lane)] = int8(round_to_i32(value * inverse))
        half = int32(f16_from_f32(largest * float32(1.0 / 127.0)))
        if lane < uint32(2):
            pointer[uint32(block + lane)] = int8(half >> int32(lane << uint32(3)))
        block = uint32(block + uint32(Q8_BLOCK))
        first = uint32(first + uint32(32))


CACHE_TYPES = {
    c.name: c
    for c in (
        CacheType(
            "f32", np.float32, lambda width: width,
            start_of_elements, load_f32, make_append(store_f32), store_f32,
        ),
        CacheType(
            "f16", np.uint16, lambda width: width,
            start_of_elements, load_f16, make_append(store_f16), store_f16,
        ),
        CacheType(
            "q8_0", np.int8, lambda width: -(-width // 32) * Q8_BLOCK,
            start_of_blocks, load_q8_0, append_q8_0,
        ),
    )
}  # fmt: skip
