"""The goldens notice: one number or tensor of a model ignored or changed moves its logits."""

from dataclasses import replace

import numpy as np
import pytest

import reference
from reference import ops
from tests.parity.test_reference_foreign import GOLDEN, NAMES, ids_of
from tests.parity.tolerances import FOREIGN
from zerfoo_numba.config import Yarn


def config(**fields):
    """Other numbers of the model."""
    return lambda model: replace(model.config, **fields)


def spec(**fields):
    """Another row of ARCHS."""
    return lambda model: replace(model.config, spec=replace(model.config.spec, **fields))


def layers(change):
    return lambda model: replace(model.config, layers=tuple(map(change, model.config.layers)))


def order(*like):
    """Each layer turns and looks back as another does."""
    return lambda model: replace(model.config, layers=tuple(model.config.layers[i] for i in like))


def rope(local=None, **fields):
    """Another rotation: of layers with a window (True), without (False) or of all (None)."""
    return layers(
        lambda layer: (
            layer
            if local not in (None, layer.window is not None)
            else replace(layer, rope=replace(layer.rope, **fields))
        )
    )


def window(change):
    """change(window) for the layers that have one."""
    return layers(lambda layer: replace(layer, window=layer.window and change(layer.window)))


def without(part):
    """The file without the tensors whose name has this part."""

    def hide(model):
        held = model.weights.tensors
        assert any(part in name for name in held)
        model.weights.tensors = {name: t for name, t in held.items() if part not in name}
        return model.config

    return hide


MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
WINDOW = {
    "window one longer": window(lambda w: w + 1),
    "window one shorter": window(lambda w: w - 1),
    "no window": window(lambda w: None),
}
PAIRS = {"other pairs": rope(kind="interleaved")}
SIDE_BY_SIDE = {"other pairs": rope(kind="half")}
GEMMA = PAIRS | {
    "embedding scale": config(embed_scale=1.0),
    "attention scale": config(attn_scale=0.25),
    "silu for gelu": spec(ffn="swiglu"),
}
GEMMA3 = GEMMA | WINDOW | {"qk-norm": without("_q_norm"), "post-norm": without("post_ffw_norm")}
LAYERNORM = {"mean not taken off": spec(norm="rms")}

WRONG = {
    "gemma": GEMMA,
    "gemma2": GEMMA
    | WINDOW
    | {
        "no attention soft-cap": config(attn_softcap=None),
        "no final soft-cap": config(final_softcap=None),
        "odd layers local": order(1, 0, 1),
    },
    "gemma3_default": GEMMA3
    | {
        "local base": rope(True, base=20000.0),
        "all local": order(0, 0, 0, 0, 0, 0),
    },
    "gemma3_pattern": GEMMA3
    | {
        "local base": rope(True, base=10000.0),
        "global base": rope(False, base=10000.0),
        "global layers not scaled": rope(False, factor=1.0),
        "local layers scaled": rope(True, factor=8.0),
        "pattern of 6": order(0, 0, 0, 0, 0),
    },
    "gemma3_Q4_K_M": GEMMA3 | {"global layers not scaled": rope(False, factor=1.0)},
    "llama": SIDE_BY_SIDE | {"factors of the frequencies": rope(freq_factors=None)},
    "llama_bias": SIDE_BY_SIDE
    | {"no scaling": rope(factor=1.0)}
    | {f"no bias of {matrix}": without(f"{matrix}.bias") for matrix in MATRICES},
    "llama_yarn": SIDE_BY_SIDE
    | {
        "all divided": rope(yarn=None),
        "nothing divided": rope(factor=1.0),
        "default betas": rope(yarn=Yarn(32, 32.0, 1.0)),
        "beta_fast": rope(yarn=Yarn(32, 4.0, 0.2)),
        "beta_slow": rope(yarn=Yarn(32, 1.5, 0.6)),
        "original context": rope(yarn=Yarn(128, 1.5, 0.2)),
        "no attention factor": rope(attn_factor=1.0),
    },
    "mistral": SIDE_BY_SIDE | WINDOW,
    "qwen2": PAIRS | {f"no bias of {letter}": without(f"attn_{letter}.bias") for letter in "qkv"},
    "qwen3": PAIRS | {"q-norm": without("_q_norm"), "k-norm": without("_k_norm")},
    "phi3": PAIRS | WINDOW | {"all dimensions rotated": rope(dims=16)},
    "phi3_longrope": PAIRS
    | {
        "short factors for all": rope(long_factors=None),
        "no factors": rope(long_factors=None, freq_factors=None),
        "no attention factor": rope(attn_factor=1.0),
    },
    "commandr": SIDE_BY_SIDE | LAYERNORM | {"logit scale": config(logit_scale=1.0)},
    "commandr_qk_norm": SIDE_BY_SIDE
    | LAYERNORM
    | {"q-norm": without("_q_norm"), "k-norm": without("_k_norm")},
    "falcon": PAIRS | LAYERNORM | {"no bias of the norm": without("attn_norm.bias")},
    "falcon_40b": PAIRS
    | LAYERNORM
    | {"one norm for both": without("attn_norm_2"), "sequential": spec(residual="sequential")},
}
EVERYWHERE = {"eps": config(eps=1e-6), "base": rope(base=1234.0)}


def test_every_golden_is_changed():
    assert sorted(WRONG) == NAMES


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name in NAMES for what in EVERYWHERE | WRONG.get(name, {})]
)
def test_what_is_wrong_moves_the_logits(name, what):
    model = reference.load_model(GOLDEN / name / "model.gguf")
    model.config = (EVERYWHERE | WRONG[name])[what](model)
    error = model.logits(ids_of(name, "long")) - np.load(GOLDEN / name / "logits_long.npy")
    assert np.abs(error).max() > 10 * FOREIGN[name].max_abs


def test_falcons_gelu_is_exact(monkeypatch):
    model = reference.load_model(GOLDEN / "falcon" / "model.gguf")
    monkeypatch.setattr("reference.ops.gelu", ops.gelu_tanh)
    error = model.logits(ids_of("falcon", "long")) - np.load(GOLDEN / "falcon/logits_long.npy")
    assert np.abs(error).max() > 10 * FOREIGN["falcon"].max_abs


def test_a_short_sequence_takes_the_short_factors():
    name = "phi3_longrope"
    model = reference.load_model(GOLDEN / name / "model.gguf")
    assert model.config.layers[0].rope.long_factors.context == 10
    model.config = rope(freq_factors="rope_factors_long.weight")(model)
    error = model.logits(ids_of(name, "short")) - np.load(GOLDEN / name / "logits_short.npy")
    assert np.abs(error).max() > 10 * FOREIGN[name].max_abs
