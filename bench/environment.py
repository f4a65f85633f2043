"""What a measurement was made on: machine, packages, commit. Nothing private: no name, no path."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "zerfoo-numba", "numpy", "numba", "numba-cuda", "llvmlite",
    "cuda-core", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink",
)  # fmt: skip


def environment():
    """A JSON-ready record; works with and without a GPU."""
    return {
        "cpu_info": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "build_commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        "tree_dirty": bool(_git("status", "--porcelain")),
    }


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments):
    root = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu():
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unknown"


def _memory_gib():
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
