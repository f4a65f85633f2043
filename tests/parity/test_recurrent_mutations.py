"""Rung "mutation" of the recurrent models: their classic bugs, one at a time; a check must fail."""

import functools

import numpy as np
import pytest

from tests.parity import conftest, test_layers, test_models
from tests.parity.compare import assert_close
from tests.parity.test_mutations import Mutation, fresh, mutant
from tests.parity.tolerances import MODEL
from zerfoo_numba import mixers, model, recurrent_ops


def logits(name):
    test_models.check_logits(fresh(name), name)


def layers(name):
    ids = conftest.golden_tokens(name, "long")
    test_layers.check_layers(fresh(name), conftest.golden_reference(name), ids)


def split(name):
    test_models.check_split(fresh(name), name, "short", 3)


def parts(name):
    """The long prompt, then its first tokens again, and on in pieces of 3."""
    built, ids = fresh(name), conftest.golden_tokens(name, "long")
    built.logits(ids)
    built.walk.chunk = 3
    want = conftest.golden_reference(name).logits(ids[:8])
    assert_close(name, built.logits(ids[:8]), want, MODEL[name])


@functools.cache
def on(check, name):
    return functools.partial(check, name)


_KERNELS = "zerfoo_numba.kernels."
MUTATIONS = (
    Mutation(
        "state kept at a prefill", "zerfoo_numba.cache",
        "device.write(self.whole, np.zeros(self.whole.shape, np.float32))", "pass",
        on(parts, "mamba"),
    ),
    Mutation(
        "one state for all layers", "zerfoo_numba.cache",
        "starts = i * each + np", "starts = np", on(logits, "rwkv6"),
    ),
    Mutation(
        "convolution with its taps the other way round", _KERNELS + "conv",
        "weight[madd(i, K, k)]", "weight[madd(i, K, uint32(old - k))]", on(layers, "mamba"),
    ),
    Mutation(
        "convolution state one token late", _KERNELS + "conv",
        "row = uint32(T + j)", "row = uint32(uint32(T + j) - uint32(1))", on(split, "falcon_mamba"),
    ),
    Mutation(
        "convolution state not kept", _KERNELS + "conv",
        "state[madd(j, I, i)] = value", "pass", on(split, "mamba"),
    ),
    Mutation(
        "sign of the rates", _KERNELS + "selective_scan",
        "uint32(n))] * float32(LOG2E)", "uint32(n))] * float32(-LOG2E)", on(layers, "falcon_mamba"),
    ),
    Mutation(
        "sign of the rates, any number of states", _KERNELS + "selective_scan",
        "decay = ex2(step * a", "decay = ex2(-step * a", on(layers, "mamba"),
    ),
    Mutation(
        "time step without softplus", _KERNELS + "selective_scan",
        "step = softplus(dt[at])", "step = abs(dt[at])", on(layers, "falcon_mamba"),
    ),
    Mutation(
        "gate from the half of the input", _KERNELS + "selective_scan",
        "uint32(uint32(t + uint32(1)) * I)", "uint32(t * I)", on(layers, "mamba"),
    ),
    Mutation(
        "states of the scan not kept", _KERNELS + "selective_scan",
        "state[madd(uint32(n), I, i)] = h[n]", "pass", on(split, "falcon_mamba"),
    ),
    Mutation(
        "B and C swapped", "zerfoo_numba.mixers",
        "for n in (0, 1))", "for n in (1, 0))", on(layers, "mamba"),
    ),
    Mutation(
        "time steps, B and C not normalised", "zerfoo_numba.mixers",
        "if self.sizes.normed else None", "if False else None", on(layers, "falcon_mamba"),
    ),
    Mutation(
        "norms inside without epsilon", _KERNELS + "split",
        "* rcp(float32(width)) + eps)", "* rcp(float32(width)))", on(layers, "falcon_mamba"),
    ),
    Mutation(
        "shift from the token itself", _KERNELS + "token_shift",
        "x[madd(uint32(t - uint32(1)), D, d)]) - value", "x[madd(t, D, d)]) - value",
        on(layers, "rwkv7"),
    ),
    Mutation(
        "shift state from the first token of the part", _KERNELS + "token_shift",
        "before[d] = x[madd(uint32(T - uint32(1)), D, d)]", "before[d] = value", on(split, "rwkv7"),
    ),
    Mutation(
        "shift state gone before its second reading", "zerfoo_numba.mixers_rwkv",
        "before, 1, T, keep=True)", "before, 1, T)", on(split, "rwkv6"),
    ),
    Mutation(
        "one shift state for both mixes", "zerfoo_numba.mixers_rwkv",
        'state["ffn_shift"]', 'state["attn_shift"]', on(split, "rwkv7"),
    ),
    Mutation(
        "decay of the wrong sign", _KERNELS + "wkv6",
        "float32(-LOG2E) * ex2(float32(LOG2E) * w)", "float32(-LOG2E) * ex2(float32(-LOG2E) * w)",
        on(layers, "rwkv6"),
    ),
    Mutation(
        "token itself without its bonus", _KERNELS + "wkv6",
        "us[i] * product", "product", on(layers, "rwkv6"),
    ),
    Mutation(
        "state decayed before it is read", _KERNELS + "wkv6",
        "held = state[cell]", "held = ws[i] * state[cell]", on(layers, "rwkv6"),
    ),
    Mutation(
        "decay along the values", _KERNELS + "wkv7",
        "state[cell] * ws[i]", "state[cell] * ws[j]", on(layers, "rwkv7"),
    ),
    Mutation(
        "removal key not taken away", _KERNELS + "wkv7",
        "held * bs[i] + value * ks[i]\n                state", "float32(0.0) + value * ks[i]\n"
        "                state", on(layers, "rwkv7"),
    ),
    Mutation(
        "the same with the state in registers", _KERNELS + "wkv7",
        "cells[n] * ws[i] - held * bs[i]", "cells[n] * ws[i] + held * bs[i]",
        on(layers, "rwkv7_ungated"),
    ),
    Mutation(
        "decay without its bound", _KERNELS + "wkv7_inputs",
        "ex2(float32(-FASTEST) * sigmoid(w[i]))", "ex2(float32(-1.4426951) * sigmoid(w[i]))",
        on(layers, "rwkv7"),
    ),
    Mutation(
        "values of each layer its own", "zerfoo_numba.mixers_rwkv",
        'more = self.heads(b["mix"], b["first_v"]) if i > 0 else ()', "more = ()",
        on(layers, "rwkv7"),
    ),
    Mutation(
        "unused v0, v1, v2 of the first layer used", "zerfoo_numba.mixers_rwkv",
        "if i == 0:\n            b", "if i < 0:\n            b", on(layers, "rwkv7"),
    ),
    Mutation(
        "norm over all heads", _KERNELS + "group_norm",
        "H, W = x.shape\n    r, k", "_, W = x.shape\n    H, W = 1, W * x.shape[1]\n    r, k",
        on(layers, "rwkv6"),
    ),
    Mutation(
        "model's epsilon in the norm of heads", "zerfoo_numba.mixers_rwkv",
        "GROUP_EPS = 64e-5", "GROUP_EPS = 3e-3", on(layers, "rwkv7"),
    ),
    Mutation(
        "stream never halved", "zerfoo_numba.mixers_rwkv",
        'self.ops.scale(b["x"], 0.5)', "pass", on(layers, "rwkv6"),
    ),
    Mutation(
        "halved before every n-th layer", "zerfoo_numba.mixers_rwkv",
        "or (i + 1) % often", "or i % often", on(logits, "rwkv6"),
    ),
    Mutation(
        "lerps in the order of RWKV 7", "zerfoo_numba.mixers_rwkv",
        "w, k, v, r, g = self.dynamic", "r, w, k, v, g = self.dynamic", on(layers, "rwkv6"),
    ),
    Mutation(
        "lerps of older files in the order of the gate", "zerfoo_numba.mixers_rwkv",
        'for n in "wkvrg"]', 'for n in "rkvgw"]', on(layers, "rwkv6_older"),
    ),
    Mutation(
        "no tanh between the low-rank matrices", "zerfoo_numba.mixers_rwkv",
        'self.ops.plain(low, low, "tanh")', "pass", on(layers, "rwkv6"),
    ),
    Mutation(
        "relu not squared", "zerfoo_numba.mixers_rwkv",
        '"squared_relu"', '"sigmoid"', on(layers, "rwkv7"),
    ),
)  # fmt: skip


def install(monkeypatch, mutation, module):
    """Put the mutant where its users look it up."""
    short = mutation.module.rsplit(".", 1)[-1]
    if short == "cache":
        monkeypatch.setattr(model, "RecurrentState", module.RecurrentState)
    elif short == "mixers":
        monkeypatch.setitem(mixers.MIXERS, "mamba", module.Mamba)
    elif short == "mixers_rwkv":
        monkeypatch.setitem(mixers.MIXERS, "rwkv6", module.Rwkv6)
        monkeypatch.setitem(mixers.MIXERS, "rwkv7", module.Rwkv7)
    else:
        monkeypatch.setattr(recurrent_ops, short, module)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_the_suite_notices(mutation, monkeypatch, tmp_path):
    install(monkeypatch, mutation, mutant(mutation, tmp_path))
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        mutation.check()


def test_without_a_mutation_every_check_passes():
    for check in dict.fromkeys(m.check for m in MUTATIONS):
        check()
