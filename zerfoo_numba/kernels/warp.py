"""What every kernel says about threads: where am I, and sums and maxima over the lanes of a warp.

All index arithmetic is uint32, re-cast after every operation: Numba would otherwise widen it to
64 bits and test for negative indices.
"""

from numba import cuda
from numba.cuda.types import float32, uint32

FULL = 0xFFFFFFFF


@cuda.jit(device=True)
def lane_id():
    return uint32(uint32(cuda.threadIdx.x) & uint32(31))


@cuda.jit(device=True)
def warp_id():
    return uint32(uint32(cuda.threadIdx.x) >> uint32(5))


@cuda.jit(device=True)
def madd(a, b, c):
    """a * b + c in uint32."""
    return uint32(uint32(a * b) + c)


@cuda.jit(device=True)
def warp_sum(value):
    """Sum over the 32 lanes, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(FULL, value, distance)
    return float32(value)


@cuda.jit(device=True)
def warp_max(value):
    """The largest of the 32 lanes, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_xor_sync(FULL, value, distance))
    return float32(value)


@cuda.jit(device=True)
def block_sum(value, partial):
    """Sum over the block, in every thread; `partial` is shared float32, one element per warp."""
    value = warp_sum(value)
    if lane_id() == uint32(0):
        partial[warp_id()] = value
    cuda.syncthreads()
    total = float32(0.0)
    warp = uint32(0)
    while warp < uint32(uint32(cuda.blockDim.x) >> uint32(5)):
        total += partial[warp]
        warp = uint32(warp + uint32(1))
    return total
