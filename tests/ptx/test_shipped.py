"""The PTX that the package brings along: whole, current, and enough to run models."""

import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN, golden_tokens
from zerfoo_numba.kernels.ship import standard_ptx
from zerfoo_numba.ptx import cache, compile


def test_it_is_what_the_sources_compile_to():
    shipped = cache.shipped()
    assert shipped, "the sources have changed: run python -m zerfoo_numba.kernels.ship"
    texts = standard_ptx()
    assert shipped.keys() == texts.keys()
    differ = [known for known, text in texts.items() if shipped[known] != text]
    assert not differ


def test_no_text_names_a_path():
    for known, text in cache.shipped().items():
        files = [line for line in text.splitlines() if line.strip().startswith(".file")]
        assert files and not any("/" in line for line in files), known


@pytest.mark.parametrize("activation, cache_type", [("float", "f32"), ("int8", "f16")])
@pytest.mark.parametrize("name", [p.name for p in sorted(GOLDEN.iterdir()) if p.is_dir()])
def test_models_run_without_the_compiler(name, activation, cache_type, monkeypatch):
    if not cache.shipped():
        pytest.skip("the test above has failed: there is nothing to run")

    def refuse(kernel, *_):
        raise AssertionError(f"{kernel.py_func.__qualname__} is no standard kernel")

    monkeypatch.setattr(compile, "_compiled", {})
    monkeypatch.setattr(compile, "_compile", refuse)
    monkeypatch.setattr(cache, "load", lambda known: None)
    path = GOLDEN / name / "model.gguf"
    options = {"activation": activation, "cache_type": cache_type, "context": 16}
    model = zerfoo_numba.load_model(path, device="emulator", **options)
    assert len(model.greedy_ids(golden_tokens(name, "short"), 3)) == 3
