"""argmax: the greedy token, chosen and recorded on the device; the position moves on by `step`.

logits (V,) float32; token (1,), position (1,), history (S + 1,) uint32: token[0] = argmax(logits),
the lowest index among equals; position[0] += step; history[position[0]] = token[0].
advance: position[0] += count.   Reference: numpy.argmax.

version 1: one block; each warp walks a part of its own, then the lanes and the warps compare.
"""

import numpy as np
from numba import cuda
from numba.cuda.types import float32, int32, uint32

from zerfoo_numba.kernels import Cost
from zerfoo_numba.kernels.warp import FULL, lane_id, warp_id

THREADS = 1024


@cuda.jit(device=True)
def better(value, index, best, best_index):
    # Without `or` and `and`, which would branch: neighbouring lanes differ here.
    return (value > best) | ((value == best) & (index < best_index))


@cuda.jit(device=True)
def warp_best(value, index):
    """The best (value, index) over the lanes, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        other = cuda.shfl_xor_sync(FULL, value, distance)
        other_index = uint32(cuda.shfl_xor_sync(FULL, int32(index), distance))
        wins = better(other, other_index, value, index)
        value, index = (other, other_index) if wins else (value, index)
    return value, index


@cuda.jit
def argmax_kernel1(token, position, history, logits, V, step):
    thread = uint32(cuda.threadIdx.x)
    values = cuda.shared.array(32, float32)
    indices = cuda.shared.array(32, uint32)
    value = float32(-np.inf)
    index = uint32(0)
    part = uint32(uint32(uint32(V + uint32(THREADS - 1)) // uint32(THREADS)) << uint32(5))
    start = uint32(warp_id() * part)
    end = min(uint32(start + part), V)
    while start < end:
        v = uint32(start + lane_id())
        if v < V:
            candidate = logits[v]
            index = v if candidate > value else index
            value = candidate if candidate > value else value
        start = uint32(start + uint32(32))
    value, index = warp_best(value, index)
    if lane_id() == uint32(0):
        values[warp_id()] = value
        indices[warp_id()] = index
    cuda.syncthreads()
    value, index = warp_best(values[lane_id()], indices[lane_id()])
    if thread == uint32(0):
        following = uint32(position[0] + step)
        token[0] = index
        position[0] = following
        history[following] = index


@cuda.jit
def advance_kernel1(position, count):
    if uint32(cuda.threadIdx.x) == uint32(0):
        position[0] = uint32(position[0] + count)


def argmax(device, token, position, history, logits, step):
    """`step`: 1 after a decode step, 0 after a prefill, which has moved the position already."""
    args = (token, position, history, logits, np.uint32(logits.size), np.uint32(step))
    device.launch(argmax_kernel1, 1, THREADS, args)


def advance(device, position, count):
    device.launch(advance_kernel1, 1, 32, (position, np.uint32(count)))


def cost(V):
    return Cost(bytes=4 * V + 12, flops=V)
