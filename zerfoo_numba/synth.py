"""Synthetic models in full shape: real dimensions and tensor types, random weights.

What is measured on them holds for the real model of that shape; what they say is noise.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from zerfoo_numba.config import ARCHS
from zerfoo_numba.errors import InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.synth_blocks import RECIPES, random_blocks, tensor_type
from zerfoo_numba.tensors import expected_tensors

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Shape:
    """One model: dimensions, further metadata `keys`, and the optional tensors it has.

    `gains` are factors on the standard deviation K^-1/2 of a matrix with rows of K elements, and
    on the mean 1 of a norm, by the last part of the tensor's name.
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

    @property
    def dims(self):
        letters = {n: getattr(self, n) for n in ("L", "D", "F", "V", "H", "KH", "HD")}
        return letters | {"VD": self.HD, "R": self.HD}


# The embedding is the head too, and the residual still holds the last token: a negative last norm
# keeps the model from repeating it for ever. The logits have a standard deviation of about 2.
_TIED = {"token_embd": 0.5, "output_norm": -4.0}
# Rows of special and byte tokens are scaled by this: they do not win, so text stays readable.
_QUIET = 1 / 16

SHAPES = {
    "gemma3-1b": Shape(
        "gemma3", L=26, D=1152, F=6912, V=262144, H=4, KH=1, HD=256, context=32768,
        quantization="Q4_K_M", gains=_TIED,
        keys={"attention.sliding_window": 512, "rope.freq_base": 1e6},
    ),
    "gemma3-tiny": Shape(
        "gemma3", L=7, D=256, F=224, V=768, H=4, KH=2, HD=64, context=2048,
        quantization="Q4_K_M", gains=_TIED,
        keys={"attention.sliding_window": 16, "rope.freq_base": 1e6},
    ),
}  # fmt: skip


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
        gain = shape.gains.get(tensor.split(".")[-2], 1.0)
        quiet = len(_FIXED) if tensor in ("token_embd.weight", "output.weight") else 0
        return _tensor_data(rng, dims, kind, gain, quiet)

    metadata = shape_metadata(name, shape, recipe) | vocabulary(shape.V)
    write_gguf(path, metadata, tensors, data)


def shape_tensors(shape, recipe):
    """{name: (shape, type)} of every tensor of a model."""
    tied = "output.weight" not in shape.optional
    return {
        tensor: (dims, tensor_type(recipe, tensor, dims, shape.L, tied))
        for tensor, (dims, required) in expected_tensors(ARCHS[shape.arch], **shape.dims).items()
        if required or tensor in shape.optional or tensor.split(".", 2)[-1] in shape.optional
    }


def _tensor_data(rng, dims, kind, gain, quiet_rows):
    """The tensor's bytes, a few MB at a time."""
    if len(dims) == 1:
        yield (gain * rng.normal(1.0, 0.1, dims)).astype(np.float32).tobytes()
        return
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
        "attention.layer_norm_rms_epsilon": 1e-6,
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


# gguf.md, tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_SPECIAL = {
    "<pad>": _CONTROL, "<eos>": _CONTROL, "<bos>": _CONTROL, "<unk>": _UNKNOWN,
    "<start_of_turn>": _CONTROL, "<end_of_turn>": _CONTROL,
}  # fmt: skip
_FIXED = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ message.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def vocabulary(V):
    """The tokenizer's metadata: a SentencePiece vocabulary of V distinct, readable pieces.

    Special tokens, all bytes, the printable characters, then words of one to three syllables
    that are reached by merging shorter ones.
    """
    pieces = list(itertools.islice(_pieces(), V - len(_FIXED)))
    types = [*_SPECIAL.values(), *[_BYTE] * 256, *[_NORMAL] * len(pieces)]
    scores = np.zeros(V, np.float32)
    scores[len(_FIXED) :] = -np.arange(len(pieces))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": _FIXED + pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.padding_token_id": _FIXED.index("<pad>"),
        "tokenizer.ggml.eos_token_id": _FIXED.index("<eos>"),
        "tokenizer.ggml.bos_token_id": _FIXED.index("<bos>"),
        "tokenizer.ggml.unknown_token_id": _FIXED.index("<unk>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": _CHAT_TEMPLATE,
    }


def _pieces():
    """Characters first, then ever longer words, each also with the space before it."""
    yield "▁"  # SentencePiece's space
    yield from map(chr, range(33, 127))
    syllables = [c + v for c in "bcdfghjklmnpqrstvwxyz" for v in "aeiou"]
    for length in itertools.count(1):
        words = ("".join(word) for word in itertools.product(syllables, repeat=length))
        for word in words:
            yield word
            yield "▁" + word
