"""The stand-in in child processes: what `python -m zerfoo_numba.ptx` sets up, its children inherit.

Two environment variables carry it: the device with its options, and a Python path that begins with
a folder whose `sitecustomize` calls `follow`. numba-cuda is waited for, so that a child which does
not use it pays nothing.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path

VARIABLE = "ZERFOO_NUMBA_STAND_IN"
_PACKAGES = ("numba.cuda", "numba_cuda_mlir.cuda")
_SITE = str(Path(__file__).parent / "site")
_kept: list = []  # the stack that ends with the process


def inherit(device, launches=None, **options):
    """Have child processes use the same device. `launches`: a file to which each of them adds a
    line with the number of its launches."""
    os.environ[VARIABLE] = json.dumps({"device": device, "launches": launches, **options})
    path = os.environ.get("PYTHONPATH")
    if _SITE not in (path or "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SITE, path]))


def follow(wanted=None):
    """Plug the device in as soon as this process has imported numba-cuda.

    `wanted` holds the arguments of `start`; by default what a parent process has set up.
    """
    wanted = wanted or json.loads(os.environ.get(VARIABLE, "null"))
    if wanted is not None:
        sys.meta_path.insert(0, _Finder(wanted))


class _Finder:
    """Sees one of the packages imported, once."""

    def __init__(self, wanted):
        self.wanted = wanted

    def find_spec(self, name, path=None, target=None):
        if name not in _PACKAGES:
            return None
        from zerfoo_numba.ptx.stand_in import library

        library.load()  # before numba-cuda looks for a driver, and perhaps finds a real one
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def then_start(module):
            execute(module)
            start(**self.wanted)

        spec.loader.exec_module = then_start
        return spec


def start(device, launches=None, **options):
    """Plug the device in for the rest of this process; -> the machine."""
    from zerfoo_numba.ptx.stand_in import without_gpu

    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _Finder)]  # it is served
    if not _kept:
        atexit.register(lambda: _kept.pop().close())
        _kept.append(contextlib.ExitStack())
    machine = _kept[0].enter_context(without_gpu(device, **options))
    if launches is not None:
        atexit.register(_report, machine, launches)
    return machine


def _report(machine, path):
    with open(path, "a") as file:
        file.write(f"{machine.launch_count}\n")
