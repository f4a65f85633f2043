"""CONTRIBUTING.md and README.md name what is there: files, commands, flags, and a real diff."""

import contextlib
import importlib.util
import io
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "README.md")}
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def in_code(text):
    """The lines of every code block and the text of every inline code."""
    return [line.strip() for code in CODE.findall(text) for line in code.strip("`").splitlines()]


def commands(pattern):
    found = {
        (document, match.group(1))
        for document, text in DOCUMENTS.items()
        for line in in_code(text)
        for match in re.finditer(pattern, line.split("  #")[0])
    }
    assert found, pattern
    return sorted(found)


def diff_of(text):
    """{path: the lines that the diff adds to it}."""
    added = {}
    for line in re.search(r"```diff\n(.*?)```", text, re.DOTALL).group(1).splitlines():
        if line.startswith("+++ "):
            path = line[4:]
        else:
            added.setdefault(path, []).append(line[1:])
    return added


@pytest.mark.parametrize("path", diff_of(GUIDE))
def test_the_diff_stands_in_the_files_as_it_is_shown(path):
    assert "\n".join(diff_of(GUIDE)[path]) + "\n" in (ROOT / path).read_text()


def test_the_diff_is_all_there_is_of_that_architecture():
    parts = ("zerfoo_numba", "reference", "tests/parity")
    files = [path for part in parts for path in (ROOT / part).rglob("*.py")]
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if re.search(r"""["']qwen3["']|\bqwen3\(|\.qwen3\b""", path.read_text())
    }
    assert naming == set(diff_of(GUIDE))


PATHS = {path for line in in_code(GUIDE) for path in re.findall(r"^((?:\w+/)+(?:\w+\.py)?)$", line)}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_path_is_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("document", "target"), commands(r"^make ([\w-]+)"))
def test_every_make_target_is_there(document, target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), document


@pytest.mark.parametrize(("document", "module"), commands(r"python -m ([\w.]+)"))
def test_every_module_is_there(document, module):
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    assert spec is not None, f"{document} runs {module}"


def help_of(module, *words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, *words, "--help"])
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert caught.value.code == 0
    return out.getvalue()


FLAGS = r"python -m ((?:bench\.\w+|reference diff)(?: .*)?)$"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(("document", "line"), commands(FLAGS))
def test_every_flag_of_ours_is_known(document, line, monkeypatch):
    module, *words = line.split()
    sub = words[:1] if words[:1] == ["diff"] else []
    known = help_of(module, *sub, monkeypatch=monkeypatch)
    for flag in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){flag}\b", known), f"{document}: {line} has no {flag}"
