"""Rung "model": free-running logits, prefill against decode, replay against eager."""

import numpy as np
import pytest

from tests.parity.compare import assert_close
from tests.parity.conftest import golden_model, golden_reference, golden_tokens
from tests.parity.tolerances import MODEL

MODELS = ("gemma3_default", "gemma3_Q4_K_M", "llama")


def check_logits(model, name):
    """The logits of every position of both prompts against the reference's."""
    for length in ("short", "long"):
        ids = golden_tokens(name, length)
        want = golden_reference(name).logits(ids)
        assert_close(f"{name} {length}", model.logits(ids), want, MODEL[name])


def check_split(model, name, ids, split):
    """prefill(split) and then one decode step for each other token == prefill of all."""
    want = golden_reference(name).logits(ids)
    rows = [model.prefill(ids[:split])]
    rows += [model.decode(token) for token in ids[split:]]
    assert_close(f"{name} split at {split}", np.stack(rows), want[split - 1 :], MODEL[name])


def greedy_by_prefill(model, ids, count):
    """Greedy ids, each from a fresh prefill of all before it: no cache, no replay."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(np.argmax(model.prefill(ids))))
    return ids[-count:]


@pytest.mark.parametrize("name", MODELS)
def test_logits(name, device_name):
    check_logits(golden_model(name, device_name), name)


@pytest.mark.parametrize("name", MODELS)
def test_every_split_of_a_short_prompt(name, device_name):
    ids = golden_tokens(name, "short")
    for split in range(1, len(ids)):
        check_split(golden_model(name, device_name), name, ids, split)


@pytest.mark.parametrize("split", [1, 17, 33])
@pytest.mark.parametrize("name", MODELS)
def test_splits_of_a_long_prompt(name, split, device_name):
    check_split(golden_model(name, device_name), name, golden_tokens(name, "long"), split)


def test_prefill_in_chunks_equals_prefill_at_once(device_name, monkeypatch):
    name = "gemma3_default"
    monkeypatch.setattr("zerfoo_numba.model.CHUNK", 16)
    check_logits(golden_model.__wrapped__(name, device_name), name)


def test_extend_continues_where_prefill_stopped(device_name):
    name = "gemma3_default"
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    model.prefill(ids[:11])
    rows = model.extend(ids[11:], all_logits=True)
    assert_close(name, rows, golden_reference(name).logits(ids)[11:], MODEL[name])


@pytest.mark.parametrize("length", [1, 2, 17])
def test_replay_equals_eager_equals_prefill(length, device_name):
    name = "gemma3_default"
    ids = golden_tokens(name, "long")[:length]
    replayed = golden_model(name, device_name).greedy_ids(ids, 24)
    eager = golden_model(name, device_name, graph=False).greedy_ids(ids, 24)
    assert replayed == eager
    assert replayed[:8] == greedy_by_prefill(golden_model(name, device_name), ids, 8)


def test_every_launch_of_a_decode_step_is_in_the_graph(device_name):
    model = golden_model("gemma3_default", device_name)
    list(model.stream_ids([3, 5, 7], 8))
    assert model.stats.graph_share == 1.0
    assert model.stats.graph_launches == model.stats.launches > 0


def test_half_precision_cache_stays_near_the_exact_one(device_name):
    name = "gemma3_default"
    ids = golden_tokens(name, "long")
    model = golden_model(name, device_name, cache_type="f16")
    assert_close(name, model.logits(ids), golden_reference(name).logits(ids), MODEL["f16_cache"])


def test_taps_with_every_input_replaced_by_its_own_are_the_free_run(device_name):
    model, ids = (
        golden_model("gemma3_default", device_name),
        golden_tokens("gemma3_default", "short"),
    )
    free = model.taps(ids)
    again = model.taps(ids, inputs={n: a for n, a in free.items() if n.endswith(".input")})
    for name, array in free.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    np.testing.assert_array_equal(free["result_output"], model.logits(ids))
