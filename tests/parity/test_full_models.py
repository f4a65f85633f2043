"""Rung "full": real files, named by environment variables, and this machinery on synthetic ones.

    GEMMA3_GGUF_PATH=gemma-3-1b-it-Q4_K_M.gguf python -m pytest tests/parity/test_full_models.py

runs one model on the best device of this machine, or on that of --device; the variables are those
of `full_models.FULL_MODELS`, and for images LLAVA_GGUF_PATH with LLAVA_MMPROJ_PATH and
QWENVL_GGUF_PATH with QWENVL_MMPROJ_PATH (`full_vision.py`). Each must name exactly one file. The
greedy text goes to a JSON file per model in the folder ZERFOO_RECORD, or in "full_models" under
pytest's own temporary folder.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import reference
import zerfoo_numba
from tests.parity import full_vision
from tests.parity.conftest import device_names
from tests.parity.full_models import (
    CONTEXT,
    FULL_MODELS,
    PROMPT,
    TOKENS,
    Dims,
    FullModel,
    check,
    check_logits,
    check_replay,
    named_file,
)
from zerfoo_numba.errors import FileError, UnsupportedError
from zerfoo_numba.synth import SHAPES, synthesize


@pytest.fixture
def record_folder(tmp_path_factory):
    named = os.environ.get("ZERFOO_RECORD")
    return Path(named) if named else tmp_path_factory.getbasetemp() / "full_models"


@pytest.mark.parametrize("row", FULL_MODELS, ids=lambda row: row.variable)
def test_full_model(row, request, record_folder):
    path = named_file(row)
    if path is None:
        pytest.skip(f"{row.variable} is not set")
    for device in request.config.getoption("--device") or ["auto"]:
        check(row, path, device, record_folder)


def vision_pipeline(row, request, folder):
    paths = full_vision.named_files(row)
    if paths is None:
        pytest.skip(f"{row.text.variable} and {row.variable} are not set")
    for device in request.config.getoption("--device") or ["auto"]:
        full_vision.check(row, paths, device, folder)


def test_llava_vision_pipeline(request, record_folder):
    vision_pipeline(full_vision.LLAVA, request, record_folder)


def test_qwenvl_vision_pipeline(request, record_folder):
    vision_pipeline(full_vision.QWENVL, request, record_folder)


# The machinery on synthetic files -----------------------------------------------------------


def row_of(name, **changed):
    """A row for a synthetic model, as `full_models` has one for each real model."""
    shape = SHAPES[name]
    dims = Dims(*(getattr(shape, letter) for letter in Dims._fields if letter != "E"))
    dims = dims._replace(E=shape.letters.get("E", 0))
    return FullModel("SYNTHETIC_GGUF_PATH", shape.arch, {"tiny": dims._replace(**changed)})


FILES = ("llama-3.2-tiny", "deepseek-r1-tiny", "mixtral-tiny")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    paths = {n: folder / f"{n}.gguf" for n in FILES}
    for name, path in paths.items():
        synthesize(name, path)
    return paths


def run(row, path, monkeypatch, folder, device="cpu"):
    monkeypatch.setenv(row.variable, str(path))
    return check(row, named_file(row), device, folder)


@pytest.mark.parametrize("name", FILES)
def test_a_sound_file_passes_and_its_text_is_recorded(name, files, monkeypatch, tmp_path):
    device = device_names()[-1]
    run(row_of(name), files[name], monkeypatch, tmp_path / "records", device)
    record = json.loads((tmp_path / "records" / "SYNTHETIC_GGUF_PATH.json").read_text("utf-8"))
    model = zerfoo_numba.load_model(
        files[name], device=device, context=CONTEXT, activation="float", cache_type="f32"
    )
    ids = model.tokenizer.encode(PROMPT)
    assert record["ids"] == model.greedy_ids(ids, TOKENS)
    assert record["text"] == model.tokenizer.decode(record["ids"])
    assert len(record["ids"]) == 64
    assert (record["size"], record["device"]) == ("tiny", device)


def test_another_architecture_fails(files, monkeypatch, tmp_path):
    row = row_of("llama-3.2-tiny")
    with pytest.raises(AssertionError, match="architecture is qwen2, not llama"):
        run(row, files["deepseek-r1-tiny"], monkeypatch, tmp_path)


@pytest.mark.parametrize("letter", Dims._fields)
def test_another_shape_fails(letter, files, monkeypatch, tmp_path):
    row = row_of("llama-3.2-tiny", **{letter: 7})
    with pytest.raises(AssertionError, match=f"the file has .*known are .*{letter}=7"):
        run(row, files["llama-3.2-tiny"], monkeypatch, tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is recorded of a file that fails"


def test_a_directory_fails_even_with_the_right_file_in_it(files, monkeypatch, tmp_path):
    path = files["llama-3.2-tiny"]
    with pytest.raises(AssertionError, match="names a directory"):
        run(row_of("llama-3.2-tiny"), path.parent, monkeypatch, tmp_path)
    with pytest.raises(AssertionError, match="which is no file"):
        run(row_of("llama-3.2-tiny"), path.with_name("absent.gguf"), monkeypatch, tmp_path)


def test_a_file_that_is_no_model_fails(monkeypatch, tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("this is no model")
    with pytest.raises((FileError, UnsupportedError)):
        run(row_of("llama-3.2-tiny"), path, monkeypatch, tmp_path)


def test_a_variable_that_is_not_set_skips(monkeypatch, request, tmp_path):
    row = FULL_MODELS[0]
    monkeypatch.delenv(row.variable, raising=False)
    with pytest.raises(pytest.skip.Exception, match=row.variable):
        test_full_model(row, request, tmp_path)


def test_other_weights_fail(files, tmp_path):
    other = tmp_path / "other.gguf"
    synthesize("llama-3.2-tiny", other, seed=1)
    expected = reference.load_model(files["llama-3.2-tiny"])
    row, ids = row_of("llama-3.2-tiny"), [0, 300, 400]
    check_logits(row, expected, expected, ids)
    with pytest.raises(AssertionError, match="SYNTHETIC_GGUF_PATH: nmse"):
        check_logits(row, reference.load_model(other), expected, ids)


def test_logits_that_are_off_by_a_thousandth_fail(files):
    expected = reference.load_model(files["llama-3.2-tiny"])
    right = expected.logits([0, 300, 400])
    off = SimpleNamespace(logits=lambda ids: right * np.float32(1.001))
    with pytest.raises(AssertionError, match="SYNTHETIC_GGUF_PATH: nmse"):
        check_logits(row_of("llama-3.2-tiny"), off, expected, [0, 300, 400])


def test_a_replay_that_departs_fails():
    class Departing:
        graph = True

        def greedy_ids(self, ids, count):
            return [*range(count - 1), 99 if self.graph else 98]

    with pytest.raises(AssertionError, match=r"99\], eager ones .*98\]"):
        check_replay(row_of("llama-3.2-tiny"), Departing(), [1])


def test_the_table_names_every_variable_and_agrees_with_the_synthetic_shapes():
    rows = {row.variable.removesuffix("_GGUF_PATH"): row for row in FULL_MODELS}
    assert set(rows) == {
        *("GEMMA3", "DEEPSEEK_R1", "LLAMA32", "MISTRAL", "QWEN25", "PHI35", "TINYLLAMA"),
        *("COMMAND_R", "FALCON", "MIXTRAL", "MAMBA", "RWKV", "RWKV7"),
    }
    for name, variable in (
        ("gemma3-1b", "GEMMA3"),
        ("deepseek-r1-1.5b", "DEEPSEEK_R1"),
        ("llama-3.2-1b", "LLAMA32"),
        ("llama-3.2-3b", "LLAMA32"),
        ("mistral-7b", "MISTRAL"),
        ("mixtral-8x7b", "MIXTRAL"),
        ("qwen2.5-0.5b", "QWEN25"),
        ("phi-3.5-mini", "PHI35"),
        ("tinyllama-1.1b", "TINYLLAMA"),
        ("command-r", "COMMAND_R"),
        ("falcon-7b", "FALCON"),
        ("mamba-1.4b", "MAMBA"),
        ("rwkv6-1.6b", "RWKV"),
    ):
        made = row_of(name)
        assert made.arch == rows[variable].arch
        assert made.sizes["tiny"] in rows[variable].sizes.values(), name
