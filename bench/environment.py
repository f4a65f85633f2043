"""What a measurement was made on: machine, packages, commit. Nothing private: no name, no path."""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "zerfoo-numba", "numpy", "numba", "numba-cuda", "llvmlite",
    "cuda-core", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink",
)  # fmt: skip


# nvidia-smi's names of what is asked of the GPU.
GPU_FIGURES = (
    "name", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.max.sm",
    "clocks.mem", "clocks.max.mem", "power.draw", "power.limit", "pstate", "temperature.gpu",
    "ecc.mode.current", "persistence_mode", "utilization.gpu",
)  # fmt: skip


def environment():
    """A JSON-ready record; works with and without a GPU."""
    gpu = _gpu()
    return {
        **({"gpu": gpu} if gpu else {}),
        "cpu_info": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "build_commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        # Results are no part of what is measured: the first must not spoil the second.
        "tree_dirty": bool(_git("status", "--porcelain", "--", ":/", ":(top,exclude)reports")),
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


def _gpu():
    """The first GPU by nvidia-smi, or None; `warnings` says what spoils a figure taken now."""
    rows = _nvidia_smi(f"--query-gpu={','.join(GPU_FIGURES)}")
    if not rows:
        return None
    cells = [cell.strip() for cell in rows[0].split(",")]
    found = dict(zip(GPU_FIGURES, cells, strict=False))
    found["cuda_version"] = _cuda_version()
    others = len(_nvidia_smi("--query-compute-apps=used_memory"))
    found["processes"] = others
    found["warnings"] = [f"{others} processes use the GPU"] if others > 1 else []
    return found


def _cuda_version():
    """The newest CUDA that the driver runs, or None."""
    lines = "\n".join(_nvidia_smi("-q", ()))
    found = re.search(r"CUDA Version\s*:\s*([\d.]+)", lines)
    return found[1] if found else None


def _nvidia_smi(query, form=("--format=csv,noheader,nounits",)):
    """The lines that answer a query; none where there is no driver. Process ids are not asked."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", query, *form, "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


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
