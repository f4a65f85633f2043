"""The keys of a GGUF file: typed, checked, and the values of those that are absent."""

import math
import reprlib
from typing import NamedTuple

import numpy as np

from zerfoo_numba.errors import FileError, UnsupportedError


class Default(NamedTuple):
    """A number, or the name of a quantity known by then, with who defines it."""

    value: int | float | str
    source: str


_LOAD = "llama.cpp, llama_model::load_hparams"
_CLIP = "llama.cpp, tools/mtmd/clip.cpp"
_QWEN_VL = "Qwen2-VL and Qwen2.5-VL as published, preprocessor_config.json"
_YARN = "YaRN, arXiv:2309.00071, section 3.2; transformers and llama.cpp alike"

# What the format itself defines for a key that is absent. Any other absent key is an error.
FORMAT_DEFAULTS = {
    "*.attention.head_count_kv": Default("H", "ggml, docs/gguf.md: absent means no GQA"),
    "*.attention.key_length": Default("D / H", "ggml, docs/gguf.md: n_embd / n_head"),
    "*.attention.value_length": Default("D / H", "ggml, docs/gguf.md: n_embd / n_head"),
    "*.expert_count": Default(0, f"{_LOAD}: n_expert"),
    "*.expert_feed_forward_length": Default("F", "llama.cpp, LLM_ARCH_LLAMA: n_ff"),
    "qwen2moe.expert_feed_forward_length": Default("F / used", "llama.cpp, LLM_ARCH_QWEN2MOE"),
    "qwen3moe.expert_feed_forward_length": Default("F / used", "llama.cpp, LLM_ARCH_QWEN3MOE"),
    "*.expert_shared_feed_forward_length": Default("F", "llama.cpp, LLM_ARCH_QWEN2MOE"),
    "*.attention.sliding_window": Default(0, f"{_LOAD}: n_swa, 0 is no window"),
    "gemma2.attention.sliding_window": Default(4096, "llama.cpp, LLM_ARCH_GEMMA2"),
    "*.attention.sliding_window_pattern": Default(
        0, "transformers, MistralConfig and Phi3Config: a window is one of every layer"
    ),
    "gemma2.attention.sliding_window_pattern": Default(2, "llama.cpp, LLM_ARCH_GEMMA2"),
    "gemma3.attention.sliding_window_pattern": Default(6, "llama.cpp, LLM_ARCH_GEMMA3"),
    "gemma2.attn_logit_softcapping": Default(50.0, "llama.cpp, llama_hparams"),
    "gemma2.final_logit_softcapping": Default(30.0, "llama.cpp, llama_hparams"),
    "*.rope.dimension_count": Default("HD", f"{_LOAD}: n_rot"),
    "*.rope.freq_base": Default(10000.0, _LOAD),
    "*.rope.freq_base_swa": Default("rope.freq_base", _LOAD),
    "gemma3.rope.freq_base_swa": Default(10000.0, "llama.cpp, LLM_ARCH_GEMMA3"),
    "*.rope.scaling.type": Default("linear", _LOAD),
    "*.rope.scaling.attn_factor": Default(1.0, "llama.cpp, llama_hparams"),
    "*.rope.scaling.original_context_length": Default("context_length", f"{_LOAD}: n_ctx_train"),
    "*.rope.scaling.yarn_beta_fast": Default(32.0, _YARN),
    "*.rope.scaling.yarn_beta_slow": Default(1.0, _YARN),
    "*.ssm.dt_b_c_rms": Default(False, "llama.cpp, LLM_ARCH_MAMBA: optional"),
    "clip.vision.projector.scale_factor": Default(4, f"{_CLIP}, PROJECTOR_TYPE_GEMMA3"),
    "clip.vision.spatial_merge_size": Default(2, f"{_CLIP}, PROJECTOR_TYPE_QWEN2VL"),
    "clip.vision.window_size": Default(112, "transformers, Qwen2_5_VLVisionConfig"),
    "clip.vision.image_min_pixels": Default(56 * 56, f"{_QWEN_VL}: min_pixels"),
    "clip.vision.image_max_pixels": Default(28 * 28 * 16384, f"{_QWEN_VL}: max_pixels"),
    "*.rescale_every_n_layers": Default(0, "llama.cpp, LLM_ARCH_RWKV6: optional, 0 is never"),
    "*.attention.gate_lora_rank": Default(0, "llama.cpp, LLM_ARCH_RWKV7: optional, 0 is no gate"),
}

