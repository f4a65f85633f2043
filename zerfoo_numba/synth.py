"""Synthetic models in full shape: real dimensions and tensor types, random weights.

What is measured on them holds for the real model of that shape; what they say is noise.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from zerfoo_numba.config import ARCHS
from zerfoo_numba.errors import InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.gguf_writer import tensor_bytes, write_gguf
from zerfoo_numba.synth_blocks import RECIPES, random_blocks, tensor_type
from zerfoo_numba.synth_vocabulary import FAMILIES, vocabulary
from zerfoo_numba.tensors import expected_tensors

CHUNK_BYTES = 4 << 20


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

    def freq_factors(self, dims, base):
        """float32 (dims / 2,): what divides the frequency of each pair, as rope_freqs.weight."""
        turns = self.context * base ** (-2 * np.arange(dims // 2) / dims) / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return (1 / (kept + (1 - kept) / self.factor)).astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """One model: dimensions, further metadata `keys`, and the optional tensors it has.

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
    rope: Llama3Rope | None = None

    @property
    def dims(self):
        letters = {n: getattr(self, n) for n in ("L", "D", "F", "V", "H", "KH", "HD")}
        return letters | {"VD": self.HD, "R": self.HD}


# The embedding is the head too, and the residual still holds the last token: a negative last norm
# keeps the model from repeating it for ever. The logits have a standard deviation of about 2.
_TIED = {"token_embd": 0.5, "output_norm": -4.0}
# A head of its own.
_UNTIED = {"output": 2.0}
# Rows of special and byte tokens are scaled by this: they do not win, so text stays readable.
_QUIET = 1 / 16

_EPS = "attention.layer_norm_rms_epsilon"


def _llama32(L, D, F, V, H, KH, HD, context=131072):
    return Shape(
        "llama", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_TIED, vocabulary="llama3",
        keys={"rope.freq_base": 5e5, "rope.dimension_count": HD, _EPS: 1e-5, "vocab_size": V},
        optional=("rope_freqs.weight",), rope=Llama3Rope(32, 1, 4, 8192),
    )  # fmt: skip


def _mistral(L, D, F, V, H, KH, HD, context=32768):
    return Shape(
        "llama", L, D, F, V, H, KH, HD, context, "Q4_K_M", gains=_UNTIED, vocabulary="mistral",
        keys={"rope.freq_base": 1e6, "rope.dimension_count": HD, _EPS: 1e-5, "vocab_size": V},
        optional=("output.weight",),
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
}


def synthesize(name, path, seed=0, quantization=None):
    """Write the model `name` of SHAPES to `path`; the same seed gives the same bytes.

    `quantization` names a row of RECIPES instead of the shape's own. Raises InputError for an
    unknown name, FileError if the file cannot be written; a half-written file is never left.
    """
    if name not in SHAPES:
        raise InputError(f"there is no synthetic model {name!r}; there are {', '.join(SHAPES)}")
    shape = SHAPES[name]
    quantization = quantization or shape.quantization
    if quantization not in RECIPES:
        raise InputError(f"{quantization!r} is no quantisation; there are {', '.join(RECIPES)}")
    recipe = RECIPES[quantization]
    tensors = shape_tensors(shape, recipe)
    seeds = {tensor: (seed, i) for i, tensor in enumerate(tensors)}

    def data(tensor, dims, kind):
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seeds[tensor])))
        if len(dims) == 1:
            return [_vector(rng, shape, tensor, dims).astype(np.float32).tobytes()]
        quiet = len(FAMILIES[shape.vocabulary].first) if tensor in _TOKENS else 0
        return _matrix(rng, dims, kind, _gain(shape, tensor), quiet)

    metadata = shape_metadata(name, shape, recipe) | vocabulary(shape.V, shape.vocabulary)
    write_gguf(path, metadata, tensors, data)


def table():
    """The names of SHAPES with their sizes, and those of RECIPES, as lines of text."""
    letters = ("L", "D", "F", "V", "H", "KH", "HD")
    lines = [f"{'name':<18}{'arch':<8}" + "".join(f"{n:>7}" for n in letters) + "    MB"]
    for name, shape in SHAPES.items():
        numbers = "".join(f"{getattr(shape, letter):>7}" for letter in letters)
        tensors = shape_tensors(shape, RECIPES[shape.quantization]).values()
        size = sum(tensor_bytes(*tensor) for tensor in tensors) / 1e6
        lines.append(f"{name:<18}{shape.arch:<8}{numbers}  {size:>6,.0f} ({shape.quantization})")
    return "\n".join([*lines, f"quantisations: {', '.join(RECIPES)}"])


def shape_tensors(shape, recipe):
    """{name: (shape, type)} of every tensor of a model."""
    tied = "output.weight" not in shape.optional
    return {
        tensor: (dims, tensor_type(recipe, tensor, dims, shape.L, tied))
        for tensor, (dims, required) in expected_tensors(ARCHS[shape.arch], **shape.dims).items()
        if required or tensor in shape.optional or tensor.split(".", 2)[-1] in shape.optional
    }


_TOKENS = ("token_embd.weight", "output.weight")


def _gain(shape, tensor):
    return shape.gains.get(tensor.split(".")[-2], 1.0)


def _vector(rng, shape, tensor, dims):
    """The values of a tensor of one dimension."""
    if tensor == "rope_freqs.weight":
        return shape.rope.freq_factors(shape.HD, shape.keys["rope.freq_base"])
    centre = 0.0 if tensor.endswith(".bias") else 1.0
    return _gain(shape, tensor) * rng.normal(centre, 0.1, dims)


def _matrix(rng, dims, kind, gain, quiet_rows):
    """The tensor's bytes, a few MB at a time."""
    block = TYPE_BY_NAME[kind]
    std = gain / math.sqrt(dims[0])
    for rows, factor in ((quiet_rows, _QUIET), (math.prod(dims[1:]) - quiet_rows, 1.0)):
        left = rows * dims[0] // block.block_size
        while left:
            count = min(left, CHUNK_BYTES // block.block_bytes)
            yield random_blocks(rng, kind, count, std * factor).data
            left -= count


def shape_metadata(name, shape, recipe):
    keys = {
        "context_length": shape.context,
        "block_count": shape.L,
        "embedding_length": shape.D,
        "feed_forward_length": shape.F,
        "attention.head_count": shape.H,
        "attention.head_count_kv": shape.KH,
        "attention.key_length": shape.HD,
        "attention.value_length": shape.HD,
        _EPS: 1e-6,
        **shape.keys,
    }
    return {
        "general.architecture": shape.arch,
        "general.type": "model",
        "general.name": f"synthetic {name}",
        "general.file_type": recipe.file_type,
        "general.quantization_version": 2,
        **{f"{shape.arch}.{key}": value for key, value in keys.items()},
    }
