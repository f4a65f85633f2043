"""The stand-in for the GPU: unmodified programs in processes of their own, and its linker."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.parse import parse_module
from zerfoo_numba.ptx.stand_in.linking import merge
from zerfoo_numba.ptx.stand_in.modules import Module, plain_name

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")
HEAD = ".version 9.0\n.target sm_90\n.address_size 64\n"


def run(*arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=HERE.parent.parent, env=kept | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    "chosen", ["host_go or afterwards or errors", pytest.param("test", marks=pytest.mark.slow)]
)
def test_programs_of_numba_cuda(chosen):
    done = run("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen,
               HERE / "without_gpu_cases.py")  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert re.search(r"\d passed", done.stdout)


SCRIPT = """
import subprocess, sys
import numpy as np
from numba import cuda

@cuda.jit
def columns(a, out):
    i = cuda.grid(1)
    for k in range(a.shape[1]):
        out[i] += a[i, k]

a, out = cuda.to_device(np.ones((32, 32), np.float32)), cuda.to_device(np.zeros(32, np.float32))
columns[1, 32](a, out)
print("sum", out.copy_to_host().sum(), sys.argv[1:])
child = "from numba import cuda; print('child', cuda.get_current_device().name)"
subprocess.run([sys.executable, "-c", child], check=True)
if "fail" in sys.argv:
    columns[2, 32](a, out)
sys.exit(7)
"""


@pytest.mark.parametrize("device", ["emulator", pytest.param("cpu", marks=pytest.mark.slow)])
def test_a_script_with_its_children_and_exit_code(device, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    options = ["--counters"] if device == "emulator" else ["--report"]
    done = run("-W", "ignore", "-m", "zerfoo_numba.ptx", "--device", device, *options, path, "-x")
    assert done.returncode == 7, done.stderr
    assert "sum 1024.0 ['-x']" in done.stdout
    assert f"child zerfoo-numba {device}" in done.stdout
    assert re.search(r"columns +1 +32 +1 ", done.stderr)
    wasteful = "script.py:10 loads are not coalesced: " in done.stderr
    assert wasteful == (device == "emulator")


def test_a_fault_ends_a_script_with_what_and_where(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = run("-W", "ignore", "-m", "zerfoo_numba.ptx", path, "fail")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("KernelFault: kernel columns: out of bounds: reads ")
    assert "(script.py, line 10)" in last
    assert 'script.py", line 18' in done.stderr
    assert "numba_cuda" not in done.stderr


@pytest.mark.slow
def test_the_pytest_plugin(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text(
        "from numba import cuda\nimport pytest\n"
        "@pytest.mark.without_gpu('cpu')\n"
        "def test_one(without_gpu):\n    assert 'cpu' in without_gpu.description\n"
        "def test_all(without_gpu):\n    assert 'emulator' in cuda.get_current_device().name\n"
    )
    done = run("-m", "pytest", "-p", "zerfoo_numba.ptx.pytest_plugin", path)
    assert "2 passed" in done.stdout, done.stdout
    done = run("-m", "pytest", "-p", "zerfoo_numba.ptx.pytest_plugin", "--without-gpu=cpu", path)
    assert "1 failed, 1 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_module_of_tests_that_knows_nothing_of_this(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text(
        "from numba import cuda\n@cuda.jit\ndef fill(a):\n    a[cuda.threadIdx.x] = 3\n"
        "def test_fill():\n    a = cuda.device_array(32, 'i4')\n    fill[1, 32](a)\n"
        "    assert a.copy_to_host().sum() == 96\n"
    )
    done = run("-W", "ignore", "-m", "zerfoo_numba.ptx", "-m", "pytest", path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_ZN8__main__3addB2v1B8cw51cXTLE5ArrayIfLi1E1C7mutable7alignedE", "add"),
        ("_ZN6module5outer12_3clocals_3e5innerE3int", "inner"),
        ("_Z3add5ArrayIfLi1E1C7mutable7alignedE", "add"),
        ("plain", "plain"),
        ("_ZN", "_ZN"),
    ],
)
def test_names_of_kernels(mangled, name):
    assert plain_name(mangled) == name


def test_texts_are_linked():
    first = HEAD + (
        ".extern .func (.param .b32 r) f(.param .b32 a);\n.extern .global .align 4 .b8 table[4];\n"
        ".global .align 1 .b8 text[2] = {65, 0};\n"
        ".visible .entry _ZN1m1kE()\n{\n.reg .b64 %a;\n.loc 1 7 0\nmov.u64 %a, text;\nret;\n}\n"
        '.file 1 "first.py"\n'
    )
    second = HEAD + (
        ".visible .global .align 4 .b8 table[4] = {1, 2, 3, 4};\n"
        ".global .align 1 .b8 text[2] = {66, 0};\n"
        ".visible .func (.param .b32 r) f(.param .b32 a)\n{\n.reg .b64 %a;\n.loc 1 9 0\n"
        'mov.u64 %a, text;\nret;\n}\n.file 1 "second.cu"\n'
    )
    module = Module(merge([first, second]))
    assert list(module.kernels) == ["_ZN1m1kE"]
    assert module.kernels["_ZN1m1kE"].name == "k"
    parsed = parse_module(module.text)
    assert {v.name: v.data for v in parsed.variables} == {
        "table": bytes([1, 2, 3, 4]), "text": b"A\0", "text_in1": b"B\0",
    }  # fmt: skip
    functions = parsed.functions
    assert functions["k"].body[0].file == "first.py"
    assert functions["f"].body[0].file == "second.cu"
    assert "text_in1" in functions["f"].body[0].text
    with pytest.raises(UnsupportedError, match="no PTX to link"):
        merge([])
    with pytest.raises(UnsupportedError, match="no PTX text"):
        Module("not PTX")
