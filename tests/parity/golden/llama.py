"""The `llama` architecture, to which Mistral belongs: pairs lie side by side in the file."""

import math

import torch
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


def golden(model_class, turning, keys, **fields):
    model = tiny(
        model_class,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=4e-3,
        tie_word_embeddings=False,
        rope_parameters=turning,
        **fields,
    )
    keys = dimensions(model) | rms_eps(model) | {"rope.freq_base": turning["rope_theta"]} | keys
    if "head_dim" in fields:
        keys |= head_width(model) | {"rope.dimension_count": fields["head_dim"]}
    stored = interleaved(model.config.num_attention_heads, model.config.num_key_value_heads)
    return Golden(model, MODEL_ARCH.LLAMA, keys, stored)


def interleaved(heads, kv_heads):
    """The rows i and i + HD/2 of a head of q or k, which rotate together, side by side."""

    def stored(name, x):
        count = heads if ".attn_q." in name else kv_heads if ".attn_k." in name else None
        if count is None:
            return x
        return x.reshape(count, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    return stored


def llama():
    """Llama 3's scaling by a tensor of factors; 4 heads of 24 in a model of width 32."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    turning = rope(30000.0, "llama3", original_max_position_embeddings=64, **scaling)
    made = golden(
        transformers.LlamaForCausalLM,
        turning,
        {},
        intermediate_size=48,
        num_key_value_heads=2,
        head_dim=24,
    )
    made.extra["rope_freqs.weight"] = llama3_factors(24, 30000.0, 64, **scaling)
    return made


def llama3_factors(dims, base, context, factor, low_freq_factor, high_freq_factor):
    """What divides each frequency: transformers, modeling_rope_utils, rope type llama3."""
    factors = []
    for i in range(dims // 2):
        turns = context * base ** (-2 * i / dims) / (2 * math.pi)
        kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        kept = min(max(kept, 0.0), 1.0)
        factors.append(1 / (kept + (1 - kept) / factor))
    return torch.tensor(factors)


def llama_bias():
    """No GQA, a bias on every matrix, linear scaling; head width D / H by default."""
    return golden(
        transformers.LlamaForCausalLM,
        rope(8000.0, "linear", factor=3.0),
        scaling_keys(type="linear", factor=3.0),
        intermediate_size=40,
        num_key_value_heads=4,
        attention_bias=True,
        mlp_bias=True,
    )


def llama_yarn():
    """YaRN with a ramp that begins and ends within the pairs of a head."""
    turning = {"factor": 4.0, "beta_fast": 1.5, "beta_slow": 0.2}
    keys = {"factor": 4.0, "yarn_beta_fast": 1.5, "yarn_beta_slow": 0.2}
    return golden(
        transformers.LlamaForCausalLM,
        rope(500.0, "yarn", original_max_position_embeddings=32, **turning),
        scaling_keys(type="yarn", original_context_length=32, **keys),
        intermediate_size=40,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=4 * 32,
    )


def mistral():
    """A sliding window in every layer."""
    return golden(
        transformers.MistralForCausalLM,
        rope(50000.0),
        {"attention.sliding_window": 6},
        intermediate_size=40,
        num_key_value_heads=2,
        head_dim=12,
        sliding_window=6,
    )
