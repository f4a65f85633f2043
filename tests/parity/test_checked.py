"""Whole models under every check of the emulator, and under perturbed approximate instructions."""

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.conftest import GOLDEN, golden_reference, golden_tokens
from tests.parity.tolerances import MODEL
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.ptx import Checks


def load(name, activation="float", **options):
    device = EmulatorDevice(**options)
    path = GOLDEN / name / "model.gguf"
    return zerfoo_numba.load_model(
        path, device=device, context=32, activation=activation, cache_type="f32"
    )


@pytest.mark.parametrize("activation", ["float", "int8"])
@pytest.mark.parametrize("name", ["gemma3_Q4_K_M", "llama"])
def test_no_check_finds_anything_and_nothing_changes(name, activation):
    ids = golden_tokens(name, "short")
    checked = load(name, activation, checks=True)
    plain = load(name, activation)
    np.testing.assert_array_equal(checked.logits(ids), plain.logits(ids))
    assert checked.greedy_ids(ids, 3) == plain.greedy_ids(ids, 3)
    assert len(checked.device.counters) > 0


@pytest.mark.parametrize("name", ["gemma3_default", "llama"])
def test_parity_holds_when_approximations_are_as_bad_as_the_isa_allows(name):
    ids = golden_tokens(name, "long")[:20]
    logits = load(name, checks=Checks(perturb=True)).logits(ids)
    assert_close(name, logits, golden_reference(name).logits(ids), MODEL[name])
    assert not np.array_equal(logits, load(name).logits(ids)), "nothing was perturbed"


def test_the_order_of_blocks_and_threads_does_not_matter():
    name = "gemma3_default"
    ids = golden_tokens(name, "short")
    plain = load(name).logits(ids)
    device = EmulatorDevice(seed=11)
    path = GOLDEN / name / "model.gguf"
    shuffled = zerfoo_numba.load_model(path, device=device, context=32, cache_type="f32")
    np.testing.assert_array_equal(shuffled.logits(ids), plain)
