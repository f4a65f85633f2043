"""The `cuda` device without a GPU: the cases of three files, each run against a stub driver."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = [FOLDER / f"cuda_{part}on_stub.py" for part in ("", "copies_", "model_")]
CASES = [name for file in FILES for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """{case: its failures} of one run of all cases in a process that finds only the stub."""
    pytest.importorskip("cuda.core", reason="needs the cuda extra")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the stub driver")
    folder = tmp_path_factory.mktemp("stub")
    library, report = folder / "libcuda.so.1", folder / "report.xml"
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", library]
    subprocess.run([compiler, *flags, FOLDER / "stub_cuda.c"], check=True)
    path = os.pathsep.join([str(folder), os.environ.get("LD_LIBRARY_PATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *FILES, f"--junitxml={report}"],
        env={**os.environ, "LD_LIBRARY_PATH": path},
        capture_output=True,
        text=True,
    )
    assert report.exists(), run.stdout + run.stderr
    cases = {name: [] for name in CASES}
    seen = set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name").partition("[")[0]
        seen.add(name)
        cases[name] += [f.text for f in case if f.tag in ("failure", "error")]
    assert seen == set(CASES), run.stdout + run.stderr
    return cases


@pytest.mark.parametrize("case", CASES)
def test_on_the_stub_driver(outcomes, case):
    assert not outcomes[case], "\n".join(outcomes[case])
