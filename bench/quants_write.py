"""Float rows to every block format that something here can write.

F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K by the package (`zerfoo_numba.quant.write`), what the gguf
package writes by it, and here Q5_K, IQ4_NL and IQ4_XS: the scale of each block is the one of least
weighted error among trials, each quant the nearest level.
"""

import numpy as np

from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.iquants import IQ4_LEVELS
from zerfoo_numba.quant.write import WRITERS, affine_scales, inverse, quantize, raw, six_bits

OURS, GGUF, HERE = "zerfoo_numba.quant.write", "gguf", "bench.quants_write"
LEVELS = np.array(IQ4_LEVELS, np.float32)
TRIALS = np.linspace(0.85, 1.15, 13, dtype=np.float32)


def writer(type_name):
    """(who writes the format, rows (B, K) float32 -> uint8 (B, bytes)), or None."""
    if type_name in WRITERS:
        return OURS, lambda x: quantize(x, type_name)
    if type_name in _HERE:
        size, write = QUANTS[type_name].block_size, _HERE[type_name]
        return HERE, lambda x: write(x.reshape(-1, size)).reshape(len(x), -1)
    return _by_gguf(type_name)


def _by_gguf(type_name):
    try:
        import gguf
    except ImportError:
        return None
    kind = getattr(gguf.GGMLQuantizationType, type_name, None)
    if kind is None:
        return None
    try:
        gguf.quants.quantize(np.zeros((1, QUANTS[type_name].block_size), np.float32), kind)
    except NotImplementedError:
        return None
    return GGUF, lambda x: gguf.quants.quantize(x, kind)


def _q5_k(x):
    """Q4_K of one more bit, whose 32 bytes of high bits hold bit j of sub-block j."""
    scales, mins = (v.reshape(-1, 8) for v in affine_scales(x.reshape(-1, 32), 31))
    (d, scale), (dmin, least) = six_bits(scales), six_bits(mins)
    step = inverse(d.astype(np.float32) * scale)[:, :, None]
    offset = (dmin.astype(np.float32) * least)[:, :, None]
    q = np.rint((x.reshape(-1, 8, 32) + offset) * step).clip(0, 31).astype(np.uint8)
    packed = [
        scale[:, :4] | scale[:, 4:] >> 4 << 6,
        least[:, :4] | least[:, 4:] >> 4 << 6,
        scale[:, 4:] & 15 | (least[:, 4:] & 15) << 4,
    ]
    high = np.bitwise_or.reduce(q >> 4 << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    low = (q[:, 0::2] & 15 | (q[:, 1::2] & 15) << 4).reshape(len(q), -1)
    return np.hstack([raw(d, "<f2"), raw(dmin, "<f2"), *packed, high, low])


def nearest(x):
    """Indices of the nearest IQ4 levels."""
    return np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / 2, x).astype(np.uint8)


def codebook_scales(x):
    """The scale of x (B, 32) to the IQ4 levels: of trials about peak / -127, the one of least error
    after a refit, weighted by x²: (B, 1)."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    weight, best, gain = x * x, np.zeros_like(peak), np.zeros_like(peak)
    for trial in TRIALS:
        q = LEVELS[nearest(x * inverse(trial * peak / LEVELS[0]))]
        xq, qq = ((weight * v * q).sum(axis=1, keepdims=True) for v in (x, q))
        scale = xq * inverse(qq)
        better = scale * xq > gain
        best, gain = np.where(better, scale, best), np.where(better, scale * xq, gain)
    return best


def _nibbles(q):
    """(n, 32) indices: element j in the low half of byte j, j + 16 in the high one."""
    return q[:, :16] | q[:, 16:] << 4


def _iq4_nl(x):
    d = codebook_scales(x).astype(np.float16)
    return np.hstack([raw(d, "<f2"), _nibbles(nearest(x * inverse(d.astype(np.float32))))])


def _iq4_xs(x):
    """d, then 6-bit scales less 32 of 8 blocks: two high bits of each in 2 bytes, low four in 4."""
    scales = codebook_scales(x.reshape(-1, 32)).reshape(-1, 8)
    peak = np.take_along_axis(scales, np.abs(scales).argmax(axis=1, keepdims=True), axis=1)
    d = (peak / np.float32(-32)).astype(np.float16)
    s = np.clip(np.rint(scales * inverse(d.astype(np.float32))), -32, 31)
    step = inverse(d.astype(np.float32) * s).reshape(-1, 1)
    quants = _nibbles(nearest(x.reshape(-1, 32) * step)).reshape(len(x), -1)
    s = (s + 32).astype(np.uint16)
    high = np.bitwise_or.reduce(s >> 4 << np.arange(0, 16, 2, dtype=np.uint16), axis=1)
    low = (s[:, 0::2] & 15 | (s[:, 1::2] & 15) << 4).astype(np.uint8)
    return np.hstack([raw(d, "<f2"), raw(high[:, None], "<u2"), low, quants])


_HERE = {"Q5_K": _q5_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs}
