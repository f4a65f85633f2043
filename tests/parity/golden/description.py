"""What a golden is made of: a model of transformers, and how its file differs from it.

Keys and tensors are as llama.cpp's converter (conversion/*.py at commit 0c1e57098) writes them.
"""

from dataclasses import dataclass, field

import gguf

V = 64
CONTEXT = 256


@dataclass
class Golden:
    """A model to be written as a file of architecture `arch`.

    `keys` {name without the architecture: value}; `stored(name, array)` is the array the file holds
    under a GGUF name; `extra` are tensors that are no parameters; `embedding` is the standard
    deviation of token_embd; `types` {start of a name: block format} of matrices of random blocks.
    `initial(name, noise)` makes a parameter of normally distributed noise, or None for the rule of
    all others; `vocabulary` is "llama" or "rwkv".
    """

    model: object
    arch: gguf.MODEL_ARCH
    keys: dict
    stored: object = staticmethod(lambda name, x: x)
    extra: dict = field(default_factory=dict)
    embedding: float = 1.0
    types: dict = field(default_factory=dict)
    initial: object = staticmethod(lambda name, noise: None)
    vocabulary: str = "llama"


def tiny(model_class, **fields):
    """A model of that class, its attention computed as the formula says."""
    fields = {"vocab_size": V, "max_position_embeddings": CONTEXT, "eos_token_id": 2} | fields
    return model_class(model_class.config_class(**fields, attn_implementation="eager"))


def dimensions(model):
    """What converters write of every model whose configuration uses the common names."""
    config = model.config
    return {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
    }


def head_width(model):
    width = model.config.head_dim
    return {"attention.key_length": width, "attention.value_length": width}


def rms_eps(model):
    return {"attention.layer_norm_rms_epsilon": model.config.rms_norm_eps}


def rope(base, rope_type="default", **scaling):
    """transformers' description of a rotation."""
    return {"rope_type": rope_type, "rope_theta": base, **scaling}


def scaling_keys(**values):
    return {f"rope.scaling.{name}": value for name, value in values.items()}
