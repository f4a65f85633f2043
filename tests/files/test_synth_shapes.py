"""The shapes of synthetic models: complete without being written, in llama.cpp's tensor types."""

import collections
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.tolerances import MODEL
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.gguf_file import Tensor, open_gguf
from zerfoo_numba.synth import shape_metadata, shape_tensors, synthesize
from zerfoo_numba.synth_blocks import RECIPES
from zerfoo_numba.synth_shapes import SHAPES
from zerfoo_numba.synth_vocabulary import FAMILIES, vocabulary

# Billions of parameters, by the models' cards or the sum of their matrices.
PARAMETERS = {
    "qwen2.5-0.5b": 0.494,
    "tinyllama-1.1b": 1.10,
    "phi-3.5-mini": 3.82,
    "mixtral-8x7b": 46.7,
    "command-r": 35.0,
    "falcon-7b": 7.22,  # 6.92 and a head of its own
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_a_complete_model(name):
    shape, recipe = SHAPES[name], RECIPES["Q4_K_M"]
    tensors = shape_tensors(shape, recipe)
    file = SimpleNamespace(
        path=name,
        metadata=shape_metadata(name, shape, recipe),
        tensors={n: Tensor(dims, kind, None) for n, (dims, kind) in tensors.items()},
    )
    config = ModelConfig.from_gguf(file)
    config.check_tensors(file)
    for letter in ("L", "D", "F", "V", "H", "KH", "HD"):
        assert getattr(config, letter) == getattr(shape, letter), letter


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_real_model(name):
    tensors = shape_tensors(SHAPES[name], RECIPES["F16"])
    count = sum(math.prod(dims) for dims, _ in tensors.values())
    assert count / 1e9 == pytest.approx(PARAMETERS[name], rel=5e-3)


def types_of_16_layers(name, quantization):
    shape = dataclasses.replace(SHAPES[name], L=16)
    return {n: kind for n, (_, kind) in shape_tensors(shape, RECIPES[quantization]).items()}


def layers_with(kinds, part, kind):
    return [i for i in range(16) if kinds.get(f"blk.{i}.{part}.weight") == kind]


MORE_BITS = [0, 1, 4, 7, 10, 13, 14, 15]  # of 16 layers, by llama-quantize


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q5_K_M", "Q4_0", "Q8_0", "Q6_K"])
def test_eight_experts_as_llama_quantize_has_them(quantization):
    kinds, base = types_of_16_layers("mixtral-8x7b", quantization), RECIPES[quantization].base
    assert {kinds[f"blk.{i}.ffn_gate_inp.weight"] for i in range(16)} == {"F32"}
    for part in ("attn_k", "attn_v"):
        assert len(layers_with(kinds, part, "Q8_0")) == 16
    output = "Q5_K" if quantization == "Q4_K_M" else base
    assert len(layers_with(kinds, "attn_output", output)) == 16
    better = RECIPES[quantization].better
    assert layers_with(kinds, "ffn_down_exps", better) == (
        MORE_BITS if better != base else list(range(16))
    )
    for part in ("attn_q", "ffn_gate_exps", "ffn_up_exps"):
        assert len(layers_with(kinds, part, base)) == 16


def test_q_k_and_v_in_one_matrix_as_llama_quantize_has_them():
    for quantization, base in (("Q4_K_M", "Q4_K"), ("Q5_K_M", "Q5_K")):
        kinds = types_of_16_layers("phi-3.5-mini", quantization)
        assert layers_with(kinds, "attn_qkv", "Q6_K") == MORE_BITS
        assert len(layers_with(kinds, "attn_qkv", base)) == 8
        assert layers_with(kinds, "ffn_down", "Q6_K") == MORE_BITS


def test_falcon_as_llama_quantize_has_it():
    kinds = types_of_16_layers("falcon-7b", "Q4_K_M")
    assert kinds["output.weight"] == "Q8_0"
    assert layers_with(kinds, "ffn_down", "Q6_K") == [0]
    assert layers_with(kinds, "ffn_down", "Q5_K") == MORE_BITS[1:]
    # 4544 is no multiple of 256.
    assert layers_with(kinds, "attn_qkv", "Q8_0") == MORE_BITS
    assert len(layers_with(kinds, "ffn_up", "Q5_0")) == 16
    kinds = types_of_16_layers("falcon-7b", "Q5_K_M")
    assert layers_with(kinds, "ffn_down", "Q6_K") == MORE_BITS
    assert types_of_16_layers("falcon-7b", "Q4_0")["output.weight"] == "Q8_0"


def test_no_quantisation_spares_the_router_and_nothing_else():
    counts = collections.Counter(types_of_16_layers("mixtral-8x7b", "F16").values())
    assert counts == {"F16": 2 + 16 * 7, "F32": 1 + 16 * 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral-tiny", "phi-3.5-tiny", "command-r-tiny", "falcon-tiny"])
def test_a_tiny_one_runs_as_the_reference_has_it(name, tmp_path):
    import reference

    path = tmp_path / "model.gguf"
    synthesize(name, path)
    ids = [1, 300, 411, 5, 700]
    model = zerfoo_numba.load_model(
        path, device="cpu", context=16, activation="float", cache_type="f32"
    )
    assert_close(name, model.logits(ids), reference.load_model(path).logits(ids), MODEL["full"])
    model.prefill(ids[:2])
    rows = [model.decode(token) for token in ids[2:]]
    assert_close(name, np.stack(rows), model.logits(ids)[2:], MODEL["full"])


def test_longrope_factors_grow_and_long_ones_more(tmp_path):
    path = tmp_path / "model.gguf"
    synthesize("phi-3.5-tiny", path)
    with open_gguf(path) as file:
        short, long = (
            file.tensors[f"rope_factors_{n}.weight"].data.view("<f4") for n in ("short", "long")
        )
        rope = ModelConfig.from_gguf(file).layers[0].rope
    assert (np.diff(short) > 0).all() and (np.diff(long) > 0).all() and (long[1:] > short[1:]).all()
    assert rope.long_factors.context == 256
    assert rope.attn_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(256)))


@pytest.mark.parametrize("family", ["phi3", "qwen2.5", "command-r", "falcon"])
def test_tokens_of_a_chat_are_special_ones(family):
    row, keys = FAMILIES[family], vocabulary(600, family)
    spoken = [token for token in row.special if token in row.template]
    assert spoken or family == "falcon"  # it speaks in plain text
    assert set(row.roles.values()) <= set(row.special)
    assert keys["tokenizer.ggml.tokens"][: len(row.special)] == list(row.special)
