"""Writing GGUF files, version 3, little-endian, tensor by tensor and never half.

Format: docs/gguf.md of the ggml project.
"""

import contextlib
import math
import os
import struct
from pathlib import Path

import numpy as np

from zerfoo_numba.errors import FileError
from zerfoo_numba.gguf_file import GGML_TYPES, TYPE_BY_NAME
from zerfoo_numba.gguf_header import ARRAY, BOOL, DEFAULT_ALIGNMENT, SCALARS, STRING

_KIND_OF = {np.dtype(form.format): kind for kind, form in SCALARS.items()} | {np.dtype(bool): BOOL}
_TYPE_ID = {kind.name: number for number, kind in GGML_TYPES.items()}


def write_gguf(path, metadata, tensors, data):
    """Write a file under a temporary name beside `path`, then rename it.

    `metadata`: {key: str, bool, int (a uint32), float (a float32), NumPy scalar or array, list of
    str}. `tensors`: {name: (shape, type name)}, fastest dimension first. `data(name, shape, type)`
    returns the tensor's bytes as an iterable of chunks. Raises FileError if the disk refuses.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(_head(metadata, tensors))
            for name, (shape, kind) in tensors.items():
                count = sum(file.write(chunk) for chunk in data(name, shape, kind))
                if count != tensor_bytes(shape, kind):
                    raise ValueError(f"{name}: {count} bytes for {tensor_bytes(shape, kind)}")
                file.write(bytes(-count % DEFAULT_ALIGNMENT))
        partial.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def tensor_bytes(shape, kind):
    """Bytes of a tensor's data in the file."""
    block = TYPE_BY_NAME[kind]
    return math.prod(shape) // block.block_size * block.block_bytes


def _head(metadata, tensors):
    """Everything before the first tensor, padded to the alignment."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    offset = 0
    for name, (shape, kind) in tensors.items():
        parts += [_string(name), struct.pack(f"<I{len(shape)}Q", len(shape), *shape)]
        parts += [struct.pack("<IQ", _TYPE_ID[kind], offset)]
        offset += -(-tensor_bytes(shape, kind) // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % DEFAULT_ALIGNMENT)


def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value):
    """The type id and the bytes of a metadata value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, list):
        strings = b"".join(map(_string, value))
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + strings
    if isinstance(value, int) and not isinstance(value, bool):
        value = np.uint32(value)
    elif isinstance(value, float):
        value = np.float32(value)
    value = np.asarray(value)
    kind = _KIND_OF[value.dtype]
    if value.ndim == 0:
        return struct.pack("<I", kind) + value.tobytes()
    return struct.pack("<IIQ", ARRAY, kind, value.size) + value.tobytes()
