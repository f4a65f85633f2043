"""Blocks whose attention and feed-forward read the same input: Command R and Falcon."""

import torch
import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import (
    Golden,
    dimensions,
    rope,
    scaling_keys,
    tiny,
)


def command_r(**fields):
    model = tiny(
        transformers.CohereForCausalLM,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_norm_eps=4e-3,
        rope_parameters=rope(30000.0),
        **fields,
    )
    keys = dimensions(model) | {
        "attention.layer_norm_epsilon": 4e-3,
        "rope.freq_base": 30000.0,
        "logit_scale": fields["logit_scale"],
    }
    keys |= scaling_keys(type="none")
    return Golden(model, MODEL_ARCH.COMMAND_R, keys, embedding=0.5)


def commandr():
    """LayerNorm without bias, logits scaled, pairs side by side in transformers too."""
    return command_r(logit_scale=0.375)


def commandr_qk_norm():
    """A LayerNorm of q and k with a weight row per head, as in the models of 64 layers."""
    return command_r(logit_scale=0.625, use_qk_norm=True)


def falcon_like(**fields):
    model = tiny(
        transformers.FalconForCausalLM,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        layer_norm_epsilon=4e-3,
        rope_parameters=rope(10000.0),
        **fields,
    )
    kv_heads = fields["num_kv_heads"]
    keys = {
        "context_length": 2048,
        "tensor_data_layout": "jploski",
        "embedding_length": 32,
        "feed_forward_length": 4 * 32,
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_epsilon": 4e-3,
    }

    def stored(name, x):
        """All rows of q, then of k, then of v, where transformers has them group by group."""
        if ".attn_qkv." not in name:
            return x
        groups = x.reshape(kv_heads, -1, 8, x.shape[-1])
        parts = groups[:, :-2], groups[:, -2], groups[:, -1]
        return torch.cat([part.reshape(-1, x.shape[-1]) for part in parts])

    return Golden(model, MODEL_ARCH.FALCON, keys, stored, embedding=0.5)


def falcon():
    """7B: one key/value head and one norm."""
    return falcon_like(num_kv_heads=1, multi_query=True, parallel_attn=True)


def falcon_40b():
    """40B: groups of heads and a norm for each branch; a head of its own."""
    return falcon_like(num_kv_heads=2, new_decoder_architecture=True, tie_word_embeddings=False)
