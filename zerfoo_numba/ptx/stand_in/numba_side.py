"""The few places of numba-cuda that reach past the driver: linking, errors, managed memory.

Its linker makes machine code; here the PTX is kept. Errors that a machine had are raised as they
are, instead of the status they became in C. Everything else of numba-cuda runs as it is. So does
its successor, numba-cuda-mlir, which has the same driver layer.
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
import warnings

from zerfoo_numba.errors import DeviceError, UnsupportedError, ZerfooError
from zerfoo_numba.ptx.stand_in.argument_names import array_names
from zerfoo_numba.ptx.stand_in.library import state
from zerfoo_numba.ptx.stand_in.linking import merge

_WITHOUT_CODE = "cudadevrt"  # the library of grid barriers, which the machines know
# What numba-cuda calls for things that outlive the machine they were on.
_GIVING_BACK = (
    *("cuMemFree", "cuMemFreeHost", "cuMemHostUnregister", "cuEventDestroy", "cuStreamDestroy"),
    "cuLibraryUnload",
)


def _nothing(*arguments):
    """The machine is gone, and what it had with it."""


@contextlib.contextmanager
def patched():
    """numba-cuda, and its successor where that is imported, as they are to be with a machine."""
    with contextlib.ExitStack() as stack:
        for package, replacements in _packages():
            devices, driver = (
                importlib.import_module(f"{package}.cudadrv.{name}")
                for name in ("devices", "driver")
            )
            for owner, name, value in [*_of_the_driver(driver), *replacements()]:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            stack.enter_context(_started(devices, driver))
        yield


def _packages():
    """(package, what else of it is replaced) of each that there is."""
    if importlib.util.find_spec("numba_cuda"):
        from numba.cuda.core import config

        if config.ENABLE_CUDASIM:
            raise DeviceError("numba-cuda's own simulator is on; unset NUMBA_ENABLE_CUDASIM")
        yield "numba.cuda", _of_numba_cuda
    if "numba_cuda_mlir" in sys.modules:
        yield "numba_cuda_mlir.numba_cuda", _of_its_successor


@contextlib.contextmanager
def _started(devices, driver):
    """The package's driver object as if it had just been made, and afterwards as it was."""
    instance = driver.driver
    before = dict(vars(instance))
    _forget(devices, driver)
    vars(instance).clear()
    instance.__init__()
    instance.ensure_initialized()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            devices.reset()
        _forget(devices, driver)
        vars(instance).clear()
        vars(instance).update(before, **dict.fromkeys(_GIVING_BACK, _nothing))


def _forget(devices, driver):
    """Contexts and devices that the package remembers."""
    devices._DeviceList.lst.fget.cache_clear()
    for memory, name in (
        (devices._runtime._tls, "attached_context"),
        (driver._ActiveContext._tls_cache, "ctx_devnum"),
    ):
        with contextlib.suppress(AttributeError):
            delattr(memory, name)


def _of_the_driver(driver):
    """(module or class, name, what stands there meanwhile), the same in both packages."""
    yield driver._Linker, "__init__", _lto_only_to_look_at(driver._Linker.__init__)
    yield driver._Linker, "complete", _complete
    yield driver, "Function", _function(driver.CudaPythonFunction)
    yield driver, "ManagedMemory", _managed(driver.ManagedMemory)
    yield driver.Driver, "_check_cuda_python_error", _check(driver.Driver._check_cuda_python_error)


def _of_numba_cuda():
    from numba.cuda import codegen, dispatcher
    from numba.cuda.memory_management import nrt

    yield codegen.JITCUDACodegen, "magic_tuple", _marked(codegen.JITCUDACodegen.magic_tuple)
    yield codegen.CUDACodeLibrary, "get_ltoir", _without_lines(codegen.CUDACodeLibrary.get_ltoir)
    yield dispatcher, "compile_cuda", _with_lines(dispatcher.compile_cuda)
    yield dispatcher, "launch", _launch(dispatcher.launch)
    yield nrt, "launch", _launch(nrt.launch)
    yield dispatcher._Kernel, "launch", _naming(dispatcher._Kernel.launch)


def _of_its_successor():
    descriptor = importlib.import_module("numba_cuda_mlir.descriptor")
    yield descriptor, "_raise_as_cuda_error", _or_raise(descriptor._raise_as_cuda_error)


def raise_error():
    """Raise what a machine had to say, if anything."""
    error = state.take_error()
    if isinstance(error, ZerfooError):  # where it was found says nothing to the program's author
        raise error.with_traceback(None) from None
    if error is not None:
        raise error


