"""What the metadata and tensors of an mmproj file mean, and what is refused."""

import contextlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.files.builder import (
    ARRAY,
    BOOL,
    F32,
    I32,
    U64,
    f32_file,
    llama_metadata,
    llama_shapes,
    save,
)
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import FileError, UnsupportedError, ZerfooError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.projectors import PROJECTORS
from zerfoo_numba.vision_config import VisionConfig
from zerfoo_numba.vision_tensors import expected_vision_tensors

D, F, L, OUT, PATCH = 8, 12, 2, 6, 4


def metadata(projector="mlp"):
    keys = {
        "image_size": 16, "patch_size": PATCH, "embedding_length": D, "block_count": L,
        "feed_forward_length": 99, "projection_dim": 77, "attention.head_count": 2,
        "attention.layer_norm_epsilon": 1e-5, "image_mean": (ARRAY, F32, [0.5, 0.25, 0.75]),
        "image_std": (ARRAY, F32, [0.5, 0.25, 2.0]),
    }  # fmt: skip
    named = {f"clip.vision.{key}": value for key, value in keys.items()}
    if projector == "qwen2.5vl_merger":
        named |= {"clip.vision.n_wa_pattern": 2, "clip.use_silu": True}
    if projector == "gemma3":
        named |= {"clip.use_gelu": True}
    return {"general.architecture": "clip", "clip.projector_type": projector} | named


def block(i, gated=False, biases=True):
    sizes = {"attn_q": (D, D), "attn_k": (D, D), "attn_v": (D, D), "attn_out": (D, D)}
    sizes |= {"ffn_up": (D, F), "ffn_down": (F, D)} | ({"ffn_gate": (D, F)} if gated else {})
    shapes = {f"v.blk.{i}.{name}.weight": shape for name, shape in sizes.items()}
    shapes |= {f"v.blk.{i}.ln{n}.weight": (D,) for n in (1, 2)}
    if biases:
        shapes |= {f"v.blk.{i}.{name}.bias": shape[1:] for name, shape in sizes.items()}
    return shapes


def shapes(projector="mlp"):
    kernel = (PATCH, PATCH, 3, D)
    named = {"v.patch_embd.weight": kernel}
    for i in range(L):
        named |= block(i, gated=projector == "qwen2.5vl_merger")
    if projector.startswith("qwen"):
        named |= {"v.patch_embd.weight.1": kernel, "v.post_ln.weight": (D,)}
    if projector == "gemma3":
        named |= {"v.position_embd.weight": (D, 16), "v.post_ln.weight": (D,)}
        named |= {"mm.soft_emb_norm.weight": (D,), "mm.input_projection.weight": (OUT, D)}
        return named
    if projector == "mlp":
        named |= {"v.class_embd": (D,), "v.position_embd.weight": (D, 17)}
    joined = D if projector == "mlp" else 4 * D
    return named | {
        "mm.0.weight": (joined, 10), "mm.0.bias": (10,), "mm.2.weight": (10, OUT),
        "mm.2.bias": (OUT,),
    }  # fmt: skip


def config_of(folder, projector="mlp", keys=None, tensors=None):
    """Of a file whose `keys` (below clip.vision) and `tensors` are changed, by None removed."""
    held = metadata(projector)
    for name, value in (keys or {}).items():
        held[name if name.startswith(("clip.", "general.")) else f"clip.vision.{name}"] = value
    named = shapes(projector) | (tensors or {})
    kept = {name: value for name, value in held.items() if value is not None}
    raw = f32_file(kept, {name: shape for name, shape in named.items() if shape is not None})
    gguf = open_gguf(save(folder, raw))
    config = VisionConfig.from_gguf(gguf)
    config.check_tensors(gguf)
    return config


