"""Attention of many tokens: tiles of queries and keys, windows, spans, rings, groups of heads."""

import numpy as np
import pytest

from reference import ops as reference_ops
from tests.parity.caches import kv_cache
from tests.parity.compare import assert_close
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.kernels import attention
from zerfoo_numba.kernels.attention_parts import ROWS
from zerfoo_numba.kernels.kv import bytes_per_key

# T, start, H, KH, HD, VD, window, softcap: tiles of 32 rows that end in the midst of a token's
# heads, within a tile of keys and at its end; more heads of a KV head than rows; every width of
# shared memory, which holds two parts of the widest heads at a time.
SHAPES = (
    (2, 0, 1, 1, 32, 32, None, None),
    (33, 31, 3, 1, 40, 40, None, None),
    (70, 0, 4, 2, 64, 64, 17, None),
    (9, 60, 14, 2, 48, 72, None, 5.0),
    (3, 5, 71, 1, 64, 64, None, None),
    (37, 40, 2, 1, 256, 256, 33, None),
    (17, 3, 2, 2, 160, 130, None, None),
)


def prefill(device, cache, q, start, scale, window=None, softcap=None, spans=None, VD=None):
    out = filled(device, (*q.shape[:2], VD or q.shape[2]))
    position = device.upload(np.array([start], np.uint32))
    spans = None if spans is None else device.upload(spans)
    queries = device.upload(q)
    attention.attention(device, out, queries, cache, position, scale, window, softcap, spans)
    return device.read(out)


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles(device, shape):
    T, start, H, KH, HD, VD, window, softcap = shape
    rng, end = np.random.default_rng(1), start + T
    cache, (k, v) = kv_cache(device, rng, end + 2, KH, HD, VD, "f32", H)
    q = rng.standard_normal((T, H, HD), np.float32)
    want = reference_ops.attention(wide(q), k[:end], v[:end], 0.2, window, softcap)
    got = prefill(device, cache, q, start, 0.2, window, softcap, VD=VD)
    assert_close(str(shape), got, want, OP["attention"])


def seen_of(spans, start, window):
    """The formula of the docstring, as a mask (T, keys)."""
    p = start + np.arange(len(spans))[:, None]
    key = np.arange(spans[:, 1].max() + 1)
    recent = key > p - window if window else np.ones_like(key > p)
    return (key >= spans[:, :1]) & (key <= spans[:, 1:]) & recent


@pytest.mark.parametrize("window", [None, 12])
def test_spans_reach_later_keys(device, window):
    """Three images among text: some rows of a tile see keys that others do not, before and after;
    the rows of the last see none of the first tile of keys."""
    rng, start, T, H, KH, HD = np.random.default_rng(2), 7, 40, 6, 2, 24
    p = start + np.arange(T)
    spans = np.stack([np.zeros(T, int), p], axis=1)
    for first, last in ((10, 19), (20, 34), (40, 46)):
        spans[first - start : last - start + 1, 1] = last
    spans[35 - start :, 0] = 34
    cache, (k, v) = kv_cache(device, rng, start + T, KH, HD, HD, "f32", H)
    q = rng.standard_normal((T, H, HD), np.float32)
    got = prefill(device, cache, q, start, 0.3, window, spans=spans.astype(np.uint32))
    seen, want = seen_of(spans, start, window), np.empty(got.shape)
    for h in range(H):
        scores = 0.3 * wide(q)[:, h] @ k[: seen.shape[1], h // 3].T
        weights = np.where(seen, np.exp(scores - scores.max(axis=1, keepdims=True)), 0)
        want[:, h] = weights / weights.sum(axis=1, keepdims=True) @ v[: seen.shape[1], h // 3]
    assert_close("spans", got, want, OP["attention"])


def test_scores_far_below_zero_are_not_taken_for_keys_unseen(device):
    rng = np.random.default_rng(3)
    cache, (k, v) = kv_cache(device, rng, 50, 1, 32, 32, "f32", 1)
    q = -1e4 * np.abs(rng.standard_normal((40, 1, 32), np.float32))
    want = reference_ops.attention(wide(q), k[:50], v[:50], 1.0, None, None)
    assert_close("low", prefill(device, cache, q, 10, 1.0), want, OP["attention"])


@pytest.mark.parametrize("cache_type, seed", [("q8_0", 5), ("f16", 6)])
def test_no_warp_outruns_another(cache_type, seed):
    """Races, bounds and reads of what nobody wrote, over a ring, in any order of blocks."""
    device, rng = EmulatorDevice(checks=True, seed=seed), np.random.default_rng(4)
    H, KH, HD, rows, start, T = 4, 2, 160, 77, 230, 19
    cache, (k, v) = kv_cache(device, rng, rows, KH, HD, HD, cache_type, H)
    q = rng.standard_normal((T, H, HD), np.float32)
    kept = np.arange(start + T - rows, start + T) % rows
    want = reference_ops.attention(wide(q), k[kept], v[kept], 0.1, 59, None)
    assert_close("ring", prefill(device, cache, q, start, 0.1, 59), want, OP["attention"])


# Thread-instructions for each product that a causal mask asks for, and 4 % for another compiler;
# one warp for each query and head takes 8.5 with heads of 256 and 16.8 with heads of 64.
REACHED = {(4, 1, 256): 2.92, (8, 2, 64): 3.46}


@pytest.mark.parametrize("heads", REACHED)
def test_keys_are_read_once_for_a_tile_of_queries(heads):
    (H, KH, HD), T, types = heads, 128, ("f16", "f16")
    device, rng = EmulatorDevice(count=True), np.random.default_rng(5)
    cache, _ = kv_cache(device, rng, T, KH, HD, HD, "f16", H)
    prefill(device, cache, rng.standard_normal((T, H, HD), np.float32), 0, HD**-0.5)
    count = device.counters.pop()
    products = 2 * H * HD * T * (T + 1) // 2
    assert count.thread_instructions / products <= 1.04 * REACHED[heads]
    assert count.bank_conflicts == 0
    group = H // KH
    keys = [(first + ROWS - 1) // group + 1 for first in range(0, T * group, ROWS)]
    least = KH * sum(keys) * bytes_per_key(HD, HD, types) / 32
    queries = T * H * HD * 4 // 32
    assert least <= count.loads.sectors - queries <= 1.05 * least + 128  # of the position
