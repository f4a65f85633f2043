"""One file per operation: formula, kernels from naive to fast, launcher, cost.

Kernels are plain `@cuda.jit` functions over raw pointers (flat indices), uint32 sizes and float32
numbers; a launcher picks the grid and nothing else. Dimension letters: T tokens in this step,
S cached length, D width, H query heads, KH key/value heads, HD head width, F feed-forward width,
V vocabulary.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The least that any version must do: bytes moved and floating-point operations."""

    bytes: int
    flops: int

    def __add__(self, other):
        return Cost(self.bytes + other.bytes, self.flops + other.flops)


def blocks(count, per_block):
    """Grid size that covers `count` items with `per_block` of them in each block."""
    return -(-count // per_block)
