"""Float arrays to block formats: F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K.

Q8_0 and Q4_0 are the bytes that the gguf package writes. Q4_K and Q6_K are found as llama.cpp finds
them, by weighted least squares over a ladder of trial scales, then a rounding of the scales.
"""

import numpy as np

from zerfoo_numba.errors import InputError, UnsupportedError

CHUNK = 1 << 17  # elements at a time: temporaries stay in cache
LARGEST_HALF = 65504
TINY = np.finfo(np.float32).tiny


def quantize(array, type_name):
    """`array` (..., K) in block format `type_name`: (..., K / block size * block bytes) uint8.

    Raises UnsupportedError for a format that is not written, InputError where K is no multiple of
    the block size or a value is beyond the range of the format's float16 (for all but F32, BF16).
    """
    if type_name not in WRITERS:
        raise UnsupportedError(f"{type_name} cannot be written; {', '.join(WRITERS)} can")
    size, write = WRITERS[type_name]
    array = np.ascontiguousarray(array, np.float32)
    if array.shape[-1] % size:
        raise InputError(f"rows of {array.shape[-1]} are not made of {type_name} blocks of {size}")
    if type_name not in ("F32", "BF16") and not (np.abs(array) <= LARGEST_HALF).all():
        raise InputError(f"{type_name} holds magnitudes up to {LARGEST_HALF} and no NaN")
    blocks = array.reshape(-1, size)
    step = CHUNK // size
    pieces = [write(blocks[at : at + step]) for at in range(0, len(blocks), step)]
    return np.concatenate(pieces).reshape(*array.shape[:-1], -1)


def raw(array, dtype):
    """Little-endian bytes, rows kept."""
    return np.ascontiguousarray(array.astype(dtype)).view(np.uint8)


def inverse(scale):
    """1 / scale, and 0 for a scale that is 0 or subnormal."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) >= TINY)


def write_bf16(x):
    """Rounded to nearest, ties to even; a NaN stays one."""
    bits = x.view(np.uint32)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return raw(np.where(np.isnan(x), bits >> 16 | 0x40, rounded), "<u2")


def peak(x):
    """The element of largest magnitude of each block, with its sign: (B, 1)."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)


def write_q8_0(x):
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * inverse(d)
    magnitude = np.floor(np.abs(scaled))
    magnitude += np.floor(2 * (np.abs(scaled) - magnitude))  # halves away from zero
    return np.hstack([raw(d, "<f2"), raw(np.copysign(magnitude, scaled), np.int8)])


def write_q4_0(x):
    d = peak(x) / np.float32(-8)
    q = np.clip((x * inverse(d) + np.float32(8.5)).astype(np.uint8), 0, 15)
    return np.hstack([raw(d, "<f2"), q[:, :16] | q[:, 16:] << 4])


def symmetric_scales(x, levels):
    """The scale of x ≈ scale q, q in -levels .. levels - 1, per block of x (B, n): (B, 1).

    Of trial scales around peak / -levels the one of least error sum x² (x - scale q)²; for given q
    the best scale is sum x² x q / sum x² q².
    """
    weight = x * x
    step = inverse(peak(x))
    best = np.zeros_like(step)
    gain = np.zeros_like(step)
    for trial in range(-9, 10):
        q = np.clip(np.rint(x * (step * np.float32(-levels - 0.1 * trial))), -levels, levels - 1)
        xq = (weight * x * q).sum(axis=1, keepdims=True)
        qq = (weight * q * q).sum(axis=1, keepdims=True)
        scale = xq * inverse(qq)
        better = scale * xq > gain
        best, gain = np.where(better, scale, best), np.where(better, scale * xq, gain)
    return best


