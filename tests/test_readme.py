"""Every command in README.md is run, and what it shows of the code and of reports/ is current."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import zerfoo_numba
from bench import readme
from zerfoo_numba import cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
SMALL, IMAGES = zerfoo_numba.sample_model(), ROOT / "tests/parity/golden/vision_files/llava15"
# What stands for the files that a reader has: the model of the package, and a tiny one that sees.
FILES = {
    "model.gguf": SMALL,
    "llm.gguf": IMAGES / "model.gguf",
    "mmproj.gguf": IMAGES / "mmproj.gguf",
    "cat.png": IMAGES / "image0.png",
}
# A command that is not run here: the file that runs it, and what in it does so.
ELSEWHERE = {
    "make demo": ("Makefile", "$(RUN) bench.demo"),
    "make test": (".ci/run", "make test"),
    "pip install 'zerfoo-numba[cuda]'": ("tests/cli/test_wheel.py", '"pip", "--python"'),
    "python -m bench.compare -m model.gguf": ("tests/cli/test_compare.py", "compare.main("),
    "python -m bench.step": ("tests/cli/test_bench_step.py", "step."),
    "python -m bench.guided": ("tests/cli/test_bench_guided.py", "guided.main("),
    "python -m bench.roofline --gpu H200": ("tests/cli/test_bench.py", "roofline."),
    "python -m zerfoo_numba.ptx script.py": (
        "tests/ptx/test_without_gpu.py",
        '"zerfoo_numba.ptx", path',
    ),
    "python -m zerfoo_numba.ptx -m pytest tests": (
        "tests/ptx/test_without_gpu.py",
        '"zerfoo_numba.ptx", "-m", "pytest", path',
    ),
    "python -m bench.numba_suite --device emulator": ("tests/ptx/test_numba_suite.py", "run_all("),
    "python -m bench.quants": ("tests/cli/test_bench_quants.py", "quants.main("),
}
# What takes more than some seconds, and flags that shorten it.
LONG = {
    "python -m bench.demo": "-n 12 --out out",
    "python -m bench.tps -m model.gguf -n 256 --json": "",
    "python -m bench.roofline --device cpu": "--model model.gguf --cached 32 --tokens 4 "
    "--largest 64 --out out",
    "python -m reference diff -m model.gguf": "",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [re.sub(r" #.*", "", line) for line in lines if line]


def run(line, monkeypatch):
    """Run a command of this project in this process; its files in place of the reader's."""
    words = [str(FILES.get(word, word)) for word in shlex.split(line)]
    if words[0] == "zerfoo-numba":
        assert cli.main(words[1:]) == 0
        return
    assert words[:2] == ["python", "-m"]
    monkeypatch.setattr(sys, "argv", words[2:])
    try:
        runpy.run_module(words[2], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code


def test_every_block_is_of_a_language_that_is_run():
    assert set(re.findall(r"^```(\w*)\n.+?^```$", TEXT, re.DOTALL | re.MULTILINE)) == {
        "sh",
        "python",
    }


@pytest.mark.parametrize("line", commands())
def test_every_command_is_run_somewhere(line):
    if line in ELSEWHERE:
        file, what = ELSEWHERE[line]
        assert what in (ROOT / file).read_text(), f"{file} does not run {line}"
    else:
        assert line in LONG or line.startswith("zerfoo-numba "), f"nothing runs {line}"


def ours():
    """The lines of the command line; those that run a model compile its kernels, which takes long.

    tests/cli/test_sample_model.py has one of them among the quick tests.
    """
    for line in commands():
        if line.startswith("zerfoo-numba "):
            quick = line.split()[1] in ("info", "synth")
            yield pytest.param(line, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("line", list(ours()))
def test_a_command_runs_and_says_something(line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    run(line, monkeypatch)
    out, err = capfd.readouterr()
    assert out or err or "chat" in line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("line", LONG)
def test_a_command_that_takes_long(line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run(f"{line} {LONG[line]}", monkeypatch)
    assert capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_runs(block, tmp_path):
    code = block.replace('"model.gguf"', repr(str(SMALL))).replace("blk.3.", "blk.1.")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_comes_from_the_code_and_from_reports_is_current():
    assert set(re.findall(r"<!-- bench\.readme: (\w+) -->", TEXT)) == set(readme.PARTS)
    assert readme.rendered(TEXT) == TEXT, "run python -m bench.readme"


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
