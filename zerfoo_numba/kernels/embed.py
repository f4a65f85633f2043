"""embed: out[t] = scale * table[tokens[t]].

tokens (T,) uint32, table (V, D) in any block format, out (T, D) float32.

Reference: reference.ops.embed.
version 1: one thread per element of a table as it lies in the file.
packed version 1: one thread per block of 32 of a table in a packed layout.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.warp import madd
from zerfoo_numba.ptx.instructions import shift_right
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

THREADS = 128


@functools.cache
def make_embed_kernel1(type_name):
    quant = QUANTS[type_name]
    decode, size, width = quant.decode, quant.block_size, quant.block_bytes

    @cuda.jit
    def embed_kernel1(out, table, tokens, D, scale):
        d = madd(uint32(cuda.blockIdx.x), uint32(THREADS), uint32(cuda.threadIdx.x))
        t = uint32(cuda.blockIdx.y)
        if d < D:
            blocks_per_row = uint32(D // uint32(size))
            block = madd(tokens[t], blocks_per_row, uint32(d // uint32(size)))
            value = decode(table, uint32(block * uint32(width)), uint32(d % uint32(size)))
            out[madd(t, D, d)] = float32(value * scale)

    return embed_kernel1


@functools.cache
def make_embed_packed_kernel1(type_name):
    layout = LAYOUTS[type_name]
    units, chunk_bytes = layout.units, layout.chunk_bytes
    unpack, scales, _, value = FAMILIES[type_name]

    @cuda.jit
    def embed_packed_kernel1(out, table, tokens, D, steps, scale):
        block = madd(uint32(cuda.blockIdx.x), uint32(32), uint32(cuda.threadIdx.x))
        t = uint32(cuda.blockIdx.y)
        if uint32(block << uint32(5)) < D:
            row = tokens[t]
            step = uint32(block // uint32(4 * units))
            chunk = madd(uint32(row >> uint32(3)), steps, step)
            chunk = uint64(uint64(chunk) * uint64(chunk_bytes))
            # The lane that the row's warp would give this block to, and which of its blocks it is.
            lane = uint32(uint32(uint32(row & uint32(7)) << uint32(2)) | uint32(block & uint32(3)))
            unit = uint32(uint32(block >> uint32(2)) % uint32(units))
            a, b = scales(table, chunk, unit, lane)
            bits = cuda.local.array(8, uint32)
            bits[0], bits[1], bits[2], bits[3], bits[4], bits[5], bits[6], bits[7] = unpack(
                table, chunk, unit, lane
            )
            first = madd(t, D, uint32(block << uint32(5)))
            for j in range(8):
                for k in range(4):
                    u = uint32(shift_right(bits[j], uint32(8 * k)) & uint32(255))
                    i = uint32(4 * j + k)
                    out[uint32(first + i)] = float32(value(u, a, b, i) * scale)

    return embed_packed_kernel1


def embed_packed(device, out, table, tokens, scale):
    """`table` is a PackedWeight (V, D)."""
    T, D = out.shape
    args = (out, table.data, tokens, np.uint32(D), np.uint32(table.steps), np.float32(scale))
    device.launch(make_embed_packed_kernel1(table.type), (blocks(D, 1024), T), 32, args)


def embed(device, out, table, tokens, scale):
    """`table` is a Weight: (V, D) with its block format."""
    T, D = out.shape
    args = (out, table.data, tokens, np.uint32(D), np.float32(scale))
    device.launch(make_embed_kernel1(table.type), (blocks(D, THREADS), T), THREADS, args)


def cost(T, D, type_name):
    quant = QUANTS[type_name]
    row = D // quant.block_size * quant.block_bytes
    return Cost(bytes=T * (row + 4 * D + 4), flops=T * D)
