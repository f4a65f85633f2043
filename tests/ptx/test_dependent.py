"""Kernels made ready for programmatic dependent launch: they wait first, link, and do the same."""

import numpy as np
import pytest

from zerfoo_numba.devices.cuda_dependent import require, waiting
from zerfoo_numba.errors import DeviceError
from zerfoo_numba.kernels.standard import standard_kernels
from zerfoo_numba.ptx.compile import Ptx, compile_ptx
from zerfoo_numba.ptx.emulator import Memory, load
from zerfoo_numba.ptx.native.launches import Launches, Pool
from zerfoo_numba.ptx.native.program import load as load_native
from zerfoo_numba.ptx.native.target import host
from zerfoo_numba.ptx.parse import parse_module
from zerfoo_numba.ptx.structure import Instruction

KERNELS = {name: (kernel, arguments) for name, kernel, arguments in standard_kernels()}
SOME = sorted(KERNELS)[::90]


@pytest.mark.parametrize("name", SOME)
def test_a_kernel_waits_before_anything_else(name):
    ptx = compile_ptx(*KERNELS[name])
    after = waiting(ptx)
    body, before = (parse_module(p.text).functions[p.entry].body for p in (after, ptx))
    instructions = [item for item in body if isinstance(item, Instruction)]
    assert [i.opcode for i in instructions[:2]] == [
        "griddepcontrol.wait",
        "griddepcontrol.launch_dependents",
    ]
    assert body[2:] == before and isinstance(body[0], Instruction)


@pytest.mark.parametrize("cc", [(9, 0), (12, 0)])
def test_it_links(cc):
    link = pytest.importorskip("zerfoo_numba.ptx.link", reason="needs the cuda extra")
    pytest.importorskip("cuda.core", reason="needs the cuda extra")
    ptx = compile_ptx(*KERNELS[SOME[0]], cc)
    code, usage = link.cubin(waiting(ptx))
    assert code[:4] == b"\x7fELF" and usage.spill_bytes == 0
    assert code != link.cubin(ptx)[0]


@pytest.mark.parametrize("cc, version, said", [((8, 9), 13000, "8.9"), ((9, 0), 12020, "12.2")])
def test_what_is_too_old_is_refused(cc, version, said):
    with pytest.raises(DeviceError, match=f"dependent launch needs.*a GPU has.*{said}"):
        require("a GPU", cc, version)
    require("a GPU", (9, 0), 12030)


HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"
DOUBLE = """.visible .entry double(.param .u64 p)
{
\t.reg .b64 \t%rd<4>;
\t.reg .b32 \t%r<3>;
\tmov.u32 \t%r1, %tid.x;
\tld.param.u64 \t%rd1, [p];
\tmul.wide.u32 \t%rd2, %r1, 4;
\tadd.s64 \t%rd3, %rd1, %rd2;
\tld.global.u32 \t%r2, [%rd3];
\tadd.u32 \t%r2, %r2, %r2;
\tst.global.u32 \t[%rd3], %r2;
\tret;
}
"""


def test_it_does_the_same_on_the_emulator_and_the_cpu():
    ptx = waiting(Ptx(HEAD + DOUBLE, "double", (9, 0)))
    values = np.arange(32, dtype=np.uint32)
    memory = Memory()
    address = memory.allocate(values.nbytes)
    memory.write(address, values)
    load(ptx).run(memory, 1, 32, [np.uint64(address)])
    assert np.array_equal(memory.read(address, np.uint32, (32,)), 2 * values)
    launches = Launches(1)
    program = load_native(ptx, (32, 1, 1), host())
    launches.add(ptx, program, (1, 1, 1), [np.uint64(values.ctypes.data)], 0)
    Pool(1).run(launches)
    assert np.array_equal(values, 2 * np.arange(32))
