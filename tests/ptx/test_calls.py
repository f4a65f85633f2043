"""Calls that the compiler left: nested, recursive, through an address, and into the system."""

import math

import numpy as np
import pytest
from numba import cuda

from tests.ptx.native_agree import agree, emulated, native
from zerfoo_numba.errors import DeviceError
from zerfoo_numba.ptx import compile
from zerfoo_numba.ptx.compile import Ptx
from zerfoo_numba.ptx.emulator import KernelFault
from zerfoo_numba.ptx.formatted import formatted

_HEAD = """.version 8.0
.target sm_90
.address_size 64
.extern .func (.param .b64 r) malloc (.param .b64 n);
.extern .func free (.param .b64 p);
.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.global .align 1 .b8 text[16] = {37, 100, 58, 37, 46, 50, 102, 32};
"""
_ENTRY = """.visible .entry run(.param .u64 pa) {
.reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .b16 %rs<9>; .reg .f64 %fd<9>; .reg .pred %p<9>;
ld.param.u64 %rd1, [pa];
mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 8; add.s64 %rd1, %rd1, %rd2;
ld.global.u64 %rd3, [%rd1];
"""


def kernel(functions, body):
    return Ptx(
        f"{_HEAD}{functions}{_ENTRY}{body}\nst.global.u64 [%rd1], %rd4;\nret;\n}}", "run", (9, 0)
    )


def call(name, argument, result, size=64):
    """One call sequence; every one of them names its places alike, as the compiler does."""
    return f"""{{ .param .b{size} param0; .param .b64 retval0;
        st.param.b{size} [param0+0], {argument};
        call.uni (retval0), {name}, (param0); ld.param.b64 {result}, [retval0+0]; }}
    """


def function(name, body, parameter=".param .b64 x"):
    return f""".func (.param .b64 out) {name} ({parameter}) {{
.reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p<9>; .reg .b16 %rs<9>;
{body} }}
"""


def test_places_of_nested_calls_are_apart():
    """The outer function reads its second argument after a call that names its place the same."""
    inner = function("inner", "ld.param.u64 %rd1, [x]; add.s64 %rd1, %rd1, 1;"
                     "st.param.b64 [out], %rd1; ret;")  # fmt: skip
    outer = function(
        "outer",
        "mov.u64 %rd5, 100;" + call("inner", "%rd5", "%rd2") + call("inner", "%rd2", "%rd2")
        + "ld.param.u64 %rd1, [x]; mad.lo.s64 %rd1, %rd1, 1000, %rd2; st.param.b64 [out], %rd1;"
        "ret;",
    )  # fmt: skip
    text = kernel(inner + outer, call("outer", "%rd3", "%rd4"))
    (got,) = agree(text, 1, 40, np.arange(40))
    assert (got == np.arange(40) * 1000 + 102).all()


def test_a_call_under_a_guard_and_narrow_arguments():
    body = """setp.gt.u64 %p1, %rd3, 20; mov.u64 %rd4, 7; cvt.u32.u64 %r2, %rd3;
    { .param .b32 param0; .param .b64 retval0; st.param.b8 [param0+0], %r2;
      mov.b64 %rd4, %rd4; @%p1 call (retval0), widen, (param0);
      @%p1 ld.param.b64 %rd4, [retval0+0]; }"""
    widen = function("widen", "ld.param.s8 %r1, [x]; cvt.s64.s32 %rd1, %r1;"
                     "st.param.b64 [out], %rd1; ret;", ".param .b32 x")  # fmt: skip
    x = np.arange(64) * 5
    (got,) = agree(kernel(widen, body), 1, 64, x)
    assert (got == np.where(x > 20, x.astype(np.int8), 7)).all()


FACTORIAL = function(
    "factorial",
    """ld.param.u64 %rd1, [x]; setp.lt.s64 %p1, %rd1, 2; setp.eq.s64 %p2, %rd1, 7;
    @%p1 bra small; add.s64 %rd2, %rd1, -1;"""
    + call("factorial", "%rd2", "%rd3")
    + """ld.param.u64 %rd4, [x]; mul.lo.s64 %rd3, %rd3, %rd4; @%p2 add.s64 %rd3, %rd3, 1;
    st.param.b64 [out], %rd3; ret;
    small: mov.u64 %rd3, 1; st.param.b64 [out], %rd3; ret;""",
)


def test_recursion_keeps_registers_predicates_and_arguments():
    def wanted(n):
        return 1 if n < 2 else n * wanted(n - 1) + (n == 7)

    x = np.arange(48) % 13
    (got,) = agree(kernel(FACTORIAL, call("factorial", "%rd3", "%rd4")), 1, 48, x)
    assert got.tolist() == [wanted(n) for n in x.tolist()]
    assert wanted(6) == math.factorial(6)


def test_too_deep_a_recursion_is_an_error():
    text = kernel(FACTORIAL, call("factorial", "%rd3", "%rd4"))
    with pytest.raises(KernelFault, match="recursion is too deep"):
        emulated(text, 1, 32, np.full(32, 100_000))
    with pytest.raises(DeviceError, match="kernel run stopped itself"):
        native(text, 1, 32, np.full(32, 100_000))


INDIRECT = """{ .param .b64 param0; .param .b64 retval0; st.param.b64 [param0+0], %rd3;
prototype: .callprototype (.param .b64 _) _ (.param .b64 _);
call (retval0), %rd5, (param0), prototype; ld.param.b64 %rd4, [retval0+0]; }"""


