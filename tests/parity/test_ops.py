"""Rung "op": every kernel version on every device against float64 NumPy."""

import math

import numpy as np
import pytest

from reference import ops as reference_ops
from reference.quant import dequantize
from tests.parity.caches import kv_cache
from tests.parity.compare import assert_close
from tests.parity.random_blocks import random_blocks
from tests.parity.tolerances import OP
from zerfoo_numba.kernels import (
    activation,
    add,
    argmax,
    attention,
    embed,
    layernorm,
    matvec,
    rmsnorm,
)
from zerfoo_numba.kernels.kv import CACHE_TYPES
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.weights import Weight

FORMATS = tuple(QUANTS)
# (N, K): tile-aligned; odd rows and an odd number of blocks; a single row.
MATRICES = ((8, 256), (37, 768), (1, 512))
# H, KH, HD: one KV head; groups of 3 at a width that is no multiple of 32; no groups; the widest.
HEADS = ((4, 1, 64), (6, 2, 24), (2, 2, 128), (4, 2, 256))


def filled(device, shape, dtype=np.float32):
    """A buffer of NaN (or all ones bits), so that an element nobody writes is seen."""
    poison = np.full(shape, np.nan, dtype) if dtype == np.float32 else np.full(shape, -1, np.int64)
    return device.upload(poison.astype(dtype))


def wide(array):
    return array.astype(np.float64)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shape", rmsnorm.SHAPES, ids=str)
def test_rmsnorm(device, shape, version):
    a = rmsnorm.inputs(np.random.default_rng(1), **shape)
    out = filled(device, a["x"].shape)
    x, weight = device.upload(a["x"]), device.upload(a["weight"])
    rmsnorm.rmsnorm(device, out, x, weight, a["eps"], version=version)
    want = reference_ops.rmsnorm(wide(a["x"]), wide(a["weight"]), a["eps"])
    assert_close("rmsnorm", device.read(out), want, OP["norm"])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", rmsnorm.SHAPES, ids=str)
def test_add_rmsnorm_equals_add_then_rmsnorm(device, shape, in_place):
    a = rmsnorm.add_inputs(np.random.default_rng(2), **shape)
    x, residual = device.upload(a["x"]), device.upload(a["residual"])
    out = x if in_place else filled(device, a["x"].shape)
    rmsnorm.add_rmsnorm(device, out, residual, x, device.upload(a["weight"]), a["eps"])
    total = a["residual"] + a["x"]
    want = reference_ops.rmsnorm(wide(total), wide(a["weight"]), a["eps"])
    assert_close("add_rmsnorm", device.read(out), want, OP["norm"])
    np.testing.assert_array_equal(device.read(residual), total)


def test_rmsnorm_of_tiny_values_is_ruled_by_eps(device):
    x = np.full((1, 64), 1e-4, np.float32)
    out = filled(device, x.shape)
    rmsnorm.rmsnorm(device, out, device.upload(x), device.upload(np.ones(64, np.float32)), 1e-3)
    assert_close("rmsnorm", device.read(out), wide(x) / np.sqrt(1e-8 + 1e-3), OP["norm"])


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", layernorm.SHAPES, ids=str)
def test_layernorm(device, shape, in_place, biased):
    a = layernorm.inputs(np.random.default_rng(1), **shape)
    x, weight = device.upload(a["x"]), device.upload(a["weight"])
    out = x if in_place else filled(device, a["x"].shape)
    bias = device.upload(a["bias"]) if biased else None
    layernorm.layernorm(device, out, x, weight, bias, a["eps"])
    bias = wide(a["bias"]) if biased else None
    want = reference_ops.layernorm(wide(a["x"]), wide(a["weight"]), bias, a["eps"])
    assert_close("layernorm", device.read(out), want, OP["norm"])


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", layernorm.SHAPES, ids=str)
def test_add_layernorm_equals_add_then_layernorm(device, shape, biased):
    rng = np.random.default_rng(2)
    a = layernorm.inputs(rng, **shape)
    before = rng.standard_normal(a["x"].shape, np.float32)
    x, residual, weight, bias = (
        device.upload(array) for array in (a["x"], before, a["weight"], a["bias"])
    )
    out = filled(device, before.shape)
    layernorm.add_layernorm(device, out, residual, x, weight, bias if biased else None, a["eps"])
    total = before + a["x"]
    bias = wide(a["bias"]) if biased else None
    want = reference_ops.layernorm(wide(total), wide(a["weight"]), bias, a["eps"])
    assert_close("add_layernorm", device.read(out), want, OP["norm"])
    np.testing.assert_array_equal(device.read(residual), total)


