"""cos and sin of every position and frequency of a model's rotary embeddings, computed at load."""

from dataclasses import dataclass

import numpy as np

from zerfoo_numba.devices import Buffer
from zerfoo_numba.scales import require_positive
from zerfoo_numba.weights import FLOATS


@dataclass(frozen=True)
class RopeTable:
    """cos and sin (S, R/2) float32 of every position and frequency.

    `dims` is R; `pairs` is "half" or "interleaved". With `sections`, as in `config.Rope`, `turns`
    (S, 3) uint32 are the time, row and column of every position.
    """

    cos: Buffer
    sin: Buffer
    dims: int
    pairs: str
    sections: tuple[int, ...] | None = None
    turns: Buffer | None = None


class RopeTables:
    """The RopeTable of every Rope of a model, for a sequence of the length last asked for."""

    def __init__(self, device, ropes, context, gguf):
        self.device, self.gguf, self.length = device, gguf, 1
        self._tables = {}
        for rope in ropes:
            cos, sin = (device.upload(x, "rope") for x in self._values(rope, context))
            turns = device.empty((context, 3), np.uint32, "turns") if rope.sections else None
            self._tables[rope] = RopeTable(cos, sin, rope.dims, rope.kind, rope.sections, turns)
        self.place(np.repeat(np.arange(context, dtype=np.uint32), 3).reshape(context, 3))

    def __getitem__(self, rope):
        return self._tables[rope]

    def place(self, turns):
        """Turn, where a Rope has sections, by the time, row and column `turns` (S, 3) uint32."""
        for table in self._tables.values():
            if table.turns is not None:
                self.device.write(table.turns, turns)

    def fits(self, length):
        """Whether a sequence of `length` tokens turns as the one that was last asked for."""
        return all(_factors(r, self.length) == _factors(r, length) for r in self._tables)

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
            factors = FLOATS[tensor.type](tensor.data)
            require_positive(self.gguf.path, name, factors)
            frequency = frequency / factors.astype(np.float64)
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
