"""The goldens notice: one number or tensor of a model ignored or changed moves its logits."""

from dataclasses import replace

import numpy as np
import pytest

import reference
from reference import ops
from tests.parity.test_reference_foreign import GOLDEN, NAMES, ids_of
from tests.parity.tolerances import FOREIGN
from zerfoo_numba.config import Rope, Yarn


def config(**fields):
    """Other numbers of the model."""
    return lambda model: replace(model.config, **fields)


def spec(**fields):
    """Another row of ARCHS."""
    return lambda model: replace(model.config, spec=replace(model.config.spec, **fields))


def experts(**fields):
    """Other numbers of the experts."""
    return lambda model: replace(model.config, experts=replace(model.config.experts, **fields))


def recurrent(**fields):
    """Other numbers of the recurrent blocks."""
    return lambda model: replace(model.config, recurrent=replace(model.config.recurrent, **fields))


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


def renamed(old, new):
    """The file with the tensor of another name in the place of each that has this part."""

    def rename(model):
        held = model.weights.tensors
        assert any(old in name for name in held)
        model.weights.tensors = held | {n: held[n.replace(old, new)] for n in held if old in n}
        return model.config

    return rename


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
UNROTATED = {"base": None}  # nothing is rotated
RWKV = (
    UNROTATED
    | LAYERNORM
    | {f"no bias of {n}": without(f"{n}.bias") for n in ("attn_norm", "attn_norm_2", "output_norm")}
    | {"no norm of the embeddings": without("token_embd_norm")}
)

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
    "mixtral": SIDE_BY_SIDE
    | {
        "weights of a softmax over all": experts(normed=False),
        "one expert less": experts(U=2),
        "one expert more": experts(U=4),
        "gate and up swapped": renamed("ffn_gate_exps", "ffn_up_exps"),
    },
    "qwen2moe": PAIRS
    | {f"no bias of {letter}": without(f"attn_{letter}.bias") for letter in "qkv"}
    | {
        "weights renormalised": experts(normed=True),
        "one expert less": experts(U=1),
        "no shared expert": without("_shexp"),
        "no gate of the shared expert": without("ffn_gate_inp_shexp"),
    },
    "qwen3moe": PAIRS
    | {
        "weights of a softmax over all": experts(normed=False),
        "one expert less": experts(U=3),
        "weights scaled": experts(scale=1.01),
        "q-norm": without("_q_norm"),
        "k-norm": without("_k_norm"),
    },
    "olmo2": PAIRS
    | {
        "q-norm": without("_q_norm"),
        "k-norm": without("_k_norm"),
        "post-norm of attention": without("post_attention_norm"),
        "post-norm of the feed-forward": without("post_ffw_norm"),
    },
    "granite": SIDE_BY_SIDE
    | {
        "embedding scale": config(embed_scale=1.0),
        "residual scale": config(residual_scale=1.0),
        "attention scale": config(attn_scale=0.5),
        "logits multiplied": config(logit_scale=1.75),
    },
    "starcoder2": PAIRS
    | LAYERNORM
    | {"exact gelu": spec(ffn="gelu")}
    | {f"no bias of {m}": without(f"{m}.bias") for m in MATRICES if m != "ffn_gate"}
    | {f"no bias of {n}": without(f"{n}.bias") for n in ("attn_norm", "ffn_norm", "output_norm")},
    "gpt2": LAYERNORM
    | {"base": None}  # nothing is rotated
    | {
        "exact gelu": spec(ffn="gelu"),
        "no positions": without("position_embd"),
        "rotated": layers(lambda layer: replace(layer, rope=Rope("half", 8, 1e4))),
        "no bias of q, k and v": without("attn_qkv.bias"),
    },
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
    "mamba": UNROTATED
    | {
        "time steps, B and C normalised": recurrent(normed=True),
        "no bias of the convolution": without("ssm_conv1d.bias"),
        "no bias of the time steps": without("ssm_dt.bias"),
    },
    "falcon_mamba": UNROTATED | {"nothing normalised inside": recurrent(normed=False)},
    "rwkv6": RWKV | {"never halved": recurrent(halve_every=0), "halved": recurrent(halve_every=1)},
    "rwkv6_older": RWKV
    | {
        "halved": recurrent(halve_every=1),
        "lerp of w for k": renamed("time_mix_lerp_k", "time_mix_lerp_w"),
        "lerp of x for g": renamed("time_mix_lerp_g", "time_mix_lerp_x"),
        "channel mix of r for k": renamed("channel_mix_lerp_k", "channel_mix_lerp_r"),
    },
    "rwkv7": RWKV
    | {f"no {n}0": without(f"time_mix_{n}0") for n in "wav"}
    | {
        "removal key for its share of the key": renamed("time_mix_k_a", "time_mix_k_k"),
        "bonus by another vector": renamed("time_mix_r_k", "time_mix_k_k"),
    },
    "rwkv7_ungated": RWKV | {f"no {n}0": without(f"time_mix_{n}0") for n in "wa"},
    "falcon": PAIRS | LAYERNORM | {"no bias of the norm": without("attn_norm.bias")},
    "falcon_40b": PAIRS
    | LAYERNORM
    | {"one norm for both": without("attn_norm_2"), "sequential": spec(residual="sequential")},
}
EVERYWHERE = {"eps": config(eps=1e-6), "base": rope(base=1234.0)}


def changes(name):
    """{what: change} of a golden."""
    every = EVERYWHERE | WRONG.get(name, {})
    return {what: change for what, change in every.items() if change is not None}


def test_every_golden_is_changed():
    assert sorted(WRONG) == NAMES


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name in NAMES for what in changes(name)]
)
def test_what_is_wrong_moves_the_logits(name, what):
    model = reference.load_model(GOLDEN / name / "model.gguf")
    model.config = changes(name)[what](model)
    error = model.logits(ids_of(name, "long")) - np.load(GOLDEN / name / "logits_long.npy")
    assert np.abs(error).max() > 10 * FOREIGN[name].max_abs


def test_falcons_gelu_is_exact(monkeypatch):
    model = reference.load_model(GOLDEN / "falcon" / "model.gguf")
    monkeypatch.setattr("reference.ops.gelu", ops.gelu_tanh)
    error = model.logits(ids_of("falcon", "long")) - np.load(GOLDEN / "falcon/logits_long.npy")
    assert np.abs(error).max() > 10 * FOREIGN["falcon"].max_abs


@pytest.mark.parametrize("name", ["rwkv6", "rwkv6_older", "rwkv7"])
def test_the_norm_of_heads_has_its_own_epsilon(monkeypatch, name):
    model = reference.load_model(GOLDEN / name / "model.gguf")
    monkeypatch.setattr("reference.mixers.GROUP_EPS", 1e-5)
    error = model.logits(ids_of(name, "long")) - np.load(GOLDEN / name / "logits_long.npy")
    assert np.abs(error).max() > 10 * FOREIGN[name].max_abs


def test_a_short_sequence_takes_the_short_factors():
    name = "phi3_longrope"
    model = reference.load_model(GOLDEN / name / "model.gguf")
    assert model.config.layers[0].rope.long_factors.context == 10
    model.config = rope(freq_factors="rope_factors_long.weight")(model)
    error = model.logits(ids_of(name, "short")) - np.load(GOLDEN / name / "logits_short.npy")
    assert np.abs(error).max() > 10 * FOREIGN[name].max_abs
