"""Architectures that cost little more than a row: OLMo 2, Granite, StarCoder 2, GPT-2."""

import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import Golden, dimensions, rms_eps, rope, tiny
from tests.parity.golden.llama import interleaved

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def olmo2():
    """Norms behind the branches alone; those of q and k are over all heads."""
    model = tiny(
        transformers.Olmo2ForCausalLM,
        **SIZES,
        rms_norm_eps=4e-3,
        rope_parameters=rope(20000.0),
        tie_word_embeddings=False,
    )
    keys = dimensions(model) | rms_eps(model) | {"rope.freq_base": 20000.0}
    return Golden(model, MODEL_ARCH.OLMO2, keys)


def granite():
    """Factors of the embedding, of the branches, of attention; a divisor of the logits."""
    model = tiny(
        transformers.GraniteForCausalLM,
        **SIZES,
        rms_norm_eps=4e-3,
        rope_parameters=rope(30000.0),
        embedding_multiplier=3.0,
        residual_multiplier=0.625,
        attention_multiplier=0.25,
        logits_scaling=1.75,
        tie_word_embeddings=True,
    )
    keys = dimensions(model) | rms_eps(model) | {"rope.freq_base": 30000.0}
    keys |= {"rope.dimension_count": 4, "attention.scale": 0.25, "embedding_scale": 3.0}
    keys |= {"residual_scale": 0.625, "logit_scale": 1.75}
    return Golden(model, MODEL_ARCH.GRANITE, keys, interleaved(4, 2), embedding=0.4)


def starcoder2():
    """LayerNorm, a bias everywhere, a feed-forward without a gate."""
    model = tiny(
        transformers.Starcoder2ForCausalLM,
        **SIZES,
        norm_epsilon=4e-3,
        rope_parameters=rope(50000.0),
        sliding_window=None,
        bos_token_id=1,
    )
    keys = dimensions(model) | {"rope.freq_base": 50000.0, "attention.layer_norm_epsilon": 4e-3}
    return Golden(model, MODEL_ARCH.STARCODER2, keys, embedding=0.4)


def gpt2():
    """Learned positions, q, k and v in one matrix, which transformers keeps transposed."""
    model = tiny(
        transformers.GPT2LMHeadModel,
        n_embd=16,
        n_inner=24,
        n_layer=2,
        n_head=2,
        max_position_embeddings=64,
        layer_norm_epsilon=4e-3,
        bos_token_id=1,
    )
    keys = {
        "context_length": 64,
        "block_count": 2,
        "embedding_length": 16,
        "feed_forward_length": 24,
        "attention.head_count": 2,
        "attention.layer_norm_epsilon": 4e-3,
    }

    def stored(name, x):
        matrix = x.dim() == 2 and name.startswith("blk.")
        return x.T if matrix else x

    return Golden(model, MODEL_ARCH.GPT2, keys, stored)
