"""PTX text to structure: operands, variables, source lines, blocks in order, liveness."""

import numpy as np
import pytest

from tests.ptx.texts import HEAD, STORE, entry
from zerfoo_numba.ptx.compile import Ptx
from zerfoo_numba.ptx.control_flow import parse
from zerfoo_numba.ptx.emulator import load
from zerfoo_numba.ptx.parse import parse_module, read_constant, split_operands
from zerfoo_numba.ptx.structure import (
    Address,
    Constant,
    Negated,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("17", 17, "int"),
        ("-1", -1, "int"),
        ("0x1F", 31, "int"),
        ("0b101", 5, "int"),
        ("017", 15, "int"),
        ("4294967295U", 0xFFFFFFFF, "int"),
        ("0f3F800000", 0x3F800000, "f32"),
        ("0d3FF0000000000000", 0x3FF0000000000000, "f64"),
        ("1.5", 0x3FF8000000000000, "f64"),
        ("-2.0e0", 0xC000000000000000, "f64"),
    ],
)
def test_constants(text, value, kind):
    assert read_constant(text) == Constant(value, kind)


def test_operands_split_outside_brackets():
    assert split_operands("{%r1, %r2}, [%rd1+8], %p1") == ["{%r1, %r2}", "[%rd1+8]", "%p1"]
    assert split_operands("") == []


def test_every_operand_form():
    body = """
    @!%p1 ld.global.v2.u32 {%r1, _}, [%rd1+-8];
    setp.lt.and.s32 %p1|%p2, %r1, -4, !%p3;
    mov.u32 %r2, %ctaid.x;
    mov.u64 %rd1, table;
    shfl.sync.bfly.b32 %r3|%p3, %r1, 16, 31, -1;
    """
    function = parse_module(entry(body)).functions["k"]
    load_pair, compare, special, symbol, shuffle = function.body
    r = lambda n: Register(f"%r{n}", "b32")  # noqa: E731
    assert load_pair.guard == Negated(Register("%p1", "pred"))
    assert load_pair.operands == (
        Vector((r(1), None)),
        Address(Register("%rd1", "b64"), -8),
    )
    assert compare.operands[0] == Pair((Register("%p1", "pred"), Register("%p2", "pred")))
    assert compare.operands[2:] == (Constant(-4), Negated(Register("%p3", "pred")))
    assert special.operands[1] == Special("%ctaid.x")
    assert symbol.operands[1] == Symbol("table")
    assert shuffle.parts == ("shfl", "sync", "bfly", "b32")


def test_variables_and_their_bytes():
    module = parse_module(
        HEAD
        + ".const .align 4 .b8 table[8] = {1, 2, 255, 4};\n"
        + ".visible .global .align 4 .u32 counter = 7;\n"
        + ".global .f32 pair[2] = {0f3F800000, 0fC0000000};\n"
        + ".extern .shared .align 16 .b8 dynamic[];\n"
        + ".shared .align 4 .f32 tile[4][8];\n"
    )
    table, counter, pair, dynamic, tile = module.variables
    assert table.data == bytes([1, 2, 255, 4, 0, 0, 0, 0])
    assert counter.data == (7).to_bytes(4, "little")
    assert np.frombuffer(pair.data, np.float32).tolist() == [1.0, -2.0]
    assert (dynamic.size, dynamic.external, dynamic.align) == (0, True, 16)
    assert (tile.size, tile.space) == (128, "shared")


@pytest.mark.parametrize("text", ["x", ".ptr x", ".ptr .align 1 x", ".ptr .global .align 16 x"])
def test_pointer_parameters(text):
    function = parse_module(entry("ret;", parameters=f".param .u64 {text},\n.param .b8 y[4]"))
    x, y = function.functions["k"].parameters
    assert (x.name, x.size, x.align, y.name, y.size) == ("x", 8, 8, "y", 4)


def test_source_lines_come_from_loc_and_skip_compiler_code():
    body = ".loc 1 12 3\nmov.u32 %r1, 1;\n.loc 1 0 3\nmov.u32 %r2, 2;\n.loc 1 14 1\nret;"
    found = parse_module(entry(body)).functions["k"].body
    assert [(i.file, i.line) for i in found] == [
        ("kernel.py", 12), ("kernel.py", 12), ("kernel.py", 14),
    ]  # fmt: skip


def test_a_loop_stays_together_and_its_exit_comes_after_it():
    # The exit is written before the rest of the loop; so is a cold block that returns to it.
    body = """
    mov.u32 %r1, 0;
    HEAD:
    setp.gt.u32 %p1, %r1, 9;
    @%p1 bra DONE;
    bra BODY;
    DONE:
    bra END;
    BODY:
    add.u32 %r1, %r1, 1;
    setp.eq.u32 %p2, %r1, 5;
    @%p2 bra COLD;
    BACK:
    bra HEAD;
    COLD:
    add.u32 %r1, %r1, 1;
    bra BACK;
    END:
    ret;
    """
    kernel = parse(entry(body), "k")
    ends = [(b.end, b.targets) for b in kernel.blocks]
    exits = [i for i, (end, _) in enumerate(ends) if end == "exit"]
    backward = [i for i, (_, targets) in enumerate(ends) if any(t <= i for t in targets)]
    assert len(backward) == 1
    leaving = kernel.blocks[1].targets[0]
    assert leaving > backward[0]
    assert exits == [len(ends) - 1]


def test_registers_live_only_where_they_are_read_later():
    body = """
    mov.u32 %r1, 1;
    mov.u32 %r2, 2;
    setp.eq.u32 %p1, %r1, 3;
    @%p1 bra OTHER;
    add.u32 %r1, %r2, 1;
    OTHER:
    """
    kernel = parse(entry(body + STORE), "k")
    number = {r.name: n for r, n in kernel.numbers.items()}
    first, second, last = kernel.blocks
    assert second.live_in == 1 << number["%r2"]
    assert first.live_out == 1 << number["%r1"] | 1 << number["%r2"]
    assert last.live_in == 1 << number["%r1"]


def test_only_a_loop_that_waits_for_others_makes_the_grid_run_together():
    polling = """
    LOOP: ld.volatile.global.u32 %r1, [%rd1];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra LOOP;
    """
    counting = """
    mov.u32 %r1, 0;
    LOOP: atom.global.add.u32 %r2, [%rd1], 1;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 9;
    @%p1 bra LOOP;
    """
    for body, together in ((polling, True), (counting, False)):
        text = entry("ld.param.u64 %rd1, [out];" + body + STORE)
        assert load(Ptx(text, "k", (9, 0))).together == together
