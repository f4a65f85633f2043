"""The numbers of a model, read from a file's metadata and checked.

Dimension letters: D width, F feed-forward width, V vocabulary, L layers, H query heads, KH
key/value heads, HD head width, VD value head width, R rotated dimensions of a head.
"""

import math
import reprlib
from dataclasses import dataclass, replace

from zerfoo_numba.architectures import ARCHS, ArchSpec
from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.experts_config import Experts, experts_config
from zerfoo_numba.metadata import Keys
from zerfoo_numba.recurrent_config import Recurrent, recurrent_config, recurrent_dimensions
from zerfoo_numba.tensors import check_tensors


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv:2309.00071): which pairs the factor of a Rope divides.

    A pair that turns more than `fast` times within `context` tokens keeps its frequency, one that
    turns less than `slow` times is divided in full, and those between are mixed.
    """

    context: int
    fast: float
    slow: float


@dataclass(frozen=True)
class LongFactors:
    """LongRoPE (arXiv:2402.13753): a sequence of more than `context` tokens takes these factors.

    The sequence is all tokens so far, as in transformers; llama.cpp goes by the room of its cache.
    """

    name: str
    context: int


@dataclass(frozen=True)
class Rope:
    """The rotation of one layer: pair i of a head turns by position * frequency[i].

    frequency[i] = base^(-2i / dims) / factor, or what `yarn` makes of base and factor; then divided
    by value i of the tensor `freq_factors` (dims / 2,), or by that of `long_factors`. Cosine and
    sine are multiplied by `attn_factor`. `kind` as `ArchSpec.rope`. `sections` (M-RoPE,
    arXiv:2409.12191): how many pairs turn by the time, the row and the column of a token.
    """

    kind: str
    dims: int
    base: float
    factor: float = 1.0
    yarn: Yarn | None = None
    freq_factors: str | None = None
    long_factors: LongFactors | None = None
    attn_factor: float = 1.0
    sections: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Layer:
    """A query at position p attends to p - window + 1 .. p, or to all before it (None)."""

    rope: Rope
    window: int | None


_EPSILON = {
    "rms": "attention.layer_norm_rms_epsilon",
    "layer": "attention.layer_norm_epsilon",
}


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of one model; `context` is the context length it was trained with. One that has
    `recurrent` has no `layers`, and 0 for what it lacks."""

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
    logit_scale: float
    attn_softcap: float | None
    final_softcap: float | None
    layers: tuple[Layer, ...]
    recurrent: Recurrent | None = None
    experts: Experts | None = None
    residual_scale: float = 1.0  # of what a branch adds to the residual stream

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
        keys = Keys(gguf, spec)
        keys.refuse_what_is_not_run()
        recurrent = recurrent_config(keys)
        dims = _dimensions(keys, recurrent)
        D, H, HD, L = dims["D"], dims["H"], dims["HD"], dims["L"]
        width_scaled = spec.width_scaled_layers == L
        return cls(
            spec=spec,
            name=keys.model_name(),
            context=keys.known["context_length"],
            eps=keys.number(_EPSILON[spec.norm]),
            attn_scale=keys.optional("attention.scale")
            or (1.0 if recurrent else 1 / math.sqrt(D / H if width_scaled else HD)),
            embed_scale=math.sqrt(D) if spec.embed_scale else _scale(keys, "embedding_scale"),
            logit_scale=_scale(keys, "logit_scale") ** (-1 if spec.logits_divided else 1),
            residual_scale=_scale(keys, "residual_scale"),
            attn_softcap=keys.optional("attn_logit_softcapping"),
            final_softcap=keys.optional("final_logit_softcapping"),
            layers=() if recurrent else _layers(keys, L, HD),
            recurrent=recurrent,
            experts=None if recurrent else experts_config(keys, dims["F"]),
            **dims,
        )

    def check_tensors(self, gguf):
        """Check that every tensor the model needs is there, in its shape, and no foreign one.

        Raises FileError naming the tensor; UnsupportedError for a tensor that would change the
        arithmetic if the model were run without it.
        """
        check_tensors(self, gguf)


def _scale(keys, key):
    """A factor; 1 where the file has none."""
    return keys.optional(key) or 1.0


def _spec(gguf):
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise FileError(f"{gguf.path}: the key general.architecture is missing or no string")
    if arch not in ARCHS:
        what = f"architecture {reprlib.repr(arch)} is not supported"
        raise UnsupportedError(f"{gguf.path}: {what}; {', '.join(sorted(ARCHS))} are")
    return ARCHS[arch]


