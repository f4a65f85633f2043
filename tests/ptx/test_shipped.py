"""The PTX that the package brings along: whole, current, and enough to run models."""

import pytest

import zerfoo_numba
from tests.parity.conftest import GOLDEN, golden_tokens
from zerfoo_numba.kernels.standard import standard_kernels
from zerfoo_numba.ptx import cache, compile
from zerfoo_numba.ptx.compile import DEFAULT_CC, compile_ptx, type_keys


def test_it_is_current():
    """The shipped texts name the digest of the sources that they were compiled from."""
    assert cache.shipped(), "the sources have changed: run python -m zerfoo_numba.kernels.ship"


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_it_is_what_the_sources_compile_to(every):
    shipped, known = cache.shipped(), []
    for name, kernel, arguments in list(standard_kernels())[::every]:
        known.append(cache.identity(kernel.py_func, type_keys(arguments), DEFAULT_CC))
        assert shipped[known[-1]] == compile_ptx(kernel, arguments, shipped=False).text, name
    assert every > 1 or shipped.keys() == set(known)


def test_no_text_names_a_path():
    for known, text in cache.shipped().items():
        files = [line for line in text.splitlines() if line.strip().startswith(".file")]
        assert files and not any("/" in line for line in files), known


@pytest.mark.parametrize("activation, cache_type", [("float", "f32"), ("int8", "f16")])
@pytest.mark.parametrize("name", [p.parent.name for p in sorted(GOLDEN.glob("*/model.gguf"))])
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
