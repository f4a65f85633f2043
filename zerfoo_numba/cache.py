"""The KV cache: what earlier tokens left for attention, per layer, in device memory."""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels.kv import CACHE_TYPES


@dataclass(frozen=True)
class LayerCache:
    """k (S, KH, HD) and v (S, KH, VD) of one layer, stored as `type`."""

    k: Buffer
    v: Buffer
    type: str


class KVCache:
    """One LayerCache per layer, each with room for `context` tokens."""

    def __init__(self, device, config, context, cache_type):
        if cache_type not in CACHE_TYPES:
            known = ", ".join(CACHE_TYPES)
            raise UnsupportedError(f"the cache type {cache_type!r} is not one of {known}")
        dtype = CACHE_TYPES[cache_type].dtype
        self.type = cache_type
        self.layers = []
        for i in range(config.L):
            k = device.empty((context, config.KH, config.HD), dtype, f"blk.{i}.k_cache")
            v = device.empty((context, config.KH, config.VD), dtype, f"blk.{i}.v_cache")
            self.layers.append(LayerCache(k, v, cache_type))

    @property
    def nbytes(self):
        return sum(layer.k.nbytes + layer.v.nbytes for layer in self.layers)

    def read(self, device, layer, start, count):
        """(k, v) float32 of `count` positions from `start` on: (count, KH, HD), (count, KH, VD)."""
        rows = []
        for buffer in (self.layers[layer].k, self.layers[layer].v):
            row = int(np.prod(buffer.shape[1:]))
            view = buffer.view((count, *buffer.shape[1:]), start * row)
            rows.append(CACHE_TYPES[self.type].to_float32(device.read(view)))
        return rows
