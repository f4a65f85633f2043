"""Tensor-core instructions: mma.sync against the fragment layouts of the PTX ISA, ldmatrix."""

import numpy as np
import pytest
from numba import cuda, float32, uint32
from numba.cuda import types

from tests.ptx.addresses import address_of
from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import ptx_op
from zerfoo_numba.ptx.emulator import KernelFault

u32, i32, u64, f32 = types.uint32, types.int32, types.uint64, types.float32

mma_f16 = ptx_op(
    (f32,) * 4, (u32,) * 6 + (f32,) * 4,
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
    "{$0,$1,$2,$3},{$4,$5,$6,$7},{$8,$9},{$10,$11,$12,$13};", volatile=True,
)  # fmt: skip
mma_s8 = ptx_op(
    (i32,) * 4, (u32,) * 6 + (i32,) * 4,
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
    "{$0,$1,$2,$3},{$4,$5,$6,$7},{$8,$9},{$10,$11,$12,$13};", volatile=True,
)  # fmt: skip
load_matrices = ptx_op(
    (u32,) * 4, (u64,),
    "{ .reg .u64 s; cvta.to.shared.u64 s, $4;"
    " ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [s]; }", memory=True,
)  # fmt: skip
load_transposed = ptx_op(
    (u32,) * 2, (u64,),
    "{ .reg .u64 s; cvta.to.shared.u64 s, $2; "
    "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {$0,$1}, [s]; }", memory=True,
)  # fmt: skip


def pair(matrix, row, column):
    """Two neighbours of a matrix of 16-bit patterns as one register."""
    return int(matrix[row, column]) | int(matrix[row, column + 1]) << 16


@pytest.mark.parametrize("kind", ["f16", "s8"])
def test_matrix_products(kind):
    """Against the fragment layouts of the PTX ISA, written out for each lane."""
    rng = np.random.default_rng(7)
    k = 16 if kind == "f16" else 32
    if kind == "f16":
        a, b = (rng.integers(-8, 9, s).astype(np.float16) for s in ((16, 16), (16, 8)))
        c = rng.integers(-8, 9, (16, 8)).astype(np.float32)
        words = a.view(np.uint16), b.T.copy().view(np.uint16)
    else:
        a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((16, 32), (32, 8)))
        c = rng.integers(-99, 99, (16, 8)).astype(np.int32)
        words = a.view(np.uint16), b.T.copy().view(np.uint16)
    half = words[0].shape[1] // 2
    left, right, start = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32), []
    for lane in range(32):
        row, column = lane // 4, 2 * (lane % 4)
        for i in range(4):
            left[lane, i] = pair(words[0], row + 8 * (i % 2), column + half * (i // 2))
        for i in range(2):
            right[lane, i] = pair(words[1], row, column + half * i)
        start.append([c[row + 8 * (i // 2), column + i % 2] for i in range(4)])
    start = np.array(start, c.dtype)
    op = mma_f16 if kind == "f16" else mma_s8

    @cuda.jit
    def kernel(a, b, c, out):
        t = cuda.threadIdx.x
        d = op(
            a[t, 0], a[t, 1], a[t, 2], a[t, 3], b[t, 0], b[t, 1], c[t, 0], c[t, 1], c[t, 2], c[t, 3]
        )
        out[t, 0], out[t, 1], out[t, 2], out[t, 3] = d

    out = np.zeros((32, 4), c.dtype)
    counters = ptx.emulate(kernel, 1, 32, left, right, start, out)
    expected = a.astype(np.int64) @ b.astype(np.int64) + c.astype(np.int64)
    for lane in range(32):
        row, column = lane // 4, 2 * (lane % 4)
        for i in range(4):
            assert out[lane, i] == expected[row + 8 * (i // 2), column + i % 2]
    assert counters.flops == 2 * 16 * 8 * k


def test_matrix_loads():
    @cuda.jit
    def kernel(x, out, turned):
        tile = cuda.shared.array((32, 8), types.uint16)
        t = cuda.threadIdx.x
        for i in range(8):
            tile[t, i] = x[t, i]
        cuda.syncthreads()
        base = address_of(tile)
        d = load_matrices(base + 16 * t)
        out[t, 0], out[t, 1], out[t, 2], out[t, 3] = d
        turned[t, 0], turned[t, 1] = load_transposed(base + 16 * (t % 16))

    x = np.random.default_rng(8).integers(0, 1 << 16, (32, 8)).astype(np.uint16)
    out, turned = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    ptx.emulate(kernel, 1, 32, x, out, turned)
    for lane in range(32):
        for m in range(4):
            assert out[lane, m] == pair(x, 8 * m + lane // 4, 2 * (lane % 4))
        for m in range(2):
            matrix = np.ascontiguousarray(x[8 * m : 8 * m + 8].T)
            assert turned[lane, m] == pair(matrix, lane // 4, 2 * (lane % 4))


@cuda.jit
def halves_only(out):
    t = cuda.threadIdx.x
    if t < 16:
        out[t] = mma_f16(
            uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint32(0),
            float32(0), float32(0), float32(0), float32(0),
        )[0]  # fmt: skip


def test_a_tensor_instruction_needs_the_whole_warp():
    with pytest.raises(KernelFault, match="without all 32 lanes"):
        ptx.emulate(halves_only, 1, 32, np.zeros(32, np.float32), checks=False)