def test_layernorm_about_a_large_mean(device):
    x = np.float32(1000) + np.arange(64, dtype=np.float32)[None]
    out = filled(device, x.shape)
    ones = device.upload(np.ones(64, np.float32))
    layernorm.layernorm(device, out, device.upload(x), ones, None, 0.0)
    want = reference_ops.layernorm(wide(x), np.ones(64), None, 0.0)
    assert_close("layernorm", device.read(out), want, OP["norm"])


@pytest.mark.parametrize("shape", add.SHAPES, ids=str)
def test_add(device, shape):
    a = add.inputs(np.random.default_rng(3), **shape)
    residual = device.upload(a["residual"])
    add.add(device, residual, device.upload(a["x"]))
    np.testing.assert_array_equal(device.read(residual), a["residual"] + a["x"])


@pytest.mark.parametrize("kind", ["geglu", "swiglu"])
@pytest.mark.parametrize("shape", activation.SHAPES, ids=str)
def test_gated(device, shape, kind):
    a = activation.inputs(np.random.default_rng(3), **shape)
    a["gate"].flat[:4] = (60, -60, 0, 1e-6)
    out = filled(device, a["gate"].shape)
    activation.gated(device, out, device.upload(a["gate"]), device.upload(a["up"]), kind)
    want = getattr(reference_ops, kind)(wide(a["gate"]), wide(a["up"]))
    assert_close(kind, device.read(out), want, OP["activation"])


@pytest.mark.parametrize("shape", activation.SHAPES, ids=str)
def test_gelu_without_a_gate(device, shape):
    x = activation.inputs(np.random.default_rng(3), **shape)["gate"]
    x.flat[:6] = (60, -60, 0, 1e-6, -1e-6, -5)
    out = filled(device, x.shape)
    activation.plain(device, out, device.upload(x), "gelu")
    assert_close("gelu", device.read(out), reference_ops.gelu(wide(x)), OP["activation"])


def test_gelu_keeps_its_relative_accuracy_where_little_is_left(device):
    x = np.linspace(-6, 0, 500, dtype=np.float32)[None]
    out = filled(device, x.shape)
    activation.plain(device, out, device.upload(x), "gelu")
    share = [math.erfc(-v / math.sqrt(2)) / 2 for v in wide(x)[0]]
    np.testing.assert_allclose(device.read(out)[0], wide(x)[0] * share, rtol=1e-5)


def test_scale(device):
    x = np.random.default_rng(4).standard_normal((3, 77), np.float32)
    buffer = device.upload(x)
    activation.scale(device, buffer, 0.375)
    np.testing.assert_array_equal(device.read(buffer), x * np.float32(0.375))


def test_softcap(device):
    x = np.random.default_rng(4).standard_normal((3, 77), np.float32) * 40
    buffer = device.upload(x)
    activation.softcap(device, buffer, 30.0)
    assert_close(
        "softcap", device.read(buffer), reference_ops.softcap(wide(x), 30.0), OP["softmax"]
    )


def random_weight(device, rng, type_name, N, K):
    """A random weight, and what the reference makes of it in float64."""
    data = random_blocks(rng, type_name, N, K)
    weight = Weight(device.upload(data), type_name, N, K)
    return weight, wide(dequantize(data, type_name, (K, N)))


@pytest.mark.parametrize("type_name", FORMATS)
@pytest.mark.parametrize("T", [1, 3, 11])
def test_matmul(device, type_name, T):
    rng = np.random.default_rng(5)
    for N, K in MATRICES:
        weight, values = random_weight(device, rng, type_name, N, K)
        x = rng.standard_normal((T, K), np.float32)
        out = filled(device, (T, N))
        matvec.matmul(device, out, weight, device.upload(x))
        assert_close(f"{type_name} {N}x{K}", device.read(out), wide(x) @ values.T, OP["matvec"])


def test_matmul_of_a_width_that_is_no_multiple_of_the_warp(device):
    rng = np.random.default_rng(6)
    weight, values = random_weight(device, rng, "F32", 5, 77)
    x = rng.standard_normal((2, 77), np.float32)
    out = filled(device, (2, 5))
    matvec.matmul(device, out, weight, device.upload(x))
    assert_close("F32 5x77", device.read(out), wide(x) @ values.T, OP["matvec"])


