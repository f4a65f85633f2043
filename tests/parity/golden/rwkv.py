"""RWKV 6 and 7: tiny models of `tests.parity.golden.rwkv_papers`, and how their files hold them.

`stored` turns the papers' arrays to what llama.cpp's converter (conversion/rwkv.py at commit
0c1e57098) makes of a published checkpoint.
"""

import re

import torch
from gguf import MODEL_ARCH

from tests.parity.golden.description import CONTEXT, Golden
from tests.parity.golden.rwkv_papers import Finch, Goose

_MATRICES = (  # stored as their transposes
    r"output\.weight|_(key|value|receptance|gate|output)\.weight|decay_w[12]|time_mix_[wavg][12]\."
)
_F32 = r"time_mix_w[12]|decay_w[12]|lerp|first"  # of what has two dimensions


def matrix(name, x):
    return x.ndim > 1 and "lerp" not in name and "first" not in name


def initial_rwkv(name, noise):
    """Decays and rates of every size; matrices whose elements are float16 numbers."""
    if "norm" in name or name.endswith("bias"):
        return None
    if "lerp" in name:
        return torch.sigmoid(noise)
    if name.startswith("token_embd"):
        return noise.half().float()
    if matrix(name, noise):
        # Short keys, so that the epsilon of the norm over heads matters.
        spread = 0.3 if "time_mix_key" in name else 1.5
        return (noise * spread / noise.shape[-2] ** 0.5).half().float()
    centre, spread = next(v for n, v in VECTORS.items() if f"time_mix_{n}.weight" in name)
    return noise * spread + centre


VECTORS = {
    "ln": (1, 0.3), "decay": (-1, 1), "first": (0, 0.5), "w0": (0, 1.5), "a0": (0, 1), "v0": (0, 1),
    "k_k": (1, 0.3), "k_a": (1, 0.3), "r_k": (0, 0.5),
}  # fmt: skip


def stored_rwkv(every):
    """Arrays as the converter writes them; with weights halved as often as the stream has been."""

    def stored(name, x):
        block = re.match(r"blk\.(\d+)\.(time_mix_output|channel_mix_value)", name)
        if block and every:
            x = x / 2 ** (int(block[1]) // every)
        if "lerp_fused" in name:
            return x.reshape(len(x), 1, 1, -1)
        if re.search(_MATRICES, name) and "norm" not in name:
            x = x.transpose(-1, -2)
        return x if x.ndim == 1 or re.search(_F32, name) else x.half()

    return stored


def golden_rwkv(kind, arch, L, W, shapes, keys, every=0, **sizes):
    shapes = {f"{name}.weight": shape for name, shape in shapes.items()}
    model = kind(shapes, L=L, W=W, eps=3e-3, every=every, **sizes)
    keys = {
        "context_length": CONTEXT,
        "embedding_length": model.D,
        "block_count": L,
        "attention.layer_norm_epsilon": model.eps,
        "wkv.head_size": W,
        "feed_forward_length": model.F,
        "attention.head_count": 0,
    } | keys
    stored = stored_rwkv(every)
    return Golden(model, arch, keys, stored, initial=initial_rwkv, vocabulary="rwkv")


def finch(lerps, L, every, D=32, W=16, F=40, mix=5, decay=6):
    square = dict.fromkeys(("receptance", "key", "value", "gate", "output"), (D, D))
    shapes = {
        **{f"time_mix_{name}": shape for name, shape in square.items()},
        **{f"time_mix_lerp_{name}": shape for name, shape in lerps.items()},
        "time_mix_w1": (D, 5 * mix), "time_mix_w2": (5, mix, D), "time_mix_decay": (D,),
        "time_mix_decay_w1": (D, decay), "time_mix_decay_w2": (decay, D),
        "time_mix_first": (D // W, W), "channel_mix_lerp_k": (D,), "channel_mix_lerp_r": (D,),
        "channel_mix_receptance": (D, D), "channel_mix_key": (D, F), "channel_mix_value": (F, D),
    }  # fmt: skip
    keys = {"time_mix_extra_dim": mix, "time_decay_extra_dim": decay}
    keys |= {"rescale_every_n_layers": every} if every else {}
    return golden_rwkv(Finch, MODEL_ARCH.RWKV6, L, W, shapes, keys, every, D=D, F=F)


def rwkv6():
    """The stream halved after the second of three layers."""
    return finch({"x": (32,), "fused": (5, 32)}, L=3, every=2, F=36)


def rwkv6_older():
    """A tensor for each lerp, as in files before there was one for all; never halved."""
    return finch(dict.fromkeys("xwkvrg", (32,)), L=2, every=0)


def goose(L, D, W, F, decay, rate, value, gate):
    ranks = {"w": decay, "a": rate, "v": value} | ({"g": gate} if gate else {})
    shapes = {
        "time_mix_lerp_fused": (6 if gate else 5, D), "channel_mix_lerp_k": (D,),
        "channel_mix_key": (D, F), "channel_mix_value": (F, D),
        **{f"time_mix_{name}": (D,) for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k")},
        **{f"time_mix_{name}": (D, D) for name in ("receptance", "key", "value", "output")},
        **{f"time_mix_{name}1": (D, rank) for name, rank in ranks.items()},
        **{f"time_mix_{name}2": (rank, D) for name, rank in ranks.items()},
    }  # fmt: skip
    lora = {"decay": decay, "iclr": rate, "value_residual_mix": value}
    lora |= {"gate": gate} if gate else {}
    keys = {f"attention.{name}_lora_rank": rank for name, rank in lora.items()}
    made = golden_rwkv(Goose, MODEL_ARCH.RWKV7, L, W, shapes, keys, D=D, F=F)
    # The first layer has no use for these; converters put copies of a1 and a2 there.
    arrays = made.model.arrays
    for n in (1, 2):
        arrays[f"blk.0.time_mix_v{n}.weight"] = arrays[f"blk.0.time_mix_a{n}.weight"].clone()
    return made


def rwkv7():
    return goose(L=2, D=32, W=16, F=40, decay=6, rate=5, value=7, gate=9)


def rwkv7_ungated():
    """One head of the width 64 that published models have, and no gate."""
    return goose(L=1, D=64, W=64, F=40, decay=4, rate=3, value=5, gate=0)
