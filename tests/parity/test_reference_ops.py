"""The reference's operations against element-by-element Python, in float64.

The goldens prove what their models use; this covers every option, whether a model uses it or not.
"""

import cmath
import math

import numpy as np
import pytest

from reference import ops
from zerfoo_numba.config import Rope, Yarn

CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 5), (1, 1)])
def test_rmsnorm(rng, shape):
    x, weight = rng.normal(size=shape), rng.normal(size=shape[-1])
    y = ops.rmsnorm(x, weight, 0.01)
    for index in np.ndindex(shape):
        row = x[index[:-1]]
        root = math.sqrt(math.fsum(v * v for v in row) / len(row) + 0.01)
        assert y[index] == pytest.approx(x[index] / root * weight[index[-1]], abs=1e-12)


@pytest.mark.parametrize("with_bias", [False, True])
def test_layernorm_with_a_weight_row_per_head(rng, with_bias):
    x, weight = rng.normal(3, 2, size=(4, 2, 6)), rng.normal(size=(2, 6))
    bias = rng.normal(size=(2, 6)) if with_bias else None
    y = ops.layernorm(x, weight, bias, 0.02)
    for t, h, i in np.ndindex(x.shape):
        row = x[t, h]
        mean = math.fsum(row) / 6
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in row) / 6 + 0.02)
        expected = (row[i] - mean) / deviation * weight[h, i] + (bias[h, i] if with_bias else 0)
        assert y[t, h, i] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["half", "interleaved"])
@pytest.mark.parametrize("dims", [8, 6, 2])
def test_rope_turns_each_pair_as_a_complex_number(rng, kind, dims):
    x, factors = rng.normal(size=(5, 2, 8)), rng.uniform(1, 4, size=dims // 2)
    positions = np.array([0, 1, 2, 700, 100_000])
    scaled = Rope(kind, dims, 500.0, factor=8.0, attn_factor=1.5)
    cos, sin = ops.rope_table(positions, scaled, factors)
    y = ops.rope(x, cos, sin, kind)
    np.testing.assert_array_equal(y[..., dims:], x[..., dims:])
    for t, h, i in np.ndindex(5, 2, dims // 2):
        a, b = (i, i + dims // 2) if kind == "half" else (2 * i, 2 * i + 1)
        angle = positions[t] / 8 * 500 ** (-2 * i / dims) / factors[i]
        turned = complex(x[t, h, a], x[t, h, b]) * cmath.exp(1j * angle) * 1.5
        assert (y[t, h, a], y[t, h, b]) == pytest.approx((turned.real, turned.imag), abs=1e-10)


@pytest.mark.parametrize("context", [4, 32, 1000, 10**6])
@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (1.5, 0.2), (4.0, 4.0)])
def test_yarn_keeps_pairs_that_turn_fast_and_stretches_slow_ones(context, fast, slow):
    rope = Rope("half", 32, 500.0, 8.0, Yarn(context, fast, slow))
    position = 1e-4  # where a sine is its angle
    _, sin = ops.rope_table([position], rope)
    share = (sin[0] / position * 500.0 ** (np.arange(16) / 16) - 1 / 8) / (1 - 1 / 8)
    np.testing.assert_allclose(share, ops.yarn_share(rope), atol=1e-7)
    turns = context * 500.0 ** -(np.arange(16) / 16) / (2 * math.pi)
    assert np.all(np.diff(share) <= 1e-7)  # the faster a pair turns, the more is kept
    np.testing.assert_allclose(share[np.flatnonzero(turns >= fast)[:-1]], 1, atol=1e-7)
    np.testing.assert_allclose(share[np.flatnonzero(turns <= slow)[1:]], 0, atol=1e-7)


def test_the_share_falls_linearly_between_rounded_pairs():
    # pair i turns 32 · 500^(-i/8) / 2π times: 1.5 between pairs 1 and 2, 0.2 between 4 and 5
    share = ops.yarn_share(Rope("half", 16, 500.0, 4.0, Yarn(32, 1.5, 0.2)))
    np.testing.assert_allclose(share, [1, 1, 0.75, 0.5, 0.25, 0, 0, 0], atol=1e-12)


def test_rope_refuses_a_kind_it_does_not_know(rng):
    cos, sin = ops.rope_table([0], Rope("half", 4, 10.0))
    with pytest.raises(ValueError, match="neox"):
        ops.rope(rng.normal(size=(1, 1, 4)), cos, sin, "neox")


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize(("tokens", "length"), [(6, 6), (1, 6), (4, 7), (1, 1)])
def test_attention(rng, window, cap, tokens, length):
    q, k = rng.normal(size=(tokens, 6, 4)), rng.normal(size=(length, 2, 4))
    v = rng.normal(size=(length, 2, 3))  # a value head may be narrower than a key head
    y = ops.attention(q, k, v, 0.7, window, cap)
    assert y.shape == (tokens, 6, 3)
    for t, h in np.ndindex(tokens, 6):
        position, group = length - tokens + t, h // 3
        first = 0 if window is None else max(0, position - window + 1)
        scores = [math.fsum(q[t, h] * k[s, group]) * 0.7 for s in range(first, position + 1)]
        if cap is not None:
            scores = [cap * math.tanh(score / cap) for score in scores]
        weights = [math.exp(score) for score in scores]
        total = math.fsum(weights)
        for i in range(3):
            values = (w * v[first + s, group, i] for s, w in enumerate(weights))
            assert y[t, h, i] == pytest.approx(math.fsum(values) / total, abs=1e-12)


def test_softmax_of_large_and_hidden_scores():
    y = ops.softmax(np.array([[1000.0, 1000.0, -np.inf], [-1000.0, -np.inf, -np.inf]]))
    np.testing.assert_allclose(y, [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], **CLOSE)


ACTIVATIONS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x / (1 + math.exp(-math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = np.linspace(-9, 9, 181)
    expected = [ACTIVATIONS[name](float(v)) for v in x]
    np.testing.assert_allclose(getattr(ops, name)(x), expected, **CLOSE)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_of_huge_values(name, dtype):
    x = np.array([-1e4, 0, 1e4], dtype)
    y = getattr(ops, name)(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, [0, 0, 1e4])


def test_gated_activations_act_on_the_gate(rng):
    gate, up = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    np.testing.assert_allclose(ops.swiglu(gate, up), ops.silu(gate) * up, **CLOSE)
    np.testing.assert_allclose(ops.geglu(gate, up), ops.gelu_tanh(gate) * up, **CLOSE)
    assert np.abs(ops.swiglu(up, gate) - ops.swiglu(gate, up)).max() > 0.1
