"""Bit fields and scales of quantised blocks, vectorised over blocks (B, block_bytes) uint8."""

import numpy as np


def f16(blocks, at):
    """The float16 field at byte `at`: (B, 1) float32."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def fields(packed, bits, run):
    """Stacked bit fields: of each `run` bytes first all lowest fields, then all next ones."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    stacked = packed.reshape(len(packed), -1, 1, run) >> shifts & np.uint8((1 << bits) - 1)
    return stacked.reshape(len(packed), -1)


def joined(low, high, bits):
    """low + 2^bits high, signed so that an offset may be subtracted."""
    return low.astype(np.int16) | high.astype(np.int16) << bits


def affine(scales, quants, offsets=None):
    """scale * quant (- offset), each scale (B, S) for its run of quants (B, block_size)."""
    count, runs = scales.shape
    values = scales[:, :, None] * quants.astype(np.float32).reshape(count, runs, -1)
    if offsets is not None:
        values -= offsets[:, :, None]
    return values.reshape(count, -1)
