"""A Numba-CUDA program without a GPU: python -m zerfoo_numba.ptx [options] SCRIPT.py [arguments]

The program runs unmodified, its kernels on the PTX emulator with its checks, or as code of the
CPU. `-m MODULE` runs a module instead (`-m pytest tests`). Processes that it starts do the same.
Ends with the program's exit code.
"""

import argparse
import os
import runpy
import sys
import traceback
from pathlib import Path

from zerfoo_numba.errors import ZerfooError


def parse(argv):
    parser = argparse.ArgumentParser(
        "python -m zerfoo_numba.ptx", description=__doc__.split("\n\n")[0].split(": ")[0]
    )
    add = parser.add_argument
    add("--device", choices=("emulator", "cpu"), default="emulator")
    add("--no-checks", action="store_true", help="on the emulator, nothing but the bounds")
    add("--report", action="store_true", help="at the end, print which kernels ran")
    add("--counters", action="store_true", help="and what each did, line by line (emulator)")
    add("--seed", type=int, help="another order of threads and blocks (emulator)")
    add("--threads", type=int, help="CPU threads that run blocks")
    add("-m", dest="module", nargs=argparse.REMAINDER, help="run a module, with its arguments")
    add("script", nargs="?", help="a Python file")
    add("arguments", nargs=argparse.REMAINDER)
    found = parser.parse_args(argv)
    if bool(found.script) == bool(found.module):
        parser.error("name a SCRIPT.py, or a module after -m")
    if found.counters and found.device != "emulator":
        parser.error("--counters needs --device emulator")
    return found


def options(found):
    """The keyword arguments of `without_gpu`."""
    result = {"threads": found.threads} if found.threads else {}
    if found.device == "emulator":
        result |= {"checks": not found.no_checks, "count": found.counters, "seed": found.seed}
    return result


def run(found):
    """Run the program -> its exit code."""
    if found.module:
        name, *arguments = found.module
        sys.argv = [name, *arguments]
        sys.path[0] = os.getcwd()
    else:
        sys.argv = [found.script, *found.arguments]
        sys.path[0] = str(Path(found.script).resolve().parent)
    try:
        if found.module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(found.script, run_name="__main__")
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ZerfooError as error:
        print("".join(_of_the_program(error)), end="", file=sys.stderr)
        return 1
    return 0


def _of_the_program(error):
    """The error and where in the program it was, without the packages in between."""
    own = str(Path(__file__).parent)
    inner = (own, f"{os.sep}numba_cuda{os.sep}", "<frozen runpy>", "runpy.py")
    stack = traceback.extract_tb(error.__traceback__)
    shown = [f for f in stack if not any(part in f.filename for part in inner)]
    if shown:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_list(shown)
    yield f"{type(error).__name__}: {error}\n"


def main(argv=None):
    found = parse(argv)
    from zerfoo_numba.ptx.stand_in import children, library

    children.inherit(found.device, **options(found))
    children.follow()
    code = run(found)
    machine = library.state.machine
    if (found.report or found.counters) and machine is not None:
        from zerfoo_numba.ptx.stand_in.report import report

        sys.stdout.flush()
        print("\n".join(["", *report(machine)]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
