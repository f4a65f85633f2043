"""python -m zerfoo_numba.kernels.ship: the PTX of the standard kernels, for the package to bring.

Run it after a change to a kernel, so that the `cpu` and `emulator` devices need no CUDA libraries.
"""

from zerfoo_numba.kernels.standard import standard_kernels
from zerfoo_numba.ptx import cache
from zerfoo_numba.ptx.compile import DEFAULT_CC, compile_ptx, type_keys


def standard_ptx():
    """{identity: PTX text} of every standard kernel, compiled from the sources as they are."""
    texts = {}
    for _, kernel, arguments in standard_kernels():
        function = kernel.py_func
        known = cache.identity(function, type_keys(arguments), DEFAULT_CC)
        texts[known] = compile_ptx(kernel, arguments, shipped=False).text
    return texts


def main():
    texts = standard_ptx()
    size = cache.ship(texts)
    print(f"{len(texts)} kernels in {size / 1024:.0f} KiB: {cache.SHIPPED.name}")


if __name__ == "__main__":
    main()
