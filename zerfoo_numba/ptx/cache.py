"""Compiled kernels kept on disk, and those that the package brings along.

A kernel of this package is known by its module, name, the constants it closes over, its argument
types and the compute capability. What is kept is thrown away when a source file that could change
it, or the compiler, is another.
"""

import contextlib
import functools
import hashlib
import json
import lzma
import os
import threading
from importlib import metadata
from pathlib import Path

import zerfoo_numba

PACKAGE = Path(zerfoo_numba.__file__).parent
SHIPPED = PACKAGE / "data" / "kernels.ptx.xz"
COMPILERS = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm")


def folder():
    """Where compiled code is kept: `ZERFOO_CACHE`, else the user's cache directory."""
    if "ZERFOO_CACHE" in os.environ:
        return Path(os.environ["ZERFOO_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zerfoo-numba"


def write_atomically(path, data):
    """Write a cache entry; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        partial.write_bytes(data)
        partial.replace(path)


def identity(function, signature, cc):
    """The text by which a kernel is known, or None for one that is not this package's."""
    if any(not (f.__module__ or "").startswith("zerfoo_numba.") for f in _functions(function)):
        return None
    return f"{_name(function)} {' '.join(signature)} sm_{''.join(str(part) for part in cc)}"


def _functions(value):
    """A function and every function it closes over."""
    function = getattr(value, "py_func", value)
    if hasattr(function, "__code__"):
        yield function
        for cell in function.__closure__ or ():
            yield from _functions(cell.cell_contents)


def _name(value):
    """`module.make_matvec.<locals>.matvec[module.decode_q4_k, 4]`."""
    function = getattr(value, "py_func", value)
    if hasattr(function, "__code__"):
        inner = [_name(cell.cell_contents) for cell in function.__closure__ or ()]
        full = f"{function.__module__}.{function.__qualname__}"
        return full + (f"[{', '.join(inner)}]" if inner else "")
    return getattr(value, "instruction_text", None) or repr(value)


@functools.cache
def source_digest():
    """One hash over every file that can change the PTX of this package's kernels."""
    digest = hashlib.sha256()
    paths = [p for part in ("kernels", "quant", "ptx") for p in (PACKAGE / part).glob("*.py")]
    for path in [*sorted(paths), PACKAGE / "data" / "iq_grids.txt"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _compiler_versions():
    versions = []
    for package in COMPILERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    return " ".join(versions)


def load(known):
    """The PTX text kept for the kernel known by that text, or None."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _path(known).read_text()
    return None


def save(known, text):
    write_atomically(_path(known), text.encode())


def _path(known):
    key = f"{source_digest()} {_compiler_versions()} {known}"
    return folder() / "ptx" / f"{hashlib.sha256(key.encode()).hexdigest()}.ptx"


@functools.cache
def shipped():
    """{identity: PTX text} of the standard kernels; empty if made from other sources."""
    try:
        packed = json.loads(lzma.decompress(SHIPPED.read_bytes()))
    except OSError:
        return {}
    return packed["kernels"] if packed["sources"] == source_digest() else {}


def ship(kernels):
    """Write {identity: PTX text} as the kernels that the package brings along."""
    packed = json.dumps({"sources": source_digest(), "kernels": kernels}, sort_keys=True)
    data = lzma.compress(packed.encode(), preset=9 | lzma.PRESET_EXTREME)
    SHIPPED.write_bytes(data)
    shipped.cache_clear()
    return len(data)
