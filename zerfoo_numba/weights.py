"""A model's tensors in device memory, still in their block formats."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.kernels import embed
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS, pack
from zerfoo_numba.quant.write import quantize

REQUANTIZED_ROWS = 1024  # decoded at a time
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


class Part(NamedTuple):
    """`count` rows of the file's tensor `name`, from row `first` on."""

    name: str
    first: int
    count: int


def parts(config, gguf):
    """{name: Part}: the matrices and vectors that a model computes with, by the names they have
    where each is a tensor of its own; q, k and v, or gate and up, may be rows of one."""
    found = {name: Part(name, 0, tensor.shape[-1]) for name, tensor in gguf.tensors.items()}
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
        """Bring everything to the device."""
        for name, part in self.parts.items():
            if len(self.gguf.tensors[part.name].shape) == 2 and "norm" not in name:
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

    def _data(self, name):
        """The file's bytes of the part `name`."""
        part = self.parts[name]
        tensor = self.gguf.tensors[part.name]
        row = tensor.data.nbytes // tensor.shape[-1]
        return tensor.data[part.first * row : (part.first + part.count) * row]

    def _matrix(self, name):
        part, data = self.parts[name], self._data(name)
        tensor = self.gguf.tensors[part.name]
        type_name, rows, columns = tensor.type, part.count, tensor.shape[0]
        self._require(name, type_name, {**QUANTS, "F64": None})
        if data.nbytes >= INDEX_LIMIT:
            size = data.nbytes / 2**30
            raise UnsupportedError(
                f"tensor {name} has {size:.1f} GiB; at most 4 GiB can be indexed"
            )
        if self.requantize not in (None, type_name) and QUANTS[type_name].block_size > 1:
            data = self._requantized(Weight(self.device.upload(data), type_name, rows, columns))
            type_name = self.requantize
        if self.pack and type_name in LAYOUTS:
            return self._packed(name, data, type_name, rows, columns)
        if type_name == "F64":  # kernels hold no float64
            data, type_name = data.view("<f8").astype(np.float32).view(np.uint8), "F32"
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

    def _packed(self, name, data, type_name, rows, columns):
        quant, layout = QUANTS[type_name], LAYOUTS[type_name]
        chunks = pack(layout, data, rows, columns, quant.block_size, quant.block_bytes)
        data = self.device.upload(chunks.reshape(-1), name)
        return PackedWeight(data, type_name, rows, columns, chunks.shape[1])

    def _vector(self, name):
        tensor = self.gguf.tensors[self.parts[name].name]
        self._require(name, tensor.type, FLOATS)
        array = FLOATS[tensor.type](self._data(name))
        return self.device.upload(array.reshape(*tensor.shape[1:], -1), name)

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


class RopeTables:
    """The RopeTable of every Rope of a model, for a sequence of the length last asked for."""

    def __init__(self, device, ropes, context, gguf):
        self.device, self.gguf, self.length = device, gguf, 1
        self._tables = {}
        for rope in ropes:
            cos, sin = (device.upload(x, "rope") for x in self._values(rope, context))
            self._tables[rope] = RopeTable(cos, sin, rope.dims, rope.kind)

    def __getitem__(self, rope):
        return self._tables[rope]

    def fit(self, length):
        """Turn as a sequence of `length` tokens does. True if that changed something: what is in a
        cache has then been turned otherwise."""
        before, self.length = self.length, length
        changed = [r for r in self._tables if _factors(r, before) != _factors(r, length)]
        for rope in changed:
            table = self._tables[rope]
            values = self._values(rope, table.cos.shape[0])
            for buffer, array in zip((table.cos, table.sin), values, strict=True):
                self.device.write(buffer, array)
        return bool(changed)

    def _values(self, rope, context):
        """cos and sin (S, R/2) float32 of positions 0 .. context - 1, computed in float64."""
        frequency = frequencies(rope)
        name = _factors(rope, self.length)
        if name is not None:
            tensor = self.gguf.tensors[name]
            frequency = frequency / FLOATS[tensor.type](tensor.data).astype(np.float64)
        angle = np.arange(context, dtype=np.float64)[:, None] * frequency
        return [(rope.attn_factor * f(angle)).astype(np.float32) for f in (np.cos, np.sin)]


def _factors(rope, length):
    """The tensor that divides the frequencies of a sequence of `length` tokens, or None."""
    if rope.long_factors is not None and length > rope.long_factors.context:
        return rope.long_factors.name
    return rope.freq_factors


def frequencies(rope):
    """Radians per token of each pair of a Rope, float64 (R/2,), before any tensor of factors.

    base^(-2i/R) / factor; with YaRN (arXiv:2309.00071) a pair between the one that turns `fast`
    times in the original context, rounded down, and the one that turns `slow` times, rounded up,
    is a mix of that and the undivided frequency.
    """
    pairs = np.arange(rope.dims // 2, dtype=np.float64)
    trained = rope.base ** (-2.0 * pairs / rope.dims)
    if rope.yarn is None:
        return trained / rope.factor
    per_pair = 2 * np.log(rope.base) / rope.dims  # what the log of the turns falls by
    turns = np.log([rope.yarn.fast, rope.yarn.slow])
    fast, slow = (np.log(rope.yarn.context) - np.log(2 * np.pi) - turns) / per_pair
    first, last = max(np.floor(fast), 0), min(np.ceil(slow), rope.dims - 1)
    divided = np.clip((pairs - first) / max(last - first, 1e-3), 0, 1)
    return trained * (1 - divided) + trained / rope.factor * divided
