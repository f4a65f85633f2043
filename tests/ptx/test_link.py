"""PTX to cubin: what is measured of a kernel, the disk cache, and the errors."""

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, uint32

from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx import link
from zerfoo_numba.ptx.compile import Pointer, Ptx, compile_ptx

pytest.importorskip("cuda.core", reason="needs the cuda extra")

F32 = Pointer(np.dtype(np.float32))
HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


@cuda.jit
def scale(out, x, factor):
    i = uint32(cuda.threadIdx.x)
    out[i] = x[i] * factor


@cuda.jit
def stacked(out, x, factor):
    history = cuda.local.array(64, float32)
    i = uint32(cuda.threadIdx.x)
    for k in range(64):
        history[k] = x[uint32(i + uint32(k))]
    out[i] = history[uint32(x[i])] * factor


@cuda.jit
def shared(out, x, factor):
    tile = cuda.shared.array(96, float32)
    i = uint32(cuda.threadIdx.x)
    tile[i] = x[i]
    cuda.syncthreads()
    out[i] = tile[uint32(i ^ uint32(1))] * factor


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZERFOO_CACHE", str(tmp_path))
    return tmp_path


def compiled(kernel, cc=(9, 0)):
    return compile_ptx(kernel, (F32, F32, np.float32(0)), cc)


def ptx_with_live_values(count, cc=(8, 0)):
    """A kernel that holds `count` loaded values at once, to be stored after a barrier."""
    loads = [f"ld.volatile.global.f32 %f{i}, [%rd1+{4 * i}];" for i in range(count)]
    stores = [f"st.volatile.global.f32 [%rd1+{4 * i}], %f{count - 1 - i};" for i in range(count)]
    body = "\n".join([*loads, "bar.sync 0;", *stores])
    text = (
        f"{HEAD}.visible .entry hold(.param .u64 p) {{\n.reg .f32 %f<{count}>;\n.reg .b64 %rd<2>;\n"
        f"ld.param.u64 %rd1, [p];\n{body}\nret;\n}}\n"
    )
    return Ptx(text, "hold", cc)


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (9, 0, "a"), (12, 0)], ids=link.architecture)
def test_a_kernel_becomes_machine_code(cc):
    code, usage = link.cubin(compiled(scale, cc))
    assert code[:4] == b"\x7fELF"
    assert b".text.scale" in code
    assert 4 <= usage.registers <= 32
    assert usage[1:] == (0, 0, 0)


def test_stack_and_shared_memory_are_measured():
    assert link.cubin(compiled(stacked))[1].stack_bytes == 256
    assert link.cubin(compiled(shared))[1].shared_bytes == 384


def test_spills_are_measured():
    fits, spills = (link.cubin(ptx_with_live_values(n))[1] for n in (100, 400))
    assert fits.registers > 100
    assert fits.spill_bytes == 0
    assert spills.registers == 255
    assert spills.spill_bytes >= 2 * 4 * (400 - 255)  # each is stored and loaded


@pytest.mark.parametrize(
    ("declarations", "size"),
    [
        ("", 0),
        (".shared .align 4 .b8 a[1000];", 1000),
        (".visible .shared .align 1 .b8 a[3];\n.shared .align 16 .b8 b[5];", 21),
        (".shared .u32 a;\n.shared .f64 b[2];", 24),
        ("\t.weak .shared .align 8 .b64 a[4][2];", 64),
        (".extern .shared .align 16 .b8 a[];", 0),
        ("// .shared .align 4 .b8 a[64];", 0),
    ],
)
def test_static_shared_memory_is_read_from_the_declarations(declarations, size):
    assert link.static_shared_bytes(f"{HEAD}{declarations}\n.visible .entry k() {{ ret; }}") == size


def test_the_second_time_comes_from_the_disk(own_cache, monkeypatch):
    ptx = compiled(scale)
    first = link.cubin(ptx)

    def refuse(*arguments):
        raise AssertionError("linked again")

    with monkeypatch.context() as patch:
        patch.setattr(link, "_assemble", refuse)
        assert link.cubin(ptx) == first
        for changed in (
            Ptx(ptx.text + "\n", ptx.entry, ptx.cc),
            Ptx(ptx.text, ptx.entry, (9, 0, "a")),
        ):
            with pytest.raises(AssertionError, match="linked again"):
                link.cubin(changed)
        patch.setattr(link, "linker_version", lambda: "another linker")
        with pytest.raises(AssertionError, match="linked again"):
            link.cubin(ptx)
    for stored in own_cache.glob("cubin/*.json"):
        stored.write_text("damaged")
    assert link.cubin(ptx) == first


def test_too_much_static_shared_memory_is_refused():
    text = f"{HEAD}.visible .shared .align 4 .b8 tile[49156];\n.visible .entry big() {{ ret; }}"
    with pytest.raises(DeviceError, match=r"kernel big declares 49,156 bytes"):
        link.cubin(Ptx(text, "big", (8, 0)))


def test_ptx_that_the_machine_does_not_have_is_refused():
    text = f"{HEAD}.visible .entry odd() {{ frobnicate; ret; }}"
    with pytest.raises(DeviceError, match=r"kernel odd does not assemble for sm_80: .*frobnicate"):
        link.cubin(Ptx(text, "odd", (8, 0)))


def test_missing_cuda_libraries_are_named(monkeypatch):
    from cuda.bindings import nvjitlink

    def missing():
        raise RuntimeError("no libnvJitLink.so")

    monkeypatch.setattr(nvjitlink, "version", missing)
    link.toolkit_version.cache_clear()
    link.linker_version.cache_clear()
    try:
        with pytest.raises(DeviceError, match=r"pip install 'zerfoo-numba\[cuda\]'"):
            link.cubin(compiled(scale))
    finally:
        link.toolkit_version.cache_clear()
        link.linker_version.cache_clear()
