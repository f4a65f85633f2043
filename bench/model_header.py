"""What a walk needs to know of a model: a file's header, or that of a synthetic shape."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from zerfoo_numba import synth
from zerfoo_numba.errors import InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME, Tensor, open_gguf


def header(model):
    """What a walk needs to know of `model`, the name of a synthetic shape or a GGUF file's path.

    An object with `.path`, `.metadata` and `.tensors`; those of a shape are zeros.
    """
    if model not in synth.SHAPES:
        if not Path(model).exists():
            known = ", ".join(synth.SHAPES)
            raise InputError(f"{model} is neither a file nor one of the synthetic models {known}")
        return open_gguf(model)
    shape = synth.SHAPES[model]
    recipe = synth.RECIPES[shape.quantization]
    tensors = {
        name: Tensor(dims, kind, _absent(dims, kind))
        for name, (dims, kind) in synth.shape_tensors(shape, recipe).items()
    }
    metadata = synth.shape_metadata(model, shape, recipe)
    return SimpleNamespace(
        path=model, metadata=metadata, tensors=tensors, release_memory=_nothing, check_size=_nothing
    )


def _nothing():
    """There is no file whose pages could be let go, or that could have been cut off."""


def _absent(dims, kind):
    """Ones of a vector; of a matrix zeros, of which the system keeps no page before a write."""
    block = TYPE_BY_NAME[kind]
    if len(dims) == 1 and kind == "F32":
        return np.ones(dims, np.float32).view(np.uint8)
    return np.zeros(math.prod(dims) // block.block_size * block.block_bytes, np.uint8)
