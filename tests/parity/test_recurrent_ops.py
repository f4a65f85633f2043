"""Rung "op" of the recurrent models: every kernel version on every device against float64 NumPy.

A scan over T tokens is also made token by token, with the state carried in the device's memory.
"""

import numpy as np
import pytest

from reference import ops as reference_ops
from reference import recurrent_ops
from tests.parity.compare import assert_close
from tests.parity.test_ops import filled, wide
from tests.parity.tolerances import OP
from zerfoo_numba.kernels import (
    activation,
    conv,
    group_norm,
    low_rank,
    selective_scan,
    split,
    token_shift,
    wkv6,
    wkv7,
    wkv7_inputs,
)


def uploaded(device, arrays):
    return {name: device.upload(array) for name, array in arrays.items()}


def rows(buffer, t):
    """Row t of a buffer (T, ...), as a buffer (1, ...)."""
    shape = (1, *buffer.shape[1:])
    return buffer.view(shape, t * int(np.prod(shape)))


@pytest.mark.parametrize("kind", ["sigmoid", "squared_relu", "tanh"])
@pytest.mark.parametrize("shape", activation.SHAPES, ids=str)
def test_activations_in_place(device, shape, kind):
    x = activation.inputs(np.random.default_rng(3), **shape)["gate"]
    x.flat[:4] = (60, -60, 0, 1e-6)
    buffer = device.upload(x)
    activation.plain(device, buffer, buffer, kind)
    want = np.tanh(wide(x)) if kind == "tanh" else getattr(recurrent_ops, kind)(wide(x))
    assert_close(kind, device.read(buffer), want, OP["activation"])


@pytest.mark.parametrize("shape", activation.SHAPES, ids=str)
def test_glu(device, shape):
    a = activation.inputs(np.random.default_rng(3), **shape)
    out = filled(device, a["gate"].shape)
    activation.gated(device, out, device.upload(a["gate"]), device.upload(a["up"]), "glu")
    want = recurrent_ops.sigmoid(wide(a["gate"])) * wide(a["up"])
    assert_close("glu", device.read(out), want, OP["activation"])


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", conv.SHAPES, ids=str)
def test_conv(device, shape, biased):
    a = conv.inputs(np.random.default_rng(1), **shape)
    T, I = shape["T"], shape["I"]
    b, out = uploaded(device, a), filled(device, (T, I))
    bias = b["bias"] if biased else None
    conv.conv(device, out, b["x"], b["weight"], bias, b["state"])
    u = np.concatenate([wide(a["state"]), wide(a["x"][:, :I])])
    bias = wide(a["bias"]) if biased else None
    want = recurrent_ops.causal_conv(u, wide(a["weight"]), bias)[-T:]
    assert_close("conv", device.read(out), want, OP["activation"])
    np.testing.assert_array_equal(device.read(b["state"]), u[T:].astype(np.float32))


@pytest.mark.parametrize("eps", [None, 3e-2])
@pytest.mark.parametrize("shape", split.SHAPES, ids=str)
def test_split(device, shape, eps):
    x = split.inputs(np.random.default_rng(1), **shape)["x"]
    R, N = shape["R"], shape["N"]
    out = filled(device, x.size)
    split.split(device, out, device.upload(x), R, N, eps)
    want = np.split(wide(x), (R, R + N), axis=1)
    if eps is not None:
        want = [reference_ops.rmsnorm(part, 1.0, eps) for part in want]
    want = np.concatenate([part.ravel() for part in want])
    assert_close("split", device.read(out), want, OP["norm"])


def test_softplus_has_its_digits_at_both_ends(device):
    """A state that was 0 and does not decay is the step times 1."""
    dt = np.linspace(-20, 20, 257, dtype=np.float32)[None]
    zero, one = np.zeros((1, 257), np.float32), np.ones((1, 257), np.float32)
    single = device.upload(np.ones((1, 1), np.float32))
    state = device.upload(zero)
    gate = device.upload(np.concatenate([zero, zero], axis=1))
    arrays = [device.upload(x) for x in (one, dt, np.ascontiguousarray(zero.T))]
    out = filled(device, (1, 257))
    skip = device.upload(zero[0])
    selective_scan.selective_scan(device, out, *arrays, single, single, skip, gate, state)
    np.testing.assert_allclose(device.read(state), np.log1p(np.exp(wide(dt))), rtol=4e-6)


def scan_arguments(b, t=None):
    """The arguments of a scan over all tokens, or over token t."""
    cut = (lambda x: x) if t is None else (lambda x: rows(x, t))
    x, dt, first, second, gate = (cut(b[n]) for n in ("x", "dt", "b", "c", "gate"))
    return x, dt, b["a"], first, second, b["d"], gate, b["state"]


