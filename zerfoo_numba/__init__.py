"""GGUF language models decoded by Numba-CUDA kernels. Importing this package imports no numba."""

__version__ = "0.1.0"


def load_model(path, **options):
    """A GGUF model ready to run; see `zerfoo_numba.generate.load_model`."""
    from zerfoo_numba import generate

    return generate.load_model(path, **options)


def open_gguf(path):
    """The metadata and raw tensors of a GGUF file; no tensor data is read."""
    from zerfoo_numba.gguf_file import open_gguf

    return open_gguf(path)


def load_tokenizer(path):
    """The tokenizer alone, from a GGUF file that may hold no tensors."""
    from zerfoo_numba import tokenizer

    return tokenizer.from_gguf(open_gguf(path))
