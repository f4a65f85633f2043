"""Files that are well formed and contradict themselves: found at load, and the key or tensor named.

One row per case, through `load_model`, in the time and memory that any file may take.
"""

import math
import time
import tracemalloc

import numpy as np
import pytest

import zerfoo_numba
from tests.files.builder import ARRAY, F32, F64, I32, U64
from tests.files.fuzz import GOLDEN, MEBIBYTES, SECONDS
from tests.files.mutate import Parts, file_bytes, taken_apart
from zerfoo_numba import chat
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import FileError, UnsupportedError

DEVICE = CpuDevice(threads=1)
NAN, INF = math.nan, math.inf
SCALES = ("rope.freq_base", "attention.scale", "logit_scale", "embedding_scale", "residual_scale")
SCALES += ("final_logit_softcapping", "attn_logit_softcapping", "rope.scaling.attn_factor")
EPS = "attention.layer_norm_rms_epsilon"


def changed(golden, keys=(), tensors=()):
    """The file of a golden with other keys (None drops one), tensors with another shape or type, or
    without them (None); a key without its architecture gets it."""
    parts = taken_apart(GOLDEN / golden / "model.gguf")
    held = dict(parts.keys)
    arch = held["general.architecture"]
    known = ("general.", "tokenizer.", "clip.")
    held |= {k if k.startswith(known) else f"{arch}.{k}": v for k, v in dict(keys).items()}
    found, tensors = [], dict(tensors)
    for name, shape, kind, raw in parts.tensors:
        shape, kind = tensors.pop(name, (shape, kind)) or (None, None)
        if shape is not None:
            found.append((name, shape, kind, (raw * 9)[: size(shape, kind)]))
    assert not tensors
    return file_bytes(Parts(tuple((k, v) for k, v in held.items() if v is not None), tuple(found)))


def size(shape, kind):
    return math.prod(shape) * {0: 4, 1: 2, 24: 1}[kind]


