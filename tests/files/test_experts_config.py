"""What a file says of its experts, and of the architectures that cost a row."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.parity.conftest import GOLDEN
from zerfoo_numba.config import ModelConfig, Rope
from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.experts_config import Experts
from zerfoo_numba.gguf_file import Tensor, open_gguf


def config_of(name, keys=None, shapes=None):
    """The config of a golden's file; `keys` and `shapes` change, or by None remove, some."""
    with open_gguf(GOLDEN / name / "model.gguf") as gguf:
        arch = gguf.metadata["general.architecture"]
        changed = {f"{arch}.{key}": value for key, value in (keys or {}).items()}
        metadata = {k: v for k, v in (gguf.metadata | changed).items() if v is not None}
        held = {n: Tensor(t.shape, t.type, None) for n, t in gguf.tensors.items()}
    for tensor, shape in (shapes or {}).items():
        held.pop(tensor, None)
        if shape is not None:
            held[tensor] = Tensor(shape, "F32", None)
    file = SimpleNamespace(path=f"{name}.gguf", metadata=metadata, tensors=held)
    config = ModelConfig.from_gguf(file)
    config.check_tensors(file)
    return config


def test_experts_of_each_golden():
    assert config_of("mixtral").experts == Experts(5, 3, 12, 12, True, 1.0)
    assert config_of("qwen2moe").experts == Experts(5, 2, 8, 12, False, 1.0)
    assert config_of("qwen3moe").experts == Experts(7, 4, 32, 56, True, 1.0)
    assert config_of("llama").experts is None


def test_older_files_say_nothing_of_the_widths():
    """Then an expert of Qwen is as wide as all that are used are together in a dense layer."""
    widths = {"expert_feed_forward_length": None, "expert_shared_feed_forward_length": None}
    found = config_of("qwen2moe", widths | {"feed_forward_length": 16, "expert_used_count": 2},
                      {f"blk.{i}.ffn_{n}_shexp.weight": (16, 16)
                       for i in (0, 1) for n in ("gate", "up", "down")})  # fmt: skip
    assert (found.experts.F, found.experts.shared_F) == (8, 16)


def test_the_shape_of_a_gate_of_one_row():
    gates = {f"blk.{i}.ffn_gate_inp_shexp.weight": (16, 1) for i in (0, 1)}
    assert config_of("qwen2moe", shapes=gates) == config_of("qwen2moe")


@pytest.mark.parametrize(
    ("name", "keys", "says"),
    [
        (
            "mixtral",
            {"expert_count": 0},
            r"llama\.expert_count is 0 or missing, but .*ffn_gate_inp",
        ),
        ("mixtral", {"expert_count": None}, r"llama\.expert_count is 0 or missing"),
        ("mixtral", {"expert_count": 4}, r"ffn_(gate_inp|down_exps|gate_exps|up_exps)\.weight"),
        ("mixtral", {"expert_used_count": 0}, r"llama\.expert_used_count is 0"),
        ("mixtral", {"expert_used_count": 6}, r"llama\.expert_used_count is 6, more than the 5"),
        ("mixtral", {"expert_used_count": None}, r"llama\.expert_used_count is missing"),
        ("mixtral", {"expert_weights_norm": 1}, r"expert_weights_norm must be true or false"),
        ("llama", {"expert_count": 8}, r"llama\.expert_count is 8, but no tensor ffn_gate_inp"),
        ("qwen2moe", {"expert_count": None}, r"qwen2moe\.expert_count is (0 or )?missing"),
        ("qwen3moe", {"expert_feed_forward_length": 31}, r"ffn_(down|gate|up)_exps"),
        ("granite", {"logit_scale": None}, r"granite\.logit_scale is missing"),
        ("gpt2", {"context_length": 63}, r"position_embd\.weight"),
    ],
)
def test_what_cannot_be_is_named(name, keys, says):
    with pytest.raises(FileError, match=says):
        config_of(name, keys)


