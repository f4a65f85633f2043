"""Sequences beyond the window: rings of keys that wrap, with chunks of any size and in decode."""

import dataclasses

import numpy as np
import pytest

import reference
import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.conftest import GOLDEN, golden_reference, golden_tokens
from tests.parity.test_models import check_split
from tests.parity.tolerances import MODEL
from zerfoo_numba.devices import open_device
from zerfoo_numba.synth import SHAPES, synthesize

TOKENS = 4096
SYNTHETIC = "gemma3-tiny"
WINDOW = SHAPES[SYNTHETIC].keys["attention.sliding_window"]


def load(name, device_name, chunk, **options):
    """A golden whose prompts pass through `chunk` tokens at a time, over rings as short as that."""
    device = open_device(device_name)
    device.chunk = chunk
    options = {"context": 64, "activation": "float", "cache_type": "f32"} | options
    return zerfoo_numba.load_model(GOLDEN / name / "model.gguf", device=device, **options)


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("name", ["gemma3_default", "gemma2", "mistral"])
def test_rings_that_wrap(name, chunk, device_name):
    model, ids = load(name, device_name, chunk), golden_tokens(name, "long")
    rows = {layer.rows for layer in model.walk.cache.layers}
    assert min(rows) < len(ids) / 2, "no ring wraps"
    want = golden_reference(name).logits(ids)
    assert_close(f"{name} by {chunk}", model.logits(ids), want, MODEL[name])
    check_split(model, name, "long", 17)


def test_taps_of_keys_beyond_the_wrap(device_name):
    name = "gemma3_default"
    ids = golden_tokens(name, "long")
    taps = load(name, device_name, 8).taps(ids)
    for key, want in golden_reference(name).taps(ids).items():
        if key.endswith((".k", ".v")):
            np.testing.assert_allclose(taps[key], want, atol=1e-4, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0", ("f16", "q8_0")])
def test_other_cache_types_in_a_ring(device_name, kind):
    """Chunks and single steps leave the same keys, so they give the same logits."""
    name = "gemma3_Q4_K_M"
    ids = golden_tokens(name, "long")
    together = load(name, device_name, 8, cache_type=kind).logits(ids)
    model = load(name, device_name, 4, cache_type=kind)
    rows = [model.prefill(ids[:20]), *(model.decode(token) for token in ids[20:])]
    assert_close(f"{name} {kind}", np.stack(rows), together[19:], MODEL[name])
    assert_close(
        name, together, golden_reference(name).logits(ids), MODEL[f"{kind_of(kind)}_cache"]
    )


def kind_of(kind):
    return "q8_0" if "q8_0" in kind else kind


def test_rings_do_not_grow_with_the_context(tmp_path):
    path = tmp_path / "model.gguf"
    synthesize(SYNTHETIC, path)
    sizes = []
    for context in (1024, 2048):
        model = zerfoo_numba.load_model(path, device="cpu", context=context)
        chunk, layers = model.walk.chunk, model.walk.cache.layers
        local = [shape.window is not None for shape in model.config.layers]
        assert [x.rows for x in layers] == [WINDOW + chunk - 1 if s else context for s in local]
        sizes.append(sum(x.k.nbytes for x, s in zip(layers, local, strict=True) if s))
    assert sizes[0] == sizes[1] > 0


@pytest.mark.slow
def test_logits_after_4096_decoded_tokens(tmp_path, monkeypatch):
    """Every token by the captured step; at the end the reference over the whole sequence."""
    path = tmp_path / "model.gguf"
    shape = dataclasses.replace(SHAPES[SYNTHETIC], context=TOKENS + 1)
    monkeypatch.setitem(SHAPES, SYNTHETIC, shape)
    synthesize(SYNTHETIC, path)
    options = {"activation": "float", "cache_type": "f32", "context": TOKENS + 1}
    model = zerfoo_numba.load_model(path, device="cpu", **options)
    ids = [3 + (7 * i) % 500 for i in range(5)]
    ids += model.greedy_ids(ids, TOKENS - len(ids))
    assert min(layer.rows for layer in model.walk.cache.layers) < TOKENS / 4
    want = reference.load_model(path).logits(ids)
    last = model.decode(ids[-1])
    assert_close("after 4096", last[None], want[-1:], MODEL["full"])
