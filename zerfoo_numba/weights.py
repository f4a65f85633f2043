"""A model's tensors in device memory, still in their block formats."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import embed
from zerfoo_numba.kernels.pack import pack
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS
from zerfoo_numba.quant.write import quantize
from zerfoo_numba.recurrent_tensors import ARRAYS
from zerfoo_numba.scales import require_finite

REQUANTIZED_ROWS = 1024  # decoded at a time
RELEASED_BYTES = 1 << 26  # of the file that stay in memory while the rest is read
_VECTORS = ("norm", "position_embd", *ARRAYS)  # of what has rows, they are no matrices of a product
INDEX_LIMIT = 2**32  # kernels address a tensor's bytes with uint32


@dataclass(frozen=True)
class Weight:
    """A matrix (rows, columns) of block format `type`: its bytes as they lie in the file. Of the
    matrices of experts, `rows` are those of one, and all lie one after another."""

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


class Part(NamedTuple):
    """`count` rows of the file's tensor `name`, from row `first` on."""

    name: str
    first: int
    count: int


def parts(config, gguf):
    """{name: Part}: the matrices and vectors that a model computes with, by the names they have
    where each is a tensor of its own; q, k and v, or gate and up, may be rows of one.

    Without a config every tensor is itself: the form of a file whose tensors are never joined.
    """
    found = {name: Part(name, 0, tensor.shape[-1]) for name, tensor in gguf.tensors.items()}
    if config is None:
        return found
    c = config
    qkv = (("q", c.H * c.HD), ("k", c.KH * c.HD), ("v", c.KH * c.VD))
    gate_up = (("gate", c.F), ("up", c.F))
    for i in range(c.L):
        for kind in ("weight", "bias"):
            fused = f"blk.{i}.attn_qkv.{kind}"
            if fused in gguf.tensors:
                found |= _rows(found.pop(fused), f"blk.{i}.attn_{{}}.{kind}", qkv)
            fused = f"blk.{i}.ffn_up.{kind}"
            if fused in gguf.tensors and gguf.tensors[fused].shape[-1] == 2 * c.F:
                found |= _rows(found.pop(fused), f"blk.{i}.ffn_{{}}.{kind}", gate_up)
    return found


def _rows(whole, pattern, names):
    """The rows of `whole` that belong to each of `names` (name, count), one after another."""
    found, first = {}, 0
    for name, count in names:
        found[pattern.format(name)] = Part(whole.name, first, count)
        first += count
    return found


