"""The errors a user can cause; a message says what is wrong, where, and what would help."""


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


class DeviceError(ZerfooError):
    """A device that is not there, or that failed."""