def write_q6_k(x):
    scales = symmetric_scales(x.reshape(-1, 16), 32).reshape(-1, 16)
    d = (peak(scales) / np.float32(-128)).astype(np.float16)
    scales = np.clip(np.rint(scales * inverse(d.astype(np.float32))), -128, 127)
    step = inverse(d.astype(np.float32) * scales)[:, :, None]
    q = np.rint(x.reshape(-1, 16, 16) * step).clip(-32, 31).reshape(-1, 256)
    q = (q + 32).astype(np.uint8)
    runs = q.reshape(-1, 2, 2, 64)
    low = (runs[:, :, 0] & 15 | (runs[:, :, 1] & 15) << 4).reshape(-1, 128)
    high = stacked(q.reshape(-1, 2, 4, 32) >> 4, 2)
    return np.hstack([low, high, raw(scales, np.int8), raw(d, "<f2")])


def stacked(q, bits):
    """q (B, runs, fields, bytes) as bytes whose lowest field is the first of `fields`."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(q << shifts, axis=2).reshape(len(q), -1)


def affine_scales(x, levels):
    """Scale and min of x ≈ scale q - min, q in 0 .. levels, min >= 0, per block of x (B, n).

    For each trial step the quants are fixed and scale and min follow from the normal equations of
    sum w (scale q - min - x)², w = rms(x) + |x|; the trial of least error is kept.
    """
    low = np.minimum(x.min(axis=1, keepdims=True), 0)
    span = x.max(axis=1, keepdims=True) - low
    weight = np.sqrt((x * x).mean(axis=1, keepdims=True)) + np.abs(x)
    best = np.full_like(low, np.inf)
    scale, least = span / np.float32(levels), -low

    def total(values):
        return (weight * values).sum(axis=1, keepdims=True)

    w, wx = total(np.ones_like(x)), total(x)
    for trial in np.arange(-1, 1.05, 0.1, dtype=np.float32):
        q = np.clip(np.rint((x - low) * (inverse(span) * (levels + trial))), 0, levels)
        wq, wqq, wxq = total(q), total(q * q), total(x * q)
        slope = (w * wxq - wx * wq) * inverse(w * wqq - wq * wq)
        offset = (wqq * wx - wq * wxq) * inverse(w * wqq - wq * wq)
        slope = np.where(offset > 0, wxq * inverse(wqq), slope)
        offset = np.minimum(offset, 0)
        error = total((slope * q + offset - x) ** 2)
        better = (error < best) & (slope > 0)
        best = np.where(better, error, best)
        scale, least = np.where(better, slope, scale), np.where(better, -offset, least)
    return scale, least


def six_bits(values):
    """A float16 factor and 6-bit multiples of it for values (B, 8) >= 0."""
    d = (values.max(axis=1, keepdims=True) / np.float32(63)).astype(np.float16)
    return d, np.clip(np.rint(values * inverse(d.astype(np.float32))), 0, 63).astype(np.uint8)


def write_q4_k(x):
    parts = x.reshape(-1, 8, 32)
    scales, mins = (v.reshape(-1, 8) for v in affine_scales(x.reshape(-1, 32), 15))
    (d, scale), (dmin, least) = six_bits(scales), six_bits(mins)
    step = inverse(d.astype(np.float32) * scale)[:, :, None]
    offset = (dmin.astype(np.float32) * least)[:, :, None]
    q = np.rint((parts + offset) * step).clip(0, 15).astype(np.uint8)
    packed = [
        scale[:, :4] | scale[:, 4:] >> 4 << 6,
        least[:, :4] | least[:, 4:] >> 4 << 6,
        scale[:, 4:] & 15 | (least[:, 4:] & 15) << 4,
    ]
    qs = stacked(q.reshape(-1, 4, 2, 32), 4)
    return np.hstack([raw(d, "<f2"), raw(dmin, "<f2"), *packed, qs])


# name: block size, blocks (B, size) float32 -> (B, bytes) uint8
WRITERS = {
    "F32": (1, lambda x: raw(x, "<f4")),
    "F16": (1, lambda x: raw(x, "<f2")),
    "BF16": (1, write_bf16),
    "Q8_0": (32, write_q8_0),
    "Q4_0": (32, write_q4_0),
    "Q4_K": (256, write_q4_k),
    "Q6_K": (256, write_q6_k),
}
