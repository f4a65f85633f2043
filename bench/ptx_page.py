"""The page of the PTX emulator for Numba-CUDA authors: python -m bench.ptx_page [--mlir PYTHON]

Runs `bench/ptx_example.py` without a GPU, once per fault that is in it, and writes what is printed
to reports/ptx.md. `--mlir` names the interpreter of an environment with numba-cuda-mlir and
llvmlite; what `bench.ptx_mlir` finds there is kept in reports/ptx.json, and on the page.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from bench.environment import environment

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "reports" / "ptx.md"
KEPT = PAGE.with_suffix(".json")
EXAMPLE = "bench/ptx_example.py"
FAULTS = (
    ("A race", "race", (), "Two warps of a block add up what the other has not finished writing."),
    ("An access out of bounds", "bounds", (), "The last thread of the last block reads past `a`."),
    ("A load that is not coalesced", "memory", ("--counters",),
     "Nothing is wrong, but each warp's load touches 32 sectors of 32 bytes where 4 would do."),
)  # fmt: skip
HEAD = """# Numba-CUDA without a GPU

`python -m zerfoo_numba.ptx SCRIPT.py` runs a Numba-CUDA program as it is on a machine without a
GPU: numba-cuda compiles the kernels to PTX as ever, and a stand-in for the driver runs that PTX on
an emulator that checks every access, or as vector code of the CPU (`--device cpu`). In Python it
is `with zerfoo_numba.ptx.without_gpu():`, in tests `-p zerfoo_numba.ptx.pytest_plugin`.
[numba_suite.md](numba_suite.md) is about numba-cuda's own tests.

Made by `python -m bench.ptx_page` with numba-cuda {version}; what follows is printed by the
commands as shown. The script:

```python
{source}```
"""


def run(*command, python=sys.executable, path=""):
    """What a command prints, both streams, as a person sees it."""
    environment = os.environ | {"PYTHONPATH": path} if path else None
    done = subprocess.run(
        [python, "-W", "ignore", "-m", *command], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.stdout.replace(f"{ROOT}{os.sep}", "").strip()


def sections():
    """Markdown of each fault: the command and its output."""
    for title, argument, options, what in FAULTS:
        command = ["zerfoo_numba.ptx", *options, EXAMPLE, argument]
        printed = f"$ python -m {' '.join(command)}\n{run(*command)}"
        yield "\n".join([f"## {title}", "", what, "", "```", printed, "```", ""])


def successor(found):
    """Markdown of what was measured with numba-cuda-mlir."""
    lines = [
        "## numba-cuda-mlir",
        "",
        f"Version {found['version']} has the driver layer of numba-cuda, so the stand-in serves "
        "it too, by the same command. Programs of one feature each (`bench/ptx_mlir.py`):",
        "",
        "| program | " + " | ".join(found["devices"]) + " |",
        "|---|" + "---|" * len(found["devices"]),
    ]
    for name, outcomes in found["programs"].items():
        lines.append(f"| {name} | " + " | ".join(o.replace("|", "\\|") for o in outcomes) + " |")
    lines += [
        "",
        "A KernelFault is a check's: the loop of compare-and-swap that numba-cuda-mlir makes for a "
        "maximum begins with an ordinary load. Other errors are of its compiler or its library.",
    ]
    return "\n".join(lines) + "\n"


def measure(python):
    """Run the programs of `bench.ptx_mlir` in another environment -> their outcomes."""
    found = {"devices": ["emulator", "cpu"], "programs": {}}
    for device in found["devices"]:
        answer = json.loads(run("bench.ptx_mlir", device, python=python, path=str(ROOT)))
        found["version"] = answer["version"]
        for name, outcome in answer["programs"].items():
            found["programs"].setdefault(name, []).append(outcome)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlir", help="a Python that has numba-cuda-mlir and llvmlite")
    arguments = parser.parse_args(argv)
    if arguments.mlir:
        record = {"environment": environment(), **measure(arguments.mlir)}
        KEPT.write_text(json.dumps(record, indent=1) + "\n")
    source = (ROOT / EXAMPLE).read_text()
    parts = [HEAD.format(version=version("numba-cuda"), source=source), *sections()]
    if KEPT.exists():
        parts.append(successor(json.loads(KEPT.read_text())))
    PAGE.write_text("\n".join(parts).rstrip() + "\n")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
