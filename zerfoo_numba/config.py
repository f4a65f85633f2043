"""An architecture is a row of data: what the file cannot say, and the numbers it does say.

Dimension letters: D width, F feed-forward width, V vocabulary, L layers, H query heads, KH KV
heads, HD head width, VD value head width, R rotated dimensions of a head.
"""

import math
import reprlib
from dataclasses import dataclass
from typing import NamedTuple

from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.tensors import check_tensors


@dataclass(frozen=True)
class ArchSpec:
    """What a GGUF file of this architecture does not say about its arithmetic.

    `rope`: "half" rotates the pairs (i, i + R/2), "interleaved" the pairs (2i, 2i + 1).
    `window`: which layers keep to `attention.sliding_window`: "none", or "pattern" for those
    that `attention.sliding_window_pattern` makes local. `local_rope`: local layers have the base
    `rope.freq_base_swa` and no scaling. `width_scaled_layers`: a model with this many layers
    scales attention by (D / H)^-1/2 instead of HD^-1/2. `requires`: tensors of every block
    without which the file is incomplete, though other architectures do without them.
    """

    arch: str
    mixer: str = "attention"
    norm: str = "rms"
    rope: str = "half"
    ffn: str = "swiglu"
    residual: str = "sequential"
    embed_scale: bool = False
    window: str = "none"
    local_rope: bool = False
    width_scaled_layers: int | None = None
    requires: tuple[str, ...] = ()


_POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
_QK_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")

ARCHS = {
    spec.arch: spec
    for spec in (
        # Gemma 3 technical report, arXiv:2503.19786
        ArchSpec(
            "gemma3",
            ffn="geglu",
            embed_scale=True,
            window="pattern",
            local_rope=True,
            width_scaled_layers=62,
            requires=_POST_NORMS + _QK_NORMS,
        ),
        # Llama, arXiv:2302.13971; the converter permutes q and k rows for interleaved pairs.
        ArchSpec("llama", rope="interleaved"),
    )
}


class Default(NamedTuple):
    """A number, or the name of a quantity known by then, with who defines it."""

    value: int | float | str
    source: str


# What the format itself defines for a key that is absent. Any other absent key is an error.
FORMAT_DEFAULTS = {
    "*.attention.head_count_kv": Default("H", "ggml, docs/gguf.md: absent means no GQA"),
    "*.attention.key_length": Default("D / H", "ggml, docs/gguf.md: n_embd / n_head"),
    "*.attention.value_length": Default("D / H", "ggml, docs/gguf.md: n_embd / n_head"),
    "*.rope.dimension_count": Default("HD", "llama.cpp, llama_model::load_hparams: n_rot"),
    "*.rope.freq_base": Default(10000.0, "llama.cpp, llama_model::load_hparams"),
    "*.rope.scaling.type": Default("linear", "llama.cpp, llama_model::load_hparams"),
    "gemma3.attention.sliding_window_pattern": Default(6, "llama.cpp, LLM_ARCH_GEMMA3"),
    "gemma3.rope.freq_base_swa": Default(10000.0, "llama.cpp, LLM_ARCH_GEMMA3"),
}


@dataclass(frozen=True)
class Rope:
    """The rotation of one layer: pair i of a head turns by position / factor * base^(-2i / dims).

    `kind` as `ArchSpec.rope`; `freq_factors` names a tensor whose dims / 2 values divide the
    frequencies further.
    """

    kind: str
    dims: int
    base: float
    factor: float = 1.0
    freq_factors: str | None = None


