"""The bench commands: what they write is what they say, and adds up."""

import contextlib
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from matplotlib.image import imread

import zerfoo_numba
from bench import launches, model_header, picture, roofline, store
from bench.gpus import GPUS, find_gpu
from bench.roofline_table import report
from zerfoo_numba import synth
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.quant import QUANTS

TINY = "gemma3-tiny"
CACHED, TOKENS = 40, 9


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(document on stdout, the file that was written) of one run of the command."""
    folder = tmp_path_factory.mktemp("roofline")
    options = f"--model {TINY} --gpu H200 --cached {CACHED} --tokens {TOKENS} --json".split()
    options += ["--activation", "float", "--cache-type", "f32", "--out", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert roofline.main(options) == 0
    (path,) = folder.glob("*/roofline-*.json")
    return json.loads(out.getvalue()), path


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / f"{TINY}.gguf"
    synth.synthesize(TINY, path)
    return str(path)


def steps(document):
    return document["decode"], document["prefill"]


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_gpu_figures_agree_with_each_other(gpu):
    # A datasheet's peak and multiprocessors x lanes x boost clock differ by rounding and by the
    # clock that the vendor had in mind: 7 % for the B200.
    assert gpu.fma_tflops == pytest.approx(gpu.published_tflops, rel=0.08)
    # Half the lanes of an FMA (all of them on the A100), four times its flops.
    assert gpu.dp4a_tops / gpu.fma_tflops == pytest.approx(4 if gpu.name == "A100" else 2)
    lanes = gpu.issue_per_s / (gpu.clock_mhz * 1e6 * gpu.multiprocessors)
    assert lanes == pytest.approx(128)
    for figure in ("gb_per_s", "multiprocessors", "clock_mhz", "fma_lanes", "dp4a_lanes"):
        assert gpu.sources[figure]
    for figure in ("l2_mib", "tensor_tops"):
        assert (getattr(gpu, figure) is None) == (gpu.sources[figure] == "not confirmed")
    if gpu.tensor_tops:  # 16 or 32 times as many 8-bit products per clock as fma; clocks differ
        assert 7 < gpu.tensor_tops / gpu.fma_tflops < 33


def test_small_grids_cannot_use_every_scheduler():
    gpu = find_gpu("h200")
    clock = gpu.clock_mhz * 1e6
    assert gpu.issue_lanes(blocks=1, warps=1) == 32 * clock
    assert gpu.issue_lanes(blocks=1, warps=32) == 4 * 32 * clock
    assert gpu.issue_lanes(blocks=26, warps=26) == 26 * 32 * clock
    assert gpu.issue_lanes(blocks=10**5, warps=10**6) == gpu.issue_per_s


def test_gpus_are_found_by_name():
    assert find_gpu("rtx4090").name == "RTX 4090"
    with pytest.raises(InputError, match="H200"):
        find_gpu("H2000")


def test_roofline_reads_every_weight_once(written):
    document, _ = written
    shape = synth.SHAPES[TINY]
    tensors = synth.shape_tensors(shape, synth.RECIPES[shape.quantization])
    expected = 0
    for dims, kind in tensors.values():
        block = TYPE_BY_NAME[kind]
        expected += math.prod(dims) // block.block_size * block.block_bytes
    for step in steps(document):
        assert step["sums"]["weight_bytes"] == expected  # the head is the embedding, tied


def test_roofline_counts_the_launches_of_the_model(written, tiny_file):
    model = zerfoo_numba.load_model(tiny_file, device="emulator", context=64)
    captured = model.device.capture(model.walk.greedy_step)
    assert written[0]["decode"]["sums"]["launches"] == captured.launches


def test_roofline_of_a_file_is_that_of_its_shape(written, tiny_file):
    with model_header.header(tiny_file) as gguf:
        groups = launches.record(gguf, 1, CACHED, "f32")
        found = {(*roofline.label(g), g.launches, g.weight_bytes) for g in groups}
    points = written[0]["decode"]["points"]
    keys = ("operation", "shape", "launches", "weight_bytes")
    assert found == {tuple(p[key] for key in keys) for p in points}


def test_roofline_traffic_is_the_compulsory_one(written):
    for step in steps(written[0]):
        for p in step["points"]:
            assert p["sectors"] >= p["unique_sectors"]
            assert 32 * p["launches"] * p["weight_sectors"] >= p["weight_bytes"]
            assert p["thread_instructions"] <= 32 * p["warp_instructions"]
            if p["operation"].startswith("matvec"):
                quant, size = p["shape"].split()
                N, K = map(int, size.split("x"))
                weight = N * K // QUANTS[quant].block_size * QUANTS[quant].block_bytes
                sectors = sum(-(-nbytes // 32) for nbytes in (weight, 4 * K, 4 * N))
                assert p["unique_sectors"] == sectors


def test_roofline_floors_follow_from_the_counts(written):
    document, _ = written
    gpu = find_gpu("H200")
    for step in steps(document):
        total = 0.0
        for p in step["points"]:
            blocks = math.prod(p["grid"])
            warps = blocks * -(-math.prod(p["block"]) // 32)
            rate = gpu.clock_mhz * 32 * min(4 * min(blocks, gpu.multiprocessors), warps)
            assert p["memory_us"] == pytest.approx(p["unique_sectors"] * 32 / gpu.gb_per_s / 1e3)
            assert p["issue_us"] == pytest.approx(32 * p["warp_instructions"] / rate)
            assert p["floor_us"] == p[f"{p['limit']}_us"]
            assert p["floor_us"] == max(p["memory_us"], p["issue_us"], p["arithmetic_us"])
            total += p["launches"] * p["floor_us"]
        assert step["sums"]["floor_us"] == pytest.approx(total)
        assert step["sums"]["tokens_per_s_at_most"] == pytest.approx(1e6 * step["tokens"] / total)


def test_sampled_counts_equal_those_of_the_whole_grid(monkeypatch):
    gguf = model_header.header(TINY)
    groups = [g for g in launches.record(gguf, 1, 0, "f32") if launches.sampled(g)]
    kinds = {g.call.shape["type_name"] for g in groups}
    assert len(kinds) > 2
    by_sample = [launches.LaunchCounter((9, 0)).count(g, 0) for g in groups]
    monkeypatch.setattr(launches, "sampled", lambda group: False)
    counter = launches.LaunchCounter((9, 0))
    for group, sample in zip(groups, by_sample, strict=True):
        whole = counter.count(group, 0)
        sample, whole = dataclasses.asdict(sample), dataclasses.asdict(whole)
        assert sample.pop("origin") != whole.pop("origin")
        assert sample == whole, group.call


def test_roofline_files_say_that_they_are_predictions(written):
    document, path = written
    assert store.read(path) == ("roofline", document)
    assert document["origin"].startswith("PREDICTED")
    assert document["gpu"]["sources"]["gb_per_s"]
    assert document["environment"]["build_commit"]
    explained = set(document["origins"])
    assert {"memory_us", "issue_us", "arithmetic_us", "sectors", "intensity"} <= explained
    text = "\n".join(report(document))
    assert "PREDICTED" in text
    assert text.count("\nsum ") == 2


def test_roofline_picture_shows_its_points(written):
    document, path = written
    assert picture.sources(path.with_suffix(".png")) == [store.digest(document)]
    pixels = imread(path.with_suffix(".png"))[..., :3]
    assert pixels.shape[:2] == (1800, 1650)
    ink = (pixels < 0.9).any(axis=-1)
    assert 0.01 < ink.mean() < 0.3
    assert ink[:20].sum() == ink[-10:].sum() == ink[:, -10:].sum() == 0  # nothing runs off the page
    colors = {"memory": "#0072B2", "issue": "#D55E00", "arithmetic": "#009E73"}
    for name in {p["limit"] for step in steps(document) for p in step["points"]}:
        rgb = np.array([int(colors[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (abs(pixels - rgb).max(axis=-1) < 0.02).sum() > 100


@pytest.mark.parametrize(
    "options",
    (["--model", "gemma9-1b"], ["--gpu", "Voodoo 2"], ["--tokens", "1"], ["--tokens", "65"],
     ["--device", "cpu"]),
    ids=" ".join,
)  # fmt: skip
def test_roofline_refuses_in_one_sentence(options, tmp_path, capsys):
    given = ["--model", TINY, "--gpu", "H200", "--out", str(tmp_path), *options]
    assert roofline.main(given) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_roofline_names_a_folder_it_cannot_write(written, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        roofline.write(written[0], tmp_path / "file" / "folder")
