"""The products of many tokens at a time, as a device whose loads broadcast makes them."""

import numpy as np
import pytest

from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.random_blocks import random_blocks
from tests.parity.test_int8 import packed_weight, quantized
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.kernels import matmul, matmul_int8
from zerfoo_numba.ops import Ops
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS
from zerfoo_numba.weights import Weight

T = 7  # a tile of tokens, and part of one


@pytest.mark.parametrize("type_name", QUANTS)
def test_matmul(device, type_name):
    """33 rows are a warp's and one more; 768 elements are three segments."""
    rng = np.random.default_rng(6)
    for N, K in ((33, 256), (3, 768)):
        K = K - 27 if QUANTS[type_name].block_size == 1 else K
        data = random_blocks(rng, type_name, N, K)
        x, bias = rng.standard_normal((T, K), np.float32), rng.standard_normal(N, np.float32)
        out = filled(device, (T, N))
        weight = Weight(device.upload(data), type_name, N, K)
        matmul.matmul(device, out, weight, device.upload(x), device.upload(bias))
        want = wide(x) @ wide(dequantize(data, type_name, (K, N))).T + bias
        assert_close(f"{type_name} {N}x{K}", device.read(out), want, OP["matvec"])


@pytest.mark.parametrize("type_name", LAYOUTS)
def test_matmul_int8(device, type_name):
    """37 rows are four groups of eight, and a warp with one and with a part of one; 1280 elements
    are two segments and half of one."""
    rng = np.random.default_rng(7)
    for N, K in ((37, 256), (3, 1280)):
        data = random_blocks(rng, type_name, N, K)
        x, bias = rng.standard_normal((T, K), np.float32), rng.standard_normal(N, np.float32)
        rows, values = quantized(device, x)
        out = filled(device, (T, N))
        weight = packed_weight(device, data, type_name, N, K)
        matmul_int8.matmul_int8(device, out, weight, rows, device.upload(bias))
        want = values[:, :K] @ wide(dequantize(data, type_name, (K, N))).T + bias
        assert_close(f"{type_name} {N}x{K}", device.read(out), want, OP["matvec"])


@pytest.mark.parametrize("tokens", [1, 23, matmul.PART + 3])
def test_a_cpu_takes_the_faster_way(tokens):
    """Either way gives the same numbers; many tokens take one launch, whatever their number."""
    device, rng, N, K = CpuDevice(threads=2), np.random.default_rng(8), 64, 256
    data = random_blocks(rng, "Q4_K", N, K)
    x, ops, launched = rng.standard_normal((tokens, K), np.float32), Ops(device), []
    plain, packed = (
        Weight(device.upload(data), "Q4_K", N, K),
        packed_weight(device, data, "Q4_K", N, K),
    )
    rows, values = quantized(device, x)
    out, other = filled(device, (tokens, N)), filled(device, (tokens, N))
    launch = device.launch
    device.launch = lambda kernel, *rest: (launched.append(kernel), launch(kernel, *rest))
    ops.matmul(out, plain, device.upload(x))
    ops.matmul_int8(other, packed, rows)
    names = [kernel.py_func.__name__ for kernel in launched]
    wanted = "matmul" if tokens >= matmul.FEWEST else "matvec"
    wanted_int8 = "matmul_int8" if tokens >= matmul_int8.FEWEST else "matvec_int8"
    assert [name.rpartition("_")[0] for name in names] == [wanted, wanted_int8]
    weights = wide(dequantize(data, "Q4_K", (K, N))).T
    assert_close("float", device.read(out), wide(x) @ weights, OP["matvec"])
    assert_close("int8", device.read(other), values[:, :K] @ weights, OP["matvec"])


@pytest.mark.parametrize("T, K", [(40, 512), (300, 1280)])
def test_tokens_do_not_disturb_each_other(T, K):
    """The sums of a token are the same bits among any others."""
    device, rng, N = CpuDevice(threads=16), np.random.default_rng(9), 40
    data = random_blocks(rng, "Q5_0", N, K)
    x = rng.standard_normal((T, K), np.float32)
    plain, packed = (
        Weight(device.upload(data), "Q5_0", N, K),
        packed_weight(device, data, "Q5_0", N, K),
    )
    found = []
    for part in (x, x[5 : T - 3]):
        rows, _ = quantized(device, part)
        out, other = filled(device, (len(part), N)), filled(device, (len(part), N))
        matmul.matmul(device, out, plain, device.upload(part))
        matmul_int8.matmul_int8(device, other, packed, rows)
        found.append((device.read(out), device.read(other)))
    for whole, some in zip(*found, strict=True):
        np.testing.assert_array_equal(whole[5 : T - 3], some)


@pytest.mark.parametrize("T", [9, 256, 300, 2000])
@pytest.mark.parametrize("N", [8, 256, 1152, 262144])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_every_thread_has_work_where_there_are_tokens_enough(threads, N, T):
    part = matmul.part_of(threads, N, T)
    assert matmul.PART_LEAST <= part <= matmul.PART
    blocks = -(-N // matmul.LANES) * -(-T // part)
    assert blocks >= threads or part == matmul.PART_LEAST
