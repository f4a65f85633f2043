"""What each architecture's files may leave out, and the forms in which they say the same."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from zerfoo_numba.architectures import ARCHS
from zerfoo_numba.config import Layer, LongFactors, ModelConfig, Rope, Yarn
from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.gguf_file import Tensor
from zerfoo_numba.metadata import NOT_RUN
from zerfoo_numba.tensors import expected_tensors

SIZES = {"L": 3, "D": 16, "F": 24, "V": 20, "H": 4, "KH": 2, "HD": 8, "VD": 6, "R": 8}
KEYS = {
    "context_length": 64, "block_count": 3, "embedding_length": 16, "feed_forward_length": 24,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 8,
    "attention.value_length": 6,
}  # fmt: skip
OWN_KEYS = {
    "gemma3": {"attention.sliding_window": 8},
    "command-r": {"logit_scale": 0.5},
    "granite": {"logit_scale": 0.5},
    "qwen2vl": {"rope.dimension_sections": np.array([1, 2, 1, 0])},
    "qwen2moe": {"expert_count": 5, "expert_used_count": 2},
    "qwen3moe": {"expert_count": 5, "expert_used_count": 2},
}
# Sizes that tensors of experts, and learned positions, have besides; F / used where no key says it.
LETTERS = {"E": 5, "FE": 12, "FS": 24}
MORE = {"qwen2moe": LETTERS, "qwen3moe": LETTERS, "gpt2": {"CONTEXT": 64}}
EPSILON = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


ATTENTIVE = [arch for arch, spec in ARCHS.items() if spec.mixer == "attention"]


def plain_shapes(arch):
    expected = expected_tensors(ARCHS[arch], **SIZES, letters=MORE.get(arch))
    return {name: shape for name, (shape, required) in expected.items() if required}


def config_of(arch, keys=None, shapes=None):
    """The config of a file of plain tensors; `keys` and `shapes` change, or by None remove, some.

    Of a file this is what config and tensors look at: metadata and shapes, no data.
    """
    stated = KEYS | {EPSILON[ARCHS[arch].norm]: 1e-5} | OWN_KEYS.get(arch, {}) | (keys or {})
    metadata = {f"{arch}.{key}": value for key, value in stated.items() if value is not None}
    kept = {n: s for n, s in (plain_shapes(arch) | (shapes or {})).items() if s is not None}
    file = SimpleNamespace(
        path="tiny.gguf",
        metadata={"general.architecture": arch} | metadata,
        tensors={name: Tensor(shape, "F32", None) for name, shape in kept.items()},
    )
    config = ModelConfig.from_gguf(file)
    config.check_tensors(file)
    return config


def in_blocks(**shapes):
    """The same change in every block; a double underscore is a dot."""
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {f"blk.{i}.{name}": shape for i in range(3) for name, shape in names.items()}


@pytest.mark.parametrize("arch", ATTENTIVE)
def test_every_architecture_has_its_numbers(arch):
    config = config_of(arch)
    assert (config.arch, config.context, config.eps) == (arch, 64, 1e-5)
    assert {n: getattr(config, n) for n in SIZES if n != "R"} | {"R": 8} == SIZES
    assert config.attn_scale == 1 / math.sqrt(8)
    assert config.embed_scale == (4.0 if arch.startswith("gemma") else 1.0)
    rope = config.layers[2].rope
    if arch == "gpt2":
        assert rope.dims == 0
        return
    interleaved = arch in ("llama", "command-r", "granite")
    sections = (1, 2, 1) if arch == "qwen2vl" else None
    assert rope == Rope("interleaved" if interleaved else "half", 8, 10000.0, sections=sections)


@pytest.mark.parametrize("arch", ATTENTIVE)
def test_every_tensor_of_the_plain_form_is_required(arch):
    for name in plain_shapes(arch):
        with pytest.raises(FileError, match=name):
            config_of(arch, shapes={name: None})


def test_what_belongs_to_an_architecture_is_required_of_it_alone():
    owned = {
        "gemma2": ("post_attention_norm.weight", "post_ffw_norm.weight"),
        "gemma3": ("post_ffw_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight"),
        "qwen2": ("attn_q.bias", "attn_k.bias", "attn_v.bias"),
        "qwen3": ("attn_q_norm.weight", "attn_k_norm.weight"),
        "falcon": ("attn_norm.bias",),
    }
    for arch, names in owned.items():
        for name in names:
            assert f"blk.1.{name}" in plain_shapes(arch)
            assert f"blk.1.{name}" not in plain_shapes("llama")
    assert "output_norm.bias" in plain_shapes("falcon")


@pytest.mark.parametrize(
    ("arch", "key"),
    [
        ("command-r", "logit_scale"),
        ("command-r", "attention.layer_norm_epsilon"),
        ("falcon", "attention.layer_norm_epsilon"),
        ("gemma3", "attention.sliding_window"),
        ("phi3", "attention.layer_norm_rms_epsilon"),
    ],
)
def test_a_missing_key_is_named(arch, key):
    with pytest.raises(FileError, match=rf"{arch}\.{key} is missing"):
        config_of(arch, {key: None})


@pytest.mark.parametrize("key", NOT_RUN)
def test_a_key_that_changes_the_arithmetic_unseen_is_refused(key):
    config_of("llama", {key: NOT_RUN[key]})
    other = not NOT_RUN[key] if isinstance(NOT_RUN[key], bool) else NOT_RUN[key] + 2
    for value in (other, np.array([other])):
        with pytest.raises(UnsupportedError, match=rf"llama\.{key} is .* not run here"):
            config_of("llama", {key: value})


def test_logit_scale():
    assert config_of("command-r", {"logit_scale": 0.0625}).logit_scale == 0.0625
    assert config_of("llama").logit_scale == 1.0


def test_soft_caps():
    config = config_of("gemma2")
    assert (config.attn_softcap, config.final_softcap) == (50.0, 30.0)
    config = config_of("gemma2", {"attn_logit_softcapping": 0.0, "final_logit_softcapping": 7.0})
    assert (config.attn_softcap, config.final_softcap) == (None, 7.0)


def test_windows_of_even_layers():
    assert [layer.window for layer in config_of("gemma2").layers] == [4096, None, 4096]
    scaling = {"rope.freq_base": 300.0, "rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    layers = config_of("gemma2", {"attention.sliding_window": 5, **scaling}).layers
    rope = Rope("half", 8, 300.0, 2.0)
    assert layers == (Layer(rope, 5), Layer(rope, None), Layer(rope, 5))
    layers = config_of("gemma2", {"rope.freq_base_swa": 200.0, **scaling}).layers
    assert [layer.rope.base for layer in layers] == [200.0, 300.0, 200.0]


@pytest.mark.parametrize("arch", ["phi3", "llama"])
def test_a_window_without_a_pattern_is_one_of_every_layer(arch):
    layers = config_of(arch, {"attention.sliding_window": 9}).layers
    assert [layer.window for layer in layers] == [9] * 3
    layers = config_of(arch, {"attention.sliding_window": 0}).layers
    assert [layer.window for layer in layers] == [None] * 3


@pytest.mark.parametrize(("arch", "layers"), [("gemma2", 46), ("gemma3", 62), ("llama", None)])
def test_models_that_scale_attention_by_their_width(arch, layers):
    assert ARCHS[arch].width_scaled_layers == layers


def yarn_keys(**changes):
    keys = {"type": "yarn", "factor": 4.0, "original_context_length": 32} | changes
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def test_yarn():
    rope = config_of("llama", yarn_keys()).layers[0].rope
    assert rope == Rope(
        "interleaved", 8, 1e4, 4.0, Yarn(32, 32.0, 1.0), attn_factor=1 + 0.1 * math.log(4)
    )
    keys = yarn_keys(yarn_beta_fast=9.0, yarn_beta_slow=0.5, original_context_length=None)
    assert config_of("llama", keys).layers[0].rope.yarn == Yarn(64, 9.0, 0.5)
    rope = config_of("qwen2", yarn_keys(yarn_attn_factor=1.5, attn_factor=2.0)).layers[0].rope
    assert rope.attn_factor == 3.0
    assert config_of("qwen2", yarn_keys(factor=0.5)).layers[0].rope.attn_factor == 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"factor": None}, r"rope\.scaling\.factor is missing"),
        ({"yarn_beta_fast": 0.0}, r"yarn_beta_fast is 0\.0"),
        ({"yarn_beta_slow": "1"}, "yarn_beta_slow must be a number"),
        ({"original_context_length": 0}, "original_context_length is 0"),
    ],
)
def test_impossible_yarn(changes, says):
    with pytest.raises(FileError, match=says):
        config_of("llama", yarn_keys(**changes))


def test_yarn_needs_a_base_above_one():
    with pytest.raises(FileError, match=r"rope\.freq_base is 1\.0"):
        config_of("llama", {"rope.freq_base": 1.0, **yarn_keys()})


def test_an_unknown_scaling_is_refused():
    with pytest.raises(UnsupportedError, match=r"type is 'dynamic'; none, linear, yarn, longrope"):
        config_of("llama", {"rope.scaling.type": "dynamic"})


def test_longrope_is_announced_by_its_tensors():
    factors = {LONG: (3,), SHORT: (3,)}
    keys = {"rope.dimension_count": 6, "rope.scaling.attn_factor": 1.25}
    original = {"rope.scaling.original_context_length": 16}
    rope = config_of("phi3", keys | original, factors).layers[0].rope
    assert rope == Rope("half", 6, 1e4, 1.0, None, SHORT, LongFactors(LONG, 16), 1.25)
    named = {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}
    assert config_of("phi3", keys | original | named, factors).layers[0].rope == rope
    assert config_of("phi3", keys, factors).layers[0].rope.long_factors.context == 64


@pytest.mark.parametrize(
    ("keys", "factors"),
    [
        ({}, {LONG: (4,)}),
        ({}, {SHORT: (4,)}),
        ({}, {LONG: (4,), SHORT: (4,), "rope_freqs.weight": (4,)}),
        ({"rope.scaling.type": "longrope"}, {}),
        ({"rope.scaling.type": "longrope"}, {"rope_freqs.weight": (4,)}),
    ],
)
def test_half_a_longrope_is_refused(keys, factors):
    with pytest.raises(FileError, match="belong together"):
        config_of("phi3", keys, factors)


FUSED_QKV = {"attn_q__weight": None, "attn_k__weight": None, "attn_v__weight": None}
QKV_ROWS = 4 * 8 + 2 * 8 + 2 * 6


@pytest.mark.parametrize(
    ("arch", "shapes"),
    [
        ("phi3", {**FUSED_QKV, "attn_qkv__weight": (16, QKV_ROWS)}),
        ("llama", {**FUSED_QKV, "attn_qkv__weight": (16, QKV_ROWS), "attn_qkv__bias": (QKV_ROWS,)}),
        ("phi3", {"ffn_gate__weight": None, "ffn_up__weight": (16, 48)}),
        ("phi3", {"ffn_gate__weight": None, "ffn_up__weight": (16, 48), "ffn_up__bias": (48,)}),
        ("llama", {"ffn_gate__bias": (24,), "ffn_up__bias": (24,), "ffn_down__bias": (16,)}),
        ("command-r", {"attn_q_norm__weight": (8, 4), "attn_k_norm__weight": (8, 2)}),
        ("command-r", {"attn_q_norm__weight": (8,), "attn_k_norm__weight": (8, 2)}),
        ("command-r", {"ffn_norm__weight": (16,)}),
        ("falcon", {"attn_norm_2__weight": (16,), "attn_norm_2__bias": (16,)}),
        ("falcon", {"ffn_up__bias": (24,), "ffn_norm__weight": (16,), "ffn_norm__bias": (16,)}),
    ],
)
def test_other_forms_are_accepted(arch, shapes):
    config_of(arch, shapes=in_blocks(**shapes))
    last = {name: shape for name, shape in in_blocks(**shapes).items() if name[4] == "2"}
    config_of(arch, shapes=last)  # each block on its own


@pytest.mark.parametrize(
    ("arch", "shapes", "named"),
    [
        ("phi3", {**FUSED_QKV, "attn_qkv__weight": (16, QKV_ROWS + 1)}, "attn_qkv.weight"),
        ("phi3", {"ffn_gate__weight": None, "ffn_up__weight": (16, 47)}, "ffn_gate.weight"),
        ("phi3", {"ffn_up__weight": (16, 48)}, "ffn_up.weight"),
        ("phi3", {"ffn_gate__weight": None}, "ffn_gate.weight"),
        ("command-r", {"attn_q_norm__weight": (8, 2)}, "attn_q_norm.weight"),
        ("command-r", {"attn_k_norm__weight": (4,)}, "attn_k_norm.weight"),
    ],
)
def test_a_form_of_the_wrong_size_is_named(arch, shapes, named):
    with pytest.raises(FileError, match=named):
        config_of(arch, shapes=in_blocks(**shapes))


@pytest.mark.parametrize(
    ("arch", "shapes", "named"),
    [
        ("phi3", {"attn_qkv__weight": (16, QKV_ROWS)}, r"attn_[qkv]\.weight"),  # both forms
        ("falcon", {"ffn_gate__weight": (16, 24)}, "ffn_gate"),
        ("llama", {"attn_norm_2__weight": (16,)}, "attn_norm_2"),
        ("llama", {"attn_norm__bias": (16,)}, r"attn_norm\.bias"),
        ("command-r", {"attn_q_norm__bias": (8,)}, r"attn_q_norm\.bias"),
    ],
)
def test_a_tensor_without_a_meaning_is_refused(arch, shapes, named):
    with pytest.raises(UnsupportedError, match=named):
        config_of(arch, shapes=in_blocks(**shapes))


def test_every_requirement_is_a_tensor_or_a_key():
    known = {*KEYS, *(key for keys in OWN_KEYS.values() for key in keys)}
    for arch in ATTENTIVE:
        spec = ARCHS[arch]
        fused = {f"blk.{i}.attn_qkv.weight": Tensor((16, QKV_ROWS), "F32", None) for i in range(3)}
        form = functools.partial(expected_tensors, spec, **SIZES, letters=MORE.get(arch))
        forms = form() | form(held=fused)
        names = {name.removeprefix("blk.1.") for name in forms}
        assert set(spec.requires) <= names | known, arch
