"""Rung "model": free-running logits, prefill against decode, replay against eager."""

import functools

import numpy as np
import pytest

from tests.parity.compare import assert_close
from tests.parity.conftest import golden_model, golden_reference, golden_tokens
from tests.parity.tolerances import FOREIGN, MODEL
from zerfoo_numba.devices import open_device


def check_logits(model, name):
    """The logits of every position of both prompts against the reference's."""
    for length in ("short", "long"):
        ids = golden_tokens(name, length)
        want = golden_reference(name).logits(ids)
        assert_close(f"{name} {length}", model.logits(ids), want, MODEL[name])


@functools.cache
def logits_by_length(name, length):
    """The reference's last logits of every beginning of a prompt: with LongRoPE those of a long
    sequence are not a continuation of a short one's."""
    model, ids = golden_reference(name), golden_tokens(name, length)
    return np.stack([model.logits(ids[:n])[-1] for n in range(1, len(ids) + 1)])


def check_split(model, name, length, split):
    """prefill(split) and then one decode step for each other token == prefill of all."""
    ids, want = golden_tokens(name, length), logits_by_length(name, length)
    rows = [model.prefill(ids[:split])]
    rows += [model.decode(token) for token in ids[split:]]
    assert_close(f"{name} split at {split}", np.stack(rows), want[split - 1 :], MODEL[name])


def greedy_by_prefill(model, ids, count):
    """Greedy ids, each from a fresh prefill of all before it: no cache, no replay."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(np.argmax(model.prefill(ids))))
    return ids[-count:]


@pytest.mark.parametrize("name", FOREIGN)
def test_logits(name, device_name):
    check_logits(golden_model(name, device_name), name)


@pytest.mark.parametrize("name", FOREIGN)
def test_every_split_of_a_short_prompt(name, device_name):
    for split in range(1, len(golden_tokens(name, "short"))):
        check_split(golden_model(name, device_name), name, "short", split)


SPLITS = [(name, 33) for name in FOREIGN]
SPLITS += [(name, n) for name in ("gemma3_default", "llama", "falcon_40b") for n in (1, 17)]
SPLITS += [("phi3_longrope", 5)]  # its factors change at 10


@pytest.mark.parametrize("name, split", SPLITS)
def test_splits_of_a_long_prompt(name, split, device_name):
    check_split(golden_model(name, device_name), name, "long", split)


def test_prefill_in_chunks_equals_prefill_at_once(device_name):
    name, device = "gemma3_default", open_device(device_name)
    device.chunk = 16
    check_logits(golden_model.__wrapped__(name, device), name)


def test_extend_continues_where_prefill_stopped(device_name):
    name = "gemma3_default"
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    model.prefill(ids[:11])
    rows = model.extend(ids[11:], all_logits=True)
    assert_close(name, rows, golden_reference(name).logits(ids)[11:], MODEL[name])


GREEDY = [("gemma3_default", 1), ("gemma3_default", 2), ("gemma3_default", 17)]
GREEDY += [("phi3_longrope", 6), ("falcon_40b", 3), ("commandr", 3)]


@pytest.mark.parametrize("name, length", GREEDY)
def test_replay_equals_eager_equals_prefill(name, length, device_name):
    ids = golden_tokens(name, "long")[:length]
    replayed = golden_model(name, device_name).greedy_ids(ids, 24)
    eager = golden_model(name, device_name, graph=False).greedy_ids(ids, 24)
    assert replayed == eager
    assert replayed[:8] == greedy_by_prefill(golden_model(name, device_name), ids, 8)


def test_longrope_goes_back_to_short_factors(device_name):
    name = "phi3_longrope"
    model, ids = golden_model(name, device_name), golden_tokens(name, "long")
    model.logits(ids)
    check_split(model, name, "short", 3)
    model.prefill(ids[:8])
    rows = model.extend(ids[8:14], all_logits=True)  # the sequence grows long at once
    assert_close(name, rows, golden_reference(name).logits(ids[:14])[8:], MODEL[name])
    assert_close(name, model.decode(ids[14]), logits_by_length(name, "long")[14], MODEL[name])


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