def _dimensions(keys, recurrent):
    """{letter: number} of the model, checked against one another."""
    gguf, known = keys.gguf, keys.known
    known["context_length"] = keys.integer("context_length")
    if recurrent:
        return {"L": _blocks(keys), "V": _vocabulary(gguf), **recurrent_dimensions(keys)}
    D, H = keys.integer("embedding_length"), keys.integer("attention.head_count")
    # A fraction here cannot be a head width: `integer` refuses it, naming the key.
    known.update({"H": H, "D / H": D // H if D % H == 0 else D / H})
    KH = keys.integer("attention.head_count_kv")
    if H % KH:
        raise keys.error("attention.head_count_kv", f"is {KH}, which does not divide {H} heads")
    HD, VD = keys.integer("attention.key_length"), keys.integer("attention.value_length")
    known["HD"] = HD
    L, F = _blocks(keys), keys.integer("feed_forward_length")
    return {"L": L, "D": D, "F": F, "V": _vocabulary(gguf), "H": H, "KH": KH, "HD": HD, "VD": VD}


def _blocks(keys):
    L, tensors = keys.integer("block_count"), len(keys.gguf.tensors)
    if tensors < L:
        raise keys.error("block_count", f"is {L}, but the file has {tensors} tensors")
    return L


def _vocabulary(gguf):
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FileError(f"{gguf.path}: the tensor token_embd.weight is missing or no matrix")
    V = embedding.shape[1]
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list | None):
        raise FileError(f"{gguf.path}: tokenizer.ggml.tokens holds no list of strings")
    if tokens is not None and len(tokens) != V:
        raise FileError(
            f"{gguf.path}: {len(tokens)} tokens in the vocabulary, {V} rows in token_embd.weight"
        )
    return V


def _layers(keys, L, HD):
    """One Layer per block: global, or local to `attention.sliding_window`."""
    rope = _rope(keys, HD)
    everywhere = Layer(rope, None)
    window = keys.integer("attention.sliding_window", least=0)
    if window == 0:
        return (everywhere,) * L
    keys.known["rope.freq_base"] = rope.base
    base = keys.number("rope.freq_base_swa")
    plain = Rope(rope.kind, rope.dims, base)
    local = Layer(replace(rope, base=base) if keys.spec.scaled_local_rope else plain, window)
    return tuple(local if is_local else everywhere for is_local in _local_layers(keys, L))


def _local_layers(keys, L):
    """One flag per layer: every n-th layer is global, or an array says it for each."""
    key = "attention.sliding_window_pattern"
    value = keys.value(key)
    if hasattr(value, "shape") and value.dtype.kind in "biu":
        if value.size != L or value.max() > 1:
            raise keys.error(key, f"has {value.size} entries for {L} layers, each true or false")
        return [bool(v) for v in value]
    n = keys.integer(key, least=0)
    return [n == 0 or (i + 1) % n != 0 for i in range(L)]


def _rope(keys, HD):
    """The rotation of the layers without a window."""
    if keys.spec.rope is None:
        return Rope("half", 0, 1.0)
    dims = keys.integer("rope.dimension_count", least=2)
    if dims > HD or dims % 2:
        what = f"is {dims}; it must be even and at most the head width {HD}"
        raise keys.error("rope.dimension_count", what)
    kind = keys.value("rope.scaling.type")
    kinds = ("none", "linear", "yarn", "longrope")
    if not isinstance(kind, str) or kind not in kinds:
        what = f"is {reprlib.repr(kind)}; {', '.join(kinds)} are supported"
        raise keys.unsupported("rope.scaling.type", what)
    factor = _factor(keys) if kind in ("linear", "yarn") else 1.0
    attn_factor = keys.number("rope.scaling.attn_factor")
    base, yarn = keys.number("rope.freq_base"), None
    if kind == "yarn":
        if base <= 1:
            raise keys.error("rope.freq_base", f"is {base}; YaRN needs more than 1")
        beta = [keys.number(f"rope.scaling.yarn_beta_{n}") for n in ("fast", "slow")]
        yarn = Yarn(keys.integer("rope.scaling.original_context_length"), *beta)
        # A file that says it means the whole factor, as transformers' `attention_factor`.
        attn_factor *= keys.optional("rope.scaling.yarn_attn_factor") or (
            1 + 0.1 * math.log(max(factor, 1.0))
        )
    tensors = _freq_factors(keys, kind)
    return Rope(
        keys.spec.rope, dims, base, factor, yarn, *tensors, attn_factor, _sections(keys, dims)
    )


def _sections(keys, dims):
    """How many pairs turn by time, row and column; None where positions are one number."""
    key = "rope.dimension_sections"
    if not keys.has(key) and key not in keys.spec.requires:
        return None
    value = keys.value(key)
    counts = value.tolist() if getattr(value, "ndim", 0) == 1 and value.dtype.kind in "iu" else []
    if not 3 <= len(counts) <= 4 or min(counts) < 0 or any(counts[3:]):
        what = f"is {reprlib.repr(value)}; it must be the pairs of time, height and width"
        raise keys.error(key, what)
    if sum(counts) != dims // 2:
        raise keys.error(key, f"sums up to {sum(counts)}; {dims} dimensions are {dims // 2} pairs")
    return tuple(counts[:3])


def _factor(keys):
    """What positions are divided by; 1 where nothing in the file speaks of scaling."""
    if keys.has("rope.scale_linear"):  # the name before GGUF had rope.scaling.*
        return keys.number("rope.scale_linear")
    announced = keys.has("rope.scaling.type") or keys.has("rope.scaling.factor")
    return keys.number("rope.scaling.factor") if announced else 1.0


def _freq_factors(keys, kind):
    """(freq_factors, long_factors) of a Rope: one tensor, or one for short and one for long."""
    everywhere, short, long = (
        f"rope_{n}.weight" for n in ("freqs", "factors_short", "factors_long")
    )
    held = {name for name in (everywhere, short, long) if name in keys.gguf.tensors}
    if held == {short, long}:
        return short, LongFactors(long, keys.integer("rope.scaling.original_context_length"))
    if held - {everywhere} or kind == "longrope":
        names = ", ".join(sorted(held)) or "none of them"
        raise FileError(
            f"{keys.gguf.path}: {short} and {long} belong together and without {everywhere}; the "
            f"file has {names}"
        )
    return everywhere if held else None, None
