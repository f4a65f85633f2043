"""What a model's metadata means, and what is refused."""

import contextlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.files.builder import (
    ARRAY,
    BOOL,
    I32,
    U8,
    U16,
    U64,
    f32_file,
    gemma3_metadata,
    gemma3_shapes,
    llama_metadata,
    llama_shapes,
    save,
)
from zerfoo_numba.architectures import ARCHS
from zerfoo_numba.config import ModelConfig, Rope
from zerfoo_numba.errors import FileError, UnsupportedError, ZerfooError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.metadata import FORMAT_DEFAULTS

METADATA = {"gemma3": gemma3_metadata, "llama": llama_metadata}
SHAPES = {"gemma3": gemma3_shapes, "llama": llama_shapes}


def open_model(folder, arch, keys=None, shapes=None, **sizes):
    """An open model file; `keys` and `shapes` change, or by None remove, entries of it."""
    metadata = METADATA[arch](**sizes)
    for name, item in (keys or {}).items():
        metadata[name if name.startswith(("general", "tokenizer")) else f"{arch}.{name}"] = item
    tensors = SHAPES[arch](**sizes) | (shapes or {})
    kept = {k: v for k, v in metadata.items() if v is not None}
    return open_gguf(save(folder, f32_file(kept, {k: v for k, v in tensors.items() if v})))


def config_of(folder, arch, keys=None, shapes=None, **sizes):
    gguf = open_model(folder, arch, keys, shapes, **sizes)
    config = ModelConfig.from_gguf(gguf)
    config.check_tensors(gguf)
    return config


def test_gemma3_by_its_defaults(tmp_path):
    config = config_of(tmp_path, "gemma3")
    assert (config.arch, config.name, config.context) == ("gemma3", "tiny", 64)
    letters = ["L", "D", "F", "V", "H", "KH", "HD", "VD"]
    assert [getattr(config, n) for n in letters] == [6, 16, 24, 20, 4, 1, 8, 8]
    assert config.eps == pytest.approx(1e-6)
    assert config.embed_scale == 4.0 and config.attn_scale == 1 / math.sqrt(8)
    assert config.attn_softcap is None and config.final_softcap is None
    assert [layer.window for layer in config.layers] == [8] * 5 + [None]
    assert [layer.rope.base for layer in config.layers] == [1e4] * 5 + [1e6]
    assert all(layer.rope == Rope("half", 8, layer.rope.base) for layer in config.layers)


def test_gemma3_scaling_is_for_global_layers_alone(tmp_path):
    keys = {
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
        "rope.freq_base_swa": 5000.0,
        "rope.freq_base": None,
    }
    layers = config_of(tmp_path, "gemma3", keys).layers
    assert layers[0].rope == Rope("half", 8, 5000.0, 1.0)
    assert layers[5].rope == Rope("half", 8, 10000.0, 8.0)
    assert config_of(tmp_path, "gemma3", keys | {"rope.scaling.type": None}).layers == layers
    no_scaling = config_of(tmp_path, "gemma3", keys | {"rope.scaling.type": "none"}).layers
    assert no_scaling[5].rope == Rope("half", 8, 10000.0, 1.0)


@pytest.mark.parametrize(
    ("pattern", "local"),
    [
        (3, [1, 1, 0, 1, 1, 0]),
        (1, [0] * 6),
        (0, [1] * 6),  # llama.cpp, llama_hparams::set_swa_pattern: 0 makes every layer local
        ((U64, 2), [1, 0] * 3),
        ((ARRAY, BOOL, [0, 1, 1, 0, 0, 1]), [0, 1, 1, 0, 0, 1]),
        ((ARRAY, U8, [1, 0, 0, 0, 0, 0]), [1, 0, 0, 0, 0, 0]),
    ],
)
def test_gemma3_pattern_by_key(tmp_path, pattern, local):
    layers = config_of(tmp_path, "gemma3", {"attention.sliding_window_pattern": pattern}).layers
    assert [layer.window is not None for layer in layers] == [bool(i) for i in local]
    assert [layer.rope.base == 1e4 for layer in layers] == [bool(i) for i in local]


def test_gemma3_of_62_layers_scales_attention_by_its_width(tmp_path):
    config = config_of(tmp_path, "gemma3", L=62, D=24, H=4, KH=2, HD=8)
    assert config.attn_scale == 1 / math.sqrt(24 / 4)
    assert config_of(tmp_path, "gemma3", L=61, D=24).attn_scale == 1 / math.sqrt(8)


def test_gemma3_without_local_layers(tmp_path):
    layers = config_of(tmp_path, "gemma3", {"attention.sliding_window": 0}).layers
    assert {layer.window for layer in layers} == {None}
    assert {layer.rope.base for layer in layers} == {1e6}


def test_final_softcap_when_the_key_is_there(tmp_path):
    config = config_of(tmp_path, "gemma3", {"final_logit_softcapping": 30.0})
    assert config.final_softcap == 30.0 and config.attn_softcap is None
    assert config_of(tmp_path, "gemma3", {"final_logit_softcapping": 0.0}).final_softcap is None


