"""GGUF files, versions 2 and 3, little-endian: metadata and raw tensors of a memory-mapped file.

The file is untrusted: every count, length, offset and product is checked with Python's unbounded
integers before it is used, and no tensor data is read. Format: docs/gguf.md of the ggml project.
"""

import itertools
import math
import mmap
import os
import stat
from typing import Any, NamedTuple, Self

import numpy as np

from zerfoo_numba.errors import FileError, UnsupportedError, shown
from zerfoo_numba.gguf_header import (
    DEFAULT_ALIGNMENT,
    MAX_NAME_BYTES,
    Header,
    read_metadata,
    read_start,
)


class GGMLType(NamedTuple):
    """A tensor type: `block_size` elements of one row stand in `block_bytes` bytes."""

    name: str
    block_size: int
    block_bytes: int


# ggml.h, enum ggml_type; the sizes are those of GGML_QUANT_SIZES in the gguf package.
# Ids 4, 5, 31-33 and 36-38 were types that ggml has removed.
GGML_TYPES = {
    0: GGMLType("F32", 1, 4), 1: GGMLType("F16", 1, 2), 2: GGMLType("Q4_0", 32, 18),
    3: GGMLType("Q4_1", 32, 20), 6: GGMLType("Q5_0", 32, 22), 7: GGMLType("Q5_1", 32, 24),
    8: GGMLType("Q8_0", 32, 34), 9: GGMLType("Q8_1", 32, 40), 10: GGMLType("Q2_K", 256, 84),
    11: GGMLType("Q3_K", 256, 110), 12: GGMLType("Q4_K", 256, 144), 13: GGMLType("Q5_K", 256, 176),
    14: GGMLType("Q6_K", 256, 210), 15: GGMLType("Q8_K", 256, 292),
    16: GGMLType("IQ2_XXS", 256, 66), 17: GGMLType("IQ2_XS", 256, 74),
    18: GGMLType("IQ3_XXS", 256, 98), 19: GGMLType("IQ1_S", 256, 50),
    20: GGMLType("IQ4_NL", 32, 18), 21: GGMLType("IQ3_S", 256, 110), 22: GGMLType("IQ2_S", 256, 82),
    23: GGMLType("IQ4_XS", 256, 136), 24: GGMLType("I8", 1, 1), 25: GGMLType("I16", 1, 2),
    26: GGMLType("I32", 1, 4), 27: GGMLType("I64", 1, 8), 28: GGMLType("F64", 1, 8),
    29: GGMLType("IQ1_M", 256, 56), 30: GGMLType("BF16", 1, 2), 34: GGMLType("TQ1_0", 256, 54),
    35: GGMLType("TQ2_0", 256, 66), 39: GGMLType("MXFP4", 32, 17), 40: GGMLType("NVFP4", 64, 36),
    41: GGMLType("Q1_0", 128, 18),
}  # fmt: skip
TYPE_BY_NAME = {t.name: t for t in GGML_TYPES.values()}


class Tensor(NamedTuple):
    """One tensor as it lies in the file.

    `shape` has the file's order, fastest dimension first (ggml's `ne`); `data` is a read-only
    uint8 view of exactly the tensor's bytes, which the system reads when they are touched.
    """

    shape: tuple[int, ...]
    type: str
    data: np.ndarray


_Infos = dict[str, tuple[tuple[int, ...], GGMLType, int]]


