"""Rung "mutation": the classic bugs, patched in one at a time; for each a check must fail.

A mutation replaces a piece of a module's source, which must occur there, and loads the result under
the module's own name in the places that use it.
"""

import functools
import importlib
import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parity import conftest, test_layers, test_models, test_ops
from zerfoo_numba import model, ops, quant, session
from zerfoo_numba.devices import open_device
from zerfoo_numba.kernels import attention, embed, matvec

GQA = "gemma3_Q4_K_M"  # 8 query heads on 2 key heads, eps 3e-3, a scaled global rope
_serial = itertools.count()


def fresh(name, **options):
    return conftest.golden_model.__wrapped__(name, "emulator", **options)


def logits(name=GQA):
    test_models.check_logits(fresh(name), name)


def layers(name=GQA):
    ids = conftest.golden_tokens(name, "long")
    test_layers.check_layers(fresh(name), conftest.golden_reference(name), ids)


def split(name=GQA):
    test_models.check_split(fresh(name), name, "short", 4)


def later(name=GQA):
    test_models.check_split(fresh(name), name, "long", 36)


def greedy(name="gemma3_default"):
    built = fresh(name)
    ids = conftest.golden_tokens(name, "short")
    assert built.greedy_ids(ids, 6) == test_models.greedy_by_prefill(built, ids, 6)


def growing(name="phi3_longrope"):
    test_models.check_split(fresh(name), name, "long", 36)
    test_models.check_split(fresh(name), name, "long", 8)


@functools.cache
def on(check, name):
    """The same check of another golden."""
    return functools.partial(check, name)


def product(type_name):
    return lambda: test_ops.test_matmul(open_device("emulator"), type_name, 1)