def expected_scan(a):
    """Outputs (T, I), and the states afterwards (N, I), from those before."""
    a = {name: wide(array) for name, array in a.items()}
    steps, state, out = recurrent_ops.softplus(a["dt"]), a["state"].T, []
    for step, x, b, c in zip(steps, a["x"], a["b"], a["c"], strict=True):
        state = np.exp(step[:, None] * a["a"]) * state + (step * x)[:, None] * b
        out.append(state @ c + a["d"] * x)
    return np.stack(out) * reference_ops.silu(a["gate"][:, a["x"].shape[1] :]), state.T


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shape", selective_scan.SHAPES, ids=str)
def test_selective_scan(device, shape, version):
    a = selective_scan.inputs(np.random.default_rng(1), **shape)
    out, state = expected_scan(a)
    b, got = uploaded(device, a), filled(device, out.shape)
    selective_scan.selective_scan(device, got, *scan_arguments(b), version=version)
    assert_close("scan", device.read(got), out, OP["scan"])
    assert_close("state", device.read(b["state"]), state, OP["scan"])
    b, apart = uploaded(device, a), filled(device, out.shape)
    for t in range(shape["T"]):
        here = scan_arguments(b, t)
        selective_scan.selective_scan(device, rows(apart, t), *here, version=version)
    np.testing.assert_array_equal(device.read(apart), device.read(got))


def test_the_reference_scan_is_the_recurrence_from_a_zero_state():
    a = selective_scan.inputs(np.random.default_rng(2), T=9, I=7, N=3)
    a["state"][:] = 0
    x, dt, rates, b, c, d, gate = (wide(a[n]) for n in ("x", "dt", "a", "b", "c", "d", "gate"))
    got = recurrent_ops.selective_scan(x, recurrent_ops.softplus(dt), rates, b, c, d)
    want = expected_scan(a)[0]
    np.testing.assert_allclose(got * reference_ops.silu(gate[:, 7:]), want, rtol=1e-9)


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shape", token_shift.SHAPES, ids=str)
def test_token_shift(device, shape, keep, varied):
    a = token_shift.inputs(np.random.default_rng(1), **shape)
    b = uploaded(device, a)
    out = b["more"] if varied else filled(device, a["more"].shape)
    more = b["more"] if varied else None
    token_shift.token_shift(device, out, b["x"], b["before"], b["mix"], more, keep)
    x = wide(np.concatenate([a["before"][None], a["x"]]))
    mix = wide(a["mix"])[:, None] + (wide(a["more"]) if varied else 0)
    want = x[1:] + (x[:-1] - x[1:]) * mix
    assert_close("token_shift", device.read(out), want, OP["norm"])
    kept = a["before"] if keep else a["x"][-1]
    np.testing.assert_array_equal(device.read(b["before"]), kept)


@pytest.mark.parametrize("shape", low_rank.SHAPES, ids=str)
def test_low_rank(device, shape):
    a = low_rank.inputs(np.random.default_rng(1), **shape)
    b, out = uploaded(device, a), filled(device, (shape["M"], shape["T"], shape["D"]))
    low_rank.low_rank(device, out, b["weight"], b["x"])
    want = np.einsum("tmr,mdr->mtd", wide(a["x"]), wide(a["weight"]))
    assert_close("low_rank", device.read(out), want, OP["matvec"])


@pytest.mark.parametrize("gating", group_norm.GATINGS)
@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("shape", group_norm.SHAPES, ids=str)
def test_group_norm(device, shape, bonus, gating):
    a = group_norm.inputs(np.random.default_rng(1), **shape)
    a["x"] += np.float32(2)
    b, out = uploaded(device, a), filled(device, a["x"].shape)
    more = tuple(b[n] for n in ("r", "k", "v", "first")) if bonus else None
    gate = None if gating is None else b["gate"]
    arrays = (b["x"], b["weight"], b["bias"])
    group_norm.group_norm(device, out, *arrays, 64e-5, gate, gating, more)
    want = reference_ops.layernorm(wide(a["x"]), wide(a["weight"]), wide(a["bias"]), 64e-5)
    if bonus:
        share = np.sum(wide(a["r"]) * wide(a["k"]) * wide(a["first"]), axis=-1, keepdims=True)
        want = want + share * wide(a["v"])
    if gating is not None:
        want = want * (reference_ops.silu(wide(a["gate"])) if gating == "silu" else wide(a["gate"]))
    assert_close("group_norm", device.read(out), want, OP["norm"])


