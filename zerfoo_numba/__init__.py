"""GGUF language models decoded by Numba-CUDA kernels. Importing this package imports no numba."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerfoo_numba.generate import Model
    from zerfoo_numba.gguf_file import GGUFFile
    from zerfoo_numba.tokenizer import Tokenizer

__version__ = "0.1.0"


def load_model(path: str | os.PathLike[str], **options: Any) -> "Model":
    """A GGUF model ready to run; see `zerfoo_numba.generate.load_model`."""
    from zerfoo_numba import generate

    return generate.load_model(path, **options)


def sample_model() -> Path:
    """The small model in this package: a Gemma 3 of 3.3 million parameters that has read the
    documentation inside Python's standard library. bench/train_small.py has made it."""
    return Path(__file__).with_name("data") / "python-topics.gguf"


def open_gguf(path: str | os.PathLike[str]) -> "GGUFFile":
    """The metadata and raw tensors of a GGUF file; no tensor data is read."""
    from zerfoo_numba.gguf_file import open_gguf

    return open_gguf(path)


def load_tokenizer(path: str | os.PathLike[str]) -> "Tokenizer":
    """The tokenizer alone, from a GGUF file that may hold no tensors."""
    from zerfoo_numba import tokenizer

    return tokenizer.from_gguf(open_gguf(path))
