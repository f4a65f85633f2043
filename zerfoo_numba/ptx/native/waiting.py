"""Waiting for some threads of a block, for the whole grid, or for what another thread writes.

Kernels that do so run with all blocks that may wait for each other resumable at once, on one
thread of the machine: each warp runs until it has to wait, and gives way. A barrier becomes

    here:  wait.arrive turn, number, vote        one more has come; in which turn of the barrier
    test:  wait.pending p, turn, number, count   p: the turn is not over
           @p bra nap; else on
    nap:   (give way)  -> test

and every turn of a loop that polls memory gives way once. A turn is over when `count` threads
have come, or with 0 all that have not exited; the first warp that finds it so begins the next.
Reference: PTX ISA, section 9.7.13 (barrier{.cta}), and CUDA's cooperative groups.
"""

from dataclasses import dataclass

from zerfoo_numba.ptx.block_order import loops
from zerfoo_numba.ptx.control_flow import Block, liveness, number
from zerfoo_numba.ptx.effects import results
from zerfoo_numba.ptx.native.waits import is_for_whole_block
from zerfoo_numba.ptx.structure import Constant, Instruction, Register, Symbol

_REDUCTIONS = ("popc", "and", "or")
_TURN, _PENDING = Register("wait:turn", "b32"), Register("wait:pending", "pred")


@dataclass
class Waiting:
    """`whole_grid`: blocks wait for blocks, so that all of them must be there at once."""

    whole_grid: bool


def lower(kernel, threads):
    """Put the waiting of `kernel` into its blocks; -> a `Waiting`, or None where it has none."""
    polls = [members for members in _loops(kernel) if _polls(kernel, members)]
    lasts = [b.last for b in kernel.blocks if b.end == "barrier"]
    items = [i for b in kernel.blocks for i in b.instructions]
    others = any(not is_for_whole_block(last, threads) for last in lasts)
    if not polls and not others and not any(_arrives(i) for i in items):
        return None
    _Lowering(kernel, polls).run()
    number(kernel)
    liveness(kernel)
    return Waiting(bool(polls) or any(last.parts[0] == "grid" for last in lasts))


def _loops(kernel):
    return [{header: members} for header, members in loops(kernel.blocks).items()]


def _polls(kernel, loop):
    """May the loop end only by what another thread writes?

    A loop around a compare-and-swap that follows what it has read ends by itself: where one thread
    fails, another has succeeded; so does one that takes numbers from a counter. With a fixed
    number, or by exchange, it is a lock, and to add 0 is to read.
    """
    (members,) = loop.values()
    blocks = [kernel.blocks[m] for m in members]
    if not all(b.waits for b in blocks):
        return False
    items = [i for b in blocks for i in b.instructions]
    written = {register for item in items for register in results(item)}
    return any(_polling(item, written) for item in items)


def _polling(item, written):
    strong = {"acquire", "relaxed", "volatile", "cv"} & set(item.parts)
    if item.parts[0] == "nanosleep" or (item.parts[0] == "ld" and strong):
        return True
    if item.parts[0] != "atom":
        return False
    if "cas" in item.parts:
        return item.operands[2] not in written
    changes_nothing = item.operands[2] == Constant(0) and {"add", "or", "xor"} & set(item.parts)
    return "exch" in item.parts or bool(changes_nothing)


def _arrives(item):
    return item.parts[0] in ("bar", "barrier") and "arrive" in item.parts


class _Lowering:
    def __init__(self, kernel, polls):
        self.kernel = kernel
        self.headers = {}  # block -> headers of the polling loops that it leads back to
        for loop in polls:
            for header, members in loop.items():
                for m in members:
                    if header in kernel.blocks[m].targets:
                        self.headers.setdefault(m, set()).add(header)

    def run(self):
        groups, at, place = [], 0, {}
        for i, block in enumerate(self.kernel.blocks):
            place[i] = at
            groups.append(self._group(i, block))
            at += len(groups[-1])
        for i, group in enumerate(groups):
            for block in group:
                block.targets = tuple(
                    place[t] if isinstance(t, int) else place[i] + t[0] for t in block.targets
                )
        self.kernel.blocks = [block for group in groups for block in group]

    def _group(self, i, block):
        """The blocks that stand for block `i`; targets among themselves are 1-tuples."""
        block.instructions = [_arrival(item) if _arrives(item) else item
                              for item in block.instructions]  # fmt: skip
        group = self._barrier(block) if block.end == "barrier" else [block]
        for header in sorted(self.headers.get(i, ())):
            nap = (len(group),)
            for each in group:
                each.targets = tuple(nap if t == header else t for t in each.targets)
            group.append(_nap(block, header))
        return group

    def _barrier(self, block):
        last, after = block.last, block.targets[0]
        grid = last.parts[0] == "grid"
        scope = "grid" if grid else "block"
        operands = list(last.operands)
        result = operands.pop(0) if "red" in last.parts else None
        vote = operands.pop() if "red" in last.parts else Constant(1)
        identity, count = [*operands, Constant(0), Constant(0)][:2]
        if not operands:
            identity = Constant(0)

        def made(opcode, *given, guard=None):
            return Instruction(opcode, given, guard, last.file, last.line, last.text)

        block.instructions = [
            *block.instructions, made(f"wait.arrive.{scope}", _TURN, identity, vote),
        ]  # fmt: skip
        block.end, block.last, block.targets = "jump", None, ((1,),)
        test = Block([made(f"wait.pending.{scope}", _PENDING, _TURN, identity, count)], "branch")
        test.last = made("bra", Symbol("wait:nap"), guard=_PENDING)
        group = [block, test, _nap(block, (1,), made("bar.nap"))]
        test.targets = ((2,), after)
        if result is not None:
            name = next(p for p in last.parts if p in _REDUCTIONS)
            group.append(Block([made(f"wait.{name}", result, identity)], targets=(after,)))
            test.targets = ((2,), (3,))
        return group


def _nap(block, target, last=None):
    """An empty block in which the warp gives way before it goes on at `target`."""
    source = block.last or (block.instructions or [Instruction("nap", ())])[-1]
    text = (source.file, source.line, source.text)
    return Block([], "barrier", last or Instruction("bar.nap", (), None, *text), (target,))


def _arrival(item):
    """bar.arrive: counted, and not waited for. (How many must come, those who wait know.)"""
    operands = (None, item.operands[0], Constant(1))
    return Instruction("wait.arrive.block", operands, None, item.file, item.line, item.text)