LIES = {
    "a shape that contradicts the width": (
        "llama", {"embedding_length": 48}, (), "'token_embd.weight' has the shape [32, 64]"),
    "a shape that contradicts the feed-forward": (
        "llama", {"feed_forward_length": 40}, (), "'blk.0.ffn_gate.weight' has the shape [32, 48]"),
    "a tensor of the wrong shape": (
        "llama", {}, {"blk.1.attn_k.weight": ((48, 32), 0)}, "'blk.1.attn_k.weight' has the shape"),
    "a vector for a matrix": (
        "llama", {}, {"blk.1.attn_k.weight": ((1536,), 0)}, "'blk.1.attn_k.weight' has the shape"),
    "a matrix of integers": (
        "llama", {}, {"blk.0.ffn_up.weight": ((32, 48), 24)}, "blk.0.ffn_up.weight has type I8"),
    "a norm of the wrong type": (
        "llama", {}, {"output_norm.weight": ((32,), 1)}, "'output_norm.weight' is of type F16"),
    "a missing tensor": ("llama", {}, {"blk.1.ffn_down.weight": None}, "blk.1.ffn_down.weight"),
    "a vocabulary shorter than the embedding": (
        "llama", {"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"]}, (), "3 tokens in the vocab"),
    "an embedding shorter than the vocabulary": (
        "llama", {}, {"token_embd.weight": ((32, 60), 0)}, "60 rows in token_embd.weight"),
    "special tokens beyond the vocabulary": (
        "llama", {"tokenizer.ggml.bos_token_id": 64}, (), "bos_token_id is 64, not one of the 64"),
    "token types of another length": (
        "llama", {"tokenizer.ggml.token_type": [1] * 63}, (), "token_type has 63 entries for 64"),
    "scores of another length": (
        "gemma3_default", {"tokenizer.ggml.scores": (ARRAY, F32, [0.0])}, (), "scores has 1 entr"),
    "a score of NaN": (
        "gemma3_default", {"tokenizer.ggml.scores": (ARRAY, F32, [NAN] * 64)}, (), "scores[0] is"),
    "no heads": ("llama", {"attention.head_count": 0}, (), "head_count is 0"),
    "heads that do not divide": ("llama", {"attention.head_count_kv": 5}, (), "does not divide"),
    "heads of another number": ("llama", {"attention.head_count": 24}, (), "'blk.0.attn"),
    "no layers": ("llama", {"block_count": 0}, (), "block_count is 0"),
    "more layers than tensors": ("llama", {"block_count": 10**9}, (), "block_count is 1000000000"),
    "a layer more than there are": ("llama", {"block_count": 3}, (), "blk.2."),
    "a width of 2^64 - 1": ("llama", {"embedding_length": (U64, 2**64 - 1)}, (), "at most"),
    "no experts": ("mixtral", {"expert_count": 0}, (), "expert_count is 0"),
    "experts of another number": ("mixtral", {"expert_count": 9}, (), "'blk.0.ffn_"),
    "no experts used": ("mixtral", {"expert_used_count": 0}, (), "expert_used_count is 0"),
    "more experts used than there are": ("mixtral", {"expert_used_count": 99}, (), "is 99, more"),
    "more experts than there is room for": ("mixtral", {"expert_count": 9999}, (), "is 9999; at"),
    "a rotation wider than the head": ("llama", {"rope.dimension_count": 256}, (), "is 256; it"),
    "an odd rotation": ("llama", {"rope.dimension_count": 5}, (), "is 5; it must be even"),
    "factors of another rotation": (
        "phi3_longrope", {}, {"rope_factors_long.weight": ((3,), 0)}, "'rope_factors_long.weight'"),
    "factors of one kind alone": (
        "phi3_longrope", {}, {"rope_factors_long.weight": None}, "rope_factors_long.weight"),
    "a window of 2^40": (
        "gemma3_default", {"attention.sliding_window": (U64, 2**40)}, (), "sliding_window is"),
    "eps of zero": ("llama", {EPS: 0.0}, (), f"{EPS} is 0.0"),
    "a negative eps": ("llama", {EPS: -1.0}, (), f"{EPS} is -1"),
    "an eps of NaN": ("llama", {EPS: NAN}, (), f"{EPS} is nan"),
    "an eps that float32 loses": ("llama", {EPS: (F64, 1e-300)}, (), f"{EPS} is 1e-300"),
    "a base that float32 loses": ("llama", {"rope.freq_base": (F64, 1e300)}, (), "is 1e+300"),
    **{f"{k} of {v}": ("llama", {k: v}, (), f"{k} is {v}") for k in SCALES for v in (NAN, INF)},
    **{
        f"a scaling factor of {v}": (
            "llama", {"rope.scaling.type": "linear", "rope.scaling.factor": v}, (),
            f"factor is {v}")
        for v in (NAN, INF, 0.0, -4.0)
    },
    "a weight of experts of NaN": ("mixtral", {"expert_weights_scale": NAN}, (), "scale is nan"),
    "no inner width": ("mamba", {"ssm.inner_size": 0}, (), "ssm.inner_size is 0"),
    "an inner width of another size": ("mamba", {"ssm.inner_size": 8}, (), "'blk.0.ssm"),
    "heads that do not divide a recurrent width": (
        "rwkv6", {"wkv.head_size": 7}, (), "wkv.head_size is 7, which does not divide"),
    "sections that do not add up": (
        "vision_files/qwen2vl", {"rope.dimension_sections": (ARRAY, I32, [1] * 3)}, (), "sums up"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Imports, and what is made once, are no part of what is measured."""
    zerfoo_numba.load_model(GOLDEN / "llama" / "model.gguf", device=DEVICE, context=8)


def limited(use, says):
    """The one sentence in which `use` ends, under the limits of any file."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises((FileError, UnsupportedError)) as caught:
            use()
        grown = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < SECONDS and grown < MEBIBYTES
    message = str(caught.value)
    assert says in message and "\n" not in message


@pytest.mark.parametrize("case", LIES)
def test_a_lie_is_found_at_load_and_named(tmp_path, case):
    golden, keys, tensors, says = LIES[case]
    path = tmp_path / "lie.gguf"
    path.write_bytes(changed(golden, keys, tensors))
    limited(lambda: zerfoo_numba.load_model(path, device=DEVICE, context=8), says)


def test_the_same_file_without_a_lie_loads(tmp_path):
    path = tmp_path / "true.gguf"
    path.write_bytes(changed("llama"))
    logits = zerfoo_numba.load_model(path, device=DEVICE, context=8).logits([3])
    assert np.isfinite(logits).all()


TEMPLATES = {
    "a walk through __class__": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "an endless loop": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a range of 10^9": "{% for i in range(10**9) %}x{% endfor %}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_of_a_file_is_stopped(tmp_path, case):
    path = tmp_path / "template.gguf"
    path.write_bytes(changed("llama", {"tokenizer.chat_template": TEMPLATES[case]}))
    gguf, words = zerfoo_numba.open_gguf(path), zerfoo_numba.load_tokenizer(path)
    turn = [{"role": "user", "content": "hi"}]
    chat.render("{{ messages }}", turn)
    limited(lambda: chat.prompt_ids(gguf.metadata, words, turn), "template")
