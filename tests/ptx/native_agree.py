"""Runs one kernel on the emulator and on the native engine, and compares every byte it wrote."""

import numpy as np

from zerfoo_numba.ptx.compile import Pointer, Ptx, compile_ptx
from zerfoo_numba.ptx.emulator import Memory
from zerfoo_numba.ptx.emulator import load as load_emulator
from zerfoo_numba.ptx.native import Launches, Pool
from zerfoo_numba.ptx.native import load as load_native
from zerfoo_numba.ptx.native.target import host, restricted

# The CPUs that code is made for: this one, one without AVX-512 and VNNI, LLVM's baseline.
LEVELS = {"host": host(), "generic": restricted("generic")}
if host().is_x86:
    LEVELS["avx2"] = restricted("avx2")
POOL = Pool(1)
_TEXT = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry run({parameters}) {{
.reg .b32 %tid, %cta, %number;
.reg .b64 {pointers};
{registers}
{loads}
mov.u32 %tid, %tid.x; mov.u32 %cta, %ctaid.x; mov.u32 %number, %ntid.x;
mad.lo.u32 %number, %cta, %number, %tid;
{body}
ret;
}}
"""


def assembled(body, declared=(), arrays="ab"):
    """A kernel of PTX lines that find its arrays' addresses in %a, %b, ..., the thread in %tid, the
    block in %cta and the thread's number in the grid in %number."""
    text = _TEXT.format(
        parameters=", ".join(f".param .u64 p{name}" for name in arrays),
        pointers=", ".join(f"%{name}" for name in arrays),
        registers="\n".join(declared),
        loads="\n".join(f"ld.param.u64 %{name}, [p{name}];" for name in arrays),
        body="\n".join(body),
    )
    return Ptx(text, "run", (9, 0))


def compiled(kernel, arguments):
    """A `@cuda.jit` kernel over raw pointers, or a Ptx as it is."""
    if isinstance(kernel, Ptx):
        return kernel
    types = tuple(Pointer(a.dtype) if isinstance(a, np.ndarray) else a for a in arguments)
    return compile_ptx(kernel, types)


def emulated(kernel, grid, block, *arguments, shared=0, checks=None):
    """Run on the emulator; arrays are changed in place. -> Counters."""
    program, memory = load_emulator(compiled(kernel, arguments)), Memory()
    values, places = [], []
    for a in arguments:
        if isinstance(a, np.ndarray):
            address = memory.allocate(a.nbytes, element=a.itemsize)
            memory.write(address, a)
            places.append((address, a))
        values.append(np.uint64(address) if isinstance(a, np.ndarray) else a)
    counters = program.run(memory, grid, block, values, shared, checks=checks, count=True)
    for address, a in places:
        a[...] = memory.read(address, a.dtype, a.shape)
    return counters


def native(kernel, grid, block, *arguments, shared=0, target=None, pool=POOL):
    """Run on the native engine; arrays are changed in place."""
    assert all(a.flags.c_contiguous for a in arguments if isinstance(a, np.ndarray))
    ptx = compiled(kernel, arguments)
    values = [np.uint64(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    launches = Launches(pool.threads)
    launches.add(ptx, load_native(ptx, three(block), target), three(grid), values, shared)
    spoil(pool, launches)
    pool.run(launches)


def spoil(pool, launches):
    """Leave nothing sensible where the engine keeps waiting warps, local and shared memory."""
    pool._reserve(launches.scratch_bytes)
    for room in pool._scratch:
        room.fill(0xCB)


def three(size):
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))


def agree(kernel, grid, block, *arguments, shared=0, levels=("host",), checks=None):
    """Run everywhere on copies of the arguments; all arrays must come out the same.

    -> the arrays as the emulator left them.
    """

    def copies():
        return [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]

    expected = copies()
    emulated(kernel, grid, block, *expected, shared=shared, checks=checks)
    for level in levels:
        got = copies()
        native(kernel, grid, block, *got, shared=shared, target=LEVELS[level])
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            if isinstance(a, np.ndarray):
                assert_same(a, b, f"argument {i} on {level}")
    return [a for a in expected if isinstance(a, np.ndarray)]


def assert_same(got, expected, what):
    """The same bits, except that any NaN equals any other: PTX does not say which one comes."""
    a, b = (x.view(f"u{x.itemsize}").reshape(-1) for x in (got, expected))
    wrong = a != b
    if got.dtype.kind == "f":
        wrong &= ~(np.isnan(got).reshape(-1) & np.isnan(expected).reshape(-1))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        pair = f"{got.reshape(-1)[i]!r} ({a[i]:#x}) instead of {expected.reshape(-1)[i]!r}"
        raise AssertionError(f"{what}: {wrong.sum()} differ, element {i} is {pair} ({b[i]:#x})")