@pytest.mark.parametrize("T", [1, 3])
def test_matmul_with_a_bias(device, T):
    rng = np.random.default_rng(6)
    weight, values = random_weight(device, rng, "F32", 6, 64)
    x, bias = rng.standard_normal((T, 64), np.float32), rng.standard_normal(6, np.float32)
    out = filled(device, (T, 6))
    matvec.matmul(device, out, weight, device.upload(x), device.upload(bias))
    assert_close("biased", device.read(out), wide(x) @ values.T + bias, OP["matvec"])


@pytest.mark.parametrize("type_name", FORMATS)
def test_prefill_and_decode_products_agree_bit_for_bit(device, type_name):
    rng = np.random.default_rng(7)
    weight, _ = random_weight(device, rng, type_name, 9, 512)
    x = rng.standard_normal((3, 512), np.float32)
    together, alone = filled(device, (3, 9)), filled(device, (1, 9))
    matvec.matmul(device, together, weight, device.upload(x))
    for t in range(3):
        matvec.matmul(device, alone, weight, device.upload(x[t : t + 1]))
        np.testing.assert_array_equal(device.read(together)[t], device.read(alone)[0])


@pytest.mark.parametrize("type_name", FORMATS)
def test_embed(device, type_name):
    rng = np.random.default_rng(8)
    table, values = random_weight(device, rng, type_name, 7, 256)
    tokens = np.array([6, 0, 3], np.uint32)
    out = filled(device, (3, 256))
    embed.embed(device, out, table, device.upload(tokens), 16.0)
    want = values[tokens].astype(np.float32) * np.float32(16.0)
    assert_close(f"embed {type_name}", device.read(out), want, OP["embed"])


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("cache_type", CACHE_TYPES)
@pytest.mark.parametrize("H, KH, HD", HEADS)
@pytest.mark.parametrize("T, start", [(1, 0), (1, 40), (1, 7), (5, 0), (4, 29)])
@pytest.mark.parametrize("window, softcap", [(None, None), (8, None), (None, 5.0)])
def test_attention(device, H, KH, HD, T, start, window, softcap, cache_type):
    rng = np.random.default_rng(10)
    S = 48
    q = rng.standard_normal((T, H, HD), np.float32)
    cache, (k, v) = kv_cache(device, rng, S, KH, HD, HD, cache_type, H)
    out = filled(device, (T, H, HD))
    position = device.upload(np.array([start], np.uint32))
    attention.attention(device, out, device.upload(q), cache, position, HD**-0.5, window, softcap)
    seen = start + T
    want = reference_ops.attention(wide(q), k[:seen], v[:seen], HD**-0.5, window, softcap)
    assert_close("attention", device.read(out), want, OP["attention"])


@pytest.mark.slow_on_cpu
def test_attention_with_values_of_another_width(device):
    rng = np.random.default_rng(11)
    cache, (k, v) = kv_cache(device, rng, 20, 2, 48, 72, "f32", 4)
    for T in (1, 3):
        q = rng.standard_normal((T, 4, 48), np.float32)
        out = filled(device, (T, 4, 72))
        position = device.upload(np.array([9], np.uint32))
        attention.attention(device, out, device.upload(q), cache, position, 0.2)
        want = reference_ops.attention(wide(q), k[: 9 + T], v[: 9 + T], 0.2)
        assert_close("attention", device.read(out), want, OP["attention"])


@pytest.mark.parametrize("V", [1, 31, 1024, 5000])
def test_argmax(device, V):
    rng = np.random.default_rng(12)
    logits = rng.standard_normal(V, np.float32)
    logits[rng.integers(0, V, 3)] = 9.0  # equals: the lowest index wins
    token, position = (device.upload(np.array([n], np.uint32)) for n in (77, 4))
    history = device.upload(np.zeros(8, np.uint32))
    argmax.argmax(device, token, position, history, device.upload(logits), 1)
    best = int(np.argmax(logits))
    assert device.read(token)[0] == best
    assert device.read(position)[0] == 5
    np.testing.assert_array_equal(device.read(history), [0, 0, 0, 0, 0, best, 0, 0])


def test_advance(device):
    position = device.upload(np.array([4], np.uint32))
    argmax.advance(device, position, 3)
    assert device.read(position)[0] == 7
