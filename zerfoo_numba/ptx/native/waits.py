"""Barriers of whole blocks, made ready for translation; all other waiting is in `waiting`.

A barrier that reduces ends its block with `meet.OP` over the predicate, and the block behind it,
a new one, begins with `met.OP`, which reads what all threads of the block brought.
"""

from dataclasses import replace

from zerfoo_numba.ptx.control_flow import Block
from zerfoo_numba.ptx.native.lanes import bits_of
from zerfoo_numba.ptx.native.op_compare import compare_integers
from zerfoo_numba.ptx.native.value import constant, uniform
from zerfoo_numba.ptx.structure import Constant, Instruction

# What `%meet` points to: this round's votes and voters, and the last round's.
VOTES, VOTERS, LAST_VOTES, LAST_VOTERS, MEET_BYTES = 0, 4, 8, 12, 16
_REDUCTIONS = ("popc", "and", "or")


def prepare(kernel):
    """Split the reducing barriers of `kernel`, of which every one is for the whole block."""
    if any(_reduces(b) for b in kernel.blocks):
        kernel.blocks = _split(kernel.blocks, kernel.numbers)


def is_for_whole_block(last, threads):
    """Does the barrier `last` wait for all threads of a block of `threads`, under number 0?"""
    if last.parts[0] == "grid":
        return False
    numbers = last.operands[1:-1] if "red" in last.parts else last.operands
    wanted = zip(numbers, (0, threads), strict=False)
    return all(isinstance(n, Constant) and n.value == only for n, only in wanted)


def _reduces(block):
    return block.end == "barrier" and "red" in block.last.parts


def _split(blocks, numbers):
    place, at = [], 0
    for block in blocks:
        place.append(at)
        at += 2 if _reduces(block) else 1
    new = []
    for block in blocks:
        block.targets = tuple(place[t] for t in block.targets)
        new.append(block)
        if _reduces(block):
            new.append(_result_block(block, numbers))
            block.targets = (len(new) - 1,)
    return new


def _result_block(block, numbers):
    last = block.last
    name = next(p for p in last.parts if p in _REDUCTIONS)
    result, predicate = last.operands[0], last.operands[-1]
    block.last = replace(last, opcode=f"bar.meet.{name}", operands=(predicate,))
    live = block.live_out & ~(1 << numbers[result])
    behind = Block(
        [Instruction(f"met.{name}", (result,), None, last.file, last.line, last.text)],
        targets=block.targets, live_in=live, live_out=block.live_out,
    )  # fmt: skip
    block.live_out = live
    return behind


def vote(code, block):
    """At the end of a block before a barrier: what its lanes bring to a reduction."""
    if block.last.parts[:2] != ("bar", "meet"):
        return
    predicate = code.read(block.last.operands[0], "pred")
    here = code.active_value().scalar
    votes = code.value(f"and i32 {bits_of(code, predicate)}, {here}")
    for place, lanes in ((VOTES, votes), (VOTERS, here)):
        number = code.call("i32", "llvm.ctpop.i32", ("i32", lanes))
        at = code.offset("%meet", place)
        old = code.value(f"load i32, ptr {at}")
        code.line(f"store i32 {code.value(f'add i32 {old}, {number}')}, ptr {at}")


def met(code, op):
    """What the threads that met brought: how many were true, whether all or any were."""
    name = op.need(*_REDUCTIONS)
    places = (code.offset("%meet", at) for at in (LAST_VOTES, LAST_VOTERS))
    votes, voters = (uniform("i32", code.value(f"load i32, ptr {at}")) for at in places)
    if name == "popc":
        return votes
    if name == "and":
        return compare_integers(code, "eq", False, votes, voters)
    return compare_integers(code, "ne", False, votes, constant("i32", 0))


def next_round(indent="  "):
    """LLVM text for the driver: this round's votes become the last round's."""
    lines = []
    for here, last in ((VOTES, LAST_VOTES), (VOTERS, LAST_VOTERS)):
        lines += [
            f"%m{here} = getelementptr i8, ptr %meet, i64 {here}",
            f"%m{last} = getelementptr i8, ptr %meet, i64 {last}",
            f"%n{here} = load i32, ptr %m{here}",
            f"store i32 %n{here}, ptr %m{last}",
            f"store i32 0, ptr %m{here}",
        ]
    return "".join(f"{indent}{line}\n" for line in lines)


HANDLERS = {"met": met}
