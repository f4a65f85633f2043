"""embed: out[t] = scale * table[tokens[t]].

tokens (T,) uint32, table (V, D) in any block format, out (T, D) float32.

Reference: reference.ops.embed.
version 1: one thread per element of a table as it lies in the file.
packed version 1: one thread per block or two of 32 that a lane takes of a chunk, of a table in a
packed layout.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda.types import float32, uint32, uint64

from zerfoo_numba.kernels import Cost, blocks
from zerfoo_numba.kernels.block_dot import FAMILIES
from zerfoo_numba.kernels.warp import madd
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
    layout, family = LAYOUTS[type_name], FAMILIES[type_name]
    units, chunk_bytes, step = layout.units, layout.chunk_bytes, layout.step
    load, words_of, factors_of = family.load, family.words, family.factors
    level, value = family.level, family.value
    words = 16 * units

    @cuda.jit
    def embed_packed_kernel1(out, table, tokens, D, steps, scale):
        part = madd(uint32(cuda.blockIdx.x), uint32(32), uint32(cuda.threadIdx.x))
        t = uint32(cuda.blockIdx.y)
        at, quarter = uint32(part >> uint32(2)), uint32(part & uint32(3))
        if at < steps:
            row = tokens[t]
            chunk = madd(uint32(row >> uint32(3)), steps, at)
            chunk = uint64(uint64(chunk) * uint64(chunk_bytes))
            # The lane of the row's warp that has this quarter of the chunk.
            lane = uint32(uint32(uint32(row & uint32(7)) << uint32(2)) | quarter)
            record = load(table, chunk, lane)
            factors = factors_of(record)
            bits = cuda.local.array(words, uint32)
            j = uint32(0)
            for word in words_of(record):
                bits[j] = word
                j = uint32(j + uint32(1))
            start = madd(at, uint32(step), uint32(quarter << uint32(5)))
            for unit in range(units):
                d = uint32(start + uint32(128 * unit))
                if d < D:
                    first = madd(t, D, d)
                    for i in range(32):
                        u = level(bits, uint32(unit), uint32(i))
                        weight = value(u, factors, unit, i >= 16)
                        out[uint32(first + uint32(i))] = float32(weight * scale)

    return embed_packed_kernel1


def embed_packed(device, out, table, tokens, scale):
    """`table` is a PackedWeight (V, D)."""
    T, D = out.shape
    args = (out, table.data, tokens, np.uint32(D), np.uint32(table.steps), np.float32(scale))
    grid = (blocks(4 * table.steps, 32), T)
    device.launch(make_embed_packed_kernel1(table.type), grid, 32, args)


def embed(device, out, table, tokens, scale):
    """`table` is a Weight: (V, D) with its block format."""
    T, D = out.shape
    args = (out, table.data, tokens, np.uint32(D), np.float32(scale))
    device.launch(make_embed_kernel1(table.type), (blocks(D, THREADS), T), THREADS, args)


def cost(T, D, type_name):
    quant = QUANTS[type_name]
    row = D // quant.block_size * quant.block_bytes
    return Cost(bytes=T * (row + 4 * D + 4), flops=T * D)
