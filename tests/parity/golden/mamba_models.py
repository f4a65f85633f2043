"""Mamba and Falcon-Mamba."""

import torch
import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import CONTEXT, Golden, V


def mamba():
    """Tied, 6 states a channel, a convolution of 3 taps."""
    return golden_mamba(
        transformers.MambaForCausalLM,
        hidden_size=32,
        state_size=6,
        conv_kernel=3,
        time_step_rank=5,
        tie_word_embeddings=True,
        embedding=0.4,
    )


def falcon_mamba():
    """Norms without weights of time steps, B and C; 16 states, a convolution without bias."""
    return golden_mamba(
        transformers.FalconMambaForCausalLM,
        hidden_size=28,
        state_size=16,
        conv_kernel=5,
        time_step_rank=3,
        use_conv_bias=False,
        mixer_rms_eps=4e-3,
        tie_word_embeddings=False,
    )


def golden_mamba(model_class, embedding=1.0, **fields):
    fields = {"num_hidden_layers": 2, "layer_norm_epsilon": 4e-3, "vocab_size": V} | fields
    model = model_class(model_class.config_class(**fields))
    config = model.config
    keys = {
        "context_length": CONTEXT,
        "embedding_length": config.hidden_size,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": config.num_hidden_layers,
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.intermediate_size,
        "ssm.state_size": config.state_size,
        "ssm.time_step_rank": int(config.time_step_rank),
        "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        "ssm.dt_b_c_rms": "mixer_rms_eps" in fields,
    }
    more = {"embedding": embedding, "initial": initial_mamba}
    return Golden(model, MODEL_ARCH.MAMBA, keys, stored_mamba, **more)


def initial_mamba(name, noise):
    """Rates about -1, and time steps of about 0.1 that differ from channel to channel; matrices
    whose elements are float16 numbers."""
    if name.endswith("A_log"):
        return noise * 0.7
    if name.endswith("mixer.D"):
        return noise * 0.5 + 1
    if name.endswith("conv1d.weight"):
        return noise * 0.6
    if name.endswith("dt_proj.bias"):
        return noise - 2
    return (noise * 1.5 / noise.shape[1] ** 0.5).half() if "_proj.weight" in name else None


def stored_mamba(name, x):
    if name.endswith(("in.weight", "x.weight", "dt.weight", "out.weight")):
        return x.half()
    if name.endswith("ssm_a"):
        return -torch.exp(x)
    return x.squeeze() if name.endswith("ssm_conv1d.weight") else x
