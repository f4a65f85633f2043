"""The integer path: quantised activations, packed weights, integer dots, whole models."""

import numpy as np
import pytest

from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.conftest import golden_model, golden_reference, golden_tokens
from tests.parity.pack_by_numpy import pack
from tests.parity.random_blocks import random_blocks
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import MODEL, OP
from zerfoo_numba.kernels import embed, matvec_int8, quantize
from zerfoo_numba.kernels import pack as on_device
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS, ROWS
from zerfoo_numba.weights import PackedWeight

MATRICES = ((8, 256), (37, 768), (3, 1536))


def packed_weight(device, data, type_name, N, K):
    chunks = pack(data, type_name, N, K)
    return PackedWeight(device.upload(chunks.reshape(-1)), type_name, N, K, chunks.shape[1])


def quantized(device, x):
    """x quantised on the device, and the float64 numbers that its bytes and scales stand for."""
    T, K = x.shape
    P = quantize.padded(K)
    words = filled(device, (T, P // 4), np.uint32)
    rows = quantize.QuantizedRows(words, filled(device, (T, P // 32, 4)), T)
    quantize.quantize(device, rows, device.upload(x))
    q = device.read(rows.data).view(np.int8).reshape(T, P // 16, 16).astype(np.float64)
    scales = device.read(rows.scales).astype(np.float64)
    values = q * scales[:, :, :2].reshape(T, -1, 1)
    sums = values.sum(axis=2).reshape(T, -1, 2)
    np.testing.assert_allclose(scales[:, :, 2:], sums, rtol=1e-6, atol=1e-6)
    return rows, values.reshape(T, P)


@pytest.mark.parametrize("T, K", [(1, 32), (3, 160), (2, 1152)])
def test_quantize_is_within_half_a_step(device, T, K):
    x = np.random.default_rng(1).standard_normal((T, K), np.float32) * 3
    x[0, :16] = 0  # a block without any scale
    _, values = quantized(device, x)
    step = np.abs(x.reshape(T, -1, 16)).max(axis=2).repeat(16, axis=1) / 127
    assert np.all(np.abs(values[:, :K] - x) <= step * 0.5001)
    assert not values[:, K:].any()


@pytest.mark.parametrize("type_name", LAYOUTS)
@pytest.mark.parametrize("T", [1, 6])
def test_matmul_int8(device, type_name, T):
    rng = np.random.default_rng(2)
    for N, K in MATRICES:
        data = random_blocks(rng, type_name, N, K)
        x = rng.standard_normal((T, K), np.float32)
        rows, values = quantized(device, x)
        out, bias = filled(device, (T, N)), rng.standard_normal(N, np.float32)
        weight = packed_weight(device, data, type_name, N, K)
        matvec_int8.matmul_int8(device, out, weight, rows, device.upload(bias))
        weights = wide(dequantize(data, type_name, (K, N)))
        got, name = device.read(out), f"{type_name} {N}x{K}"
        assert_close(name, got, values[:, :K] @ weights.T + bias, OP["matvec"])
        assert_close(name, got, wide(x) @ weights.T + bias, OP["matvec_int8"])


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_embed_from_a_packed_table_is_exact(device, type_name):
    rng = np.random.default_rng(3)
    V, D = 19, 768
    data = random_blocks(rng, type_name, V, D)
    tokens = np.array([18, 0, 7, 9], np.uint32)
    out = filled(device, (4, D))
    table = packed_weight(device, data, type_name, V, D)
    embed.embed_packed(device, out, table, device.upload(tokens), 3.0)
    want = dequantize(data, type_name, (D, V))[tokens] * np.float32(3.0)
    assert_close(f"embed {type_name}", device.read(out), want, OP["embed"])


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_pack(device, type_name):
    rng = np.random.default_rng(6)
    for N, K in (*MATRICES, (37, 1024 if QUANTS[type_name].block_size > 32 else 992)):
        data = random_blocks(rng, type_name, N, K)
        want = pack(data, type_name, N, K).reshape(-1)
        chunks = device.upload(np.zeros(want.size, np.uint8))
        on_device.pack(device, chunks, device.upload(data.reshape(-1)), type_name, N, K)
        np.testing.assert_array_equal(device.read(chunks), want)


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_packing_keeps_every_field_and_costs_little(type_name):
    layout = LAYOUTS[type_name]
    rng = np.random.default_rng(4)
    N, K = 16, 1536
    data = random_blocks(rng, type_name, N, K)
    packed = pack(data, type_name, N, K)
    assert packed.nbytes == layout.packed_bytes(N, K)
    assert packed.nbytes <= 1.03 * data.nbytes
    other = data.copy()
    for _ in range(200):  # a change of any byte is seen in the packed form
        at = rng.integers(len(data))
        other[at] ^= 1 << rng.integers(8)
        changed = pack(other, type_name, N, K)
        assert not np.array_equal(changed, packed)
        other[at] = data[at]


def test_rows_that_do_not_fill_a_group_are_padded_with_zeros():
    data = random_blocks(np.random.default_rng(5), "Q8_0", 3, 128)
    packed = pack(data, "Q8_0", 3, 128)
    assert packed.shape == (1, 1, LAYOUTS["Q8_0"].chunk_bytes)
    scales = packed[0, 0, LAYOUTS["Q8_0"].offsets[2] :].view("<f2").reshape(ROWS, 4)
    assert scales[:3].all() and not scales[3:].any()


def mean_kl(logits, other):
    """Mean over positions of KL(softmax(logits) || softmax(other)), in nats."""
    p, q = (np.exp(x - x.max(axis=1, keepdims=True)) for x in (wide(logits), wide(other)))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_logits_of_the_integer_path(device_name):
    name = "gemma3_Q4_K_M"
    ids = golden_tokens(name, "long")
    exact = golden_reference(name).logits(ids)
    logits = golden_model(name, device_name, activation="int8").logits(ids)
    assert_close(name, logits, exact, MODEL["int8"])
    assert mean_kl(exact, logits) < 2e-4  # Q4_K_M itself costs about 3e-2
    assert np.array_equal(logits.argmax(axis=1), exact.argmax(axis=1))


def test_requantising_is_asked_for_warned_of_and_lossy(device_name):
    name = "gemma3_Q4_K_M"
    ids = golden_tokens(name, "long")
    exact = golden_reference(name).logits(ids)
    with pytest.warns(UserWarning, match="requantising to Q4_0 at load loses accuracy"):
        model = golden_model.__wrapped__(name, device_name, requantize="Q4_0")
    assert {w.type for w in model.walk.weights.matrices()} == {"Q4_0"}
    loss = mean_kl(exact, model.logits(ids))
    assert mean_kl(exact, golden_model(name, device_name).logits(ids)) < 1e-8 < 1e-4 < loss < 1


@pytest.mark.parametrize("length, split", [("short", 3), ("long", 33)])
def test_integer_decode_continues_integer_prefill(device_name, length, split):
    """33 tokens are enough for the kernels of many tokens on every device."""
    name = "gemma3_Q4_K_M"
    ids = golden_tokens(name, length)
    model = golden_model(name, device_name, activation="int8")
    together = model.logits(ids)
    model.prefill(ids[:split])
    rows = [model.decode(token) for token in ids[split:]]
    assert_close(name, np.stack(rows), together[split:], MODEL[name])