@pytest.mark.parametrize("projector", PROJECTORS)
def test_dimensions(tmp_path, projector):
    config = config_of(tmp_path, projector)
    assert (config.projector, config.out) == (projector, OUT)
    assert (config.D, config.F, config.H, config.L, config.HD) == (D, F, 2, L, 4)
    assert (config.image_size, config.patch, config.features) == (16, PATCH, (L,))
    assert config.mean == (0.5, 0.25, 0.75) and config.std == (0.5, 0.25, 2.0)


def test_what_each_projector_is(tmp_path):
    found = {name: config_of(tmp_path, name) for name in PROJECTORS}
    kinds = {
        name: (c.norm, c.activation, c.gated, c.merge, c.resize, c.temporal, c.class_token)
        for name, c in found.items()
    }
    assert kinds == {
        "mlp": ("layer", "gelu_quick", False, 1, "crop", 1, True),
        "gemma3": ("layer", "gelu_tanh", False, 4, "square", 1, False),
        "qwen2vl_merger": ("layer", "gelu_quick", False, 2, "smart", 2, False),
        "qwen2.5vl_merger": ("rms", "silu", True, 2, "smart", 2, False),
    }
    assert [c.spec.bidirectional for c in found.values()] == [False, True, False, False]
    limits = {(c.min_pixels, c.max_pixels) for c in found.values()}
    assert limits == {(4 * 28 * 28, 16384 * 28 * 28)}
    windowed = found["qwen2.5vl_merger"]
    assert windowed.window == 112 and windowed.full == (False, True)
    assert found["qwen2vl_merger"].window is None


def test_gelu_is_that_of_the_published_tower(tmp_path):
    assert config_of(tmp_path, keys={"clip.use_gelu": True}).activation == "gelu"
    assert config_of(tmp_path, keys={"clip.use_silu": True}).activation == "silu"
    with pytest.raises(FileError, match="both clip"):
        config_of(tmp_path, keys={"clip.use_silu": True, "clip.use_gelu": True})
    with pytest.raises(UnsupportedError, match="gated by gelu_quick"):
        config_of(tmp_path, "qwen2.5vl_merger", {"clip.use_silu": None})


def test_swapped_names_show_in_the_shapes(tmp_path):
    tensors = {}
    for i in range(L):
        blk = f"v.blk.{i}."
        tensors |= {blk + "ffn_up.weight": (F, D), blk + "ffn_down.weight": (D, F)}
        tensors |= {blk + "ffn_up.bias": (D,), blk + "ffn_down.bias": (F,)}
    config = config_of(tmp_path, tensors=tensors)
    assert config.swapped and config.F == F and config.ffn_names == ("ffn_down", "ffn_up")
    assert config_of(tmp_path).ffn_names == ("ffn_up", "ffn_down")


def test_features_and_tiles(tmp_path):
    joined = {"mm.0.weight": (2 * D, 10), "model.image_newline": (OUT,)}
    keys = {"feature_layer": [1, 2], "image_grid_pinpoints": [16, 32, 32, 16]}
    config = config_of(tmp_path, keys=keys, tensors=joined)
    assert config.features == (1, 2) and config.newline
    assert (config.resize, config.pinpoints) == ("tiles", ((16, 32), (32, 16)))
    flat = config_of(tmp_path, keys=keys | {"mm_patch_merge_type": "flat"}, tensors=joined)
    assert not flat.newline


@pytest.mark.parametrize(("aspect", "resize"), [("pad", "pad"), ("square", "crop"), (None, "crop")])
def test_the_file_says_how_an_image_is_fitted(tmp_path, aspect, resize):
    assert config_of(tmp_path, keys={"image_aspect_ratio": aspect}).resize == resize


def test_a_projector_key_may_be_absent_or_the_towers(tmp_path):
    assert config_of(tmp_path, keys={"clip.projector_type": None}).projector == "mlp"
    keys = {"clip.projector_type": None, "clip.vision.projector_type": "gemma3"}
    assert config_of(tmp_path, "gemma3", keys).projector == "gemma3"


