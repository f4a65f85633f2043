"""The integer matvec on long rows: how they are dealt to warps, and what is left of a batch."""

import numpy as np
import pytest

from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.test_int8 import packed_weight, quantized, random_blocks
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.kernels import matvec_int8
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

SHAPES = ((9, 1152), (11, 4352), (3, 16640))


@pytest.mark.slow_on_cpu
@pytest.mark.parametrize("type_name", LAYOUTS)
@pytest.mark.parametrize("N, K", SHAPES)
def test_long_rows(device, type_name, N, K):
    if K % QUANTS[type_name].block_size:
        K += 128
    rng = np.random.default_rng(N)
    data = random_blocks(rng, type_name, N, K)
    weight = packed_weight(device, data, type_name, N, K)
    weights = wide(dequantize(data, type_name, (K, N)))
    x = rng.standard_normal((5, K), np.float32)
    results = []
    for T in (1, 5):
        rows, values = quantized(device, x[:T])
        out = filled(device, (T, N))
        matvec_int8.matmul_int8(device, out, weight, rows)
        results.append(device.read(out))
        want = values[:, :K] @ weights.T
        assert_close(f"{type_name} {N}x{K} T={T}", results[-1], want, OP["matvec"])
    # One token and a tile of them add up in the same order.
    np.testing.assert_array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 12, 34, 54, 130, 2000])
@pytest.mark.parametrize("N", [1, 8, 1152, 14336, 262144])
@pytest.mark.parametrize("ahead", [4, 8])
def test_every_chunk_is_dealt_once(N, steps, ahead):
    warps, part = matvec_int8.deal(N, steps, ahead)
    assert 1 <= warps <= matvec_int8.WARPS_MOST
    counts = [min(part, steps - first) for first in range(0, warps * part, part)]
    assert sum(counts) == steps and min(counts) > 0
    if N >= 8 * matvec_int8.WARPS_WANTED:
        assert warps == 1
    if warps > 1:  # no warp is there for less than a batch
        assert part >= ahead / 2


def test_rows_are_dealt_as_the_shapes_need():
    assert matvec_int8.deal(6912, 9, 8) == (1, 9)
    assert matvec_int8.deal(1152, 54, 8) == (7, 8)
    assert matvec_int8.deal(4096, 112, 8) == (2, 56)
    assert matvec_int8.deal(14336, 32, 8) == (1, 32)