# Keys that change the arithmetic in a way that is not run here, with the value that changes
# nothing: any other is an error.
NOT_RUN = {
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.output_scale": 1.0,
    "attention.temperature_length": 0,
    "attention.temperature_scale": 0.0,
    "nextn_predict_layers": 0,
    "rope.scaling.alpha": 0.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
    "token_shift_count": 2,
}

# Far beyond any model's; kernels compute with float32 and uint32, also with products of these.
MOST = 2**31 - 1
LEAST_NUMBER, MOST_NUMBER = 1e-30, 1e30


class Keys:
    """The keys of one architecture: typed, checked, and defaulted by FORMAT_DEFAULTS alone."""

    def __init__(self, gguf, spec):
        self.gguf = gguf
        self.spec = spec
        self.known = {}  # quantities that a default may name

    def error(self, key, what):
        return FileError(f"{self.gguf.path}: the key {self.spec.arch}.{key} {what}")

    def unsupported(self, key, what):
        return UnsupportedError(f"{self.gguf.path}: {self.spec.arch}.{key} {what}")

    def has(self, key):
        return f"{self.spec.arch}.{key}" in self.gguf.metadata

    def default(self, key):
        """The row of FORMAT_DEFAULTS for an absent key, or None."""
        if key in self.spec.requires:
            return None
        return FORMAT_DEFAULTS.get(f"{self.spec.arch}.{key}") or FORMAT_DEFAULTS.get(f"*.{key}")

    def value(self, key):
        if self.has(key):
            return self.gguf.metadata[f"{self.spec.arch}.{key}"]
        default = self.default(key)
        if default is None:
            raise self.error(key, "is missing; the file was not converted completely")
        return self.known.get(default.value, default.value)

    def integer(self, key, least=1):
        """A whole number; per-layer arrays are accepted where all layers agree."""
        value = self.value(key)
        if hasattr(value, "shape") and value.size and value.dtype.kind in "iu":
            if (value != value[0]).any():
                raise self.unsupported(key, "differs between layers: not supported")
            value = int(value[0])
        if isinstance(value, float) and not self.has(key):
            raise self.error(key, "is missing, and D is no multiple of H")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"must be a whole number, not {reprlib.repr(value)}")
        if not least <= value <= MOST:
            limit = f"at least {least}" if value < least else f"at most {MOST}"
            raise self.error(key, f"is {value}; it must be {limit}")
        return value

    def number(self, key):
        """A positive number, not so small or large that float32 would lose it."""
        value = self.value(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(key, f"must be a number, not {reprlib.repr(value)}")
        if not 0 < value < math.inf:
            raise self.error(key, f"is {value}; it must be positive and finite")
        if not LEAST_NUMBER <= value <= MOST_NUMBER:
            what = f"is {value}; it must lie between {LEAST_NUMBER} and {MOST_NUMBER}"
            raise self.error(key, what)
        return float(value)

    def model_name(self):
        """What the file calls its model, or else its architecture."""
        name = self.gguf.metadata.get("general.name", self.spec.arch)
        if not isinstance(name, str):
            raise FileError(f"{self.gguf.path}: the key general.name is no text")
        return name

    def optional(self, key):
        """A number, or None where it is 0, or absent with nothing said about that."""
        if not self.has(key) and self.default(key) is None and key not in self.spec.requires:
            return None
        value = self.value(key)
        return None if isinstance(value, float) and value == 0 else self.number(key)

    def refuse_what_is_not_run(self):
        """UnsupportedError for a key of NOT_RUN whose value would change something."""
        for key, neutral in NOT_RUN.items():
            if self.has(key) and not _equals(self.value(key), neutral):
                shown = reprlib.repr(self.value(key))
                what = f"is {shown}; that is not run here, and without it results would be wrong"
                raise self.unsupported(key, what)


def _equals(value, neutral):
    """Whether a key's value, a number or an array of one per layer, is `neutral` and no other."""
    if not isinstance(value, int | float | np.ndarray) or np.size(value) == 0:
        return False
    alike = (np.asarray(value).dtype == bool) == isinstance(neutral, bool)
    return alike and bool(np.all(value == neutral))
