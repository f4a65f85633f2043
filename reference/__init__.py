"""GGUF models in pure NumPy, written to be read: what the runtime's kernels are compared with."""

from reference.model import Model, load_model

__all__ = ["Model", "load_model"]
