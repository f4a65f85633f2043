"""nonfinite: whether an array holds a number that is none, NaN or infinite.

x (n,) float32 -> flag (1,) uint32: 1 if there is one, else 0.   Reference: numpy.isfinite.

version 1: one block; each warp looks at a part of its own, then the lanes and the warps compare.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.warp import FULL, lane_id, warp_id

THREADS = 1024
LARGEST = float(np.finfo(np.float32).max)


@cuda.jit(device=True)
def warp_any(found):
    """1 if `found` is 1 in one of the 32 lanes, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        found = uint32(found | uint32(cuda.shfl_xor_sync(FULL, int32(found), distance)))
    return found


@cuda.jit
def nonfinite_kernel1(flag, x, n):
    warps = cuda.shared.array(32, uint32)
    found = uint32(0)
    part = uint32(uint32(uint32(n + uint32(THREADS - 1)) // uint32(THREADS)) << uint32(5))
    start = uint32(warp_id() * part)
    end = min(uint32(start + part), n)
    while start < end:
        i = uint32(start + lane_id())
        if i < n:
            value = x[i]
            # Of a NaN both comparisons are false.
            finite = (value >= float32(-LARGEST)) & (value <= float32(LARGEST))
            found = found if finite else uint32(1)
        start = uint32(start + uint32(32))
    found = warp_any(found)
    if lane_id() == uint32(0):
        warps[warp_id()] = found
    cuda.syncthreads()
    found = warp_any(warps[lane_id()])
    if uint32(cuda.threadIdx.x) == uint32(0):
        flag[0] = found


def nonfinite(device, flag, x):
    device.launch(nonfinite_kernel1, 1, THREADS, (flag, x, np.uint32(x.size)))


def cost(n):
    return Cost(bytes=4 * n + 4, flops=n)
