"""The machinery of the full models with images, tried on goldens: the sound pass, the rest fail."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.parity import full_vision, test_full_models
from tests.parity.conftest import device_names
from tests.parity.full_models import Dims, FullModel
from tests.parity.full_vision import LLAVA, QWENVL, FullVision, TowerDims
from tests.parity.vision_goldens import golden

GOLDEN = golden("qwen25vl")
ROW = FullVision(
    FullModel("TINY_GGUF_PATH", "qwen2vl", {"tiny": Dims(1, 24, 2, 1, 12, 32, 64)}),
    "TINY_MMPROJ_PATH",
    {"qwen2.5vl_merger": TowerDims(3, 16, 2, 4)},
    "<image>?",
)


@pytest.fixture
def named(monkeypatch):
    """A function that sets both variables of ROW, by None neither."""

    def set_both(model=GOLDEN.model, mmproj=GOLDEN.mmproj):
        for variable, path in ((ROW.text.variable, model), (ROW.variable, mmproj)):
            monkeypatch.delenv(variable, raising=False)
            if path is not None:
                monkeypatch.setenv(variable, str(path))
        return full_vision.named_files(ROW)

    monkeypatch.setattr(full_vision, "CONTEXT", 256)  # of these models
    monkeypatch.setattr(full_vision, "TOKENS", 4)
    monkeypatch.setattr(full_vision, "drawing", lambda: Image.new("RGB", (24, 24), "red"))
    return set_both


def test_a_sound_pair_passes_and_its_answer_is_recorded(named, monkeypatch, tmp_path):
    # Random weights name no colour: of their answer only that there is one is asked.
    monkeypatch.setattr(full_vision, "check_answer", lambda row, answer: None)
    record = full_vision.check(ROW, named(), device_names()[-1], tmp_path / "records")
    written = json.loads((tmp_path / "records" / "TINY_GGUF_PATH.json").read_text("utf-8"))
    assert written == record
    assert (record["size"], record["projector"]) == ("tiny", "qwen2.5vl_merger")
    assert record["text"] and record["files"] == ["model.gguf", "mmproj.gguf"]


def test_an_answer_without_a_colour_is_not_recorded(named, tmp_path):
    with pytest.raises(AssertionError, match="no red or blue in the answer"):
        full_vision.check(ROW, named(), device_names()[-1], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("answer", ["A red circle.", "it is BLUE", "red, and a blue square"])
def test_an_answer_that_names_a_colour_passes(answer):
    full_vision.check_answer(LLAVA, answer)


@pytest.mark.parametrize("answer", ["", "A green circle.", "predicted", "bluish"])
def test_another_answer_fails(answer):
    with pytest.raises(AssertionError, match="LLAVA_GGUF_PATH"):
        full_vision.check_answer(LLAVA, answer)


def test_another_architecture_fails(named, tmp_path):
    row = ROW._replace(text=ROW.text._replace(arch="llama"))
    with pytest.raises(AssertionError, match="architecture is qwen2vl, not llama"):
        full_vision.check(row, named(), device_names()[-1], tmp_path)


@pytest.mark.parametrize("letter", TowerDims._fields)
def test_another_tower_fails(letter, named, tmp_path):
    tower = ROW.towers["qwen2.5vl_merger"]._replace(**{letter: 7})
    row = ROW._replace(towers={"qwen2.5vl_merger": tower})
    with pytest.raises(AssertionError, match=f"TINY_MMPROJ_PATH.*{letter}=7"):
        full_vision.check(row, named(), device_names()[-1], tmp_path)


def test_another_projector_fails(named, tmp_path):
    row = ROW._replace(towers=LLAVA.towers)
    with pytest.raises(AssertionError, match=r"projector is qwen2\.5vl_merger"):
        full_vision.check(row, named(), device_names()[-1], tmp_path)


def test_tokens_that_are_off_by_a_thousandth_fail():
    tokens = GOLDEN.tokens[0]
    expected = SimpleNamespace(embed=lambda image: SimpleNamespace(tokens=tokens))
    off = SimpleNamespace(embed_image=lambda image: tokens * np.float32(1.001))
    right = SimpleNamespace(embed_image=lambda image: tokens)
    full_vision.check_tokens(ROW, right, expected, None)
    with pytest.raises(AssertionError, match="TINY_MMPROJ_PATH: nmse"):
        full_vision.check_tokens(ROW, off, expected, None)


def test_both_files_are_named_or_neither(named):
    assert named(None, None) is None
    with pytest.raises(AssertionError, match="TINY_MMPROJ_PATH is not set"):
        named(mmproj=None)
    with pytest.raises(AssertionError, match="TINY_GGUF_PATH is not set"):
        named(model=None)
    with pytest.raises(AssertionError, match="names a directory"):
        named(mmproj=GOLDEN.mmproj.parent)


@pytest.mark.parametrize("name", ["llava", "qwenvl"])
def test_variables_that_are_not_set_skip(name, monkeypatch, request, tmp_path):
    row = {"llava": LLAVA, "qwenvl": QWENVL}[name]
    for variable in (row.text.variable, row.variable):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{name.upper()}_MMPROJ_PATH"):
        getattr(test_full_models, f"test_{name}_vision_pipeline")(request, tmp_path)


def test_the_drawing_has_red_on_the_left_and_blue_on_the_right():
    pixels = np.asarray(full_vision.drawing(), int)
    red, blue = (pixels[..., a] - pixels[..., b] > 150 for a, b in ((0, 2), (2, 0)))
    middle = pixels.shape[1] // 2
    assert red[:, :middle].sum() == red.sum() > 5000
    assert blue[:, middle:].sum() == blue.sum() > 10000
    corner = np.argwhere(red).min(axis=0)
    assert not red[tuple(corner)], "a circle has no corner"