class Weights:
    """The parts of `gguf` by name: `matrix`, `vector`, and None for an absent one.

    With `pack`, matrices of the formats that have a packed layout are held in it. With
    `requantize`, quantised matrices are written again in that format, with its loss.
    """

    def __init__(self, device, gguf, config, pack=False, requantize=None):
        self.device, self.gguf = device, gguf
        self.pack, self.requantize = pack, requantize
        self.parts = parts(config, gguf)
        self._loaded = {}

    def __contains__(self, name):
        return name in self.parts

    def load(self):
        """Bring everything to the device, and let go of the file's pages on the way."""
        total = sum(tensor.data.nbytes for tensor in self.gguf.tensors.values())
        done, kept, shown = 0, 0, -1
        for name, part in self.parts.items():
            size = self._data(name).nbytes
            done, kept = done + size, kept + size
            if self.device.progress is not None and 100 * done // total > shown:
                shown = 100 * done // total
                self.device.progress(f"loading {shown}% of {total / 1e6:.0f} MB")
            if kept > RELEASED_BYTES:
                self.device.synchronize()
                self.gguf.release_memory()
                kept = 0
            shape = self.gguf.tensors[part.name].shape
            several = len(shape) == 2 and shape[1] > 1 and not any(n in name for n in _VECTORS)
            if several or "_exps." in name:
                self.matrix(name)
            elif not name.startswith("rope_"):  # they go into the tables
                self.vector(name)

    def matrix(self, name):
        """The matrix `name` as a Weight or PackedWeight, or None."""
        if name not in self._loaded:
            self._loaded[name] = self._matrix(name) if name in self else None
        return self._loaded[name]

    def matrices(self):
        """Every matrix that is on the device."""
        return [w for w in self._loaded.values() if isinstance(w, Weight | PackedWeight)]

    def vector(self, name):
        """The vector `name` as a float32 buffer, or None; a norm per head is (H, HD)."""
        if name not in self._loaded:
            self._loaded[name] = self._vector(name) if name in self else None
        return self._loaded[name]

    def stack(self, *names):
        """The numbers of the vectors `names`, one after another: float32 (all of them,)."""
        if len(names) == 1:
            return self.vector(names[0])
        if names not in self._loaded:
            found = [self.device.read(self._vector(name)).reshape(-1) for name in names]
            self._loaded[names] = self.device.upload(np.concatenate(found), names[0])
        return self._loaded[names]

    def _data(self, name):
        """The file's bytes of the part `name`."""
        self.gguf.check_size()
        part = self.parts[name]
        tensor = self.gguf.tensors[part.name]
        row = tensor.data.nbytes // tensor.shape[-1]
        return tensor.data[part.first * row : (part.first + part.count) * row]

    def _matrix(self, name):
        part, data = self.parts[name], self._data(name)
        tensor = self.gguf.tensors[part.name]
        type_name, columns, experts = tensor.type, tensor.shape[0], 1
        rows = part.count
        if len(tensor.shape) == 3:  # matrices of several experts, one after another
            rows, experts = tensor.shape[1:]
        self._require(name, type_name, {**QUANTS, "F64": None})
        if data.nbytes >= INDEX_LIMIT:
            size = data.nbytes / 2**30
            raise UnsupportedError(
                f"tensor {name} has {size:.1f} GiB; at most 4 GiB can be indexed"
            )
        if type_name == "F64":  # kernels hold no float64
            data, type_name = FLOATS["F64"](data).view(np.uint8), "F32"
        self._require_finite(name, type_name, data)
        if self.requantize not in (None, type_name) and QUANTS[type_name].block_size > 1:
            whole = Weight(self.device.upload(data), type_name, rows * experts, columns)
            data = self._requantized(whole)
            type_name = self.requantize
        if self.pack and type_name in LAYOUTS:
            return self._packed(name, data, type_name, rows, columns, experts)
        return Weight(self.device.upload(data, name), type_name, rows, columns)

    def _requantized(self, weight):
        """The bytes of `weight` in the format `requantize`: decoded by the device, then written."""
        written = []
        for start in range(0, weight.rows, REQUANTIZED_ROWS):
            rows = np.arange(start, min(start + REQUANTIZED_ROWS, weight.rows), dtype=np.uint32)
            out = self.device.empty((len(rows), weight.columns), np.float32)
            embed.embed(self.device, out, weight, self.device.upload(rows), 1.0)
            written.append(quantize(self.device.read(out), self.requantize).reshape(-1))
        return np.concatenate(written)

    def _packed(self, name, data, type_name, rows, columns, experts):
        layout = LAYOUTS[type_name]
        each = layout.packed_bytes(rows, columns)
        raw, chunks = self.device.adopt(data), self.device.empty(experts * each, np.uint8, name)
        for i in range(experts):
            of_file = raw.view((data.size // experts,), i * (data.size // experts))
            pack(self.device, chunks.view((each,), i * each), of_file, type_name, rows, columns)
        return PackedWeight(chunks, type_name, rows, columns, -(-columns // layout.step))

    def _vector(self, name):
        tensor = self.gguf.tensors[self.parts[name].name]
        self._require(name, tensor.type, FLOATS)
        array = FLOATS[tensor.type](self._data(name))
        self._require_finite(name, "F32", array.view(np.uint8))
        return self.device.upload(array.reshape(*tensor.shape[1:], -1), name)

    def _require_finite(self, name, type_name, data):
        part = self.parts[name]
        columns = self.gguf.tensors[part.name].shape[0]
        require_finite(self.gguf.path, part.name, type_name, data, columns, part.first)

    def _require(self, name, type_name, known):
        if type_name not in known:
            types = ", ".join(known)
            raise UnsupportedError(f"tensor {name} has type {type_name}; supported are {types}")


def _from_f64(data):
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return data.view("<f8").astype(np.float32)


def _from_bf16(data):
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


FLOATS = {
    "F32": lambda data: np.ascontiguousarray(data.view("<f4")),
    "F16": lambda data: data.view("<f2").astype(np.float32),
    "BF16": _from_bf16,
    "F64": _from_f64,
}