def _lto_only_to_look_at(initialize):
    """Link-time optimisation for who asks for its PTX alone: kernels run as NVVM made them."""

    @functools.wraps(initialize)
    def initialize_without(self, *args, additional_flags=None, lto=None, **options):
        if "numba_cuda_mlir" not in type(self).__module__:
            lto = lto if additional_flags else False
        initialize(self, *args, additional_flags=additional_flags, lto=lto, **options)

    return initialize_without


def _complete(self):
    """The PTX of all that was added, where the linker would make a cubin of it."""
    from cuda.core import ObjectCode

    texts = [t for t in map(_text, self._object_codes) if t]
    intermediate = [c for c in self._object_codes if c.code_type == "ltoir"]
    if intermediate:
        texts.append(_ptx_of(intermediate, self.arch))
    self._info_log = self._error_log = ""
    self.linker, self._complete = self, True
    return ObjectCode.from_ptx(merge(texts).encode())


def _text(code):
    kind = code.code_type
    if kind == "ptx":
        return code.code.decode() if isinstance(code.code, bytes) else code.code
    if kind == "ltoir" or (kind == "library" and _WITHOUT_CODE in code.name):
        return None
    raise UnsupportedError(
        f"{code.name} is a {kind}: machine code of a GPU, which runs on a GPU only"
    )


def _ptx_of(codes, arch):
    """The PTX of objects of NVVM's intermediate code, linked."""
    from cuda.core import Linker, LinkerOptions

    options = LinkerOptions(arch=arch, link_time_optimization=True, ptx=True)
    data = Linker(*codes, options=options).link("ptx").code
    return data.decode() if isinstance(data, bytes) else data


def _function(base):
    class Function(base):
        """A loaded kernel; what it takes of a GPU is found out when somebody asks."""

        __slots__ = ("_attributes",)

        def __init__(self, module, kernel, name):
            self.module, self.kernel, self.name = module, kernel, name
            self.handle, self._attributes = kernel.handle, None

        @property
        def attrs(self):
            if self._attributes is None:
                self._attributes = base(self.module, self.kernel, self.name).attrs
            return self._attributes

        @attrs.setter
        def attrs(self, value):
            self._attributes = value

    return Function


def _managed(base):
    class ManagedMemory(base):
        """Memory of host and device, under one address on a GPU and two here."""

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._bufptr_ = state.machine.host_address(int(self.device_pointer))

    return ManagedMemory


def _check(check):
    def checked(self, name, returned):
        if returned[0]:
            raise_error()
        return check(self, name, returned)

    return checked


def _marked(magic_tuple):
    """What numba-cuda caches on disk is PTX here and machine code elsewhere."""

    @functools.wraps(magic_tuple)
    def marked(self):
        return (*magic_tuple(self), "zerfoo-numba")

    return marked


def _with_lines(compile_cuda):
    """Source lines for messages, whether or not the program asked for them."""

    @functools.wraps(compile_cuda)
    def compile_with_lines(*args, debug, lineinfo, **options):
        with warnings.catch_warnings():
            if not debug and not lineinfo:  # a function made from text has none, which is no matter
                warnings.simplefilter("ignore", NumbaDebugInfoWarning)
            return compile_cuda(*args, debug=debug, lineinfo=lineinfo or not debug, **options)

    from numba.cuda.core.errors import NumbaDebugInfoWarning

    return compile_with_lines


def _without_lines(get_ltoir):
    """Intermediate code that links with such as has no source lines: marked as of no version of
    debug information that a compiler knows, they are left out."""

    @functools.wraps(get_ltoir)
    def get(self, cc=None):
        kept = self.llvm_strs
        self._llvm_strs = [t.replace('"Debug Info Version"', '"Source Lines"') for t in kept]
        try:
            return get_ltoir(self, cc)
        finally:
            self._llvm_strs = kept

    return get


def _launch(launch):
    def launch_or_raise(*args):
        try:
            return launch(*args)
        except Exception:
            raise_error()
            raise

    return launch_or_raise


def _or_raise(translate):
    """A C extension launches, and what it says of a failure is translated."""

    def raise_or_translate(error):
        raise_error()
        translate(error)

    return raise_or_translate


def _naming(launch):
    """Tell the machine what the kernel's source calls its arguments."""

    @functools.wraps(launch)
    def named(self, args, *shape, **options):
        state.machine.names = array_names(self)
        try:
            return launch(self, args, *shape, **options)
        finally:
            if state.machine is not None:  # the launch may have been refused before it began
                state.machine.names = None

    return named
