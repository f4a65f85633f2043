"""The model in the package: what it has learnt, that both walks agree on it, where it is used."""

import hashlib

import pytest

import reference
import zerfoo_numba
from bench import quants_error, small_text
from tests.parity.compare import assert_close
from tests.parity.tolerances import LAYER
from zerfoo_numba.cli import main

PROMPT = "The for statement"


@pytest.fixture(scope="module")
def metadata():
    return zerfoo_numba.open_gguf(zerfoo_numba.sample_model()).metadata


def test_it_says_what_it_is_and_what_it_has_read(metadata):
    assert metadata["general.architecture"] == "gemma3"
    assert metadata["general.license"] == "PSF-2.0"
    assert 2e6 < metadata["training.parameters"] < 5e6
    held = small_text.PAGE.join(small_text.held_out()).encode()
    assert hashlib.sha256(held).hexdigest() == metadata["training.held_out_sha256"]


def test_it_has_learnt_the_language_of_text_that_it_has_not_read(tmp_path, metadata):
    model = quants_error.FloatModel(str(zerfoo_numba.sample_model()), tmp_path, tokens=1024)
    walk = reference.load_model(zerfoo_numba.sample_model())
    logits = [walk.logits(ids) for ids in model.windows]
    assert len(logits) == 2
    found = quants_error.perplexity(logits, model.windows)
    assert 0.5 * metadata["training.perplexity_of_held_out"] < found < 60


def test_the_vocabulary_is_a_real_one():
    tokenizer = zerfoo_numba.load_tokenizer(zerfoo_numba.sample_model())
    text = "\n\n".join(small_text.held_out())
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids).strip() == text.strip()
    assert len(text) / len(ids) > 3  # characters a token
    strange = "naïve ☃ 12 {}"
    assert tokenizer.decode(tokenizer.encode(strange)) == strange


@pytest.mark.slow
def test_both_walks_agree_on_it():
    path = zerfoo_numba.sample_model()
    options = {"activation": "float", "cache_type": "f32", "context": 32}
    model = zerfoo_numba.load_model(path, device="emulator", **options)
    ids = model.tokenizer.encode(PROMPT)
    exact = reference.load_model(path).logits(ids)
    assert_close("small model", model.logits(ids), exact, LAYER["float"])


def test_it_is_what_a_command_without_a_file_takes(capsys):
    assert main(["generate", "-p", PROMPT, "-n", "24", "--device", "cpu", "-c", "64"]) == 0
    words = capsys.readouterr().out.split()
    assert len(words) >= 8 and len(set(words)) > len(words) / 2, words  # prose, not one word
    assert main(["info"]) == 0
    assert "python-topics" in capsys.readouterr().out
    assert main(["tokenize", "-p", PROMPT, "--ids"]) == 0
    assert len(capsys.readouterr().out.split(",")) >= 3
