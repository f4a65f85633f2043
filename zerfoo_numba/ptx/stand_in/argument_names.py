"""Which of a kernel's parameters is which array of its source: what messages call them."""


def array_names(kernel):
    """(parameter, name, item size) of each array that the kernel takes."""
    if not hasattr(kernel, "_array_names"):
        code = getattr(getattr(kernel, "py_func", None), "__code__", None)
        found, at = [], 0
        types = kernel.argument_types
        names = code.co_varnames[: len(types)] if code else [f"argument {i}" for i in range(99)]
        for name, kind in zip(names, types, strict=False):
            at = _walk(found, at, name, kind)
        kernel._array_names = found
    return kernel._array_names


def _walk(found, at, name, kind):
    """Append the arrays of one argument of Numba type `kind`; -> the next parameter's number."""
    from numba.cuda import types

    if isinstance(kind, types.Array):
        item = kind.dtype.bitwidth // 8 if hasattr(kind.dtype, "bitwidth") else None
        found.append((at + 4, name, item or getattr(kind.dtype, "size", 1)))
        return at + 5 + 2 * kind.ndim
    if isinstance(kind, types.BaseTuple):
        for i, each in enumerate(kind):
            at = _walk(found, at, f"{name}[{i}]", each)
        return at
    return at + (2 if isinstance(kind, types.Complex) else 1)