def expected_wkv6(r, k, v, w, first, state):
    """Outputs (T, H, W), and the states afterwards (H, key, value)."""
    out = []
    for t, decay in enumerate(np.exp(-np.exp(w))):
        product = np.einsum("hk,hv->hkv", k[t], v[t])
        out.append(np.einsum("hk,hkv->hv", r[t], state + first[..., None] * product))
        state = decay[..., None] * state + product
    return np.stack(out), state


def expected_wkv7(r, k, v, decay, removal, taken, state):
    """The same from the matrix that acts on the state, made whole (H, key, key)."""
    out, state = [], state.swapaxes(1, 2)
    for t in range(len(r)):
        kept = np.stack([np.diag(d) for d in decay[t]])
        change = kept - np.einsum("hi,hj->hij", removal[t], taken[t])
        state = state @ change + np.einsum("hv,hk->hvk", v[t], k[t])
        out.append(np.einsum("hvk,hk->hv", state, r[t]))
    return np.stack(out), state.swapaxes(1, 2)


WKV = {
    6: (wkv6, wkv6.wkv6, ("r", "k", "v", "w"), ("first",), expected_wkv6),
    7: (wkv7, wkv7.wkv7, ("r", "k", "v", "decay", "removal", "taken"), (), expected_wkv7),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shape", wkv6.SHAPES, ids=str)
@pytest.mark.parametrize("generation", WKV)
def test_wkv(device, generation, shape, version):
    module, launch, per_token, per_head, expected = WKV[generation]
    a = module.inputs(np.random.default_rng(1), **shape)
    out, state = expected(*(wide(a[n]) for n in (*per_token, *per_head, "state")))
    b, got = uploaded(device, a), filled(device, out.shape)
    launch(device, got, *(b[n] for n in (*per_token, *per_head, "state")), version=version)
    assert_close("wkv", device.read(got), out, OP["scan"])
    assert_close("state", device.read(b["state"]), state, OP["scan"])
    b, apart = uploaded(device, a), filled(device, out.shape)
    for t in range(shape["T"]):
        here = [rows(b[n], t) for n in per_token] + [b[n] for n in (*per_head, "state")]
        launch(device, rows(apart, t), *here, version=version)
    np.testing.assert_array_equal(device.read(apart), device.read(got))


def test_the_reference_wkvs_are_the_recurrences_from_a_zero_state():
    rng = np.random.default_rng(3)
    for generation, (module, _, per_token, per_head, expected) in WKV.items():
        a = {n: wide(x) for n, x in module.inputs(rng, T=9, H=2, W=6).items()}
        a["state"][:] = 0
        want = expected(*(a[n] for n in (*per_token, *per_head, "state")))[0]
        if generation == 6:
            got = recurrent_ops.wkv6(a["r"], a["k"], a["v"], np.exp(-np.exp(a["w"])), a["first"])
        else:
            keys = (a[n] for n in ("r", "k", "v", "decay", "removal"))
            got = recurrent_ops.wkv7(*keys, a["taken"] / a["removal"])
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("shape", wkv7_inputs.SHAPES, ids=str)
def test_wkv7_inputs(device, shape, mixed):
    a = wkv7_inputs.inputs(np.random.default_rng(1), **shape)
    b = uploaded(device, a)
    removal, taken = (filled(device, a["k"].shape) for _ in range(2))
    others = (b["mix"], b["first_v"]) if mixed else ()
    arrays = (b[n] for n in ("w", "k", "v", "a", "remove", "renew"))
    wkv7_inputs.wkv7_inputs(device, *arrays, removal, taken, *others)
    a = {name: wide(array) for name, array in a.items()}
    rate = recurrent_ops.sigmoid(a["a"])
    want = {"removal": recurrent_ops.unit(a["k"] * a["remove"])}
    want["taken"] = want["removal"] * rate
    want["k"] = a["k"] * (1 + (rate - 1) * a["renew"])
    want["w"] = np.exp(-np.exp(-0.5) * recurrent_ops.sigmoid(a["w"]))
    share = recurrent_ops.sigmoid(a["mix"]) if mixed else 0
    want["v"] = a["v"] + (a["first_v"] - a["v"]) * share
    got = b | {"removal": removal, "taken": taken}
    for name, array in want.items():
        assert_close(name, device.read(got[name]), array, OP["norm"])


def test_a_key_without_length_has_no_direction(device):
    a = wkv7_inputs.inputs(np.random.default_rng(1), 1, 2, 32)
    a["k"][0, 0] = 0
    b = uploaded(device, a)
    removal, taken = (filled(device, (1, 2, 32)) for _ in range(2))
    arrays = (b[n] for n in ("w", "k", "v", "a", "remove", "renew"))
    wkv7_inputs.wkv7_inputs(device, *arrays, removal, taken)
    for buffer in (removal, taken):
        assert not device.read(buffer)[0, 0].any()
        assert device.read(buffer)[0, 1].all()
