"""The head of a GGUF file: the bounds-checked cursor, the counts and the metadata.

Every count and length is checked with Python's unbounded integers before it is used.
Format: docs/gguf.md of the ggml project.
"""

import struct

import numpy as np

from zerfoo_numba.errors import FileError, UnsupportedError, shown

# gguf.md, enum gguf_metadata_value_type
SCALARS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 10: struct.Struct("<Q"),
    11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
BOOL, STRING, ARRAY, UINT32 = 7, 8, 9, 4
_U64 = struct.Struct("<Q")

# Far above any real file, far below what would exhaust memory or time.
MAX_TENSORS = 1 << 18
MAX_KEYS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1  # gguf.md
MAX_NAME_BYTES = 63  # ggml.h, GGML_MAX_NAME with its terminator
MAX_STRING_BYTES = 1 << 24
MAX_ARRAY_ELEMENTS = 1 << 24  # of all arrays of a file together
MAX_ARRAY_STRINGS = 1 << 21  # of those, strings
_ALIGNMENTS = (8, 65536)
DEFAULT_ALIGNMENT = 32


class Header:
    """A cursor over the file's bytes; every read is checked against the file's end."""

    def __init__(self, path, data):
        self.path = path
        self.data = data
        self.size = len(data)
        self.position = 0
        self.elements = 0
        self.strings = 0

    def error(self, what):
        return FileError(f"{self.path}: {what}")

    def need(self, count, what):
        """Check that `count` bytes of `what` are there."""
        if count > self.size - self.position:
            raise self.error(
                f"the file ends inside {what}: {count} bytes needed at byte {self.position}, "
                f"{self.size - self.position} left; was it copied or downloaded completely?"
            )

    def scalar(self, form, what):
        self.need(form.size, what)
        (value,) = form.unpack_from(self.data, self.position)
        self.position += form.size
        return value

    def uint32(self, what):
        return self.scalar(SCALARS[UINT32], what)

    def uint64(self, what):
        return self.scalar(_U64, what)

    def string(self, what, most=MAX_STRING_BYTES):
        count = self.uint64(f"the length of {what}")
        self.need(count, what)
        if count > most:
            raise self.error(f"{what} has {count} bytes; at most {most} are accepted")
        start = self.position
        self.position += count
        try:
            return self.data[start : self.position].decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} is not valid UTF-8") from None


def read_start(header):
    """The file's first 24 bytes: (version, tensor count, key count)."""
    if header.data[:4] != b"GGUF":
        raise header.error("not a GGUF file; its first four bytes are not 'GGUF'")
    header.position = 4
    version = header.uint32("the version")
    if version & 0xFFFF == 0 and version != 0:
        raise UnsupportedError(
            f"{header.path} is a big-endian GGUF file; convert it to little-endian with the gguf "
            "package's gguf-convert-endian"
        )
    if version not in (2, 3):
        raise UnsupportedError(
            f"{header.path} is a GGUF file of version {version}; versions 2 and 3 are read, so "
            "convert the model again with a current converter"
        )
    tensors = header.uint64("the tensor count")
    keys = header.uint64("the key count")
    if tensors > MAX_TENSORS:
        raise header.error(f"{tensors} tensors announced; at most {MAX_TENSORS} are accepted")
    if keys > MAX_KEYS:
        raise header.error(f"{keys} metadata keys announced; at most {MAX_KEYS} are accepted")
    return version, tensors, keys


def read_metadata(header, count):
    metadata = {}
    for index in range(count):
        key = header.string(f"the name of metadata key {index}", MAX_KEY_BYTES)
        if not key:
            raise header.error(f"metadata key {index} has an empty name")
        if key in metadata:
            raise header.error(f"the metadata key {shown(key)} stands there twice")
        kind = header.uint32(f"the type of {shown(key)}")
        if key == "general.alignment" and kind != UINT32:
            raise header.error(f"general.alignment has value type {kind}; it must be a uint32")
        metadata[key] = _read_value(header, kind, key)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if alignment & (alignment - 1) or not _ALIGNMENTS[0] <= alignment <= _ALIGNMENTS[1]:
        raise header.error(
            f"general.alignment is {alignment}; it must be a power of two from 8 to 65536"
        )
    return metadata


def _read_value(header, kind, key):
    if kind in SCALARS:
        return header.scalar(SCALARS[kind], f"the value of {shown(key)}")
    if kind == BOOL:
        value = header.scalar(SCALARS[0], f"the value of {shown(key)}")
        if value > 1:
            raise header.error(f"the boolean {shown(key)} has the value {value}")
        return bool(value)
    if kind == STRING:
        return header.string(f"the value of {shown(key)}")
    if kind == ARRAY:
        return _read_array(header, key)
    raise header.error(f"{shown(key)} has the unknown value type {kind}")


def _read_array(header, key):
    kind = header.uint32(f"the element type of {shown(key)}")
    count = header.uint64(f"the length of {shown(key)}")
    header.elements += count
    if header.elements > MAX_ARRAY_ELEMENTS:
        raise header.error(
            f"the array {shown(key)} has {count} elements; at most {MAX_ARRAY_ELEMENTS} are "
            "accepted in all arrays together"
        )
    if kind == STRING:
        return _read_strings(header, count, key)
    if kind != BOOL and kind not in SCALARS:
        nested = "arrays" if kind == ARRAY else f"the unknown value type {kind}"
        raise header.error(
            f"{shown(key)} is an array of {nested}; numbers and strings are accepted"
        )
    dtype = np.dtype("u1" if kind == BOOL else SCALARS[kind].format)
    header.need(count * dtype.itemsize, f"the array {shown(key)}")
    start = header.position
    header.position += count * dtype.itemsize
    values = np.frombuffer(header.data[start : header.position], dtype)
    if kind != BOOL:
        return values
    if count and values.max() > 1:
        raise header.error(f"the boolean array {shown(key)} has the value {values.max()}")
    return values.view(np.bool_)


def _read_strings(header, count, key):
    """A string array in one tight loop: vocabularies have a quarter of a million of them."""
    header.strings += count
    if header.strings > MAX_ARRAY_STRINGS:
        raise header.error(
            f"the array {shown(key)} has {count} strings; at most {MAX_ARRAY_STRINGS} are accepted "
            "in all arrays together"
        )
    header.need(8 * count, f"the array {shown(key)}")
    data, size, unpack = header.data, header.size, _U64.unpack_from
    position = header.position
    strings = []
    try:
        for _ in range(count):
            start = position + 8
            position = start + unpack(data, position)[0]
            if position > size or position - start > MAX_STRING_BYTES:
                raise struct.error
            strings.append(data[start:position].decode())
    except struct.error:
        what = f"element {len(strings)} of the array {shown(key)}"
        raise header.error(f"{what} is longer than what is left of the file") from None
    except UnicodeDecodeError:
        what = f"element {len(strings)} of the array {shown(key)}"
        raise header.error(f"{what} is not valid UTF-8") from None
    header.position = position
    return strings
