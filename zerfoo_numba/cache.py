"""What earlier tokens left for later ones, per layer, in device memory: keys and values for
attention, or the state of a recurrent block."""

import math
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels.attention_decode import Scratch, scratch
from zerfoo_numba.kernels.kv import CACHE_TYPES, bytes_per_key


@dataclass(frozen=True)
class LayerCache:
    """k (S, KH, HD) and v (S, KH, VD) of one layer, stored as `type` and `v_type` (None: the same).

    A ring: position p is in row p % S. `scratch` is what attention_decode needs besides.
    """

    k: Buffer
    v: Buffer
    type: str
    v_type: str | None = None
    scratch: Scratch | None = None

    @property
    def rows(self):
        return self.k.shape[0]

    @property
    def types(self):
        """The names of the cache types of K and V."""
        return self.type, self.v_type or self.type


def cache_types(wanted):
    """(K, V) names of the cache types: of one name, both are that; unknown: UnsupportedError."""
    names = (wanted, wanted) if isinstance(wanted, str) else tuple(wanted)
    wrong = [name for name in names if name not in CACHE_TYPES]
    if wrong or len(names) != 2:
        known = ", ".join(CACHE_TYPES)
        raise UnsupportedError(
            f"the cache type {wanted!r} is neither one of {known} nor a (K, V) pair of them"
        )
    return names


def bytes_by_type(config, wanted):
    """{cache type: bytes of a position's key and value in one KV head}: `wanted` first, then those
    that take less."""
    pairs = (cache_types(wanted), ("f16", "f16"), ("q8_0", "q8_0"))
    sizes = {pair: bytes_per_key(config.HD, config.VD, pair) for pair in pairs}
    first = sizes[pairs[0]]
    return {pair[0]: n for pair, n in sizes.items() if pair == pairs[0] or n < first}


class KVCache:
    """One LayerCache per layer: with room for `context` tokens or, where a layer looks no further
    back than its window, for that and the `chunk` of tokens that enter together."""

    def __init__(self, device, config, context, cache_type, chunk):
        c, self.types = config, cache_types(cache_type)
        self.widths = (c.HD, c.VD)
        shared = scratch(device, c.H, c.KH, *self.widths)
        self.layers = []
        for i, layer in enumerate(c.layers):
            rows = min(context, layer.window + chunk - 1) if layer.window else context
            buffers = []
            for name, type_name, width in zip("kv", self.types, self.widths, strict=True):
                kind = CACHE_TYPES[type_name]
                shape = (rows, c.KH, kind.items(width))
                buffers.append(device.empty(shape, kind.dtype, f"blk.{i}.{name}_cache"))
            self.layers.append(LayerCache(*buffers, *self.types, shared))

    @property
    def nbytes(self):
        return sum(layer.k.nbytes + layer.v.nbytes for layer in self.layers)

    def reset(self, device):
        """Nothing is left to forget: a new sequence reads only what it has written."""

    def arrays(self, length):
        """{name: Buffer} of what `length` tokens left."""
        found = {}
        for i, layer in enumerate(self.layers):
            for name, buffer in (("k", layer.k), ("v", layer.v)):
                rows = min(length, layer.rows)
                found[f"blk.{i}.{name}"] = buffer.view((rows, *buffer.shape[1:]))
        return found

    def read(self, device, layer, start, count):
        """(k, v) float32 of `count` positions from `start` on: (count, KH, HD), (count, KH, VD).

        Of a ring the last rows alone are there.
        """
        found, cache = [], self.layers[layer]
        rows = np.arange(start, start + count) % cache.rows
        for buffer, name, width in zip((cache.k, cache.v), self.types, self.widths, strict=True):
            found.append(CACHE_TYPES[name].to_float32(device.read(buffer)[rows], width))
        return found


class RecurrentState:
    """One state per layer: `layers[i]` {name: Buffer}, float32, of the `shapes` {name: shape}.

    It does not grow with the sequence; before the first token it is zero.
    """

    def __init__(self, device, config, shapes):
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        each = sum(sizes.values())
        self.whole = device.upload(np.zeros(config.L * each, np.float32), "state")
        self.layers = []
        for i in range(config.L):
            starts = i * each + np.cumsum([0, *sizes.values()])
            named = zip(shapes.items(), starts, strict=False)
            views = {name: self.whole.view(shape, int(start)) for (name, shape), start in named}
            self.layers.append(views)

    @property
    def nbytes(self):
        return self.whole.nbytes

    def reset(self, device):
        """As before the first token."""
        device.write(self.whole, np.zeros(self.whole.shape, np.float32))

    def arrays(self, length):
        """{name: Buffer} of what `length` tokens left."""
        layers = enumerate(self.layers)
        return {f"blk.{i}.{name}": buffer for i, named in layers for name, buffer in named.items()}
