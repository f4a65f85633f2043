"""A model's tensors in device memory, still in their block formats."""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS, pack

INDEX_LIMIT = 2**32  # kernels address a tensor's bytes with uint32


@dataclass(frozen=True)
class Weight:
    """A matrix (rows, columns) of block format `type`: its bytes as they lie in the file."""

    data: Buffer
    type: str
    rows: int
    columns: int
    packed = False


@dataclass(frozen=True)
class PackedWeight:
    """A matrix (rows, columns) of format `type` in its packed layout, `steps` chunks a row."""

    data: Buffer
    type: str
    rows: int
    columns: int
    steps: int
    packed = True


@dataclass(frozen=True)
class RopeTable:
    """cos and sin (S, R/2) float32 of every position and frequency.

    `dims` is R; `pairs` is "half" or "interleaved".
    """

    cos: Buffer
    sin: Buffer
    dims: int
    pairs: str


class Weights:
    """The tensors of `gguf` by their GGUF names: `matrix`, `vector`, and None for an absent one.

    With `pack`, matrices of the formats that have a packed layout are held in it.
    """

    def __init__(self, device, gguf, pack=False):
        self.device, self.gguf, self.pack = device, gguf, pack
        self._loaded = {}

    def __contains__(self, name):
        return name in self.gguf.tensors

    def matrix(self, name):
        """The 2-D tensor `name` as a Weight or PackedWeight, or None."""
        if name not in self._loaded:
            self._loaded[name] = self._matrix(name) if name in self else None
        return self._loaded[name]

    def vector(self, name):
        """The 1-D tensor `name` as a float32 buffer, or None."""
        if name not in self._loaded:
            self._loaded[name] = self._vector(name) if name in self else None
        return self._loaded[name]

    def _matrix(self, name):
        columns, rows = self.gguf.tensors[name].shape
        tensor = self.gguf.tensors[name]
        self._require(name, tensor.type, {**QUANTS, "F64": None})
        if tensor.data.nbytes >= INDEX_LIMIT:
            size = tensor.data.nbytes / 2**30
            raise UnsupportedError(
                f"tensor {name} has {size:.1f} GiB; at most 4 GiB can be indexed"
            )
        if self.pack and tensor.type in LAYOUTS:
            return self._packed(name, tensor, rows, columns)
        data, type_name = tensor.data, tensor.type
        if type_name == "F64":  # kernels hold no float64
            data, type_name = data.view("<f8").astype(np.float32).view(np.uint8), "F32"
        return Weight(self.device.upload(data, name), type_name, rows, columns)

    def _packed(self, name, tensor, rows, columns):
        quant, layout = QUANTS[tensor.type], LAYOUTS[tensor.type]
        chunks = pack(layout, tensor.data, rows, columns, quant.block_size, quant.block_bytes)
        data = self.device.upload(chunks.reshape(-1), name)
        return PackedWeight(data, tensor.type, rows, columns, chunks.shape[1])

    def _vector(self, name):
        tensor = self.gguf.tensors[name]
        self._require(name, tensor.type, FLOATS)
        return self.device.upload(FLOATS[tensor.type](tensor.data), name)

    def _require(self, name, type_name, known):
        if type_name not in known:
            types = ", ".join(known)
            raise UnsupportedError(f"tensor {name} has type {type_name}; supported are {types}")


def _from_bf16(data):
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


FLOATS = {
    "F32": lambda data: np.ascontiguousarray(data.view("<f4")),
    "F16": lambda data: data.view("<f2").astype(np.float32),
    "BF16": _from_bf16,
    "F64": lambda data: data.view("<f8").astype(np.float32),
}


def rope_table(device, rope, context, gguf):
    """The table of a Rope (config) for positions 0 .. context - 1, computed in float64.

    The frequency of pair i is base^(-2i/R); positions are divided by `rope.factor`, and where the
    file brings factors per frequency each frequency is divided by its own (Llama 3).
    """
    i = np.arange(rope.dims // 2, dtype=np.float64)
    frequency = rope.base ** (-2.0 * i / rope.dims) / rope.factor
    if rope.freq_factors is not None:
        tensor = gguf.tensors[rope.freq_factors]
        frequency /= FLOATS[tensor.type](tensor.data).astype(np.float64)
    angle = np.arange(context, dtype=np.float64)[:, None] * frequency  # (S, R/2)
    cos = device.upload(np.cos(angle).astype(np.float32), "rope_cos")
    sin = device.upload(np.sin(angle).astype(np.float32), "rope_sin")
    return RopeTable(cos, sin, rope.dims, rope.kind)
