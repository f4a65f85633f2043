"""`info`: what it says of a file, against what the runtime makes of it."""

import json

import pytest

import zerfoo_numba
from bench.gpus import GPUS
from tests.cli.test_errors import rewrite
from tests.parity.conftest import GOLDEN, golden_model
from zerfoo_numba import features, footprint, tokenizer
from zerfoo_numba.cli import main
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.gpu_memory import GPU_MEMORY
from zerfoo_numba.info import record
from zerfoo_numba.quant import QUANTS

CONTEXT = 64


def opened(name):
    gguf = zerfoo_numba.open_gguf(GOLDEN / name / "model.gguf")
    return gguf, ModelConfig.from_gguf(gguf)


def needed(name, context=CONTEXT):
    return footprint.footprint(*opened(name), context)


def test_the_lists_that_are_written_twice_are_equal():
    assert {*TYPE_BY_NAME} - {*QUANTS} == {*features.NOT_READ, "F64"}
    assert {*features.VOCABULARIES} == {*tokenizer.MODELS}
    assert {g.name: (g.memory_gb, g.gb_per_s) for g in GPUS.values()} == {
        name: (memory.gb, memory.gb_per_s) for name, memory in GPU_MEMORY.items()
    }


@pytest.mark.parametrize("name", ["llama", "qwen2", "mamba", "falcon_mamba", "rwkv6", "rwkv7"])
def test_the_cache_is_as_large_as_the_runtime_makes_it(name):
    cache = golden_model(name, "emulator", context=CONTEXT, cache_type="f16").walk.cache
    assert needed(name).cache == cache.nbytes


def test_a_layer_with_a_window_reads_no_more_than_that():
    _, config = opened("gemma2")
    windows = sorted(layer.window or CONTEXT for layer in config.layers)
    assert windows[0] < CONTEXT, "no layer has a window"
    each = 2 * config.KH * (config.HD + config.VD)
    assert needed("gemma2").read_cache == sum(windows) * each


def bytes_of(calls):
    """Of the weights that one walk multiplied with or looked up."""
    total = 0
    for call in calls:
        shape = call.shape
        if "N" in shape:
            quant = QUANTS[shape["type_name"]]
            total += shape["N"] * shape["K"] // quant.block_size * quant.block_bytes
        elif call.name == "embed":
            quant = QUANTS[shape["type_name"]]
            total += shape["D"] // quant.block_size * quant.block_bytes
    return total


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_Q4_K_M", "falcon"])
def test_a_token_reads_what_the_walk_multiplies_with(name):
    model, (gguf, config) = golden_model(name, "emulator", context=CONTEXT), opened(name)
    model.prefill([1])
    model.walk.ops.calls = calls = []
    try:
        model.walk.step()
    finally:
        model.walk.ops.calls = None
    vectors = sum(
        t.data.nbytes
        for n, t in gguf.tensors.items()
        if len(t.shape) == 1 and not n.startswith("rope_")
    )
    tied = "output.weight" not in gguf.tensors
    row = gguf.tensors["token_embd.weight"].data.nbytes // config.V
    assert needed(name).read_weights == bytes_of(calls) + vectors - (row if tied else 0)


def test_of_the_experts_only_those_that_are_used_are_read():
    gguf, config = opened("mixtral")
    experts = sum(t.data.nbytes for n, t in gguf.tensors.items() if "_exps." in n)
    embedding = gguf.tensors["token_embd.weight"].data.nbytes
    unused = 1 - config.experts.U / config.experts.E
    found = needed("mixtral")
    rest = found.weights - found.read_weights - unused * experts
    assert experts * unused > 0 and abs(rest - embedding * (1 - 1 / config.V)) < 1


def test_speeds_follow_from_bandwidth_and_memory():
    small = footprint.Footprint(1, 10**9, 0, 10**9, 0)
    assert footprint.most_tokens_per_s(small) == {
        name: pytest.approx(memory.gb_per_s) for name, memory in GPU_MEMORY.items()
    }
    large = footprint.Footprint(1, 50 * 10**9, 0, 10**9, 0)
    speeds = footprint.most_tokens_per_s(large)
    assert speeds["RTX 4090"] is None and speeds["H100"] == pytest.approx(3350)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("gemma2", ["attention scores capped at 2", "norms after attention and feed-forward"]),
        ("phi3_longrope", ["Q, K and V in one matrix", "LongRoPE: factors for long sequences"]),
        ("qwen3", ["norm of each query and key head", "the embedding is the head too"]),
        ("gpt2", ["learned positions", "bias of Q, K and V"]),
        ("llama_yarn", ["RoPE of 16 dimensions (interleaved), base 500, factor 4, YaRN"]),
        ("rwkv6", ["rwkv6: a state in place of attention"]),
        ("qwen2moe", ["shared expert"]),
    ],
)
def test_features_are_found(name, lines):
    found = features.features(*opened(name))
    for line in lines:
        assert any(line in one for one in found), found


def test_the_context_of_the_count(tiny, capsys):
    needs = {}
    for context in (100, 200):
        assert main(["info", "-m", str(tiny), "-c", str(context), "--json"]) == 0
        needs[context] = json.loads(capsys.readouterr().out)["needs"]
        assert needs[context]["context"] == context
    cache = "bytes of KV cache (f16)"
    assert needs[100][cache] < needs[200][cache] <= 2 * needs[100][cache]
    assert needs[100]["bytes of weights"] == needs[200]["bytes of weights"]
    assert main(["info", "-m", str(tiny), "-c", "10000000"]) == 2
    assert "a context of 10000000 tokens" in capsys.readouterr().err


def test_what_does_not_run_is_named(tiny, tmp_path, capsys):
    odd = {"tokenizer.ggml.model": "t5", "tokenizer.chat_template.rag": "{{ x }}"}
    path = rewrite(tiny, tmp_path / "odd.gguf", odd)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "the vocabulary is of the kind 't5'; known: llama, gpt2" in out
    assert "t5 (unknown)" in out and "default, rag" in out
    pre = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "unheard-of"}
    found = record(zerfoo_numba.open_gguf(rewrite(tiny, tmp_path / "pre.gguf", pre)))
    assert any("unheard-of" in line for line in found["unsupported"])
    retyped = {"blk.0.attn_q.weight": "Q8_1"}
    path = rewrite(tiny, tmp_path / "type.gguf", retype=retyped)
    found = record(zerfoo_numba.open_gguf(path))
    assert "1 tensors of type Q8_1, which is not read" in found["unsupported"]