@pytest.mark.parametrize(
    ("projector", "keys", "error", "message"),
    [
        ("mlp", {"general.architecture": "llama"}, FileError, "no image tower.*'llama'"),
        ("mlp", {"clip.projector_type": "ldp"}, UnsupportedError, "'ldp' is not supported; mlp"),
        ("mlp", {"block_count": None}, FileError, "clip.vision.block_count is missing"),
        ("mlp", {"block_count": (U64, 2**30)}, FileError, "block_count is .* tensors"),
        ("mlp", {"attention.head_count": 3}, FileError, "does not divide D = 8"),
        ("mlp", {"attention.layer_norm_epsilon": None}, FileError, "layer_norm_epsilon is missing"),
        ("mlp", {"image_mean": (ARRAY, F32, [0.5])}, FileError, "image_mean must be three"),
        ("mlp", {"image_std": (ARRAY, F32, [0.5, 0.0, 1.0])}, FileError, "must be positive"),
        ("mlp", {"image_mean": None}, FileError, "image_mean is missing"),
        ("mlp", {"image_size": 3}, FileError, "patches of 4 make no squares"),
        ("mlp", {"feature_layer": [3]}, FileError, "the file has the states 0 to 2"),
        ("mlp", {"image_aspect_ratio": "stretch"}, UnsupportedError, "'stretch'; pad"),
        ("mlp", {"mm_patch_merge_type": "other"}, UnsupportedError, "'other'; flat"),
        ("mlp", {"image_grid_pinpoints": [16, 17]}, FileError, "pairs of a height"),
        ("mlp", {"image_grid_pinpoints": [16]}, FileError, "pairs of a height"),
        ("mlp", {"clip.use_gelu": 1}, FileError, "use_gelu must be true or false"),
        ("gemma3", {"projector.scale_factor": 3}, FileError, "squares of 3 x 3"),
        ("qwen2vl_merger", {"attention.head_count": 4}, FileError, "no 4 quarters"),
        ("qwen2vl_merger", {"image_max_pixels": 9}, FileError, "more than image_max_pixels"),
        ("qwen2vl_merger", {"image_min_pixels": 1 << 25}, FileError, "more than 16777216"),
        ("qwen2.5vl_merger", {"n_wa_pattern": None}, FileError, "n_wa_pattern is missing"),
        ("qwen2.5vl_merger", {"window_size": 7}, FileError, "a token alone is 8 pixels"),
    ],
)
def test_keys_that_are_refused(tmp_path, projector, keys, error, message):
    with pytest.raises(error, match=message):
        config_of(tmp_path, projector, keys)


@pytest.mark.parametrize(
    ("projector", "tensors", "error", "message"),
    [
        ("mlp", {"v.blk.1.attn_q.weight": None}, FileError, r"v\.blk\.1\.attn_q\.weight .*missing"),
        ("mlp", {"v.position_embd.weight": (D, 16)}, FileError, r"position_embd.*\[8, 17\]"),
        ("mlp", {"mm.0.weight": (2 * D, 10)}, FileError, r"mm\.0\.weight.*\[8, 10\]"),
        ("mlp", {"v.blk.0.ls1.weight": (D,)}, UnsupportedError, "ls1.*belongs to no mlp"),
        ("mlp", {"v.blk.0.ffn_up.weight": None}, FileError, "ffn_up.weight is missing"),
        ("gemma3", {"mm.input_projection.weight": None}, FileError, "mm.input_projection"),
        ("gemma3", {"mm.soft_emb_norm.weight": None}, FileError, "mm.soft_emb_norm"),
        ("qwen2vl_merger", {"v.patch_embd.weight.1": None}, FileError, "patch_embd.weight.1"),
        ("qwen2vl_merger", {"v.post_ln.weight": None}, FileError, r"v\.post_ln"),
        ("qwen2.5vl_merger", {"v.blk.1.ffn_gate.weight": None}, FileError, r"blk\.1\.ffn_gate"),
    ],
)
def test_tensors_that_are_refused(tmp_path, projector, tensors, error, message):
    with pytest.raises(error, match=message):
        config_of(tmp_path, projector, tensors=tensors)


