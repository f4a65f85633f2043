"""The errors a user can cause; a message says what is wrong, where, and what would help."""

import reprlib

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100


def shown(value: object) -> str:
    """The repr of something that a file or a user gave, cut to a length fit for a sentence."""
    return " ".join(_REPR.repr(value).split())


class ZerfooError(Exception):
    """Base of every error that a user's input, file or machine can cause."""


class FileError(ZerfooError):
    """A file that is missing, damaged, contradictory or not a GGUF file."""


class UnsupportedError(ZerfooError):
    """An architecture, tensor type, tokenizer or option that this version does not run."""


class InputError(ZerfooError):
    """An argument or a token id outside what the model accepts."""


class ContextError(ZerfooError):
    """More tokens than the context holds."""


class OutOfMemoryError(ZerfooError):
    """A device that has too little memory for what was asked."""


class NumericError(ZerfooError):
    """Numbers that a model computed and that are none: NaN or infinite."""


class DeviceError(ZerfooError):
    """A device that is not there, or that failed."""
