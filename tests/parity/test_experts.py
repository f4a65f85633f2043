"""Rung "model" of a mixture of experts: replay, chunks, 8-bit activations, every check."""

from types import SimpleNamespace

import numpy as np
import pytest

import zerfoo_numba
from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.conftest import GOLDEN, golden_model, golden_reference, golden_tokens
from tests.parity.random_blocks import random_blocks
from tests.parity.test_int8 import mean_kl, quantized
from tests.parity.test_models import check_logits, greedy_by_prefill
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import MODEL, OP
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.gguf_file import Tensor
from zerfoo_numba.kernels import matvec_experts
from zerfoo_numba.weights import Weights

NAMES = ("mixtral", "qwen2moe", "qwen3moe")
QUANTISED = "qwen3moe"  # in formats that have a packed layout


@pytest.mark.parametrize("activation", ["float", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_replay_equals_eager_equals_prefill(name, activation, device_name):
    ids = golden_tokens(name, "long")[:5]
    model = golden_model(name, device_name, activation=activation)
    eager = golden_model(name, device_name, activation=activation, graph=False)
    replayed = model.greedy_ids(ids, 16)
    assert replayed == eager.greedy_ids(ids, 16)
    assert replayed[:8] == greedy_by_prefill(model, ids, 8)


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_one_graph(name, device_name):
    model = golden_model(name, device_name)
    list(model.stream_ids([3, 5, 7], 8))
    assert model.stats.graph_share == 1.0
    assert model.stats.graph_launches == model.stats.launches > 0


@pytest.mark.parametrize("name", NAMES)
def test_prefill_in_chunks_equals_prefill_at_once(name, device_name):
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    want = golden_reference(name).logits(ids)
    for sizes in ((2, 38), (17, 1, 22)):  # chunks that fill other tiles, and one of a single token
        model.prefill(ids[: sizes[0]])
        rows, at = [], sizes[0]
        for size in sizes[1:]:
            rows.append(model.extend(ids[at : at + size], all_logits=True))
            at += size
        assert_close(name, np.concatenate(rows), want[sizes[0] :], MODEL[name])


def test_logits_with_8_bit_activations(device_name):
    ids = golden_tokens(QUANTISED, "long")
    exact = golden_reference(QUANTISED).logits(ids)
    model = golden_model(QUANTISED, device_name, activation="int8")
    packed = [w.type for w in model.walk.weights.matrices() if w.packed]
    assert {"Q4_0", "Q5_0", "Q8_0"} == set(packed) and len(packed) == 14
    logits = model.logits(ids)
    assert_close(QUANTISED, logits, exact, MODEL["int8"])
    assert mean_kl(exact, logits) < 5e-3
    model.prefill(ids[:30])
    rows = [model.decode(token) for token in ids[30:]]
    assert_close(QUANTISED, np.stack(rows), logits[30:], MODEL[QUANTISED])


@pytest.mark.parametrize("activation", ["float", "int8"])
@pytest.mark.parametrize("name", ["qwen2moe", "qwen3moe"])
def test_no_check_of_the_emulator_finds_anything(name, activation):
    ids, path = golden_tokens(name, "short"), GOLDEN / name / "model.gguf"
    device = EmulatorDevice(checks=True)
    model = zerfoo_numba.load_model(
        path, device=device, context=16, activation=activation, cache_type="f32"
    )
    plain = golden_model(name, "emulator", activation=activation)
    np.testing.assert_array_equal(model.logits(ids), plain.logits(ids))
    assert model.greedy_ids(ids, 3) == plain.greedy_ids(ids, 3)
    assert len(device.counters) > 0


def test_the_order_of_blocks_and_threads_does_not_matter():
    name = "qwen2moe"
    ids, path = golden_tokens(name, "short"), GOLDEN / name / "model.gguf"
    model = zerfoo_numba.load_model(
        path, device=EmulatorDevice(seed=7), context=16, cache_type="f32"
    )
    plain = golden_model(name, "emulator", activation=model.activation)
    np.testing.assert_array_equal(model.logits(ids), plain.logits(ids))


def test_a_step_costs_the_bytes_of_the_experts_it_uses():
    """What the recorder says of a decode step: 3 of 5 experts, in matrices of 16 by 12."""
    model = golden_model("mixtral", "emulator")
    model.prefill([3, 5])
    model.walk.ops.calls = calls = []
    model.walk.greedy_step()
    model.walk.ops.calls = None
    products = [call for call in calls if call.name == "experts"]
    assert len(products) == 2 * 3
    for call in products:
        activations = 4 * 3 * (call.shape["N"] + call.shape["K"])
        assert call.cost.bytes == 3 * 16 * 12 * 4 + activations


@pytest.mark.parametrize("name", ["olmo2", "granite", "starcoder2", "gpt2"])
def test_models_that_cost_a_row_replay_too(name, device_name):
    ids = golden_tokens(name, "long")[:4]
    model = golden_model(name, device_name)
    assert model.greedy_ids(ids, 12) == greedy_by_prefill(model, ids, 12)
    check_logits(model, name)


@pytest.mark.parametrize("shape", [(256, 16, 3), (96, 11, 2)])  # a whole layout, and odd sizes
@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "Q5_0", "F32"])
def test_the_weights_of_experts_lie_where_the_kernels_look(device, type_name, shape):
    rng = np.random.default_rng(1)
    K, N, E = shape
    data, name = random_blocks(rng, type_name, N * E, K), "blk.0.ffn_up_exps.weight"
    tensors = {name: Tensor(shape, type_name, data)}
    file = SimpleNamespace(path="tiny.gguf", tensors=tensors, check_size=lambda: None)
    values = wide(dequantize(data, type_name, shape))
    x, out = rng.standard_normal((1, K), np.float32), filled(device, (E, N))
    experts = device.upload(np.arange(E, dtype=np.uint32))
    weight = Weights(device, file, None, pack=True).matrix(name)
    assert (weight.rows, weight.packed) == (N, type_name != "F32")
    if weight.packed:
        rows, x = quantized(device, x)
        matvec_experts.matmul_experts_int8(device, out, weight, rows, experts)
    else:
        matvec_experts.matmul_experts(device, out, weight, device.upload(x), experts)
    assert_close(type_name, device.read(out), values @ wide(x)[0, :K], OP["matvec"])