class GGUFFile:
    """An open file: `path`, `version`, `metadata` {key: value}, `tensors` {name: `Tensor`}.

    A metadata value is a str, bool, int or float, a NumPy array, or a list of str. Closing it
    drops its tensors; views taken from them before stay valid.
    """

    def __init__(
        self,
        path: str,
        version: int,
        metadata: dict[str, Any],
        tensors: dict[str, Tensor],
        mapped: mmap.mmap | None = None,
    ):
        self.path = path
        self._mapped = mapped
        self.version = version
        self.metadata = metadata
        self.tensors = tensors

    def check_size(self) -> None:
        """Raise FileError if the file has become smaller since it was opened.

        To read what is gone would end the process (a bus error on POSIX systems); Windows lets
        nobody shrink a mapped file. A file cut between this check and the read is not noticed.
        """
        if self._mapped is not None and self._mapped.size() < len(self._mapped):
            raise FileError(
                f"{self.path} has shrunk from {len(self._mapped)} to {self._mapped.size()} bytes "
                "since it was opened; write new files beside the old one and rename them"
            )

    def release_memory(self) -> None:
        """Let go of the file's pages in memory; the tensors stay, and read from disk again."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        # The map itself ends with its last view: unmapping under a live array would crash.
        self.tensors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Open the GGUF file `path`; returns a `GGUFFile` without reading tensor data.

    Raises FileError for a file that is missing, damaged or contradictory, and UnsupportedError
    for a byte order, a version or a split that is not read here.
    """
    path = os.fspath(path)
    mapped = _map(path)
    header = Header(path, mapped)
    version, tensor_count, key_count = read_start(header)
    metadata = read_metadata(header, key_count)
    parts = metadata.get("split.count", 0)
    if not isinstance(parts, int) or parts > 1:
        raise UnsupportedError(
            f"{path} is one of {shown(parts)} parts of a split model; "
            "join them with llama.cpp's llama-gguf-split --merge and open the result"
        )
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    infos = _read_tensor_infos(header, tensor_count)
    return GGUFFile(path, version, metadata, _locate(header, infos, alignment), mapped)


def _map(path: str) -> mmap.mmap:
    """The whole file as a read-only memory map."""
    try:
        # A FIFO would block `open`; only a regular file can be mapped.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise FileError(f"{path} is a directory; name the GGUF file itself")
        if not stat.S_ISREG(mode):
            raise FileError(f"{path} is not a regular file; a GGUF file has to be mapped from disk")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FileError(f"{path} is empty; a GGUF file starts with the bytes 'GGUF'")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be opened: {error}") from error


def _read_tensor_infos(header: Header, count: int) -> _Infos:
    """{name: (shape, GGMLType, offset)} of the `count` tensors, each checked by itself."""
    infos = {}
    for index in range(count):
        name = header.string(f"the name of tensor {index}", MAX_NAME_BYTES)
        if not name:
            raise header.error(f"tensor {index} has an empty name")
        if name in infos:
            raise header.error(f"the tensor {name!r} stands there twice")
        dims = header.uint32(f"the dimension count of tensor {name!r}")
        if not 1 <= dims <= 4:
            raise header.error(f"tensor {name!r} has {dims} dimensions; 1 to 4 are accepted")
        shape = tuple(header.uint64(f"the shape of tensor {name!r}") for _ in range(dims))
        kind = header.uint32(f"the type of tensor {name!r}")
        offset = header.uint64(f"the offset of tensor {name!r}")
        if kind not in GGML_TYPES:
            raise header.error(f"tensor {name!r} has the type id {kind}, which names no ggml type")
        kind = GGML_TYPES[kind]
        if min(shape) < 1 or math.prod(shape) >= 1 << 63:
            raise header.error(f"tensor {name!r} has the impossible shape {list(shape)}")
        if shape[0] % kind.block_size:
            raise header.error(
                f"tensor {name!r} has rows of {shape[0]} elements, which is no multiple of the "
                f"{kind.block_size} elements of a {kind.name} block"
            )
        infos[name] = shape, kind, offset
    return infos


def _locate(header: Header, infos: _Infos, alignment: int) -> dict[str, Tensor]:
    """{name: Tensor}: every tensor aligned, inside the file, and none over another."""
    start = -(-header.position // alignment) * alignment
    placed = []
    for name, (shape, kind, offset) in infos.items():
        count = math.prod(shape) // kind.block_size * kind.block_bytes
        if offset % alignment:
            raise header.error(
                f"tensor {name!r} has the offset {offset}, no multiple of the alignment {alignment}"
            )
        if start + offset + count > header.size:
            raise header.error(
                f"the data of tensor {name!r} ends at byte {start + offset + count}, but the file "
                f"has {header.size} bytes; was it copied or downloaded completely?"
            )
        placed.append((start + offset, start + offset + count, name))
    placed.sort()
    for (_, end, name), (begin, _, other) in itertools.pairwise(placed):
        if begin < end:
            raise header.error(f"the tensors {name!r} and {other!r} overlap")
    view = np.frombuffer(header.data, np.uint8)
    places = {name: view[begin:end] for begin, end, name in placed}
    return {name: Tensor(s, kind.name, places[name]) for name, (s, kind, _) in infos.items()}
