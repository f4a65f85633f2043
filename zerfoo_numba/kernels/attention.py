"""attention: out[t, h] = softmax(scale q[t, h] . K[kh]) V[kh] over the keys that query t may see.

q (T, H, HD), K cache (S, KH, HD), V cache (S, KH, VD), out (T, H, VD); kh = h // (H / KH), so that
consecutive query heads share a key head. Key s is in row s % S of a cache. Query t stands at
p = position + t and sees keys 0 .. p, or p - window + 1 .. p. With spans (T, 2) the first and the
last key are spans[t, 0], or later by the window, and spans[t, 1], which may be after p: patches and
tokens of one image see one another. Scores pass softcap * tanh(s / softcap) first where the model
caps them.
References: reference.ops.attention, reference.vision. Online softmax: Milakov and Gimelshein, 2018.

version 2: `attention_tile`, which reads each key and value once for 32 rows of queries. One token's
attention is `attention_decode`.
"""

import numpy as np

from zerfoo_numba.kernels import Cost, attention_decode, blocks
from zerfoo_numba.kernels.attention_parts import ROWS, WARPS
from zerfoo_numba.kernels.attention_tile import make_prefill_kernel2
from zerfoo_numba.kernels.heads import head_shape
from zerfoo_numba.kernels.kv import bytes_per_key


def attention(device, out, q, cache, position, scale, window=None, softcap=None, spans=None):
    """`cache` is a LayerCache with q's keys appended; `position` (1,) uint32 is that of q[0]."""
    T, H, HD = q.shape
    if T == 1 and spans is None and cache.scratch is not None:
        decode = attention_decode.attention_decode
        decode(device, out, q, cache, position, scale, window, softcap)
        return
    KH, VD = cache.k.shape[1], out.shape[2]
    kernel = make_prefill_kernel2(*head_shape(HD, VD), *cache.types)
    sizes = [np.uint32(n) for n in (T, H, KH, HD, VD, cache.rows)]
    numbers = (scale, window or 0, spans is not None, softcap or 0.0)
    kinds = (np.float32, np.uint32, np.uint32, np.float32)
    numbers = [kind(n) for kind, n in zip(kinds, numbers, strict=True)]
    arrays = (out, q, cache.k, cache.v, position, position if spans is None else spans)
    grid = (KH, blocks(T * H // KH, ROWS))
    device.launch(kernel, grid, 32 * WARPS, (*arrays, *sizes, *numbers))


def cost(T, S, H, KH, HD, VD, window, cache_types):
    """S keys stand before the first query; every key that some query sees is read once."""
    reach = [min(S + t + 1, window or S + t + 1) for t in range(T)]
    oldest = max(0, S + 1 - (window or S + 1))
    cached = bytes_per_key(HD, VD, cache_types) * KH * (S + T - oldest)
    return Cost(bytes=cached + 4 * T * H * (HD + VD), flops=2 * H * (HD + VD) * sum(reach))
