"""Attention of one token over many keys: splits, groups of heads, rings, cache types."""

import numpy as np
import pytest

from reference import ops as reference_ops
from tests.parity.caches import kv_cache
from tests.parity.compare import assert_close
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.cache import LayerCache, cache_types
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import attention, attention_decode, rope
from zerfoo_numba.kernels.attention_decode import tile_of
from zerfoo_numba.kernels.kv import CACHE_TYPES, bytes_per_key
from zerfoo_numba.rope_tables import RopeTable

# H, KH, HD: tiles of 1, 2, 4 and 8 heads, the last of them not full; several tiles of a KV head.
GROUPS = ((2, 2, 64), (4, 2, 24), (3, 1, 256), (14, 2, 64), (20, 1, 40))


def decode(device, cache, q, p, scale, window=None, softcap=None):
    """(1, H, VD): what attention_decode makes of the queries q at position p."""
    width = cache.v.shape[2] if cache.types[1] != "q8_0" else q.shape[2]
    out = filled(device, (*q.shape[:2], width))
    position = device.upload(np.array([p], np.uint32))
    buffers = out, device.upload(q), cache, position
    attention_decode.attention_decode(device, *buffers, scale, window, softcap)
    return device.read(out)


@pytest.mark.parametrize("H, KH, HD", GROUPS)
def test_any_position(device, H, KH, HD):
    rng = np.random.default_rng(1)
    cache, (k, v) = kv_cache(device, rng, 300, KH, HD, HD, "f16", H)
    for p in (0, 7, 63, 64, 65, 299):  # one warp, one block, several
        q = rng.standard_normal((1, H, HD), np.float32)
        want = reference_ops.attention(wide(q), k[: p + 1], v[: p + 1], HD**-0.5, None, None)
        assert_close(f"at {p}", decode(device, cache, q, p, HD**-0.5), want, OP["attention"])


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("pair", [("f16", "q8_0"), ("q8_0", "f32"), ("f32", "f16")])
def test_keys_and_values_of_different_types(device, pair, softcap):
    rng = np.random.default_rng(2)
    cache, (k, v) = kv_cache(device, rng, 90, 2, 48, 48, pair[0], 4, pair[1])
    q = rng.standard_normal((1, 4, 48), np.float32)
    want = reference_ops.attention(wide(q), k, v, 0.1, None, softcap)
    assert_close(str(pair), decode(device, cache, q, 89, 0.1, None, softcap), want, OP["attention"])


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("window", [1, 20, 100])
def test_a_ring_of_keys(device, window, T):
    """Positions beyond the rows of the cache: the last `rows` are there, each at p % rows."""
    rng = np.random.default_rng(3)
    H, KH, HD, rows, start = 4, 2, 64, 107, 1234
    cache, (k, v) = kv_cache(device, rng, rows, KH, HD, HD, "f32", H)
    q = rng.standard_normal((T, H, HD), np.float32)
    out, position = filled(device, q.shape), device.upload(np.array([start], np.uint32))
    attention.attention(device, out, device.upload(q), cache, position, 0.2, window)
    kept = np.arange(start + T - rows, start + T) % rows
    want = reference_ops.attention(wide(q), k[kept], v[kept], 0.2, window, None)
    assert_close("ring", device.read(out), want, OP["attention"])


@pytest.mark.parametrize("seed", [None, 5, 6, 7])
def test_blocks_that_wait_for_nobody_are_ordered(seed):
    """Races, bounds and reads of what nobody wrote, in any order of blocks; then once more with
    the ticket that the first launch left."""
    device, rng = EmulatorDevice(checks=True, seed=seed), np.random.default_rng(4)
    cache, (k, v) = kv_cache(device, rng, 400, 1, 64, 64, "q8_0", 6)
    for p in (399, 250):
        q = rng.standard_normal((1, 6, 64), np.float32)
        want = reference_ops.attention(wide(q), k[: p + 1], v[: p + 1], 0.1, 380, None)
        assert_close("split", decode(device, cache, q, p, 0.1, 380), want, OP["attention"])
        assert not device.read(cache.scratch.tickets).any()


