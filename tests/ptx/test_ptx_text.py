"""PTX written by hand: what compilers seldom emit, and what must be refused."""

import numpy as np
import pytest

from tests.ptx.texts import HEAD, STORE, entry
from zerfoo_numba.errors import InputError, UnsupportedError
from zerfoo_numba.ptx.compile import Ptx
from zerfoo_numba.ptx.control_flow import SKIP, parse
from zerfoo_numba.ptx.emulator import KernelFault, Memory, load


def run(text, values, grid=1, block=32, name="k", size=None):
    """Run entry `name` with one pointer to uint32 results, one for each thread."""
    memory = Memory()
    out = memory.allocate(4 * (size or block), "out", 4)
    memory.write(out, np.zeros(size or block, np.uint32))
    load(Ptx(text, name, (9, 0))).run(memory, grid, block, [np.uint64(out), *values])
    return memory.read(out, np.uint32, size or block)


def test_a_scope_may_redeclare_a_register():
    body = """
    mov.u32 %r1, 5;
    { .reg .b32 %r1; mov.u32 %r1, 9; }
    { .reg .b32 low; mov.u32 low, 1; add.u32 %r1, %r1, low; }
    """
    assert (run(entry(body + STORE), []) == 6).all()


def test_a_guarded_store_becomes_a_branch_and_a_guarded_move_a_choice():
    body = """
    mov.u32 %r2, %tid.x;
    setp.lt.u32 %p1, %r2, 3;
    mov.u32 %r1, 7;
    @%p1 mov.u32 %r1, 9;
    ld.param.u64 %rd1, [out];
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    @!%p1 st.global.u32 [%rd3], %r2;
    @%p1 st.global.u32 [%rd3], %r1;
    ret;
    """
    opcodes = [b.last.opcode for b in parse(entry(body), "k").blocks if b.last]
    assert opcodes.count(SKIP) == 2
    found = run(entry(body), [])
    assert found.tolist() == [9, 9, 9, *range(3, 32)]


def test_functions_are_put_inline_with_their_own_registers():
    text = (
        HEAD
        + """
    .func (.param .b32 result) triple(.param .b32 x)
    {
        .reg .b32 %r<9>;
        .reg .pred %p<2>;
        ld.param.u32 %r1, [x];
        setp.gt.u32 %p1, %r1, 100;
        @%p1 bra BIG;
        mul.lo.u32 %r2, %r1, 3;
        st.param.b32 [result+0], %r2;
        ret;
        BIG:
        st.param.b32 [result+0], %r1;
        ret;
    }
    """
    )
    call = """
    {{ .param .b32 param0; st.param.b32 [param0+0], {argument};
       .param .b32 retval0;
       call.uni (retval0), triple, (param0);
       ld.param.b32 {result}, [retval0+0]; }}
    """
    body = "mov.u32 %r2, %tid.x;\n" + call.format(argument="%r2", result="%r3")
    body += call.format(argument="%r3", result="%r1")
    body += "add.u32 %r1, %r1, %r2;\n"
    text += entry(body + STORE)[len(HEAD) :]
    tid = np.arange(64)
    once = 3 * tid
    expected = np.where(once > 100, once, 3 * once) + tid
    assert (run(text, [], block=64) == expected).all()


def test_a_jump_table():
    body = """
    mov.u32 %r2, %tid.x;
    and.b32 %r3, %r2, 3;
    TABLE: .branchtargets A, B, C, B;
    brx.idx %r3, TABLE;
    A: mov.u32 %r1, 10; bra END;
    B: mov.u32 %r1, 20; bra END;
    C: mov.u32 %r1, 30;
    END:
    """
    found = run(entry(body + STORE), [])
    assert found.tolist() == [10, 20, 30, 20] * 8


def test_an_unknown_instruction_is_named_with_its_line():
    body = ".loc 1 33 1\nvadd4.u32.u32.u32 %r1, %r2, %r2, %r2;" + STORE
    with pytest.raises(UnsupportedError, match=r"vadd4\.u32.*kernel\.py, line 33"):
        run(entry(body), [])


def test_an_unknown_special_register_is_named():
    body = ".loc 1 7 1\nmov.u32 %r1, %envreg3;" + STORE
    with pytest.raises(UnsupportedError, match=r"envreg3"):
        run(entry(body), [])


@pytest.mark.parametrize(
    "text",
    [
        "ld.global.b128 %r1, [%rd1];",
        "st.async.weak.shared::cluster.u32 [%rd1], %r2;",
        "atom.global.v2.f32.add %r1, [%rd1], %r2;",
        "ld.param.u32 %r1, [%rd1];",
        "barrier.cluster.arrive;",
        "shfl.bfly.b32 %r1, %r2, 1, 31;",
    ],
)
def test_a_form_that_means_something_else_is_refused(text):
    body = f"ld.param.u64 %rd1, [out];\n.loc 1 5 1\n{text}"
    with pytest.raises(UnsupportedError, match="line 5"):
        run(entry(body + STORE.replace("ld.param.u64 %rd1, [out];", "")), [])


def test_a_trap_is_a_fault():
    body = ".loc 1 9 1\nmov.u32 %r2, %tid.x;\nsetp.eq.u32 %p1, %r2, 7;\n@%p1 trap;\n"
    with pytest.raises(KernelFault, match=r"traps.*line 9\), thread \(7, 0, 0\)"):
        run(entry(body + "mov.u32 %r1, 1;" + STORE), [])


def test_blocks_have_at_most_1024_threads():
    text = entry("mov.u32 %r1, 1;" + STORE)
    with pytest.raises(InputError, match="at most 1024 threads, not 1056"):
        run(text, [], block=1056)
    with pytest.raises(InputError, match="1 to 3 dimensions"):
        run(text, [], grid=0)


def test_a_call_of_nothing_is_named():
    body = ".loc 1 8 1\ncall.uni nowhere, (%rd1, %rd2);" + STORE
    with pytest.raises(UnsupportedError, match=r"nowhere.*line 8"):
        run(entry(body), [])


def test_parameters_are_counted_and_measured():
    text = entry("mov.u32 %r1, 1;" + STORE, parameters=".param .u64 out,\n.param .u32 n")
    assert (run(text, [np.uint32(3)]) == 1).all()
    with pytest.raises(InputError, match="takes 2 parameters, not 1"):
        run(text, [])
    with pytest.raises(InputError, match=r"parameter n .* has 4 bytes.* has 8"):
        run(text, [np.uint64(3)])


def test_parameters_of_structures_are_read_by_offset():
    text = entry(
        "ld.param.u32 %r2, [pair+4];\nld.param.u8 %r3, [pair];\nadd.u32 %r1, %r2, %r3;" + STORE,
        parameters=".param .u64 out,\n.param .align 4 .b8 pair[8]",
    )
    assert (run(text, [np.array([0x1FF, 1000], np.uint32)]) == 1255).all()