def test_calls_through_an_address():
    """Even threads call one function, odd ones another, which calls the first."""
    double = function("double", "ld.param.u64 %rd1, [x]; shl.b64 %rd1, %rd1, 1;"
                      "st.param.b64 [out], %rd1; ret;")  # fmt: skip
    more = function("more", "ld.param.u64 %rd1, [x]; mov.u64 %rd5, double;"
                    + INDIRECT.replace("%rd3", "%rd1") + "ld.param.u64 %rd1, [x];"
                    "mad.lo.s64 %rd4, %rd1, 100, %rd4; st.param.b64 [out], %rd4; ret;")  # fmt: skip
    body = "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 1; mov.u64 %rd6, more; mov.u64 %rd5, double;"
    body += "selp.b64 %rd5, %rd6, %rd5, %p1;" + INDIRECT
    x = np.arange(70)
    (got,) = agree(kernel(double + more, body), 1, 70, x)
    assert (got == np.where(x % 2, 102 * x, 2 * x)).all()
    nowhere = kernel(double, "mov.u64 %rd5, double; mov.u64 %rd5, 0;" + INDIRECT)
    with pytest.raises(KernelFault, match="address of no function"):
        emulated(nowhere, 1, 1, x)


def test_memory_of_the_device():
    body = """{ .param .b64 param0; .param .b64 retval0; st.param.b64 [param0+0], 24;
    call.uni (retval0), malloc, (param0); ld.param.b64 %rd5, [retval0+0]; }
    st.u64 [%rd5+16], %rd3; ld.u64 %rd4, [%rd5+16]; add.s64 %rd4, %rd4, 1;
    { .param .b64 param0; st.param.b64 [param0+0], %rd5; call.uni free, (param0); }"""
    (got,) = agree(kernel("", body), 1, 40, np.arange(40))
    assert (got == np.arange(40) + 1).all()
    twice = body + "{ .param .b64 param0; st.param.b64 [param0+0], %rd5; call.uni free, (param0); }"
    with pytest.raises(KernelFault, match="where no allocation starts"):
        emulated(kernel("", twice), 1, 1, np.arange(1))


PRINT = """{ .local .align 8 .b8 depot[16]; mov.u64 %rd5, depot; cvta.local.u64 %rd6, %rd5;
st.local.u32 [%rd5], %r1; cvt.rn.f64.s64 %fd1, %rd3; st.local.f64 [%rd5+8], %fd1;
mov.u64 %rd7, text; cvta.global.u64 %rd7, %rd7;
.param .b64 param0; .param .b64 param1; .param .b32 retval0;
st.param.b64 [param0+0], %rd7; st.param.b64 [param1+0], %rd6;
call.uni (retval0), vprintf, (param0, param1); ld.param.b32 %r2, [retval0+0]; }
cvt.u64.u32 %rd4, %r2;"""


@pytest.mark.parametrize("run", [emulated, native])
def test_text_from_a_kernel(run, capsys):
    x = np.arange(5) * 3
    run(kernel("", PRINT), 1, 5, x)
    assert capsys.readouterr().out == "0:0.00 1:3.00 2:6.00 3:9.00 4:12.00 "
    assert (x == 2).all()


@cuda.jit
def says(x):
    i = cuda.grid(1)
    if i % 2:
        print("thread", i, x[i], i > 2)


@pytest.mark.parametrize("run", [emulated, native])
def test_print_of_numba(run, capsys):
    run(says, 1, 5, np.arange(5.0))
    assert capsys.readouterr().out == "thread 1 1.000000 False\nthread 3 3.000000 True\n"


def test_every_conversion():
    memory = bytearray(400)

    def put(at, data):
        memory[at : at + len(data)] = data

    pattern = b"%5d|%-4u|%x|%#o|%lld|%hhd|%c|%8.3f|%e|%s|%*d|%.2s|%%|%p\0"
    numbers = b"".join(
        np.array([n], kind).tobytes().ljust(size, b"\0")
        for n, kind, size in (
            (-3, "<i4", 4), (7, "<u4", 4), (255, "<u4", 4), (8, "<u4", 4), (-(1 << 40), "<i8", 8),
            (300, "<i4", 4), (65, "<i4", 4), (2.5, "<f8", 8), (1e10, "<f8", 8), (300, "<u8", 8),
            (6, "<i4", 4), (42, "<i4", 4), (300, "<u8", 8), (4096, "<u8", 8),
        )
    )  # fmt: skip
    put(0, pattern)
    put(128, numbers)
    put(300, b"name\0")
    text, count = formatted(lambda at, size: bytes(memory[at : at + size]), 0, 128)
    assert (
        text
        == "   -3|7   |ff|010|-1099511627776|44|A|   2.500|1.000000e+10|name|    42|na|%|0x1000"
    )
    assert count == 13


with compile._compute_capability((9, 0)):  # numba-cuda compiles a signature at once

    @cuda.jit("i8(i8, i8)", device=True)
    def collatz(n, steps):
        if n == 1:
            return steps
        return collatz(n // 2 if n % 2 == 0 else 3 * n + 1, steps + 1)

    @cuda.jit("i8(i8)", device=True)
    def tree(n):
        if n < 2:
            return 1
        return tree(n - 1) + tree(n - 2) * 2


@cuda.jit
def recursive(x):
    i = cuda.grid(1)
    x[i] = tree(x[i] % 7) + 1000 * collatz(x[i] + 1, 0)


def test_recursion_of_numba():
    def grown(n):
        return 1 if n < 2 else grown(n - 1) + grown(n - 2) * 2

    def length(n):
        return 0 if n == 1 else 1 + length(n // 2 if n % 2 == 0 else 3 * n + 1)

    x = np.arange(40)
    (got,) = agree(recursive, 1, 40, x)
    assert got.tolist() == [grown(n % 7) + 1000 * length(n + 1) for n in range(40)]
