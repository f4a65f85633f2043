"""bench.step: its figures follow from its operations, and those from the walk."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

import zerfoo_numba
from bench import step
from bench.gpus import BOUNDARY_US
from zerfoo_numba import synth

TINY, CACHED = "gemma3-tiny", 40


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the document, its folder) of one run that also measures on the cpu."""
    folder = tmp_path_factory.mktemp("step")
    options = ["-m", TINY, "--cached", str(CACHED), "--gpu", "H100", "--device", "cpu"]
    assert step.main([*options, "--activation", "int8", "--out", str(folder)]) == 0
    return json.loads((folder / f"{TINY}_H100_step.json").read_text()), folder


def test_launches_are_those_of_the_captured_step(written, tmp_path):
    path = tmp_path / "model.gguf"
    synth.synthesize(TINY, path)
    model = zerfoo_numba.load_model(path, device="cpu", context=64, activation="int8")
    captured = model.device.capture(model.walk.greedy_step)
    assert written[0]["launches_per_token"] == captured.launches


def test_sums_follow_from_the_operations(written):
    document, _ = written
    operations = document["operations"]
    launches = sum(o["launches"] for o in operations)
    assert document["launches_per_token"] == launches
    floor = sum(o["launches"] * o["floor_us"] for o in operations)
    assert document["floor_us"] == pytest.approx(floor)
    assert document["boundaries_us"] == pytest.approx(launches * BOUNDARY_US)
    whole = floor + launches * BOUNDARY_US
    assert document["tokens_per_s_at_most"] == pytest.approx(1e6 / whole)
    instructions = sum(o["launches"] * o["thread_instructions"] for o in operations)
    assert document["thread_instructions_per_token"] == instructions


def test_what_is_stored_is_asked_for_at_least_once(written):
    document, _ = written
    shape = synth.SHAPES[TINY]
    rows = {16: 6, CACHED + 1: 1}  # keys that a layer attends to: layers
    cache = sum(n * keys for keys, n in rows.items()) * 2 * shape.KH * shape.HD * 4
    assert sum(o["cache_bytes"] for o in document["operations"]) == cache
    assert document["requested_over_stored"] >= 1.0
    assert document["memory_bytes"]["weights"] > document["weight_and_cache_bytes"] - cache
    assert document["memory_bytes"]["cache"] >= cache
    arena = document["arena_bytes"]
    assert 0 < arena["peak"] <= arena["size"] < arena["unshared"]
    assert arena["size"] < document["memory_bytes"]["buffers"]


def test_every_operation_was_measured_on_the_device(written):
    document, _ = written
    assert document["device"] == "cpu"
    assert document["measured_us"] > 0
    assert all(o["measured_us"] > 0 for o in document["operations"])
    text = "\n".join(step.table(document))
    assert "measured us" in text and document["origin"] in text


def test_the_picture_has_every_part(written):
    pixels = imread(written[1] / f"{TINY}_H100_step.png")[..., :3]
    assert pixels.shape[1] == 1650
    ink = (pixels < 0.9).any(axis=-1)
    assert ink[:8].sum() == ink[-8:].sum() == ink[:, -8:].sum() == 0
    for color in ("#999999", "#E69F00", "#D55E00"):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (abs(pixels - rgb).max(axis=-1) < 0.02).sum() > 100, color


@pytest.mark.parametrize("options", (["-m", "gemma9"], ["--gpu", "Voodoo"], ["--cached", "-1"]))
def test_refusals_are_one_sentence(options, capsys):
    assert step.main(["-m", TINY, *options]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
