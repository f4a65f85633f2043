"""Mixtures of experts: Mixtral, Qwen 2 MoE with its shared expert, Qwen 3 MoE in block formats."""

import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import (
    Golden,
    dimensions,
    head_width,
    rms_eps,
    rope,
    tiny,
)
from tests.parity.golden.llama import interleaved


def sparse(model_class, **fields):
    """A tiny model whose experts are computed one after another, in any precision."""
    return tiny(model_class, **fields, experts_implementation="eager")


def expert_keys(count, used, **widths):
    keys = {"expert_count": count, "expert_used_count": used}
    return keys | {f"expert_{name}_length": width for name, width in widths.items()}


def mixtral():
    """3 of 5 experts; no width of their own in the file."""
    model = sparse(
        transformers.MixtralForCausalLM,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        num_local_experts=5,
        num_experts_per_tok=3,
        rms_norm_eps=4e-3,
        rope_parameters=rope(40000.0),
        sliding_window=None,
        tie_word_embeddings=False,
    )
    keys = dimensions(model) | head_width(model) | rms_eps(model) | expert_keys(5, 3)
    keys |= {"rope.freq_base": 40000.0, "rope.dimension_count": 6}
    return Golden(model, MODEL_ARCH.LLAMA, keys, interleaved(4, 2))


def qwen2moe():
    """Weights that do not add up to one, a shared expert of another width and its gate."""
    model = sparse(
        transformers.Qwen2MoeForCausalLM,
        hidden_size=16,
        intermediate_size=28,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=5,
        num_experts_per_tok=2,
        norm_topk_prob=False,
        rms_norm_eps=4e-3,
        rope_parameters=rope(60000.0),
        tie_word_embeddings=False,
    )
    keys = dimensions(model) | rms_eps(model) | {"rope.freq_base": 60000.0}
    keys |= expert_keys(5, 2, feed_forward=8, shared_feed_forward=12)
    return Golden(model, MODEL_ARCH.QWEN2MOE, keys)


def qwen3moe():
    """QK-norm and a tied head; the experts' matrices of three block formats."""
    model = sparse(
        transformers.Qwen3MoeForCausalLM,
        hidden_size=32,
        intermediate_size=56,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=7,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        rms_norm_eps=4e-3,
        rope_parameters=rope(90000.0),
        tie_word_embeddings=True,
    )
    keys = dimensions(model) | head_width(model) | rms_eps(model) | {"rope.freq_base": 90000.0}
    keys |= expert_keys(7, 4, feed_forward=32)
    types = {"blk.0.attn": "Q8_0", "blk.1.attn": "Q4_0", "blk.0.ffn_down_exps": "Q8_0"}
    types |= {f"blk.{i}.ffn_{name}_exps": "Q4_0" for i in (0, 1) for name in ("gate", "up")}
    types["blk.1.ffn_down_exps"] = "Q5_0"
    return Golden(model, MODEL_ARCH.QWEN3MOE, keys, embedding=0.3, types=types)
