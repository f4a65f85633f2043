"""KV caches of random numbers, for the tests of what reads and writes them."""

import numpy as np

from reference.quant import dequantize
from tests.parity.random_blocks import random_blocks
from zerfoo_numba.cache import LayerCache
from zerfoo_numba.kernels.attention_decode import scratch
from zerfoo_numba.kernels.kv import CACHE_TYPES


def cached(rng, shape, type_name):
    """Random numbers (S, KH, width) as a cache stores them, and their float64 values."""
    S, KH, width = shape
    kind = CACHE_TYPES[type_name]
    if type_name != "q8_0":
        array = rng.standard_normal(shape).astype(np.float16 if type_name == "f16" else np.float32)
        return array.view(kind.dtype), array.astype(np.float64)
    blocks = random_blocks(rng, "Q8_0", S * KH, -(-width // 32) * 32)
    values = dequantize(blocks, "Q8_0", (-(-width // 32) * 32, S * KH)).astype(np.float64)
    stored = blocks.view(np.int8).reshape(S, KH, kind.items(width))
    return stored, values.reshape(S, KH, -1)[..., :width]


def kv_cache(device, rng, S, KH, HD, VD, type_name, H=None, v_type=None):
    """A cache of S random rows, and the float64 values it holds; decoding needs H."""
    arrays, values = zip(
        *(
            cached(rng, (S, KH, width), name)
            for width, name in ((HD, type_name), (VD, v_type or type_name))
        ),
        strict=True,
    )
    room = None if H is None else scratch(device, H, KH, HD, VD)
    cache = LayerCache(*(device.upload(a) for a in arrays), type_name, v_type, room)
    return cache, list(values)
