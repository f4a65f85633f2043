"""Values of the tensors of synthetic recurrent models that noise about 1 or 0 would spoil: those
that say how fast a state decays, and how much of the token before is taken."""

import numpy as np


def recurrent_values(rng, tensor, dims):
    """float32 of the shape reversed(dims) for such a tensor, None for any other.

    Mamba's as it initialises them (arXiv:2312.00752, section 3.6): rates -1 .. -N, time steps from
    0.001 to 0.1, a skip of 1. RWKV's within the range that trained models use.
    """
    if tensor.endswith("ssm_a"):
        states = -np.arange(1, dims[0] + 1, dtype=np.float32)
        return np.ascontiguousarray(np.broadcast_to(states, dims[::-1]))
    if tensor.endswith("ssm_d"):
        return np.ones(dims, np.float32)
    if tensor.endswith("ssm_dt.bias"):
        steps = np.exp(rng.uniform(np.log(1e-3), np.log(0.1), dims))
        return np.log(np.expm1(steps)).astype(np.float32)  # what softplus makes the steps of
    if "lerp" in tensor:
        return rng.uniform(0, 1, dims[::-1]).astype(np.float32)
    if tensor.endswith("time_mix_decay.weight"):
        return rng.uniform(-6, -1, dims).astype(np.float32)
    return None
