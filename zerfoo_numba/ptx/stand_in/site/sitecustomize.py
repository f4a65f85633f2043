"""First on the Python path of child processes: see `zerfoo_numba.ptx.stand_in.children`."""

import importlib.machinery
import importlib.util
import os
import sys

_here = os.path.dirname(__file__)
_rest = [p for p in sys.path if os.path.abspath(p or ".") != _here]
_shadowed = importlib.machinery.PathFinder.find_spec("sitecustomize", _rest)
if _shadowed is not None:  # the environment's own has its say too
    _shadowed.loader.exec_module(importlib.util.module_from_spec(_shadowed))

from zerfoo_numba.ptx.stand_in.children import follow  # noqa: E402

follow()
