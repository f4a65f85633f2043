"""PTX to GPU machine code (a cubin) by nvJitLink: no driver and no GPU needed.

The same step serves the `cuda` device and the compile gate, so what the gate measures is what runs.
"""

import contextlib
import functools
import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx import cache
from zerfoo_numba.ptx.compile import Ptx

STATIC_SHARED_LIMIT = 48 * 1024  # CUDA C++ Programming Guide, technical specifications, all sm


class Usage(NamedTuple):
    """What one kernel takes: registers per thread, spill and stack bytes per thread, static
    shared memory bytes per block."""

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


def cubin(ptx: Ptx) -> tuple[bytes, Usage]:
    """Assemble `ptx` for the compute capability it was compiled for.

    Cached on disk by the PTX text, the architecture and the versions of the linker.
    Raises DeviceError where the CUDA libraries are missing or refuse the kernel, and where it
    declares more than 48 KB of static shared memory (no driver would load it).
    """
    shared = static_shared_bytes(ptx.text)
    if shared > STATIC_SHARED_LIMIT:
        raise DeviceError(
            f"kernel {ptx.entry} declares {shared:,} bytes of static shared memory, more than "
            f"the {STATIC_SHARED_LIMIT:,} a block may have; declare it dynamic instead"
        )
    arch = architecture(ptx.cc)
    identity = f"{linker_version()} {arch} {ptx.text}"
    key = hashlib.sha256(identity.encode()).hexdigest()
    code_path = cache.folder() / "cubin" / f"{key}.cubin"
    usage_path = code_path.with_suffix(".json")
    try:
        return code_path.read_bytes(), Usage(**json.loads(usage_path.read_text()))
    except (OSError, ValueError, TypeError):
        code, log = _assemble(ptx, arch)
    usage = _usage(log, shared)
    cache.write_atomically(usage_path, json.dumps(usage._asdict()).encode())
    cache.write_atomically(code_path, code)
    return code, usage


def architecture(cc):
    """The name of a compute capability's machine: (9, 0) -> "sm_90", (9, 0, "a") -> "sm_90a"."""
    return "sm_" + "".join(str(part) for part in cc)


def static_shared_bytes(text):
    """Bytes of shared memory that the PTX `text` declares, laid out in the order of the text.

    The linker's log does not say it for PTX input. Dynamic shared memory is `.extern`.
    """
    total = 0
    for line in re.findall(r"^[ \t]*(?:\.(?:visible|weak|common)\s+)?\.shared\s[^;]*;", text, re.M):
        width = int(re.search(r"\.[busf](\d+)\s", line)[1]) // 8
        align = re.search(r"\.align\s+(\d+)", line)
        align = int(align[1]) if align else width
        size = width
        for count in re.findall(r"\[(\d+)\]", line):
            size *= int(count)
        total = -(-total // align) * align + size
    return total


@functools.cache
def toolkit_version():
    """(major, minor) of the CUDA libraries that assemble kernels here; DeviceError if none."""
    try:
        import cuda.core  # noqa: F401
        from cuda.bindings import nvjitlink

        return tuple(nvjitlink.version())
    except (ImportError, RuntimeError) as error:
        raise DeviceError(
            "the CUDA libraries that assemble kernels are not installed; "
            "pip install 'zerfoo-numba[cuda]'"
        ) from error


@functools.cache
def linker_version():
    """Versions of everything that turns PTX into machine code here, as one string."""
    parts = ["nvJitLink {}.{}".format(*toolkit_version())]
    for name in ("cuda-core", "nvidia-nvjitlink", "nvidia-nvjitlink-cu12"):
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join(parts)


def _assemble(ptx, arch):
    from cuda.bindings.nvjitlink import nvJitLinkError
    from cuda.core import Linker, LinkerOptions, ObjectCode

    try:
        linker = Linker(
            ObjectCode.from_ptx(ptx.text.encode()),
            options=LinkerOptions(arch=arch, ptxas_options=["-v"]),
        )
        return linker.link("cubin").code, linker.get_info_log()
    except nvJitLinkError as error:
        reason = re.search(r"error\s*:\s*([^\n\0]+)", str(error))
        raise DeviceError(
            f"kernel {ptx.entry} does not assemble for {arch}: "
            f"{reason[1].strip() if reason else _first_line(error)}"
        ) from error


def _usage(log, shared):
    """Read ptxas's report; it names registers always, stack and spills once per function."""
    return Usage(
        registers=int(re.search(r"Used (\d+) registers", log)[1]),
        spill_bytes=sum(int(n) for n in re.findall(r"(\d+) bytes spill", log)),
        stack_bytes=sum(int(n) for n in re.findall(r"(\d+) bytes stack frame", log)),
        shared_bytes=shared,
    )


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
