"""The wheel and the sdist: what is in them, and that the wheel alone runs on the CPU."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.parity.compare import assert_close
from tests.parity.conftest import GOLDEN, golden_reference, golden_tokens
from tests.parity.tolerances import MODEL
from tests.test_structure import ROOT, tracked

pytest.importorskip("setuptools", minversion="77", reason="builds the package")

MODEL_NAME = "gemma3_Q4_K_M"
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # which setuptools replaces by its own
print(build_meta.build_wheel(folder), build_meta.build_sdist(folder))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Paths of the wheel and of the sdist, made from a copy of the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    command = [sys.executable, "-c", BUILD, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [out / name for name in done.stdout.split()[-2:]]


def package_files():
    paths = [path.relative_to(ROOT).as_posix() for path in tracked()]
    return {p for p in paths if p.startswith("zerfoo_numba/")}


def test_the_wheel_has_the_package_and_nothing_else(built):
    names = {n for n in zipfile.ZipFile(built[0]).namelist() if not n.endswith("/")}
    package = {n for n in names if n.startswith("zerfoo_numba/")}
    assert package == package_files()
    assert "zerfoo_numba/data/kernels.ptx.xz" in package
    assert {n.split("/")[0] for n in names - package} == {
        f"zerfoo_numba-{importlib.metadata.version('zerfoo-numba')}.dist-info"
    }


def test_the_sdist_has_the_package_and_what_builds_it(built):
    with tarfile.open(built[1]) as archive:
        names = {n.name.partition("/")[2] for n in archive.getmembers() if n.isfile()}
    package = {n for n in names if n.startswith("zerfoo_numba/")}
    assert package == package_files()
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    others = {n.split("/")[0] for n in names - package if "/" in n}
    assert others == {"zerfoo_numba.egg-info"}


def requirements(name):
    """Names of the distributions that `name` needs without any of its extras, itself included."""
    found, open_ends = set(), [name]
    while open_ends:
        one = open_ends.pop()
        if one in found:
            continue
        found.add(one)
        for line in importlib.metadata.requires(one) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert not needed.extras, f"{one} needs an extra of {needed.name}"
                open_ends.append(needed.name.lower())
    return found


def required_by(wheel):
    """The same for a wheel: what its own metadata ask for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    needed = [Requirement(x.partition(": ")[2]) for x in lines if x.startswith("Requires-Dist: ")]
    plain = [r.name.lower() for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return set().union(*map(requirements, plain))


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """The bin folder of an environment that has the wheel and what it requires, no extras.

    The requirements are links to the files of this environment: nothing is downloaded, and what
    nobody requires is not there.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    (site,) = folder.glob("lib/python*/site-packages")
    for name in required_by(built[0]):
        for file in importlib.metadata.files(name):
            target = site / file
            if file.parts[0] == ".." or file.suffix == ".pyc" or target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.locate().resolve())
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index"]
    subprocess.run([*command, "--no-deps", str(built[0])], check=True)
    return folder / "bin"


def run(command, folder):
    """In an empty folder: nothing of this checkout on the path, nothing kept from before."""
    keep = ("PATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT")
    environment = {key: os.environ[key] for key in keep if key in os.environ}
    environment["ZERFOO_CACHE"] = str(folder / "cache")
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOGITS = """
import sys, json, importlib.util
import numpy as np
import zerfoo_numba
model = zerfoo_numba.load_model(
    sys.argv[1], device="cpu", activation=sys.argv[2], cache_type="f32", context=64
)
np.save(sys.argv[3], model.logits(json.loads(sys.argv[4])))
assert importlib.util.find_spec("nvidia") is None, "the CUDA libraries are here"
print(zerfoo_numba.__file__)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links to files")
@pytest.mark.parametrize("activation", ["float", "int8"])
def test_the_wheel_runs_a_model_without_the_cuda_libraries(fresh, activation, tmp_path):
    ids, out = golden_tokens(MODEL_NAME, "long"), tmp_path / "logits.npy"
    path = GOLDEN / MODEL_NAME / "model.gguf"
    command = [fresh / "python", "-c", LOGITS, path, activation, out, json.dumps(ids)]
    loaded = Path(run(command, tmp_path).strip())
    assert fresh.parent in loaded.parents
    exact = golden_reference(MODEL_NAME).logits(ids)
    limit = MODEL["int8" if activation == "int8" else MODEL_NAME]
    assert_close(f"wheel {activation}", np.load(out), exact, limit)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links to files")
def test_the_console_script_runs_from_any_directory(fresh, tmp_path):
    path = GOLDEN / MODEL_NAME / "model.gguf"
    flags = ["-m", path, "-p", "ba be", "-n", "3", "-c", "32", "--device", "cpu", "--json"]
    record = json.loads(run([fresh / "zerfoo-numba", "generate", *flags], tmp_path))
    assert record["generated_tokens"] == 3
    assert record["device"] == "cpu"
    assert "runs here" in run([fresh / "zerfoo-numba", "info", path], tmp_path)
    of_the_package = ["generate", "-p", "The for statement", "-n", "3", "--device", "cpu"]
    assert run([fresh / "zerfoo-numba", *of_the_package], tmp_path).strip()
