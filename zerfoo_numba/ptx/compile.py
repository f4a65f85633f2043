"""Numba-CUDA kernels to PTX, without a GPU: the only contact with the compiler.

numba-cuda is in maintenance mode; a move to its successor should change this file alone.
"""

import contextlib
import re
import threading
import types as python_types
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.ptx import cache

DEFAULT_CC = (9, 0)
_lock = threading.RLock()  # Numba's compiler is not re-entrant


@dataclass(frozen=True)
class Ptx:
    """One compiled kernel: `text` holds the single entry `entry`, compiled for `cc`."""

    text: str
    entry: str
    cc: tuple[int, ...]


@dataclass(frozen=True)
class Pointer:
    """The type of a raw device pointer to elements of `dtype`; indexing it checks no bounds."""

    dtype: np.dtype


def ptx_op(results, arguments, text, *, volatile=False, memory=False):
    """One PTX instruction as a function that kernels may call.

    `results` and `arguments` are tuples of Numba scalar types; `text` names the operands `$0`,
    `$1`, ... results first. Arguments are cast to the declared types. `volatile` keeps the
    instruction where it stands; `memory` also orders it with loads and stores.
    """
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    results, arguments = tuple(results), tuple(arguments)
    register = {
        types.int16: "h", types.uint16: "h", types.int32: "r", types.uint32: "r",
        types.int64: "l", types.uint64: "l", types.float32: "f", types.float64: "d",
    }  # fmt: skip
    constraints = ["=" + register[t] for t in results] + [register[t] for t in arguments]
    constraints += ["~{memory}"] * memory
    returned = types.void if not results else results[0]
    if len(results) > 1:
        returned = types.Tuple(results)

    def codegen(context, builder, signature, values):
        parts = [context.get_value_type(t) for t in results]
        llvm = ir.VoidType() if not parts else parts[0]
        if len(parts) > 1:
            llvm = ir.LiteralStructType(parts)
        function = ir.FunctionType(llvm, [context.get_value_type(t) for t in arguments])
        effect = volatile or memory
        assembly = ir.InlineAsm(function, text, ",".join(constraints), side_effect=effect)
        result = builder.call(assembly, values)
        if not results:
            return context.get_dummy_value()
        if len(results) == 1:
            return result
        items = [builder.extract_value(result, i) for i in range(len(results))]
        return context.make_tuple(builder, signature.return_type, items)

    # An intrinsic needs a fixed number of named parameters.
    names = "".join(f", a{i}" for i in range(len(arguments)))
    scope = {"returned": returned, "arguments": arguments, "codegen": codegen}
    exec(f"def instruction(typing{names}):\n    return returned(*arguments), codegen\n", scope)
    operation = intrinsic(scope["instruction"])
    operation.instruction_text = text  # by which a kernel that closes over it is known
    return operation


def numba_type(value):
    """The Numba type under which a kernel is compiled for the argument `value`."""
    from numba.cuda import types
    from numba.cuda.np import numpy_support

    if isinstance(value, Pointer):
        return types.CPointer(numpy_support.from_dtype(value.dtype))
    if isinstance(value, np.ndarray):
        layout = "C" if value.flags.c_contiguous else "F" if value.flags.f_contiguous else "A"
        return types.Array(numpy_support.from_dtype(value.dtype), value.ndim, layout)
    if isinstance(value, np.generic):
        return numpy_support.from_dtype(value.dtype)
    if isinstance(value, bool):
        return types.boolean
    if isinstance(value, int):
        return types.int64
    if isinstance(value, float):
        return types.float64
    raise TypeError(f"a kernel argument of type {type(value).__name__} has no PTX form")


def compile_ptx(kernel, arguments, cc=DEFAULT_CC, shipped=True):
    """Compile a `@cuda.jit` kernel (or a plain function) to PTX for compute capability `cc`.

    `arguments` are example values: `Pointer`, NumPy arrays and scalars, or Python numbers. Kernels
    of this package are taken from what it brings along, unless `shipped` is false (a driver's
    libraries may be older than the compiler that made those), and from the cache on disk.
    """
    function = getattr(kernel, "py_func", kernel)
    signature = type_keys(arguments)
    cc = tuple(cc)
    with _lock:
        key = (function, signature, cc, shipped)
        if key not in _compiled:
            known = cache.identity(function, signature, cc)
            text = cache.shipped().get(known) if shipped else None
            text = text or (known and cache.load(known))
            if text is None:
                text = _compile(kernel, function, arguments, cc)
                if known is not None:
                    cache.save(known, text)
            _compiled[key] = Ptx(text, function.__name__, cc)
        return _compiled[key]


_compiled: dict = {}


def type_keys(arguments):
    """The types of `arguments` as texts: what a compiled kernel is specialised to."""
    return tuple(_type_key(a) for a in arguments)


def _type_key(value):
    if isinstance(value, Pointer):
        return f"*{np.dtype(value.dtype)}"
    if isinstance(value, np.generic):
        return str(value.dtype)
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{value.ndim}]{value.flags.c_contiguous}{value.flags.f_contiguous}"
    return type(value).__name__


def _compile(kernel, function, arguments, cc):
    text = _library(kernel, function, arguments, cc).get_asm_strs(cc=cc)[0]
    mangled = re.search(r"\.visible \.entry (\w+)", text)[1]
    text = text.replace(mangled, function.__name__)
    text = re.sub(
        r"^\.common \.global .*_ZN08NumbaEnv.*\n|^\s*// \.globl.*\n", "", text, flags=re.M
    )
    return _renumbered(_without_paths(text))


def _library(kernel, function, arguments, cc):
    """Numba's front end, most of the time and the same for every compute capability."""
    from numba.cuda import compiler, types

    key = (function, type_keys(arguments))
    if key not in _libraries:
        options = getattr(kernel, "targetoptions", {})
        with _compute_capability(cc):
            _libraries[key], _ = compiler._compile_pyfunc_with_fixup(
                function,
                types.void(*(numba_type(a) for a in arguments)),
                abi="numba",
                cc=cc,
                device=False,
                lineinfo=True,
                fastmath=options.get("fastmath", False),
            )
    return _libraries[key]


_libraries: dict = {}


def _without_paths(text):
    """Source files by their names alone, so that PTX is the same wherever it is made."""
    return re.sub(r'(^\s*\.file\s+\d+\s+)"[^"]*?([^"/\\]+)"', r'\1"\2"', text, flags=re.M)


def _renumbered(text):
    """Shared arrays are numbered over the whole process; here from 0, so that equal kernels are
    equal texts."""
    names = dict.fromkeys(re.findall(r"_cudapy_smem_\d+", text))
    order = {name: f"_cudapy_smem_{i}" for i, name in enumerate(names)}
    return re.sub(r"_cudapy_smem_\d+", lambda m: order[m[0]], text)


@contextlib.contextmanager
def _compute_capability(cc):
    """Device functions ask the driver which capability to compile for; here the answer is `cc`."""
    from numba.cuda import dispatcher

    driver = dispatcher.get_current_device
    stand_in = python_types.SimpleNamespace(compute_capability=tuple(cc[:2]))
    dispatcher.get_current_device = lambda: stand_in
    try:
        yield
    finally:
        dispatcher.get_current_device = driver