def counted(S, p, window=None):
    """The emulator's counters of one launch over a cache of S rows at position p."""
    device, rng = EmulatorDevice(count=True), np.random.default_rng(5)
    cache, _ = kv_cache(device, rng, S, 1, 64, 64, "f16", 4)
    decode(device, cache, rng.standard_normal((1, 4, 64), np.float32), p, 0.1, window)
    return device.counters.pop()


def test_the_cost_follows_the_keys_and_not_the_context():
    short, long = counted(128, 100), counted(4096, 100)
    assert short.thread_instructions == long.thread_instructions
    within = counted(4096, 4000, window=101)
    assert within.loads.sectors <= 1.05 * long.loads.sectors
    assert counted(4096, 4000).thread_instructions > 10 * long.thread_instructions


def test_heads_share_the_keys_that_are_read():
    """f16 keys of 64 are 4 sectors; each is asked for once, for all query heads of a KV head."""
    device, rng, p = EmulatorDevice(count=True), np.random.default_rng(6), 1023
    cache, _ = kv_cache(device, rng, 1024, 1, 64, 64, "f16", 8)
    decode(device, cache, rng.standard_normal((1, 8, 64), np.float32), p, 0.1)
    arrays = device.counters.pop().arrays
    asked = sum(a.loads.sectors for n, a in arrays.items() if "cache" in n)
    assert asked <= 1.05 * (p + 1) * bytes_per_key(64, 64, ("f16", "f16")) / 32


def test_one_graph_serves_every_position(device):
    rng = np.random.default_rng(7)
    cache, (k, v) = kv_cache(device, rng, 200, 1, 64, 64, "f32", 4)
    q = rng.standard_normal((1, 4, 64), np.float32)
    out, queries = filled(device, q.shape), device.upload(q)
    position = device.upload(np.zeros(1, np.uint32))
    graph = device.capture(lambda: attention.attention(device, out, queries, cache, position, 0.1))
    for p in (0, 130, 199, 3):
        device.write(position, np.array([p], np.uint32))
        graph.replay()
        want = reference_ops.attention(wide(q), k[: p + 1], v[: p + 1], 0.1, None, None)
        assert_close(f"at {p}", device.read(out), want, OP["attention"])


def test_tiles_hold_all_heads_that_fit():
    assert [tile_of(G, 2) for G in (1, 2, 3, 5, 8, 71)] == [1, 2, 4, 8, 8, 8]
    assert [tile_of(G, 8) for G in (1, 4, 8)] == [1, 4, 4]


def test_cache_types_are_a_name_or_a_pair():
    assert cache_types("q8_0") == ("q8_0", "q8_0")
    assert cache_types(("f16", "q8_0")) == ("f16", "q8_0")
    for wrong in ("q4_0", ("f16",), ("f16", "q4_0")):
        with pytest.raises(UnsupportedError, match="f32, f16, q8_0"):
            cache_types(wrong)


def test_q8_0_keeps_half_a_step(device):
    """Appending rounds each number to the nearest of its block's 255 steps."""
    rng, (S, KH, HD) = np.random.default_rng(8), (4, 2, 40)
    kind = CACHE_TYPES["q8_0"]
    empty = np.zeros((S, KH, kind.items(HD)), np.int8)
    cache = LayerCache(device.upload(empty), device.upload(empty), "q8_0", None, None)
    k, v = (rng.standard_normal((1, KH, HD), np.float32) for _ in range(2))
    k[0, 0, :32] = 0
    table = RopeTable(
        *(device.upload(np.full((8, HD // 2), x, np.float32)) for x in (1, 0)), HD, "half"
    )
    q = device.upload(np.zeros((1, 4, HD), np.float32))
    position = device.upload(np.array([6], np.uint32))  # row 2 of the ring
    buffers = q, device.upload(k), device.upload(v), cache, position, table
    rope.qk_norm_rope_append(device, *buffers)
    for buffer, want in ((cache.k, k), (cache.v, v)):
        stored = kind.to_float32(device.read(buffer), HD)
        assert not stored[[0, 1, 3]].any()
        for block in (slice(0, 32), slice(32, 40)):
            step = np.abs(want[0, :, block]).max(1, keepdims=True) / 127
            error = np.abs(stored[2, :, block] - want[0, :, block])
            assert (error <= step * (0.5 + 127 * 2**-11) + 1e-7).all()