@dataclass(frozen=True)
class Layer:
    """A query at position p attends to p - window + 1 .. p, or to all before it (None)."""

    rope: Rope
    window: int | None


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of one model; `context` is the context length it was trained with."""

    spec: ArchSpec
    name: str
    context: int
    L: int
    D: int
    F: int
    V: int
    H: int
    KH: int
    HD: int
    VD: int
    eps: float
    attn_scale: float
    embed_scale: float
    attn_softcap: float | None
    final_softcap: float | None
    layers: tuple[Layer, ...]

    @property
    def arch(self):
        return self.spec.arch

    @classmethod
    def from_gguf(cls, gguf):
        """Read the metadata of an open `GGUFFile`.

        Raises UnsupportedError for an architecture or a feature that is not run here, FileError
        naming the key that is missing, impossible or contradicted by another.
        """
        spec = _spec(gguf)
        keys = _Keys(gguf, spec.arch)
        dims = _dimensions(keys)
        D, H, HD, L = dims["D"], dims["H"], dims["HD"], dims["L"]
        width_scaled = spec.width_scaled_layers == L
        return cls(
            spec=spec,
            name=str(gguf.metadata.get("general.name", spec.arch)),
            context=keys.integer("context_length"),
            eps=keys.number("attention.layer_norm_rms_epsilon"),
            attn_scale=1 / math.sqrt(D / H if width_scaled else HD),
            embed_scale=math.sqrt(D) if spec.embed_scale else 1.0,
            attn_softcap=keys.softcap("attn_logit_softcapping"),
            final_softcap=keys.softcap("final_logit_softcapping"),
            layers=_layers(keys, spec, L, HD),
            **dims,
        )

    def check_tensors(self, gguf):
        """Check that every tensor the model needs is there, in its shape, and no foreign one.

        Raises FileError naming the tensor; UnsupportedError for a tensor that would change the
        arithmetic if the model were run without it.
        """
        check_tensors(self, gguf)


def _spec(gguf):
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise FileError(f"{gguf.path}: the key general.architecture is missing or no string")
    if arch not in ARCHS:
        what = f"architecture {reprlib.repr(arch)} is not supported"
        raise UnsupportedError(f"{gguf.path}: {what}; {', '.join(sorted(ARCHS))} are")
    return ARCHS[arch]


class _Keys:
    """The keys of one architecture: typed, checked, and defaulted by FORMAT_DEFAULTS alone."""

    def __init__(self, gguf, arch):
        self.gguf = gguf
        self.arch = arch
        self.known = {}  # quantities that a default may name

    def error(self, key, what):
        return FileError(f"{self.gguf.path}: the key {self.arch}.{key} {what}")

    def has(self, key):
        return f"{self.arch}.{key}" in self.gguf.metadata

    def value(self, key):
        if self.has(key):
            return self.gguf.metadata[f"{self.arch}.{key}"]
        for row in (f"{self.arch}.{key}", f"*.{key}"):
            if row in FORMAT_DEFAULTS:
                default = FORMAT_DEFAULTS[row].value
                return self.known.get(default, default)
        raise self.error(key, "is missing; the file was not converted completely")

    def integer(self, key, least=1):
        """A whole number; per-layer arrays are accepted where all layers agree."""
        value = self.value(key)
        if hasattr(value, "shape") and value.size and value.dtype.kind in "iu":
            if (value != value[0]).any():
                raise UnsupportedError(
                    f"{self.gguf.path}: {self.arch}.{key} differs between layers: not supported"
                )
            value = int(value[0])
        if isinstance(value, float) and not self.has(key):
            raise self.error(key, "is missing, and D is no multiple of H")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"must be a whole number, not {reprlib.repr(value)}")
        if value < least:
            raise self.error(key, f"is {value}; it must be at least {least}")
        return value

    def number(self, key):
        """A positive, finite number."""
        value = self.value(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(key, f"must be a number, not {reprlib.repr(value)}")
        if not 0 < value < math.inf:
            raise self.error(key, f"is {value}; it must be positive and finite")
        return float(value)

    def softcap(self, key):
        """The cap, or None: an absent key and 0 both mean that nothing is capped."""
        value = self.value(key) if self.has(key) else 0.0
        return None if isinstance(value, float) and value == 0 else self.number(key)


def _dimensions(keys):
    """{letter: number} of the model, checked against one another."""
    gguf = keys.gguf
    D, H = keys.integer("embedding_length"), keys.integer("attention.head_count")
    # A fraction here cannot be a head width: `integer` refuses it, naming the key.
    keys.known.update({"H": H, "D / H": D // H if D % H == 0 else D / H})
    KH = keys.integer("attention.head_count_kv")
    if H % KH:
        raise keys.error("attention.head_count_kv", f"is {KH}, which does not divide {H} heads")
    HD, VD = keys.integer("attention.key_length"), keys.integer("attention.value_length")
    keys.known["HD"] = HD
    L, F = keys.integer("block_count"), keys.integer("feed_forward_length")
    if len(gguf.tensors) < L:
        raise keys.error("block_count", f"is {L}, but the file has {len(gguf.tensors)} tensors")
    if keys.has("expert_count") and keys.integer("expert_count", least=0):
        raise UnsupportedError(f"{gguf.path}: models with experts are not supported")
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FileError(f"{gguf.path}: the tensor token_embd.weight is missing or no matrix")
    V = embedding.shape[1]
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != V:
        raise FileError(
            f"{gguf.path}: {len(tokens)} tokens in the vocabulary, {V} rows in token_embd.weight"
        )
    return {"L": L, "D": D, "F": F, "V": V, "H": H, "KH": KH, "HD": HD, "VD": VD}


def _layers(keys, spec, L, HD):
    dims = keys.integer("rope.dimension_count", least=2)
    if dims > HD or dims % 2:
        what = f"is {dims}; it must be even and at most the head width {HD}"
        raise keys.error("rope.dimension_count", what)
    factors = "rope_freqs.weight" if "rope_freqs.weight" in keys.gguf.tensors else None
    base, factor = keys.number("rope.freq_base"), _rope_factor(keys)
    everywhere = Layer(Rope(spec.rope, dims, base, factor, factors), None)
    if spec.window == "none":
        return (everywhere,) * L
    rope = everywhere.rope
    if spec.local_rope:
        rope = Rope(spec.rope, dims, keys.number("rope.freq_base_swa"), 1.0, factors)
    local = Layer(rope, keys.integer("attention.sliding_window"))
    return tuple(local if is_local else everywhere for is_local in _local_layers(keys, L))


def _local_layers(keys, L):
    """One flag per layer: every n-th layer is global, or an array says it for each."""
    key = "attention.sliding_window_pattern"
    value = keys.value(key)
    if hasattr(value, "shape") and value.dtype.kind in "biu":
        if value.size != L:
            raise keys.error(key, f"has {value.size} entries for {L} layers")
        return [bool(v) for v in value]
    n = keys.integer(key, least=0)
    return [n == 0 or (i + 1) % n != 0 for i in range(L)]


def _rope_factor(keys):
    """What positions are divided by, of the only scaling supported: linear."""
    kind = keys.value("rope.scaling.type")
    if not isinstance(kind, str) or kind not in ("none", "linear"):
        what = f"rope.scaling.type is {reprlib.repr(kind)}; none and linear are supported"
        raise UnsupportedError(f"{keys.gguf.path}: {keys.arch}.{what}")
    if kind == "none":
        return 1.0
    if keys.has("rope.scale_linear"):  # the name before GGUF had rope.scaling.*
        return keys.number("rope.scale_linear")
    announced = keys.has("rope.scaling.type") or keys.has("rope.scaling.factor")
    return keys.number("rope.scaling.factor") if announced else 1.0
