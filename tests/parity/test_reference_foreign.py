"""The reference against software that is not ours, and its taps against themselves.

The goldens are tiny random models with the logits of Hugging Face transformers (float32, eager
attention, every position); `golden/README.md` says where they come from.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import reference
from tests.parity.compare import assert_close
from tests.parity.recurrent_taps import block_names, widths
from tests.parity.tolerances import EXACT, FOREIGN
from zerfoo_numba.errors import InputError
from zerfoo_numba.tensors import UNGATED

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/model.gguf"))


def ids_of(name, length):
    return json.loads((GOLDEN / name / "tokens.json").read_text())[length]


@pytest.fixture(scope="module")
def models():
    """{(name, dtype): model}, each loaded once."""
    loaded = {}

    def load(name, dtype="float32"):
        if (name, dtype) not in loaded:
            loaded[name, dtype] = reference.load_model(GOLDEN / name / "model.gguf", dtype=dtype)
        return loaded[name, dtype]

    return load


def test_every_golden_has_a_tolerance():
    assert sorted(FOREIGN) == NAMES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", ["short", "long"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(models, name, length, dtype):
    logits = models(name, dtype).logits(ids_of(name, length))
    expected = np.load(GOLDEN / name / f"logits_{length}.npy")
    assert_close(f"{name} {length} {dtype} logits", logits, expected, FOREIGN[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_every_array_has_the_models_dtype(models, name, dtype):
    taps = models(name, dtype).taps(ids_of(name, "short"))
    assert {tap: x.dtype for tap, x in taps.items() if x.dtype != dtype} == {}


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_prefix_are_a_prefix_of_the_logits(models, name):
    ids = ids_of(name, "long")
    whole, first = models(name, "float64").logits(ids), models(name, "float64").logits(ids[:13])
    assert np.abs(first - whole[:13]).max() < 1e-10  # nothing may look ahead


def expected_names(model):
    yield "embed"
    if model.config.recurrent:
        for i in range(model.config.L):
            yield from (f"blk.{i}.{name}" for name in block_names(model.config, i))
        yield from ("result_norm", "result_output")
        return
    names = "input attn_norm q k v attn attn_out post_attention_norm ffn_input ffn_norm"
    names += " ffn_gate ffn_up ffn_act ffn_out post_ffw_norm output"
    left_out = set()
    if model.config.experts:
        names = names.replace("ffn_gate ffn_up ffn_act", "ffn_gate_inp ffn_weights ffn_shared")
        left_out |= set() if model.config.spec.arch == "qwen2moe" else {"ffn_shared"}
    elif model.config.spec.ffn in UNGATED:
        left_out |= {"ffn_gate"}
    if "blk.0.post_ffw_norm.weight" not in model.weights:
        left_out |= {"post_attention_norm", "post_ffw_norm"}
    for i in range(model.config.L):
        yield from (f"blk.{i}.{name}" for name in names.split() if name not in left_out)
    yield from ("result_norm", "result_output")


def expected_shape(name, c, tokens):
    shapes = {
        "q": (c.H, c.HD), "k": (c.KH, c.HD), "v": (c.KH, c.VD), "attn": (c.H * c.VD,),
        "ffn_gate": (c.F,), "ffn_up": (c.F,), "ffn_act": (c.F,), "result_output": (c.V,),
    }  # fmt: skip
    if c.recurrent:
        shapes |= widths(c)
    if c.experts:
        shapes |= dict.fromkeys(("ffn_gate_inp", "ffn_weights"), (c.experts.E,))
    return (tokens, *shapes.get(name.split(".")[-1], (c.D,)))


@pytest.mark.parametrize("name", NAMES)
def test_taps_are_complete_ordered_and_shaped(models, name):
    model, ids = models(name), ids_of(name, "short")
    taps = model.taps(ids)
    assert list(taps) == list(expected_names(model))
    shapes = {tap: x.shape for tap, x in taps.items()}
    assert shapes == {tap: expected_shape(tap, model.config, len(ids)) for tap in taps}
    assert_close("result_output", taps["result_output"], model.logits(ids), EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_taps_fed_with_their_own_values_are_the_free_run(models, name):
    model, ids = models(name), ids_of(name, "long")
    free = model.taps(ids)
    layer = f"blk.{model.config.L - 1}.input"
    for inputs in ({layer: free[layer]}, free):
        fed = model.taps(ids, inputs=inputs)
        for tap, x in free.items():
            assert_close(f"{name} {tap} fed", fed[tap], x, EXACT)


def test_a_fed_layer_forgets_the_layers_before_it(models):
    model, ids = models("gemma3_default"), ids_of("gemma3_default", "short")
    free = model.taps(ids)
    swapped = model.taps(ids[::-1], inputs={"blk.2.input": free["blk.2.input"]})
    assert_close("logits", swapped["result_output"], free["result_output"], EXACT)
    assert np.abs(swapped["blk.1.output"] - free["blk.1.output"]).max() > 0.1


@pytest.mark.parametrize("chunk", [1, 1000, 5000])
def test_row_chunks_do_not_change_the_logits(models, monkeypatch, chunk):
    name, ids = "gemma3_Q4_K_M", ids_of("gemma3_Q4_K_M", "short")
    whole = models(name, "float64").logits(ids)
    monkeypatch.setattr("reference.weights.CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr("reference.weights.CACHE_BYTES", 0)
    model = reference.load_model(GOLDEN / name / "model.gguf", dtype="float64")
    assert np.abs(model.logits(ids) - whole).max() < 1e-10


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "at least one"),
        ([[1, 2]], "flat list"),
        ([1, 64], "token id 64"),
        ([-1], "token id -1"),
        ([1.0], "integers"),
        ([True], "integers"),
    ],
)
def test_ids_that_are_none_are_refused(models, ids, message):
    with pytest.raises(InputError, match=message):
        models("llama").logits(ids)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({"blk.9.input": np.zeros((2, 32))}, "no blk.9.input"), ({"embed": np.zeros(32)}, "embed is")],
)
def test_inputs_that_fit_nothing_are_refused(models, inputs, message):
    with pytest.raises(InputError, match=message):
        models("llama").taps([1, 2], inputs=inputs)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match="float16"):
        reference.load_model(GOLDEN / "llama" / "model.gguf", dtype="float16")
