"""Synthetic models in full shape: real dimensions and tensor types, random weights.

What is measured on them holds for the real model of that shape; what they say is noise.
"""

import math

import numpy as np

from zerfoo_numba.config import ARCHS
from zerfoo_numba.errors import InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.gguf_writer import tensor_bytes, write_gguf
from zerfoo_numba.synth_blocks import RECIPES, random_blocks, tensor_type
from zerfoo_numba.synth_recurrent import recurrent_values
from zerfoo_numba.synth_shapes import SHAPES
from zerfoo_numba.synth_vocabulary import FAMILIES, vocabulary
from zerfoo_numba.tensors import expected_tensors

CHUNK_BYTES = 4 << 20


# Rows of special and byte tokens are scaled by this: they do not win, so text stays readable.
_QUIET = 1 / 16


def synthesize(name, path, seed=0, quantization=None):
    """Write the model `name` of SHAPES to `path`; the same seed gives the same bytes.

    `quantization` names a row of RECIPES instead of the shape's own. Raises InputError for an
    unknown name, FileError if the file cannot be written; a half-written file is never left.
    """
    if name not in SHAPES:
        raise InputError(f"there is no synthetic model {name!r}; there are {', '.join(SHAPES)}")
    write_shape(name, SHAPES[name], path, seed, quantization)


def write_shape(name, shape, path, seed=0, quantization=None):
    """`synthesize` for a `shape` of one's own."""
    quantization = quantization or shape.quantization
    if quantization not in RECIPES:
        raise InputError(f"{quantization!r} is no quantisation; there are {', '.join(RECIPES)}")
    recipe = RECIPES[quantization]
    tensors = shape_tensors(shape, recipe)
    seeds = {tensor: (seed, i) for i, tensor in enumerate(tensors)}

    def data(tensor, dims, kind):
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seeds[tensor])))
        own = recurrent_values(rng, tensor, dims)
        if own is not None:
            return [own.tobytes()]
        if len(dims) == 1:
            return [_vector(rng, shape, tensor, dims).astype(np.float32).tobytes()]
        quiet = len(FAMILIES[shape.vocabulary].first) if tensor in _TOKENS else 0
        return _matrix(rng, dims, kind, _gain(shape, tensor), quiet)

    metadata = shape_metadata(name, shape, recipe) | vocabulary(shape.V, shape.vocabulary)
    write_gguf(path, metadata, tensors, data)


def table():
    """The names of SHAPES with their sizes, and those of RECIPES, as lines of text."""
    letters = ("L", "D", "F", "V", "H", "KH", "HD")
    lines = [f"{'name':<18}{'arch':<10}" + "".join(f"{n:>7}" for n in letters) + "    MB"]
    for name, shape in SHAPES.items():
        numbers = "".join(f"{getattr(shape, letter):>7}" for letter in letters)
        tensors = shape_tensors(shape, RECIPES[shape.quantization]).values()
        size = sum(tensor_bytes(*tensor) for tensor in tensors) / 1e6
        lines.append(f"{name:<18}{shape.arch:<10}{numbers}  {size:>6,.0f} ({shape.quantization})")
    return "\n".join([*lines, f"quantisations: {', '.join(RECIPES)}"])


def shape_tensors(shape, recipe):
    """{name: (shape, type)} of every tensor of a model."""
    tied = "output.weight" not in shape.optional
    model = {"tied": tied, "falcon": shape.arch == "falcon", "experts": shape.letters.get("E", 0)}
    forms = {"held": shape.held, "letters": shape.letters}
    expected = expected_tensors(ARCHS[shape.arch], **shape.dims, **forms)
    return {
        tensor: (dims, tensor_type(recipe, tensor, dims, shape.L, **model))
        for tensor, (dims, required) in expected.items()
        if required or tensor in shape.optional or tensor.split(".", 2)[-1] in shape.optional
    }


_TOKENS = ("token_embd.weight", "output.weight")


def _gain(shape, tensor):
    return shape.gains.get(tensor.split(".")[-2], 1.0)


def _vector(rng, shape, tensor, dims):
    """The values of a tensor of one dimension."""
    if tensor.startswith("rope_"):
        return shape.rope.factors(tensor, shape.HD, shape.keys["rope.freq_base"])
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
        shape.eps_key: 1e-6,
        **shape.keys,
    }
    if shape.H:  # recurrent models have no heads that look back
        keys |= {
            "attention.head_count_kv": shape.KH,
            "attention.key_length": shape.HD,
            "attention.value_length": shape.HD,
        }
    return {
        "general.architecture": shape.arch,
        "general.type": "model",
        "general.name": f"synthetic {name}",
        "general.file_type": recipe.file_type,
        "general.quantization_version": 2,
        **{f"{shape.arch}.{key}": value for key, value in keys.items()},
    }