@pytest.mark.parametrize(
    ("name", "keys", "says"),
    [
        ("qwen3moe", {"expert_gating_func": 2}, r"qwen3moe\.expert_gating_func is 2; 1 and 3"),
        ("mixtral", {"expert_count": 1025}, r"expert_count is 1025; at most 1024"),
        ("mixtral", {"expert_count": 64, "expert_used_count": 33}, r"used_count is 33; at most 32"),
    ],
)
def test_what_is_not_run_is_refused(name, keys, says):
    with pytest.raises(UnsupportedError, match=says):
        config_of(name, keys)


def test_keys_that_say_how_experts_are_weighted():
    assert config_of("qwen2moe", {"expert_weights_norm": True}).experts.normed
    assert not config_of("mixtral", {"expert_weights_norm": False}).experts.normed
    assert config_of("qwen2moe", {"expert_gating_func": 3}).experts.normed
    assert not config_of("qwen2moe", {"expert_gating_func": 1}).experts.normed
    assert config_of("mixtral", {"expert_weights_scale": 2.5}).experts.scale == 2.5
    assert config_of("mixtral", {"expert_weights_scale": 0.0}).experts.scale == 1.0


SHARED = ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", "ffn_gate_inp_shexp")


@pytest.mark.parametrize("part", SHARED)
def test_a_shared_expert_is_whole(part):
    with pytest.raises(FileError, match=part):
        config_of("qwen2moe", shapes={f"blk.1.{part}.weight": None})


def test_a_block_without_a_router_is_dense():
    dense = {f"blk.1.{n}.weight": None for n in ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps",
                                                 "ffn_down_exps")}  # fmt: skip
    dense |= {"blk.1.ffn_gate.weight": (16, 12), "blk.1.ffn_up.weight": (16, 12)}
    assert config_of("mixtral", shapes=dense | {"blk.1.ffn_down.weight": (12, 16)}).experts.E == 5
    with pytest.raises(FileError, match=r"blk\.1\.ffn_down\.weight"):
        config_of("mixtral", shapes=dense)


def test_a_block_with_a_part_of_its_experts_is_refused():
    for part in ("gate_inp", "gate_exps", "up_exps", "down_exps"):
        with pytest.raises(FileError, match=rf"blk\.1\.ffn_{part}\.weight"):
            config_of("mixtral", shapes={f"blk.1.ffn_{part}.weight": None})


def test_factors_of_granite():
    config = config_of("granite")
    assert (config.embed_scale, config.residual_scale, config.attn_scale) == (3.0, 0.625, 0.25)
    assert config.logit_scale == pytest.approx(1 / 1.75)
    plain = dict.fromkeys(("embedding_scale", "residual_scale", "attention.scale"))
    config = config_of("granite", plain)
    assert (config.embed_scale, config.residual_scale, config.attn_scale) == (1.0, 1.0, 0.5)


def test_gpt2_turns_nothing_and_olmo2_has_no_norm_before_a_branch():
    assert config_of("gpt2").layers[0].rope == Rope("half", 0, 1.0)
    with pytest.raises(UnsupportedError, match=r"blk\.0\.attn_norm\.weight"):
        config_of("olmo2", shapes={"blk.0.attn_norm.weight": (16,)})
    with pytest.raises(FileError, match="attn_q_norm"):
        config_of("olmo2", shapes={"blk.0.attn_q_norm.weight": (17,)})


def test_the_weights_of_experts_are_read_one_expert_at_a_time():
    """What the reference takes of a tensor (E, N, K) is what it has of the whole."""
    from reference.weights import Weights

    with open_gguf(GOLDEN / "qwen3moe" / "model.gguf") as gguf:
        weights = Weights(gguf, "float32")
        for name in ("blk.0.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight"):
            whole = weights.array(name)
            assert whole.shape == (7, 32, 32)
            for e in range(7):
                np.testing.assert_array_equal(weights.expert(name, e), whole[e])
