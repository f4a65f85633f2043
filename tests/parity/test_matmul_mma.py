"""The products of many tokens on tensor cores, and what they cost, counted on their PTX."""

import numpy as np
import pytest

from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.random_blocks import random_blocks
from tests.parity.test_int8 import packed_weight, quantized
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.devices.emulator import EmulatorDevice
from zerfoo_numba.kernels import matmul_mma, quantize
from zerfoo_numba.kernels.matmul_mma_slab import TOKENS
from zerfoo_numba.ops import Ops
from zerfoo_numba.quant.packed import LAYOUTS
from zerfoo_numba.weights import PackedWeight

# Thread-instructions for each product of a whole tile, and 4 % for another compiler; the same of
# `matvec_int8` with its tiles of tokens are 0.78 for Q8_0 and 0.96 for Q4_K.
REACHED = {
    "Q8_0": 0.274, "Q4_0": 0.273, "Q5_0": 0.281, "IQ4_NL": 0.287, "MXFP4": 0.288, "Q4_K": 0.317,
    "Q5_K": 0.323, "Q6_K": 0.320, "IQ4_XS": 0.292,
}  # fmt: skip


def product(device, type_name, N, K, T, seed=1):
    """(what the kernel makes, what float64 makes) of random weights, activations and biases."""
    rng = np.random.default_rng(seed)
    data = random_blocks(rng, type_name, N, K)
    x, bias = rng.standard_normal((T, K), np.float32), rng.standard_normal(N, np.float32)
    rows, values = quantized(device, x)
    out, weight = filled(device, (T, N)), packed_weight(device, data, type_name, N, K)
    matmul_mma.matmul_int8(device, out, weight, rows, device.upload(bias))
    weights = wide(dequantize(data, type_name, (K, N)))
    return device.read(out), values[:, :K] @ weights.T + bias


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_products(type_name):
    """70 rows are a block's 64 and 6, 67 tokens a tile and 3; 768 elements are six slabs."""
    got, want = product(EmulatorDevice(), type_name, 70, 768, 67)
    assert_close(type_name, got, want, OP["matvec"])


@pytest.mark.parametrize("N, K, T", [(1, 128, 1), (3, 256, 9), (37, 1152, 21), (64, 384, 70)])
def test_odd_shapes(N, K, T):
    """Also an odd number of slabs, and rows that end within the first group of a warp."""
    assert_close("Q8_0", *product(EmulatorDevice(), "Q8_0", N, K, T), OP["matvec"])


@pytest.mark.parametrize("type_name, seed", [("Q5_K", 5), ("Q4_0", 6)])
def test_no_warp_outruns_the_copies(type_name, seed):
    """Races, bounds, copies that nobody waited for, reads of what nobody wrote, in any order."""
    got, want = product(EmulatorDevice(checks=True, seed=seed), type_name, 37, 768, 66)
    assert_close(type_name, got, want, OP["matvec"])


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_what_a_tile_costs(type_name):
    device, N, K = EmulatorDevice(count=True), 128, 1280
    layout, rng = LAYOUTS[type_name], np.random.default_rng(2)
    nbytes, P = layout.packed_bytes(N, K), quantize.padded(K)
    data = device.upload(rng.integers(0, 256, nbytes, np.uint8), "weight")
    weight = PackedWeight(data, type_name, N, K, K // layout.step)
    words = device.upload(np.ones((TOKENS, P // 4), np.uint32), "x")
    scales = device.upload(np.ones((TOKENS, P // 32, 4), np.float32), "x_scales")
    out = device.empty((TOKENS, N), np.float32, "out")
    matmul_mma.matmul_int8(device, out, weight, quantize.QuantizedRows(words, scales, TOKENS))
    count = device.counters.pop()
    each = count.thread_instructions / (N * K * TOKENS)
    assert each <= 1.04 * REACHED[type_name]
    assert count.bank_conflicts == 0
    # All eight-wide tiles of all sums of 16 products, and as few sectors as there are.
    assert count.classes["tensor"] / 32 >= N / 16 * TOKENS / 8 * K / 16
    assert 32 * count.arrays["weight"].loads.sectors == nbytes
    assert 32 * count.arrays["out"].stores.sectors == 4 * N * TOKENS
    assert 32 * count.arrays["x"].loads.sectors == N // 64 * TOKENS * K


def names_of_launches(device, tokens):
    rng, launched, N, K = np.random.default_rng(3), [], 8, 256
    data = random_blocks(rng, "Q4_0", N, K)
    weight = packed_weight(device, data, "Q4_0", N, K)
    rows, values = quantized(device, rng.standard_normal((tokens, K), np.float32))
    out, launch = filled(device, (tokens, N)), device.launch
    device.launch = lambda kernel, *rest: (launched.append(kernel), launch(kernel, *rest))
    Ops(device).matmul_int8(out, weight, rows)
    want = values @ wide(dequantize(data, "Q4_0", (K, N))).T
    assert_close(f"{tokens} tokens", device.read(out), want, OP["matvec"])
    return [kernel.py_func.__name__.rpartition("_")[0] for kernel in launched]


def test_tensor_cores_are_used_where_they_are_and_pay():
    few, many = matmul_mma.FEWEST - 1, matmul_mma.FEWEST
    assert names_of_launches(EmulatorDevice(), few) == ["matvec_int8"]
    assert names_of_launches(EmulatorDevice(), many) == ["matmul_mma"]
    older = EmulatorDevice()
    older.tensor_cores = False
    assert names_of_launches(older, many) == ["matvec_int8"]
    assert names_of_launches(CpuDevice(threads=1), 24) == ["matmul_int8"]
