"""Gemma 1, 2 and 3. Norms multiply by 1 + weight; the file stores what multiplies."""

import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import (
    Golden,
    dimensions,
    head_width,
    rms_eps,
    rope,
    scaling_keys,
    tiny,
)


def golden(model, arch, keys):
    keys = dimensions(model) | head_width(model) | rms_eps(model) | keys
    stored = lambda name, x: x + 1 if "norm" in name else x  # noqa: E731
    return Golden(model, arch, keys, stored, embedding=0.2)


def gemma():
    """One key/value head, a head width unlike D / H, no base in the file."""
    model = tiny(
        transformers.GemmaForCausalLM,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=20,
        rms_norm_eps=3e-3,
        rope_parameters=rope(10000.0),
    )
    return golden(model, MODEL_ARCH.GEMMA, {})


def gemma2():
    """Both soft-caps where they bite; even layers are local by default."""
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}
    model = tiny(
        transformers.Gemma2ForCausalLM,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=12,
        rms_norm_eps=3e-3,
        rope_parameters=rope(10000.0),
        sliding_window=7,
        **caps,
    )
    return golden(model, MODEL_ARCH.GEMMA2, caps | {"attention.sliding_window": 7})


def gemma3(pattern, full, local_base, keys, **fields):
    """Every layer but each `pattern`-th has the window; `full` is how that one rotates."""
    layers = range(1, fields["num_hidden_layers"] + 1)
    model = tiny(
        transformers.Gemma3ForCausalLM,
        query_pre_attn_scalar=fields["head_dim"],
        rms_norm_eps=3e-3,
        layer_types=["sliding_attention" if i % pattern else "full_attention" for i in layers],
        rope_parameters={"full_attention": full, "sliding_attention": rope(local_base)},
        **fields,
    )
    keys["attention.sliding_window"] = fields["sliding_window"]
    return golden(model, MODEL_ARCH.GEMMA3, keys | {"rope.freq_base": full["rope_theta"]})


def by_key(pattern, local_base, factor):
    """What newer files say, and scaling as the larger models have it."""
    keys = {"attention.sliding_window_pattern": pattern, "rope.freq_base_swa": local_base}
    return keys | scaling_keys(type="linear", factor=factor)


def gemma3_default():
    """Neither a pattern nor a local base in the file, as in the first ones published."""
    return gemma3(
        6,
        rope(70000.0),
        10000.0,
        {},
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=12,
        sliding_window=6,
    )


def gemma3_pattern():
    """A pattern and a local base by key, a scaled global rotation."""
    return gemma3(
        3,
        rope(70000.0, "linear", factor=8.0),
        3000.0,
        by_key(3, 3000.0, 8.0),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        sliding_window=5,
    )


def gemma3_Q4_K_M():
    """K-quants, 8 heads on 2, one local and one scaled global layer."""
    made = gemma3(
        2,
        rope(50000.0, "linear", factor=4.0),
        5000.0,
        by_key(2, 5000.0, 4.0),
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=11,
    )
    made.types = dict.fromkeys(("token_embd", "blk.0.attn_v", "blk.0.ffn_down"), "Q6_K")
    made.types["blk"] = "Q4_K"
    made.embedding = 1 / 16
    return made
