"""What may be asked of a model at load, beside its file."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from zerfoo_numba.devices import Device, open_device
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.vision.sequence import Tokens

Path = str | os.PathLike[str]
CacheType = str | tuple[str, str]  # of keys and values, or (of keys, of values)
Progress = Callable[[str], None]
Arrays = Mapping[str, np.ndarray]
# Token ids with images among them, or what `Session.read` has made of such.
Items = Iterable[Any] | Tokens

ACTIVATIONS = ("float", "int8")
REQUANTIZED = ("Q4_0",)


def check_options(activation: str | None, requantize: str | None) -> None:
    """Raise UnsupportedError for another form of activations or weights; warn of a loss."""
    if requantize not in (None, *REQUANTIZED):
        known = ", ".join(REQUANTIZED)
        raise UnsupportedError(f"weights can be requantised to {known}, not {requantize!r}")
    if requantize is not None:
        warnings.warn(f"requantising to {requantize} at load loses accuracy", stacklevel=5)
    if activation not in (None, *ACTIVATIONS):
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedError(f"activation {activation!r} is not one of {known}")


def device_of(device: str | Device, threads: int | None) -> Device:
    """The device that a name or a Device means."""
    if not isinstance(device, str):
        return device
    return open_device(device, **({} if threads is None else {"threads": threads}))
