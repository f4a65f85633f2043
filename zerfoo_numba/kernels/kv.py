"""How the KV cache stores a number: one row per cache type, closed over by append and attention."""

from dataclasses import dataclass

import numpy as np
from numba import cuda

from zerfoo_numba.ptx.instructions import f16_from_f32, f32_from_f16


@dataclass(frozen=True)
class CacheType:
    """`load(pointer, i) -> float32` and `store(pointer, i, float32)` over elements of `dtype`."""

    name: str
    dtype: type
    load: object
    store: object

    def to_float32(self, array):
        """The cached numbers of `array` (any shape, `dtype`) as float32."""
        return array.view(np.float16).astype(np.float32) if self.name == "f16" else array


@cuda.jit(device=True)
def load_f32(pointer, i):
    return pointer[i]


@cuda.jit(device=True)
def store_f32(pointer, i, value):
    pointer[i] = value


@cuda.jit(device=True)
def load_f16(pointer, i):
    return f32_from_f16(pointer[i])


@cuda.jit(device=True)
def store_f16(pointer, i, value):
    pointer[i] = f16_from_f32(value)


CACHE_TYPES = {
    c.name: c
    for c in (
        CacheType("f32", np.float32, load_f32, store_f32),
        CacheType("f16", np.uint16, load_f16, store_f16),
    )
}
