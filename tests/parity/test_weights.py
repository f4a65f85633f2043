"""Matrices and vectors by the names they have where each is a tensor of its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from reference.quant import dequantize
from tests.parity.compare import assert_close
from tests.parity.random_blocks import random_blocks
from tests.parity.test_int8 import quantized
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.gguf_file import GGUFFile, Tensor
from zerfoo_numba.kernels import matvec, matvec_int8
from zerfoo_numba.weights import Weights

D = 256
SIZES = SimpleNamespace(L=1, H=3, KH=1, HD=6, VD=5, F=9)
ROWS = {"attn_q": 18, "attn_k": 6, "attn_v": 5, "ffn_gate": 9, "ffn_up": 9}


def fused_file(rng, type_name):
    """One matrix for q, k and v, one for gate and up, and their biases."""
    tensors = {}
    for name, rows in (("attn_qkv", 29), ("ffn_up", 18)):
        data = random_blocks(rng, type_name, rows, D)
        tensors[f"blk.0.{name}.weight"] = Tensor((D, rows), type_name, data)
        bias = rng.standard_normal(rows, np.float32)
        tensors[f"blk.0.{name}.bias"] = Tensor((rows,), "F32", bias.view(np.uint8))
    return GGUFFile("tiny.gguf", 3, {}, tensors)


def expected_rows(file):
    """{name: (values, bias)} float64 of each part."""
    found = {}
    for fused, names in (("attn_qkv", "attn_q attn_k attn_v"), ("ffn_up", "ffn_gate ffn_up")):
        weight = file.tensors[f"blk.0.{fused}.weight"]
        values = wide(dequantize(weight.data, weight.type, weight.shape))
        bias = wide(file.tensors[f"blk.0.{fused}.bias"].data.view(np.float32))
        at = 0
        for name in names.split():
            rows = slice(at, at + ROWS[name])
            found[name], at = (values[rows], bias[rows]), rows.stop
    return found


@pytest.mark.parametrize("type_name", ["F32", "Q4_0", "Q6_K"])
def test_rows_of_a_fused_matrix(device, type_name):
    rng = np.random.default_rng(1)
    file = fused_file(rng, type_name)
    weights = Weights(device, file, SIZES)
    weights.load()
    x = rng.standard_normal((2, D), np.float32)
    for name, (values, bias) in expected_rows(file).items():
        weight = weights.matrix(f"blk.0.{name}.weight")
        assert (weight.rows, weight.columns) == values.shape
        out = filled(device, (2, len(values)))
        matvec.matmul(device, out, weight, device.upload(x), weights.vector(f"blk.0.{name}.bias"))
        assert_close(name, device.read(out), wide(x) @ values.T + bias, OP["matvec"])
    assert "blk.0.attn_qkv.weight" not in weights
    assert weights.matrix("blk.0.attn_output.weight") is None


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_K"])
def test_packed_rows_of_a_fused_matrix(device, type_name):
    rng = np.random.default_rng(2)
    file = fused_file(rng, type_name)
    weights = Weights(device, file, SIZES, pack=True)
    rows, values_of_x = quantized(device, rng.standard_normal((2, D), np.float32))
    for name, (values, bias) in expected_rows(file).items():
        weight = weights.matrix(f"blk.0.{name}.weight")
        assert weight.packed
        out, b = filled(device, (2, len(values))), weights.vector(f"blk.0.{name}.bias")
        matvec_int8.matmul_int8(device, out, weight, rows, b)
        assert_close(name, device.read(out), values_of_x @ values.T + bias, OP["matvec"])


def test_a_matrix_of_its_own_is_left_whole(device):
    rng = np.random.default_rng(3)
    data = random_blocks(rng, "F32", 9, D)
    file = GGUFFile("tiny.gguf", 3, {}, {"blk.0.ffn_up.weight": Tensor((D, 9), "F32", data)})
    weights = Weights(device, file, SIZES)
    assert "blk.0.ffn_gate.weight" not in weights
    assert weights.matrix("blk.0.ffn_up.weight").rows == 9


def test_a_norm_per_head_is_a_vector_of_rows(device):
    weight = np.arange(18, dtype=np.float32)
    name = "blk.0.attn_q_norm.weight"
    file = GGUFFile("tiny.gguf", 3, {}, {name: Tensor((6, 3), "F32", weight.view(np.uint8))})
    weights = Weights(device, file, SIZES)
    weights.load()
    np.testing.assert_array_equal(device.read(weights.vector(name)), weight.reshape(3, 6))