def test_llama(tmp_path):
    config = config_of(tmp_path, "llama")
    assert (config.HD, config.VD, config.KH) == (4, 4, 2)
    assert config.embed_scale == 1.0 and config.attn_scale == 0.5
    assert {layer.window for layer in config.layers} == {None}
    assert config.layers[1].rope == Rope("interleaved", 4, 10000.0)
    keys = {"rope.freq_base": 3e4, "rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    config = config_of(tmp_path, "llama", keys, {"rope_freqs.weight": (2,)})
    assert config.layers[0].rope == Rope(
        "interleaved", 4, 3e4, 2.0, freq_factors="rope_freqs.weight"
    )
    config = config_of(tmp_path, "llama", {"rope.dimension_count": 2, "rope.scale_linear": 4.0})
    assert config.layers[0].rope == Rope("interleaved", 2, 10000.0, 4.0)


def test_llama_head_width_by_key(tmp_path):
    wide = {f"blk.{i}.attn_{c}.weight": (16, n) for i in (0, 1) for c, n in (("q", 24), ("k", 12))}
    wide |= {f"blk.{i}.attn_v.weight": (16, 10) for i in (0, 1)}
    wide |= {f"blk.{i}.attn_output.weight": (20, 16) for i in (0, 1)}
    keys = {"attention.key_length": 6, "attention.value_length": 5, "rope.dimension_count": None}
    config = config_of(tmp_path, "llama", keys, wide)
    assert (config.HD, config.VD, config.layers[0].rope.dims) == (6, 5, 6)


def test_optional_tensors_are_accepted_in_their_shape(tmp_path):
    widths = {"q": 16, "k": 8, "v": 8}
    extra = {f"blk.{i}.attn_{c}.bias": (n,) for i in (0, 1) for c, n in widths.items()}
    extra |= {"blk.0.attn_q_norm.weight": (4,), "blk.1.attn_output.bias": (16,)}
    extra |= {"output.weight": None}
    config_of(tmp_path, "llama", None, extra)


@pytest.mark.parametrize("width", [U8, U16, U64, I32])
def test_whole_numbers_of_any_width_and_per_layer(tmp_path, width):
    keys = {
        "block_count": (width, 6),
        "context_length": (width, 64),
        "attention.head_count": (ARRAY, width, [4] * 6),
        "attention.head_count_kv": (ARRAY, I32, [1] * 6),
        "feed_forward_length": (ARRAY, width, [24] * 6),
    }
    assert config_of(tmp_path, "gemma3", keys) == config_of(tmp_path, "gemma3")


REQUIRED = [
    *(("gemma3", name) for name in (
        "context_length", "block_count", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.layer_norm_rms_epsilon", "attention.sliding_window",
    )),
    ("llama", "attention.layer_norm_rms_epsilon"),
    ("llama", "block_count"),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "name"), REQUIRED)
def test_a_missing_key_is_named(tmp_path, arch, name):
    with pytest.raises(FileError, match=rf"{arch}\.{name} is missing"):
        config_of(tmp_path, arch, {name: None})


def test_scaling_without_its_factor(tmp_path):
    with pytest.raises(FileError, match=r"rope\.scaling\.factor is missing"):
        config_of(tmp_path, "llama", {"rope.scaling.type": "linear"})


LIES = [
    ({"block_count": 0}, "block_count is 0"),
    ({"block_count": 10**9}, "block_count is 1000000000"),
    ({"block_count": "six"}, "block_count must be a whole number"),
    ({"block_count": 6.0}, "block_count must be a whole number"),
    ({"block_count": True}, "block_count must be a whole number"),
    ({"block_count": (I32, -6)}, "block_count is -6"),
    ({"embedding_length": 0}, "embedding_length is 0"),
    ({"attention.head_count": 0}, "head_count is 0"),
    ({"attention.head_count_kv": 0}, "head_count_kv is 0"),
    ({"attention.head_count_kv": 3}, "head_count_kv is 3, which does not divide 4"),
    ({"attention.head_count": (ARRAY, I32, [])}, "head_count must be a whole number"),
    ({"attention.key_length": 0}, "key_length is 0"),
    ({"attention.key_length": None, "attention.head_count": 5}, "key_length is missing, and D"),
    ({"rope.dimension_count": 10}, "dimension_count is 10"),
    ({"rope.dimension_count": 7}, "dimension_count is 7"),
    ({"rope.freq_base": 0.0}, "freq_base is 0.0"),
    ({"rope.freq_base": math.nan}, "freq_base is nan"),
    ({"rope.scaling.factor": math.inf}, "scaling.factor is inf"),
    ({"rope.scaling.factor": -2.0}, "scaling.factor is -2.0"),
    ({"attention.layer_norm_rms_epsilon": "1e-6"}, "epsilon must be a number"),
    ({"final_logit_softcapping": -1.0}, "softcapping is -1.0"),
    ({"attention.sliding_window": (I32, -1)}, "sliding_window is -1"),
    ({"attention.sliding_window_pattern": (ARRAY, BOOL, [1, 0])}, "has 2 entries for 6 layers"),
    ({"attention.sliding_window_pattern": "x"}, "pattern must be a whole number"),
    ({"tokenizer.ggml.tokens": ["a", "b"]}, "2 tokens in the vocabulary"),
    ({"general.architecture": 3}, "general.architecture"),
    ({"general.architecture": None}, "general.architecture"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "says"), LIES, ids=[says for _, says in LIES])
