"""Qwen 2 and 3, and Phi-3 with its fused matrices."""

import math

import torch
import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import (
    CONTEXT,
    Golden,
    dimensions,
    head_width,
    rms_eps,
    rope,
    scaling_keys,
    tiny,
)


def qwen2():
    """A bias on q, k and v."""
    model = tiny(
        transformers.Qwen2ForCausalLM,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=4e-3,
        rope_parameters=rope(70000.0),
        tie_word_embeddings=False,
    )
    keys = dimensions(model) | rms_eps(model) | {"rope.freq_base": 70000.0}
    return Golden(model, MODEL_ARCH.QWEN2, keys)


def qwen3():
    """QK-norm without post-norms, a tied head."""
    model = tiny(
        transformers.Qwen3ForCausalLM,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=14,
        rms_norm_eps=4e-3,
        rope_parameters=rope(90000.0),
        tie_word_embeddings=True,
    )
    keys = dimensions(model) | head_width(model) | rms_eps(model) | {"rope.freq_base": 90000.0}
    return Golden(model, MODEL_ARCH.QWEN3, keys, embedding=0.3)


def phi(turning, window, original, keys, **fields):
    model = tiny(
        transformers.Phi3ForCausalLM,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        rms_norm_eps=4e-3,
        rope_parameters=turning,
        original_max_position_embeddings=original,
        sliding_window=window,
        pad_token_id=0,
        **fields,
    )
    width = 32 // fields["num_attention_heads"]
    keys = dimensions(model) | rms_eps(model) | keys
    keys["rope.scaling.original_context_length"] = original
    keys["rope.dimension_count"] = int(turning["partial_rotary_factor"] * width)
    keys["rope.freq_base"] = turning["rope_theta"]
    keys["attention.sliding_window"] = window or 0
    return Golden(model, MODEL_ARCH.PHI3, keys)


def phi3():
    """A rotation of 12 of 16 dimensions, a window in every layer."""
    turning = rope(20000.0, partial_rotary_factor=0.75)
    return phi(turning, 9, CONTEXT, {}, num_attention_heads=2, num_key_value_heads=1)


def phi3_longrope():
    """Factors for sequences of up to 10 tokens, and others beyond."""
    generator = torch.Generator().manual_seed(3)
    short, long = (1 + spread * torch.rand(4, generator=generator) for spread in (0.5, 8.0))
    turning = rope(
        20000.0,
        "longrope",
        partial_rotary_factor=1.0,
        original_max_position_embeddings=10,
        short_factor=short.tolist(),
        long_factor=long.tolist(),
    )
    attn_factor = math.sqrt(1 + math.log(CONTEXT / 10) / math.log(10))
    made = phi(
        turning,
        None,
        10,
        scaling_keys(attn_factor=attn_factor),
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    made.extra["rope_factors_short.weight"] = short
    made.extra["rope_factors_long.weight"] = long
    return made
