"""The numbers and tensors of Mamba and RWKV files, and what is said of those that lack some."""

from types import SimpleNamespace

import pytest

from zerfoo_numba.architectures import ARCHS
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.gguf_file import Tensor
from zerfoo_numba.recurrent_config import Mamba, Rwkv6, Rwkv7
from zerfoo_numba.tensors import expected_tensors

SIZES = {"L": 2, "D": 16, "F": 24, "V": 20, **dict.fromkeys(("H", "KH", "HD", "VD", "R"), 0)}
COMMON = {"context_length": 64, "block_count": 2, "embedding_length": 16}
RWKV = COMMON | {"feed_forward_length": 24, "attention.head_count": 0, "wkv.head_size": 8}
RWKV |= {"attention.layer_norm_epsilon": 1e-5}
RANKS = ("decay", "iclr", "value_residual_mix", "gate")
KEYS = {
    "mamba": COMMON
    | {
        "feed_forward_length": 0, "attention.head_count": 0, "ssm.inner_size": 32,
        "ssm.state_size": 6, "ssm.time_step_rank": 3, "ssm.conv_kernel": 5,
        "attention.layer_norm_rms_epsilon": 1e-5,
    },
    "rwkv6": RWKV | {"time_mix_extra_dim": 3, "time_decay_extra_dim": 4},
    "rwkv7": RWKV | {f"attention.{n}_lora_rank": 3 + i for i, n in enumerate(RANKS)},
}  # fmt: skip
NUMBERS = {
    "mamba": Mamba(32, 6, 3, 5, False),
    "rwkv6": Rwkv6(8, 2, 3, 4, 0),
    "rwkv7": Rwkv7(8, 2, 3, 4, 5, 6),
}


def shapes_of(arch, recurrent=None, held=None):
    letters = (recurrent or NUMBERS[arch]).letters
    return expected_tensors(ARCHS[arch], **SIZES, held=held, letters=letters)


def config_of(arch, keys=None, shapes=None):
    """The config of a file of the required tensors; `keys` and `shapes` change, or by None remove,
    some."""
    stated = KEYS[arch] | (keys or {})
    metadata = {f"{arch}.{key}": value for key, value in stated.items() if value is not None}
    plain = {n: shape for n, (shape, required) in shapes_of(arch).items() if required}
    kept = {n: s for n, s in (plain | (shapes or {})).items() if s is not None}
    file = SimpleNamespace(
        path="tiny.gguf",
        metadata={"general.architecture": arch} | metadata,
        tensors={name: Tensor(shape, "F32", None) for name, shape in kept.items()},
    )
    config = ModelConfig.from_gguf(file)
    config.check_tensors(file)
    return config


@pytest.mark.parametrize("arch", KEYS)
def test_numbers(arch):
    config = config_of(arch)
    assert config.recurrent == NUMBERS[arch]
    assert (config.L, config.D, config.V, config.eps) == (2, 16, 20, 1e-5)
    assert (config.H, config.KH, config.HD, config.layers) == (0, 0, 0, ())
    F = 0 if arch == "mamba" else 24
    assert (config.F, config.attn_scale) == (F, 1.0)


def test_optional_numbers():
    assert config_of("mamba", {"ssm.dt_b_c_rms": True}).recurrent.normed
    assert config_of("rwkv6", {"rescale_every_n_layers": 6}).recurrent.halve_every == 6
    without = {f"blk.{i}.time_mix_g{n}.weight": None for i in (0, 1) for n in (1, 2)}
    without |= {f"blk.{i}.time_mix_lerp_fused.weight": (16, 1, 1, 5) for i in (0, 1)}
    config = config_of("rwkv7", {"attention.gate_lora_rank": None}, without)
    assert config.recurrent.gate == 0


NOT_NEEDED = ("attention.head_count", "attention.gate_lora_rank")


@pytest.mark.parametrize(
    ("arch", "key"), [(arch, key) for arch in KEYS for key in KEYS[arch] if key not in NOT_NEEDED]
)
def test_a_missing_key_is_named(arch, key):
    with pytest.raises(FileError, match=rf"{arch}\.{key} is missing"):
        config_of(arch, {key: None})


@pytest.mark.parametrize(
    ("arch", "keys", "said"),
    [
        ("mamba", {"ssm.state_size": 0}, "at least 1"),
        ("mamba", {"ssm.dt_b_c_rms": 1}, "true or false"),
        ("rwkv6", {"wkv.head_size": 5}, "does not divide the width 16"),
        ("rwkv7", {"attention.decay_lora_rank": -1}, "at least 1"),
        ("rwkv7", {"feed_forward_length": 0}, "at least 1"),
    ],
)
def test_an_impossible_number_is_refused(arch, keys, said):
    with pytest.raises(FileError, match=said):
        config_of(arch, keys)


def test_another_count_of_shifts_is_not_run():
    assert config_of("rwkv6", {"token_shift_count": 2})
    with pytest.raises(UnsupportedError, match="token_shift_count is 1"):
        config_of("rwkv6", {"token_shift_count": 1})


@pytest.mark.parametrize("arch", KEYS)
def test_every_required_tensor_is_missed(arch):
    for name, (_, required) in shapes_of(arch).items():
        if required:
            with pytest.raises(FileError, match=name):
                config_of(arch, shapes={name: None})


@pytest.mark.parametrize("arch", KEYS)
def test_every_tensor_has_its_shape(arch):
    for name, (shape, required) in shapes_of(arch).items():
        if required:
            with pytest.raises(FileError, match=name):
                config_of(arch, shapes={name: (shape[0] + 1, *shape[1:])})


def test_lerps_with_and_without_dimensions_of_one():
    for shape in ((16, 6), (16, 1, 6), (16, 1, 1, 6)):
        assert config_of("rwkv7", shapes={"blk.1.time_mix_lerp_fused.weight": shape})
    assert config_of("rwkv6", shapes={"blk.0.time_mix_lerp_x.weight": (16, 1, 1)})


def test_a_lerp_for_each_as_in_older_files():
    apart = {f"blk.{i}.time_mix_lerp_{n}.weight": (16,) for i in (0, 1) for n in "wkvrg"}
    fused = {f"blk.{i}.time_mix_lerp_fused.weight": None for i in (0, 1)}
    assert config_of("rwkv6", shapes=apart | fused)
    with pytest.raises(FileError, match="lerp_g"):
        config_of("rwkv6", shapes=apart | fused | {"blk.1.time_mix_lerp_g.weight": None})


def test_the_first_values_may_have_tensors_that_nobody_uses():
    unused = {"blk.0.time_mix_v0.weight": (16,), "blk.0.time_mix_v1.weight": (16, 4)}
    assert config_of("rwkv7", shapes=unused)
    with pytest.raises(FileError, match=r"blk\.1\.time_mix_v1"):
        config_of("rwkv7", shapes={"blk.1.time_mix_v1.weight": (16, 4)})


def test_a_tensor_of_another_kind_is_refused():
    for name in ("blk.0.ssm_norm.weight", "blk.0.ssm_dt_norm.weight", "blk.0.attn_q.weight"):
        with pytest.raises(UnsupportedError, match=name):
            config_of("mamba", shapes={name: (32,)})


@pytest.mark.parametrize("arch", KEYS)
def test_every_requirement_is_a_tensor(arch):
    assert ARCHS[arch].mixer == arch
    assert set(ARCHS[arch].requires) <= set(shapes_of(arch))