def test_other_towers_beside_are_not_asked(tmp_path):
    tensors = {"a.blk.0.ln1.weight": (3,), "t.blk.0.ln1.weight": (3,), "logit_scale": (1,)}
    assert config_of(tmp_path, tensors=tensors).L == L
    tensors = {"v.position_embd.weight": (10, 10)}
    assert config_of(tmp_path, "qwen2vl_merger", tensors=tensors).L == L


def test_what_is_expected_holds_every_tensor_of_a_block(tmp_path):
    gguf = open_gguf(save(tmp_path, f32_file(metadata(), shapes())))
    expected = expected_vision_tensors(VisionConfig.from_gguf(gguf), gguf.tensors)
    per_block = [sum(name.startswith(f"v.blk.{i}.") for name in expected) for i in range(L)]
    assert per_block == [16] * L  # two norms, six matrices, each with a bias
    assert {name for name, (_, required) in expected.items() if required} <= set(shapes())


def text_of(folder, sections):
    """The rotation of a text model whose heads have 4 pairs."""
    changed = {k.replace("llama.", "qwen2vl."): v for k, v in llama_metadata(H=2).items()}
    changed |= {"general.architecture": "qwen2vl", "qwen2vl.rope.dimension_sections": sections}
    kept = {name: value for name, value in changed.items() if value is not None}
    gguf = open_gguf(save(folder, f32_file(kept, llama_shapes(H=2))))
    return ModelConfig.from_gguf(gguf).layers[0].rope


def test_sections_of_the_text(tmp_path):
    assert text_of(tmp_path, [2, 1, 1, 0]).sections == (2, 1, 1)
    assert text_of(tmp_path, [0, 3, 1]).sections == (0, 3, 1)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (None, "dimension_sections is missing"),
        ([2, 1, 2, 0], "sums up to 5; 8 dimensions are 4 pairs"),
        ([2, 1], "time, height and width"),
        ([1, 1, 1, 1], "time, height and width"),
        ([6, -1, -1, 0], "time, height and width"),
        ((ARRAY, F32, [2.0, 1.0, 1.0]), "time, height and width"),
        (4, "time, height and width"),
    ],
)
def test_sections_that_are_refused(tmp_path, sections, message):
    with pytest.raises(FileError, match=message):
        text_of(tmp_path, sections)


SCALARS = st.one_of(
    st.sampled_from([True, False, 0, 1, 3, 0.0, 0.5, math.nan, math.inf, "", "pad", "gemma3"]),
    st.sampled_from([(U64, 2**64 - 1), (I32, -1), (ARRAY, I32, []), (ARRAY, I32, [1, 2])]),
    st.sampled_from([(ARRAY, BOOL, [1, 0]), ["a", "b"], (ARRAY, F32, [0.5, math.nan, 1.0])]),
    st.none(),
)
NAMES = (*metadata(), "clip.use_gelu", "clip.vision.feature_layer", "clip.vision.n_wa_pattern",
         "clip.vision.image_grid_pinpoints", "clip.vision.image_aspect_ratio",
         "clip.vision.mm_patch_merge_type", "clip.vision.spatial_merge_size",
         "clip.vision.projector.scale_factor", "clip.vision.image_max_pixels")  # fmt: skip


@pytest.mark.parametrize("projector", PROJECTORS)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.dictionaries(st.sampled_from(NAMES), SCALARS, min_size=1, max_size=3))
def test_any_value_of_any_key_is_a_tower_or_an_error(tmp_path, projector, changes):
    with contextlib.suppress(ZerfooError):
        assert len(config_of(tmp_path, projector, changes).full) == L