def tie():
    test_ops.test_argmax(open_device("emulator"), 5000)


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in `module`; `check` must then fail."""

    name: str
    module: str
    old: str
    new: str
    check: object


MUTATIONS = (
    Mutation(
        "rope offset of later layers taken after layer 0 moved its cursor", "zerfoo_numba.model",
        "cache, table = self.cache.layers[i], self.tables[layer.rope]",
        "cache, table = self.cache.layers[i], shifted(self.tables[layer.rope], T if i else 0)",
        split,
    ),
    Mutation(
        "query heads tiled over key heads, not repeated", "zerfoo_numba.kernels.attention_tile",
        "madd(kh, G, h)", "madd(h, uint32(H // G), kh)", logits,
    ),
    Mutation(
        "K-quant nibbles interleaved 2j, 2j+1", "zerfoo_numba.quant.kquants",
        "byte = u8_at(w, u32(qs + u32(u32(i >> u32(6)) << u32(5)) + u32(i & u32(31))))\n"
        "    return nibble(byte, u32(u32(i >> u32(5)) & u32(1)))",
        "byte = u8_at(w, u32(qs + u32(i >> u32(1))))\n    return nibble(byte, u32(i & u32(1)))",
        product("Q4_K"),
    ),
    Mutation(
        "Q6_K high bits taken from the wrong half", "zerfoo_numba.quant.kquants",
        "half = u32(u32(i >> u32(7)) << u32(5))", "half = u32(0)", product("Q6_K"),
    ),
    Mutation(
        "position stale on replay", "zerfoo_numba.kernels.argmax",
        "position[0] = following", "pass", greedy,
    ),
    Mutation(
        "window one too wide", "zerfoo_numba.kernels.attention_tile",
        "first, last = first_key(p, window), p",
        "first, last = uint32(max(first_key(p, window), uint32(1)) - uint32(1)), p", logits,
    ),
    Mutation(
        "window one too narrow", "zerfoo_numba.kernels.attention_tile",
        "first, last = first_key(p, window), p",
        "last, passed = p, uint32(window != uint32(0) and p >= window)\n"
        "    first = uint32(first_key(p, window) + passed)",
        logits,
    ),
    Mutation(
        "a decode step without its own key", "zerfoo_numba.kernels.attention_decode",
        "uint32(position[0] + uint32(1))", "uint32(max(position[0], uint32(1)))", split,
    ),
    Mutation(
        "a decode step's window one too wide", "zerfoo_numba.kernels.attention_decode",
        "oldest = first_key(position[0], window)",
        "oldest = uint32(max(first_key(position[0], window), uint32(1)) - uint32(1))", later,
    ),
    Mutation(
        "query heads of a decode step in one tile", "zerfoo_numba.kernels.attention_decode",
        "kh, first_head = uint32(pair // tiles)", "kh, first_head = uint32(0)", split,
    ),
    Mutation(
        "a prefill that sees the future", "zerfoo_numba.kernels.attention_tile",
        "first, last = first_key(p, window), p",
        "first, last = first_key(p, window), uint32(p + uint32(3))", logits,
    ),
    Mutation(
        "no epsilon in the norm", "zerfoo_numba.kernels.rmsnorm",
        "partial) * mean_factor + eps", "partial) * mean_factor", layers,
    ),
    Mutation(
        "no epsilon in the head norm", "zerfoo_numba.kernels.rope",
        "mean_factor + eps)", "mean_factor)", layers,
    ),
    Mutation(
        "pairs of the other rope convention", "zerfoo_numba.kernels.rope",
        'interleaved = pairs == "interleaved"', 'interleaved = pairs != "interleaved"', layers,
    ),
    Mutation(
        "k normalised with the weight of q", "zerfoo_numba.kernels.rope",
        "offset, k_weight, row", "offset, q_weight, row", layers,
    ),
    Mutation(
        "embedding not scaled", "zerfoo_numba.model", "config.embed_scale)", "1.0)", logits,
    ),
    Mutation(
        "local layers rotated with the global base", "zerfoo_numba.model",
        "self.tables[layer.rope]", "self.tables[config.layers[-1].rope]", logits,
    ),
    Mutation(
        "post norm skipped", "zerfoo_numba.model",
        'self.norm(b["result"], b["result"], name)', "pass", layers,
    ),
    Mutation(
        "silu for gelu", "zerfoo_numba.kernels.activation",
        "make_gated_kernel1(gelu_tanh)", "make_gated_kernel1(silu)", layers,
    ),
    Mutation(
        "feed-forward of a parallel block reads the sum", "zerfoo_numba.model",
        'self.norm(b["normed"], b["x"], name)\n        self.ops.add(b["x"], b["result"])',
        'self.add_norm(b["normed"], b["x"], b["result"], name)', on(layers, "falcon_40b"),
    ),
    Mutation(
        "gate and up swapped in one matrix", "zerfoo_numba.weights",
        '(("gate", c.F), ("up", c.F))', '(("up", c.F), ("gate", c.F))', on(layers, "phi3"),
    ),
    Mutation(
        "keys and values swapped in one matrix", "zerfoo_numba.weights",
        '("k", c.KH * c.HD), ("v", c.KH * c.VD)', '("v", c.KH * c.VD), ("k", c.KH * c.HD)',
        on(layers, "falcon"),
    ),
    Mutation(
        "variance about zero", "zerfoo_numba.kernels.layernorm",
        "squares += value * value", "squares += (value + mean) * (value + mean)",
        on(layers, "commandr"),
    ),
    Mutation(
        "bias of the norm left out", "zerfoo_numba.kernels.layernorm",
        "value += bias[d]", "pass", on(layers, "falcon"),
    ),
    Mutation(
        "one row of norm weights for all heads", "zerfoo_numba.kernels.rope",
        "len(weight.shape) == 2", "False", on(layers, "commandr_qk_norm"),
    ),
    Mutation(
        "gelu by its tanh form", "zerfoo_numba.kernels.activation",
        "make_plain_kernel1(gelu)", "make_plain_kernel1(gelu_tanh)", on(layers, "falcon"),
    ),
    Mutation(
        "logits not scaled", "zerfoo_numba.model",
        "self.config.logit_scale)", "1.0)", on(logits, "commandr"),
    ),
    Mutation(
        "attention factor left out", "zerfoo_numba.rope_tables",
        "rope.attn_factor * f(angle)", "f(angle)", on(layers, "llama_yarn"),
    ),
    Mutation(
        "YaRN's ramp from the other end", "zerfoo_numba.rope_tables",
        "trained * (1 - divided) + trained / rope.factor * divided",
        "trained * divided + trained / rope.factor * (1 - divided)", on(layers, "llama_yarn"),
    ),
    Mutation(
        "long factors for every sequence", "zerfoo_numba.rope_tables",
        "length > rope.long_factors.context", "True", on(logits, "phi3_longrope"),
    ),
    Mutation(
        "cache kept when the factors change", "zerfoo_numba.model",
        "if not self.tables.fit(length) or not cached:", "if self.tables.fit(length) or True:",
        growing,
    ),
    Mutation(
        "the last of equal logits wins", "zerfoo_numba.kernels.argmax",
        "(value == best) & (index < best_index)", "(value == best) & (index > best_index)", tie,
    ),
)  # fmt: skip


def mutant(mutation, folder):
    """The module with the mutation in it, loaded beside the real one."""
    path = importlib.util.find_spec(mutation.module).origin
    source = Path(path).read_text()
    assert mutation.old in source, "the mutation no longer applies: its text is gone"
    copy = folder / f"mutant_{next(_serial)}.py"
    copy.write_text(source.replace(mutation.old, mutation.new) + HELP)
    spec = importlib.util.spec_from_file_location(copy.stem, copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HELP = '''

def shifted(table, rows):
    """The rope table as a walk would see it whose cursor is `rows` too far."""
    from zerfoo_numba.rope_tables import RopeTable

    half = table.dims // 2
    cut = lambda b: b.view((b.shape[0] - rows, half), rows * half)
    return RopeTable(cut(table.cos), cut(table.sin), table.dims, table.pairs)
'''


def install(monkeypatch, mutation, module):
    """Put the mutant where its users look it up."""
    short = mutation.module.rsplit(".", 1)[-1]
    if mutation.module == "zerfoo_numba.model":
        monkeypatch.setattr(session, "Walk", module.Walk)
    elif mutation.module in ("zerfoo_numba.weights", "zerfoo_numba.rope_tables"):
        name = "Weights" if short == "weights" else "RopeTables"
        monkeypatch.setattr(model, name, getattr(module, name))
    elif mutation.module.startswith("zerfoo_numba.quant."):
        for name, layout in module.LAYOUTS.items():
            monkeypatch.setitem(quant.QUANTS, name, quant.Quant(name, *layout))
        for kernels in (matvec.make_matvec_kernel2, embed.make_embed_kernel1):
            kernels.cache_clear()
    elif short == "attention_tile":
        monkeypatch.setattr(attention, "make_prefill_kernel2", module.make_prefill_kernel2)
    elif short == "attention_decode":
        monkeypatch.setattr(attention, short, module)
    else:
        monkeypatch.setattr(ops, short, module)
        monkeypatch.setattr(test_ops, short, module, raising=False)


@pytest.fixture
def clean_kernels():
    """Kernels built around a mutant must not outlive the test."""
    yield
    matvec.make_matvec_kernel2.cache_clear()
    embed.make_embed_kernel1.cache_clear()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_the_suite_notices(mutation, monkeypatch, tmp_path, clean_kernels):
    install(monkeypatch, mutation, mutant(mutation, tmp_path))
    with pytest.raises(AssertionError):
        mutation.check()


def test_without_a_mutation_every_check_passes():
    for check in dict.fromkeys(m.check for m in MUTATIONS):
        check()
