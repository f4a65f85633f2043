"""The shapes of synthetic models: dimensions, metadata and optional tensors of published ones."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from zerfoo_numba.config import ARCHS
from zerfoo_numba.recurrent_config import Mamba, Rwkv6


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3's scaling of the frequencies, as its configuration states it.

    A pair that turns less than `low` times within `context` tokens is divided by `factor`, one that
    turns more than `high` times is kept, and those between are mixed (transformers,
    modeling_rope_utils, rope type llama3).
    """

    factor: float
    low: float
    high: float
    context: int

    def factors(self, tensor, dims, base):
        """float32 (dims / 2,): what divides the frequency of each pair, as rope_freqs.weight."""
        turns = self.context * base ** (-2 * np.arange(dims // 2) / dims) / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return (1 / (kept + (1 - kept) / self.factor)).astype(np.float32)


class LongRope:
    """Factors of LongRoPE in the range of Phi-3.5's: those of short sequences near one, those of
    long ones up to 64."""

    @staticmethod
    def factors(tensor, dims, base):
        """float32 (dims / 2,) of rope_factors_short.weight or rope_factors_long.weight."""
        last = 2.0 if "short" in tensor else 64.0
        return np.geomspace(1.05, last, dims // 2).astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """One model: dimensions, further metadata `keys`, and the optional tensors it has.

    `letters` are the sizes of experts or of a recurrent model, as `tensors.expected_tensors` names
    them; of the matrices in `fused` a block has one, of q, k and v or of gate and up.
    `vocabulary` names a family of `synth_vocabulary`. `gains` are factors on the standard deviation
    K^-1/2 of a matrix with rows of K elements, and on the mean 1 of a norm, by the last part of the
    tensor's name.
    """

    arch: str
    L: int
    D: int
    F: int
    V: int
    H: int
    KH: int
    HD: int
    context: int
    quantization: str
    keys: dict = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    gains: dict = field(default_factory=dict)
    vocabulary: str = "gemma3"
    rope: Llama3Rope | LongRope | None = None
    letters: dict = field(default_factory=dict)
    fused: tuple[str, ...] = ()

    @property
    def dims(self):
        letters = {n: getattr(self, n) for n in ("L", "D", "F", "V", "H", "KH", "HD")}
        return letters | {"VD": self.HD, "R": self.HD}

    @property
    def held(self):
        """What of a file's tensors tells which form it has."""
        rows = {"attn_qkv": self.H + 2 * self.KH, "ffn_up": 2 * self.F}
        return {
            f"blk.{i}.{name}.weight": SimpleNamespace(shape=(self.D, rows[name]))
            for i in range(self.L)
            for name in self.fused
        }

    @property
    def eps_key(self):
        norm = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
        return norm[ARCHS[self.arch].norm]


# The embedding is the head too, and the residual still holds the last token: a negative last norm
# keeps the model from repeating it for ever. The logits have a standard deviation of about 2.
_TIED = {"token_embd": 0.5, "output_norm": -4.0}
# A head of its own.
_UNTIED = {"output": 2.0}
_EPS = "attention.layer_norm_rms_epsilon"


def _llama32(L, D, F, V, H, KH, HD, context=131072):
    return Shape(
        "llama", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_TIED, vocabulary="llama3",
        keys={"rope.freq_base": 5e5, "rope.dimension_count": HD, _EPS: 1e-5, "vocab_size": V},
        optional=("rope_freqs.weight",), rope=Llama3Rope(32, 1, 4, 8192),
    )  # fmt: skip


def _mistral(L, D, F, V, H, KH, HD, context=32768, base=1e6, experts=None, used=None):
    """Also TinyLlama, whose base is 10000, and Mixtral."""
    keys = {"rope.freq_base": base, "rope.dimension_count": HD, _EPS: 1e-5, "vocab_size": V}
    if experts:
        keys |= {"expert_count": experts, "expert_used_count": used}
    return Shape(
        "llama", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_UNTIED, vocabulary="mistral",
        keys=keys, optional=("output.weight",), letters={"E": experts, "FE": F} if experts else {},
    )  # fmt: skip


def _phi3(L, D, F, V, H, KH, HD, context=131072, original=4096):
    longer = math.log(context / original) / math.log(original)
    keys = {
        "rope.freq_base": 1e4,
        "rope.dimension_count": HD,
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": math.sqrt(1 + longer),
        "attention.sliding_window": 2 * context,
        "vocab_size": V,
        _EPS: 1e-5,
    }
    optional = ("output.weight", "rope_factors_short.weight", "rope_factors_long.weight")
    return Shape(
        "phi3", L, D, F, V, H, KH, HD, context, "Q4_K_M", keys=keys, optional=optional,
        gains=_UNTIED, vocabulary="phi3", rope=LongRope(), fused=("attn_qkv", "ffn_up"),
    )  # fmt: skip


def _qwen25(L, D, F, V, H, KH, HD, context=32768):
    return Shape(
        "qwen2", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_TIED, vocabulary="qwen2.5",
        keys={"rope.freq_base": 1e6},
    )  # fmt: skip


def _command_r(L, D, F, V, H, KH, HD, context=131072):
    keys = {
        "rope.freq_base": 8e6,
        "rope.scaling.type": "none",
        "logit_scale": 0.0625,
        "attention.layer_norm_epsilon": 1e-5,
    }
    # As the tied ones, and what the scale of the logits takes away.
    gains = {"token_embd": 0.5, "output_norm": -64.0}
    return Shape(
        "command-r", L, D, F, V, H, KH, HD, context, "Q4_K_M", keys=keys, gains=gains,
        vocabulary="command-r",
    )  # fmt: skip


def _falcon(L, D, F, V, H, KH, HD, context=2048):
    return Shape(
        "falcon", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_UNTIED, vocabulary="falcon",
        keys={"attention.layer_norm_epsilon": 1e-5}, optional=("output.weight",),
        fused=("attn_qkv",),
    )  # fmt: skip


def _deepseek(L, D, F, V, H, KH, HD, context=131072):
    return Shape(
        "qwen2", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_UNTIED, vocabulary="deepseek-r1",
        keys={"rope.freq_base": 1e4}, optional=("output.weight",),
    )  # fmt: skip


def _gemma3(L, D, F, V, H, KH, HD, window, context=32768):
    return Shape(
        "gemma3", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_TIED,
        keys={"attention.sliding_window": window, "rope.freq_base": 1e6},
    )  # fmt: skip


def _mamba(L, D, V, N=16, context=1048576):
    """Inner width 2 D, time steps of rank D / 16, 4 taps: the defaults of its authors."""
    sizes = Mamba(I=2 * D, N=N, R=D // 16, taps=4, normed=False)
    keys = {"inner_size": sizes.I, "state_size": N, "time_step_rank": sizes.R, "conv_kernel": 4}
    keys = {f"ssm.{name}": value for name, value in keys.items()} | {_EPS: 1e-5}
    return Shape(
        "mamba", L, D, 0, V, 0, 0, 0, context, "Q4_K_M", keys=keys, gains=_TIED,
        optional=("ssm_conv1d.bias",), vocabulary="gpt-neox", letters=sizes.letters,
    )  # fmt: skip


def _rwkv6(L, D, F, V, mix=32, decay=64, W=64, every=6, context=1048576):
    sizes = Rwkv6(W, D // W, mix, decay, every)
    keys = {
        "wkv.head_size": W,
        "time_mix_extra_dim": mix,
        "time_decay_extra_dim": decay,
        "rescale_every_n_layers": every,
        "attention.layer_norm_epsilon": 1e-5,
    }
    return Shape(
        "rwkv6", L, D, F, V, 0, 0, 0, context, "Q4_K_M", keys=keys, gains=_UNTIED,
        optional=("output.weight",), vocabulary="rwkv", letters=sizes.letters,
    )  # fmt: skip


SHAPES = {  # L, D, F, V, H, KH, HD
    "gemma3-1b": _gemma3(26, 1152, 6912, 262144, 4, 1, 256, window=512),
    "gemma3-tiny": _gemma3(7, 256, 224, 768, 4, 2, 64, window=16, context=2048),
    "deepseek-r1-1.5b": _deepseek(28, 1536, 8960, 151936, 12, 2, 128),
    "deepseek-r1-tiny": _deepseek(3, 256, 512, 768, 4, 2, 64, context=2048),
    "llama-3.2-1b": _llama32(16, 2048, 8192, 128256, 32, 8, 64),
    "llama-3.2-3b": _llama32(28, 3072, 8192, 128256, 24, 8, 128),
    "llama-3.2-tiny": _llama32(3, 256, 512, 768, 4, 2, 64, context=16384),
    "mistral-7b": _mistral(32, 4096, 14336, 32000, 32, 8, 128),
    "mistral-tiny": _mistral(3, 256, 512, 768, 4, 2, 64, context=2048),
    "mixtral-8x7b": _mistral(32, 4096, 14336, 32000, 32, 8, 128, experts=8, used=2),
    "mixtral-tiny": _mistral(2, 256, 256, 768, 4, 2, 64, context=2048, experts=8, used=2),
    "tinyllama-1.1b": _mistral(22, 2048, 5632, 32000, 32, 4, 64, context=2048, base=1e4),
    "phi-3.5-mini": _phi3(32, 3072, 8192, 32064, 32, 32, 96),
    "phi-3.5-tiny": _phi3(3, 256, 512, 768, 4, 4, 64, context=2048, original=256),
    "qwen2.5-0.5b": _qwen25(24, 896, 4864, 151936, 14, 2, 64),
    "command-r": _command_r(40, 8192, 22528, 256000, 64, 64, 128),
    "command-r-tiny": _command_r(3, 256, 512, 768, 4, 4, 64, context=2048),
    "falcon-7b": _falcon(32, 4544, 18176, 65024, 71, 1, 64),
    "falcon-tiny": _falcon(4, 256, 512, 768, 4, 1, 64),
    "mamba-1.4b": _mamba(48, 2048, 50280),
    "mamba-tiny": _mamba(3, 256, 768),
    "rwkv6-1.6b": _rwkv6(24, 2048, 7168, 65536),
    "rwkv6-tiny": _rwkv6(4, 256, 512, 768, mix=8, decay=16, every=2),
}
