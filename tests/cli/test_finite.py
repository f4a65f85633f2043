"""Logits that are no numbers: found on the device, and the first layer that made them is named."""

import numpy as np
import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN
from zerfoo_numba.cli import main
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import NumericError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.kernels.nonfinite import nonfinite

PROMPT = [2, 5, 7, 9]


def with_large(path, golden, name, start=0, count=None):
    """A copy of a golden whose tensor `name` holds the largest of numbers, from element `start` on:
    finite, so that a load accepts them, but their products are not."""
    source = GOLDEN / golden / "model.gguf"
    raw = bytearray(source.read_bytes())
    with open_gguf(source) as gguf:
        data = gguf.tensors[name].data.tobytes()
    at, count = raw.index(data) + 4 * start, count or len(data) // 4
    raw[at : at + 4 * count] = np.full(count, 3e38, "<f4").tobytes()
    path.write_bytes(raw)
    return path


CASES = {
    "a feed-forward": ("llama", "blk.1.ffn_down.weight", 0, None, "'blk.1.ffn_out' of token 0"),
    "a value": ("llama", "blk.1.attn_v.weight", 0, None, "'blk.1.v' of token 0"),
    "a head": ("llama", "output.weight", 0, None, "'result_output' of token 0"),
    "one position of the prompt": ("gpt2", "position_embd.weight", 2 * 16, 16, "norm' of token 2"),
    "a recurrent block": ("mamba", "blk.1.ssm_conv1d.weight", 0, None, "'blk.1."),
}


@pytest.mark.parametrize("device_name", ["cpu", "emulator"])
@pytest.mark.parametrize("case", CASES)
def test_the_first_layer_is_named(tmp_path, case, device_name):
    golden, name, start, count, says = CASES[case]
    path = with_large(tmp_path / "large.gguf", golden, name, start, count)
    options = {"device": device_name, "context": 16, "cache_type": "f32", "activation": "float"}
    assert not np.isfinite(zerfoo_numba.load_model(path, **options).logits(PROMPT)).all()
    model = zerfoo_numba.load_model(path, **options, check_finite=True)
    uses = (model.prefill, model.logits, lambda ids: model.generate(ids, max_tokens=2))
    for use in uses if device_name == "cpu" else uses[:1]:
        with pytest.raises(NumericError, match="not all finite") as caught:
            use(PROMPT)
        assert says in str(caught.value)


def test_a_position_that_breaks_the_decode_step(tmp_path):
    path = with_large(tmp_path / "large.gguf", "gpt2", "position_embd.weight", 3 * 16, 16)
    model = zerfoo_numba.load_model(path, device="cpu", context=16, check_finite=True)
    model.prefill([2, 5])
    model.decode(9)
    with pytest.raises(NumericError, match=r"after 4 tokens .*'blk\.0\..*' of token 3"):
        model.decode(7)
    assert np.isfinite(model.prefill([2, 5])).all()  # an error leaves it usable


def test_without_the_switch_no_launch_is_added():
    path = GOLDEN / "llama" / "model.gguf"
    launches, texts = [], []
    for check in (False, True):
        model = zerfoo_numba.load_model(path, device="cpu", context=16, check_finite=check)
        texts.append(model.generate(PROMPT, max_tokens=4))  # compiles and captures
        before = model.device.launch_count
        texts.append(model.generate(PROMPT, max_tokens=4))
        launches.append(model.device.launch_count - before)
    assert len(set(texts)) == 1
    assert launches[1] == launches[0] + 4  # a prompt and three steps


def test_the_command_line_names_the_layer(tmp_path, capsys):
    path = with_large(tmp_path / "large.gguf", "llama", "blk.1.ffn_down.weight")
    arguments = ["generate", "-m", str(path), "-p", "A", "-n", "2", "--device", "cpu"]
    assert main([*arguments, "--check-finite"]) == 2
    assert "'blk.1.ffn_out'" in capsys.readouterr().err


@pytest.mark.parametrize("device_name", ["cpu", "emulator"])
@pytest.mark.parametrize("n", [1, 33, 1024, 5000])
def test_every_place_is_looked_at(device_name, n):
    device, rng = open_device(device_name), np.random.default_rng(n)
    x = rng.standard_normal(n, np.float32)
    x[rng.integers(n)] = np.finfo(np.float32).max
    flag = device.upload(np.full(1, 7, np.uint32))

    def found(array):
        nonfinite(device, flag, device.upload(array))
        return int(device.read(flag)[0])

    assert found(x) == 0
    for value in (np.nan, np.inf, -np.inf):
        for place in {0, n - 1, int(rng.integers(n))}:
            bad = x.copy()
            bad[place] = value
            assert found(bad) == 1
