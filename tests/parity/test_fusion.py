"""Fused operations: each equal to the plain ones it stands for, and greedy ids the same."""

import functools

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN, golden_tokens
from tests.parity.random_blocks import random_blocks
from tests.parity.test_int8 import packed_weight
from tests.parity.test_ops import filled
from zerfoo_numba.devices import Device
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.fusion import FUSIONS
from zerfoo_numba.kernels import activation, matvec_group, matvec_int8, quantize
from zerfoo_numba.synth import synthesize

STEPS = 256
USUAL = Device.fusions


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


def packed(device, rng, type_name, N, K):
    return packed_weight(device, random_blocks(rng, type_name, N, K), type_name, N, K)


def activations(device, rng, K):
    """Random activations of one token, as `quantize` leaves them."""
    P = quantize.padded(K)
    words, scales = filled(device, (1, P // 4), np.uint32), filled(device, (1, P // 32, 4))
    rows = quantize.QuantizedRows(words, scales, 1)
    quantize.quantize(device, rows, device.upload(rng.standard_normal((1, K), np.float32)))
    return rows


def biases(device, rng, rows):
    """Of every second matrix."""
    vectors = [device.upload(rng.standard_normal(N, np.float32)) for N in rows]
    return [v if i % 2 == 0 else None for i, v in enumerate(vectors)]


# Rows of each and the width they share: one warp a row, several, and different numbers of them.
GROUPS = (((24, 16, 8), 256), ((40, 9, 17), 2048), ((4096, 64), 2048))


@pytest.mark.parametrize("types", [("Q4_K", "Q4_K", "Q6_K"), ("Q8_0", "Q5_0", "Q4_0")])
@pytest.mark.parametrize("rows, K", GROUPS)
def test_matvec_group(device, rows, K, types):
    rng = np.random.default_rng(1)
    weights = [packed(device, rng, t, N, K) for t, N in zip(types, rows, strict=False)]
    x, vectors = activations(device, rng, K), biases(device, rng, rows)
    outs = [filled(device, (1, N)) for N in rows]
    matvec_group.matvec_group(device, outs, weights, x, vectors)
    for out, weight, vector in zip(outs, weights, vectors, strict=True):
        alone = filled(device, out.shape)
        matvec_int8.matmul_int8(device, alone, weight, x, vector)
        np.testing.assert_array_equal(device.read(out), device.read(alone))


@pytest.mark.parametrize("kind", ["geglu", "swiglu"])
@pytest.mark.parametrize("types", [("Q4_K", "Q4_K"), ("Q5_0", "Q8_0")])
@pytest.mark.parametrize("N, K", [(24, 256), (41, 2048)])
def test_matvec_gated(device, N, K, types, kind):
    rng = np.random.default_rng(2)
    gate, up = (packed(device, rng, name, N, K) for name in types)
    x, vectors = activations(device, rng, K), biases(device, rng, (N, N))
    out, plain = filled(device, (1, N)), filled(device, (1, N))
    matvec_group.matvec_gated(device, out, gate, up, x, vectors, kind)
    parts = [filled(device, (1, N)) for _ in range(2)]
    for part, weight, vector in zip(parts, (gate, up), vectors, strict=True):
        matvec_int8.matmul_int8(device, part, weight, x, vector)
    activation.gated(device, plain, *parts, kind)
    np.testing.assert_array_equal(device.read(out), device.read(plain))


@functools.cache
def synthetic(folder):
    path = folder / "model.gguf"
    synthesize("gemma3-tiny", path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return synthetic(tmp_path_factory.mktemp("fusion"))


@functools.cache
def greedy(path, fuse, steps):
    """(greedy ids, launches of a token) of the model at `path` on the cpu."""
    fuse = fuse if isinstance(fuse, bool) else set(fuse)
    options = {"context": steps + 8, "activation": "int8", "fuse": fuse}
    model = zerfoo_numba.load_model(path, device="cpu", **options)
    ids = tuple(model.greedy_ids([5, 9, 2, 7], steps))
    return ids, model.stats.launches // (steps - 1)


@pytest.mark.parametrize("name", [n if n in USUAL else slow(n) for n in FUSIONS])
def test_greedy_ids_are_those_of_the_plain_operations(path, name):
    plain, launches = greedy(path, False, STEPS)
    fused, fewer = greedy(path, (name,), STEPS)
    assert fused == plain
    assert fewer < launches
    assert len(set(plain)) > 8  # a walk that got stuck would prove little


def test_the_usual_fusions_together(path):
    plain, launches = greedy(path, False, STEPS)
    fused, fewer = greedy(path, USUAL, STEPS)
    assert fused == plain
    saved = [launches - greedy(path, (name,), STEPS)[1] for name in USUAL]
    assert fewer == launches - sum(saved)


MODELS = ["gemma3_Q4_K_M", "qwen2", "commandr_qk_norm", "falcon"]


@pytest.mark.parametrize("fusions", [USUAL, pytest.param(FUSIONS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_any_model_has_the_same_ids_under_the_checks(name, fusions):
    """On the emulator, which would find what a fused launch reads of another's."""
    ids, found = golden_tokens(name, "short"), []
    for fuse in (False, set(fusions)):
        device = EmulatorDevice(checks=True)
        model = zerfoo_numba.load_model(
            GOLDEN / name / "model.gguf", device=device, context=16, activation="int8", fuse=fuse
        )
        found.append(model.greedy_ids(ids, 4))
    assert found[0] == found[1]


def test_a_wrong_name_is_refused(path):
    for wrong in ({"everything"}, "qkv"):
        with pytest.raises(UnsupportedError, match=", ".join(FUSIONS)):
            zerfoo_numba.load_model(path, device="emulator", context=8, fuse=wrong)
