"""bench.quants: what it writes is complete and adds up."""

import contextlib
import io
import json

import numpy as np
import pytest
from matplotlib.image import imread

from bench import quants, quants_counts, quants_error, quants_write
from reference.quant import dequantize
from zerfoo_numba import synth
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

FORMATS = ("F16", "Q4_0", "Q4_K", "IQ2_S")
TOKENS = 12
FLOATS = {"F32": 0.0, "F16": 2.0**-22, "BF16": 2.0**-16}  # squared roundings


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(document on stdout, the folder) of one run of the command."""
    folder = tmp_path_factory.mktemp("quants")
    options = ["--formats", ",".join(FORMATS), "--tokens", str(TOKENS), "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert quants.main([*options, "--out", str(folder)]) == 0
    return json.loads(out.getvalue()), folder


@pytest.fixture(scope="module")
def formats(written):
    return {f["name"]: f for f in written[0]["formats"]}


def test_the_files_say_the_same(written, formats):
    document, folder = written
    assert json.loads((folder / "quants.json").read_text()) == document
    assert tuple(formats) == FORMATS
    text = (folder / "quants.md").read_text()
    for row in document["formats"]:
        assert f"| {row['name']} | {row['bits_per_weight']:.4g} |" in text
    shape = document["counts"]["int8_shapes"][1]
    count = next(c for c in formats["Q4_K"]["counts"]["int8"] if c["K"] == shape[1])
    assert f"{count['instructions_per_weight']:.2f}" in text
    assert document["environment"]["build_commit"] in text


def test_the_picture_is_one(written):
    picture = imread(written[1] / "quants.png")
    assert picture.shape[:2] == (1200, 2400)
    assert picture[..., :3].std() > 0.05


def test_bits_and_bytes(formats):
    assert formats["Q4_0"]["bits_per_weight"] == 4.5
    assert formats["Q4_0"]["packed_over_file_bytes"] == 1.0
    assert 1.0 < formats["Q4_K"]["packed_over_file_bytes"] < 1.03
    assert formats["F16"]["packed_over_file_bytes"] is None


def test_counts_are_there_for_every_shape_that_fits(written, formats):
    shapes = [tuple(s) for s in written[0]["counts"]["int8_shapes"]]
    for name in ("Q4_0", "Q4_K"):
        counts = formats[name]["counts"]["int8"]
        fitting = [s for s in shapes if s[1] % QUANTS[name].block_size == 0]
        assert [(c["rows"], c["K"]) for c in counts] == fitting
        for count in counts:
            # A dp4a makes four products; two words of activations and one of weights are loaded.
            assert count["instructions_per_weight"] > 0.5
            requested = formats[name]["packed_over_file_bytes"]
            assert count["weight_bytes_requested"] == pytest.approx(requested, rel=1e-3)
    assert formats["F16"]["counts"]["int8"] == []
    # 32 lanes a row, each loads an element and an activation and does more than that.
    assert formats["F16"]["counts"]["float"]["instructions_per_weight"] > 4


def test_float16_weights_are_closer_than_four_bits(formats):
    exact, coarse = formats["F16"]["errors"], formats["Q4_0"]["errors"]
    assert 0 < exact["weights_nmse"] < 2.0**-22 < coarse["weights_nmse"] < 0.02
    assert 0 < exact["float"]["mean_kl"] < 1e-3 < coarse["float"]["mean_kl"]
    assert 0 <= coarse["float"]["top1_agreement"] <= exact["float"]["top1_agreement"] <= 1
    for row in (coarse, formats["Q4_K"]["errors"]):
        assert row["share_of_weights"] == 1.0
        assert 0 < row["int8"]["mean_kl_to_float"] < row["float"]["mean_kl"]
    assert exact["int8"] is None
    assert formats["IQ2_S"]["errors"] is None  # nothing writes it


def test_speeds_are_those_of_the_devices_that_are_here(written, formats):
    devices = written[0]["speed"]["devices"]
    for f in formats.values():
        assert set(f["gb_per_s"]) == set(devices)
        for speed in f["gb_per_s"].values():
            assert speed["float"] > 0
            assert (speed["int8"] is None) == (f["name"] not in LAYOUTS)


@pytest.mark.parametrize("type_name", QUANTS)
def test_writers_write_what_is_read_back(type_name):
    found = quants_write.writer(type_name)
    if found is None:
        assert type_name not in LAYOUTS  # the integer path's formats can all be written
        return
    x = np.random.default_rng(0).standard_normal((3, 512), np.float32)
    x[1, :256] = 0
    blocks = np.ascontiguousarray(found[1](x)).reshape(-1).view(np.uint8)
    back = dequantize(blocks, type_name, (512, 3))
    assert not back[1, :256].any()
    error = np.square(x - back).sum() / np.square(x).sum()
    if type_name in FLOATS:
        assert error <= FLOATS[type_name]
        return
    # No code of b bits a number does better than 2^-2b on normal ones (Shannon, 1959).
    least = 2.0 ** (-16 * QUANTS[type_name].block_bytes / QUANTS[type_name].block_size)
    assert least < error < 12 * least  # TQ2_0 has three levels in two bits


def test_perplexity_and_kl_are_what_they_are_called():
    V, ids = 50, [3, 1, 4, 1, 5]
    logits = np.zeros((5, V), np.float32)
    assert quants_error.perplexity([logits, logits[:3]], [ids, ids[:3]]) == pytest.approx(V)
    other = logits.copy()
    other[:, 7] = np.log(2)  # one of V is twice as likely
    expected = np.log((V + 1) / V) - np.log(2) / V
    assert quants_error.mean_kl(logits, other) == pytest.approx(expected)
    assert quants_error.mean_kl(other, other) == pytest.approx(0, abs=1e-12)


def test_a_model_from_a_file_has_a_perplexity(tmp_path):
    path, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    synth.synthesize("gemma3-tiny", path, quantization="F16")
    text.write_text("ba be bi bo bu " * 8)
    model = quants_error.FloatModel(str(path), tmp_path, str(text), 16)
    assert model.tokens == 16 and len(model.windows) == 1
    row = quants_error.measure(["Q4_K"], model, "emulator", lambda line: None)["Q4_K"]
    assert 0.5 < row["share_of_weights"] < 1  # rows of 224 are no blocks of 256
    assert 1 < row["float"]["perplexity"] < 1e5
    assert row["int8"]["perplexity"] == pytest.approx(row["float"]["perplexity"], rel=0.05)
    with open_gguf(path) as gguf:
        assert model.metadata.keys() == gguf.metadata.keys()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--formats", "Q4_0,Q9"], "Q9"),
        (["--tokens", "1"], "at least 2"),
        (["--formats", "F16", "-m", "none.gguf"], "none.gguf"),
    ],
)
def test_what_a_user_can_get_wrong(options, hint, capsys, tmp_path):
    assert quants.main([*options, "--out", str(tmp_path)]) == 2
    assert hint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_records_before_use_are_those_of_the_weight():
    text = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1, .param .u64 k_param_2)
{
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [k_param_1];
    ld.param.u64 %rd2, [k_param_2];
    add.s64 %rd3, %rd1, 64;
    ld.global.u32 %r1, [%rd3];
    ld.global.u32 %r2, [%rd2];
    ld.global.u32 %r3, [%rd3+4];
    add.s32 %r4, %r1, %r2;
    ld.global.u32 %r5, [%rd3+8];
    ret;
}
"""
    assert quants_counts.records_before_use(text, 1) == 2
    assert quants_counts.records_before_use(text, 2) == 1