def test_impossible_metadata_is_named(tmp_path, keys, says):
    with pytest.raises(FileError, match=says):
        config_of(tmp_path, "gemma3", keys)


UNSUPPORTED = [
    ("gemma3", {"general.architecture": "gpt5"}, "'gpt5' is not supported; command-r, falcon, gem"),
    ("llama", {"attention.max_alibi_bias": 8.0}, "max_alibi_bias is 8"),
    ("llama", {"attention.head_count_kv": (ARRAY, I32, [2, 4])}, "between layers"),
]


@pytest.mark.parametrize(("arch", "keys", "says"), UNSUPPORTED)
def test_what_is_not_run_is_refused(tmp_path, arch, keys, says):
    with pytest.raises(UnsupportedError, match=says):
        config_of(tmp_path, arch, keys)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.1.attn_k.weight", (16, 16)),
        ("blk.0.ffn_down.weight", (16, 24)),
        ("output_norm.weight", (15,)),
        ("blk.0.attn_q_norm.weight", (15,)),
        ("output.weight", (16, 21)),
        ("rope_freqs.weight", (4,)),
        ("blk.0.attn_q.weight", (256,)),
    ],
)
def test_a_wrong_shape_is_named(tmp_path, name, shape):
    with pytest.raises(FileError, match=name) as caught:
        config_of(tmp_path, "llama", None, {name: shape})
    assert str(list(shape)) in str(caught.value)


def test_a_tensor_nobody_uses_is_refused(tmp_path):
    for name in ("blk.0.attn_gate.weight", "blk.2.attn_q.weight", "mystery"):
        with pytest.raises(UnsupportedError, match=name):
            config_of(tmp_path, "llama", None, {name: (16, 16)})


def test_token_embd_must_be_a_matrix(tmp_path):
    for shape in (None, (16,)):
        with pytest.raises(FileError, match=r"token_embd\.weight"):
            config_of(tmp_path, "llama", None, {"token_embd.weight": shape})


def test_norms_are_float32(tmp_path):
    raw = f32_file(llama_metadata(), llama_shapes())
    name = b"output_norm.weight"
    at = raw.index(name) + len(name) + 12
    assert raw[at : at + 4] == bytes(4)
    gguf = open_gguf(save(tmp_path, raw[:at] + b"\1" + raw[at + 1 :]))
    with pytest.raises(UnsupportedError, match=r"output_norm.weight' is of type F16"):
        ModelConfig.from_gguf(gguf).check_tensors(gguf)


def test_every_default_has_its_source():
    assert all(default.source for default in FORMAT_DEFAULTS.values())
    for name in FORMAT_DEFAULTS:
        assert name.split(".")[0] in {"*", "clip", *ARCHS}


SCALARS = st.one_of(
    *(st.tuples(st.just(kind), st.sampled_from([0, 1, 2, 5, 127])) for kind in (U8, U16, U64, I32)),
    st.just((I32, -1)),
    st.just((U64, 2**64 - 1)),
    st.sampled_from([True, False, 0.0, 0.5, -1.0, math.nan, math.inf, "", "linear", "\0", []]),
    st.sampled_from([(ARRAY, I32, []), (ARRAY, I32, [1, 2]), (ARRAY, BOOL, [1] * 6), ["a", "b"]]),
    st.none(),
)
NAMES = (*METADATA["gemma3"](), "gemma3.rope.scaling.type", "gemma3.rope.scaling.factor",
         "gemma3.attention.sliding_window_pattern", "gemma3.final_logit_softcapping",
         "gemma3.rope.dimension_count", "gemma3.expert_count", "split.count")  # fmt: skip


SHARED_PATH = HealthCheck.function_scoped_fixture


@settings(max_examples=200, deadline=None, suppress_health_check=[SHARED_PATH])
@given(st.dictionaries(st.sampled_from(NAMES), SCALARS, min_size=1, max_size=3))
def test_any_value_of_any_key_is_a_model_or_an_error(tmp_path, changes):
    metadata = {k: v for k, v in (gemma3_metadata() | changes).items() if v is not None}
    path = save(tmp_path, f32_file(metadata, gemma3_shapes()))
    with contextlib.suppress(ZerfooError):
        gguf = open_gguf(path)
        config = ModelConfig.from_gguf(gguf)
        config.check_tensors(gguf)
        assert len(config.layers) == config.L == 6 and config.V == 20
