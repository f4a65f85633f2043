"""Rung "op": what image towers, and text models that see images, need beside the other kernels."""

import numpy as np
import pytest

from reference import ops as reference_ops
from tests.parity.compare import assert_close
from tests.parity.test_ops import filled, kv_cache, wide
from tests.parity.tolerances import OP
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import activation, attention, join, pool, rope, vision_attention
from zerfoo_numba.rope_tables import RopeTable


def attend(q, k, v, scale, allowed):
    """softmax(scale q K) V in float64 over the pairs (query, key) of `allowed` (T, S)."""
    k, v = (np.repeat(wide(x), q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    scores = scale * np.einsum("thd,shd->hts", wide(q), k)
    scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hts,shd->thd", weights / weights.sum(axis=-1, keepdims=True), v)


def segments(*lengths):
    """spans (T, 2) of queries in segments of these lengths, and which keys each sees."""
    ends = np.cumsum(lengths)
    spans = [(end - n, end - 1) for n, end in zip(lengths, ends, strict=True) for _ in range(n)]
    keys = np.arange(ends[-1])
    allowed = np.array([(keys >= first) & (keys <= last) for first, last in spans])
    return np.array(spans, np.uint32), allowed


@pytest.mark.parametrize("lengths", [(7,), (1, 4, 2), (33, 1, 40, 9), (64,)], ids=str)
@pytest.mark.parametrize("H, HD", [(4, 16), (2, 80), (3, 72), (1, 128)])
def test_every_patch_attends_to_its_segment_alone(device, H, HD, lengths):
    rng = np.random.default_rng(1)
    spans, allowed = segments(*lengths)
    q, k, v = (3 * rng.standard_normal((len(spans), H, HD), np.float32) for _ in range(3))
    out = filled(device, q.shape)
    buffers = [device.upload(x) for x in (q, k, v, spans)]
    vision_attention.vision_attention(device, out, *buffers, HD**-0.5)
    assert_close("spans", device.read(out), attend(q, k, v, HD**-0.5, allowed), OP["attention"])


def test_scores_of_a_hundred_and_more_do_not_overflow(device):
    spans, allowed = segments(40)
    q, k, v = (np.random.default_rng(7).standard_normal((40, 1, 32), np.float32) for _ in range(3))
    out = filled(device, q.shape)
    buffers = [device.upload(x) for x in (q, k, v, spans)]
    vision_attention.vision_attention(device, out, *buffers, 30.0)
    assert_close("sharp", device.read(out), attend(q, k, v, 30.0, allowed), OP["attention"])


def test_heads_that_do_not_fit_are_refused(device):
    x = device.empty((2, 1, 160))
    with pytest.raises(UnsupportedError, match="160 wide; at most 128"):
        vision_attention.vision_attention(device, x, x, x, x, x, 1.0)


@pytest.mark.parametrize("cache_type", ["f32", "f16"])
@pytest.mark.parametrize("window", [None, 3, 6])
def test_an_image_among_text_sees_itself_in_both_directions(device, window, cache_type):
    rng = np.random.default_rng(2)
    start, T, image = 5, 11, (8, 13)  # keys before; tokens; first and last of the image
    p, keys = np.arange(start, start + T), np.arange(start + T)
    inside = (p >= image[0]) & (p <= image[1])
    last = np.where(inside, image[1], p)
    spans = np.stack([np.zeros(T), last], axis=1).astype(np.uint32)
    allowed = (keys <= last[:, None]) & (keys > p[:, None] - (window or 99))
    q = rng.standard_normal((T, 4, 24), np.float32)
    cache, (k, v) = kv_cache(device, rng, start + T, 2, 24, 24, cache_type)
    out, position = filled(device, q.shape), device.upload(np.array([start], np.uint32))
    arguments = (cache, position, 0.3, window, None, device.upload(spans))
    attention.attention(device, out, device.upload(q), *arguments)
    assert_close("image in text", device.read(out), attend(q, k, v, 0.3, allowed), OP["attention"])


@pytest.mark.parametrize("sections", [(2, 3, 3, 0), (8, 0, 0), (0, 5, 3), (1, 1, 4)])
def test_pairs_turn_by_time_row_and_column(device, sections):
    rng = np.random.default_rng(3)
    T, S, H, KH, HD, dims, start = 4, 12, 2, 1, 20, 16, 3
    pairs = dims // 2
    angles = rng.uniform(0, 6, (S, pairs))
    turns = rng.integers(0, S, (S, 3)).astype(np.uint32)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    arrays = [device.upload(x) for x in (cos, sin)]
    table = RopeTable(*arrays, dims, "half", sections, device.upload(turns))
    q, k, v = (rng.standard_normal((T, n, HD), np.float32) for n in (H, KH, KH))
    buffers = [device.upload(x) for x in (q, k, v)]
    cache, _ = kv_cache(device, rng, S, KH, HD, HD, "f32")
    rope.qk_norm_rope_append(
        device, *buffers, cache, device.upload(np.array([start], np.uint32)), table
    )
    axis = np.minimum(np.searchsorted(np.cumsum(sections[:2]), np.arange(pairs), "right"), 2)
    rows = turns[start : start + T][:, axis]  # (T, pairs)
    own = [wide(x[rows, np.arange(pairs)]) for x in (cos, sin)]
    for x, buffer in ((q, buffers[0]), (k, cache.k.view((T, KH, HD), start * KH * HD))):
        assert_close("sections", device.read(buffer), reference_ops.rope(wide(x), *own, "half"),
                     OP["rope"])  # fmt: skip


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


PLAIN = {
    "gelu_quick": lambda x: x * sigmoid(1.702 * x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * sigmoid(x),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("shape", activation.SHAPES, ids=str)
def test_activations_without_a_gate(device, kind, shape):
    x = activation.inputs(np.random.default_rng(4), **shape)["gate"]
    x.flat[:4] = (60, -60, 0, 1e-6)
    out = filled(device, x.shape)
    activation.plain(device, out, device.upload(x), kind)
    assert_close(kind, device.read(out), PLAIN[kind](wide(x)), OP["activation"])


@pytest.mark.parametrize("shape", pool.SHAPES, ids=str)
def test_pool(device, shape):
    x = pool.inputs(np.random.default_rng(5), **shape)["x"]
    out = filled(device, (shape["T"], shape["D"]))
    pool.pool(device, out, device.upload(x))
    want = wide(x).reshape(shape["T"], shape["n"], -1).mean(axis=1)
    assert_close("pool", device.read(out), want, OP["norm"])


@pytest.mark.parametrize("shape", join.SHAPES, ids=str)
def test_join_fills_its_columns_and_no_other(device, shape):
    x = join.inputs(np.random.default_rng(6), **shape)["x"]
    wanted = np.full((shape["T"], shape["W"]), 7, np.float32)
    out = device.upload(wanted)
    join.join(device, out, device.upload(x), shape["first"])
    wanted[:, shape["first"] : shape["first"] + shape["D"]] = x
    np.testing.assert_array_equal(device.read(out), wanted)
