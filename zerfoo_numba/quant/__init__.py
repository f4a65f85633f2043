"""GGUF block formats: the layout of each and the scalar decode that kernels close over.

`decode(w, block, i)`, a device function: element `i` (uint32) of the block that starts `block`
bytes (uint32) after `w` (uint8*; blocks begin at multiples of 4 for F32 and the F8 formats, of 2
for those with 16-bit fields). It returns the float32 that the ggml project's gguf package defines,
bit for bit: scale, sub-scale and quant have at most 24 significant bits together, so their product
is exact in float32 and only the addition of a min rounds. Neither the order of the factors nor a
fused multiply-add can change the result. (Where an F8 code meets its scale, that product rounds.)

Layouts are those of ggml's ggml-common.h; bytes are little-endian, bit 0 is the least significant.
"""

from typing import NamedTuple

from numba.cuda.dispatcher import CUDADispatcher

from zerfoo_numba.quant import floats, fp4, fp8, iquants, kquants, legacy, ternary


class Quant(NamedTuple):
    """A block format: `block_size` elements in `block_bytes` bytes, read by `decode`."""

    name: str
    block_size: int
    block_bytes: int
    decode: CUDADispatcher


QUANTS = {
    name: Quant(name, *layout)
    for module in (floats, legacy, kquants, iquants, ternary, fp4, fp8)
    for name, layout in module.LAYOUTS.items()
}
