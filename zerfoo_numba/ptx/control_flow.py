"""Basic blocks of one entry, their order, and which registers live where.

A barrier ends a block; a warp-synchronous instruction that follows another kind begins
one, because the threads of a warp must meet in front of it.
"""

from dataclasses import dataclass, field, replace

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.block_order import in_order, loops
from zerfoo_numba.ptx.calls import linked_body
from zerfoo_numba.ptx.effects import (
    has_effect,
    is_warp_synchronous,
    member_mask,
    results,
    sources,
)
from zerfoo_numba.ptx.parse import parse_module
from zerfoo_numba.ptx.structure import (
    Constant,
    Instruction,
    Label,
    Negated,
    Register,
    Symbol,
    Variable,
)

SKIP = "bra.skip"  # a branch that stands for the guard of the instruction behind it


@dataclass
class Block:
    """Straight-line code and how it ends.

    `end` is "jump", "branch" (`targets` = taken, else), "switch", "barrier" or "exit"; `last` is
    the instruction that ends the block, if there is one. `live_in` and `live_out` are bit sets
    of register numbers. `waits` marks blocks of a loop that polls memory.
    """

    instructions: list
    end: str = "jump"
    last: Instruction | None = None
    targets: tuple = ()
    live_in: int = 0
    live_out: int = 0
    waits: bool = False


@dataclass
class Kernel:
    """One entry as blocks in execution order; the first is block 0."""

    name: str
    parameters: list[Variable]
    variables: list[Variable]
    blocks: list[Block]
    registers: list[Register] = field(default_factory=list)
    numbers: dict[Register, int] = field(default_factory=dict)


def parse(text, name):
    """PTX text -> the `Kernel` of entry `name`."""
    module = parse_module(text)
    if name not in module.functions:
        raise UnsupportedError(f"the PTX has no entry named {name}")
    body, variables = linked_body(module, name)
    blocks = in_order(_split(_unguard(_constant_masks(body))))
    entry = module.functions[name]
    kernel = Kernel(name, entry.parameters, module.variables + variables, blocks)
    number(kernel)
    liveness(kernel)
    _mark_waiting(kernel)
    return kernel


def _ends_block(instruction):
    parts = instruction.parts
    if parts[0] in ("bar", "barrier"):
        return parts[1] != "warp" and "arrive" not in parts
    return parts[0] in ("bra", "brx", "ret", "exit", "trap", "grid")


def _unguard(body):
    """A guarded instruction with an effect becomes one behind a branch."""
    result = []
    for item in body:
        plain = isinstance(item, Label) or item.guard is None or item.parts[0] == "bra"
        if plain or not (has_effect(item) or _ends_block(item)):
            result.append(item)
            continue
        skip = f"after:{len(result)}"
        inverse = item.guard.register if isinstance(item.guard, Negated) else Negated(item.guard)
        result.append(replace(item, opcode=SKIP, operands=(Symbol(skip),), guard=inverse))
        result += [replace(item, guard=None), Label(skip)]
    return result


def _split(body):
    """-> raw blocks; `targets` are still label names or the place of the next block."""
    blocks, labels = [Block([])], {}
    for item in body:
        current = blocks[-1]
        if isinstance(item, Label):
            if current.instructions:
                blocks.append(Block([]))
            labels[item.name] = len(blocks) - 1
        elif _ends_block(item):
            current.last = item
            blocks.append(Block([]))
        else:
            if _must_meet(item, current.instructions):
                blocks.append(Block([]))
            blocks[-1].instructions.append(item)
    for i, block in enumerate(blocks):
        _set_end(block, i, labels, len(blocks))
    return blocks


def _constant_masks(body):
    """Warp-synchronous instructions with the mask's value in place of a register that holds it."""
    writers = {}
    for item in body:
        for register in () if isinstance(item, Label) else results(item):
            writers.setdefault(register, []).append(item)
    known = {
        register: items[0].operands[1]
        for register, items in writers.items()
        if len(items) == 1 and items[0].parts[0] == "mov" and items[0].guard is None
    }

    def resolved(item):
        if isinstance(item, Label) or not is_warp_synchronous(item) or not item.operands:
            return item
        value = known.get(item.operands[-1])
        if item.parts[0] in ("mma", "ldmatrix") or not isinstance(value, Constant):
            return item
        return replace(item, operands=(*item.operands[:-1], value))

    return [resolved(item) for item in body]


def _must_meet(item, before):
    """A warp-synchronous instruction needs a block start, unless one with its mask precedes."""
    if not before or not is_warp_synchronous(item):
        return False
    mask = member_mask(item)
    return not any(is_warp_synchronous(b) and member_mask(b) == mask for b in before)


def _set_end(block, index, labels, count):
    last = block.last
    kind = last.parts[0] if last else ""
    if kind in ("ret", "exit", "trap") or (last is None and index + 1 == count):
        block.end = "exit"
    elif kind == "bra":
        target = labels[last.operands[0].name]
        block.end = "jump" if last.guard is None else "branch"
        block.targets = (target,) if last.guard is None else (target, index + 1)
    elif kind == "brx":
        block.end = "switch"
        block.targets = tuple(labels[o.name] for o in last.operands[1:])
    else:
        block.end = "barrier" if last else "jump"
        block.targets = (index + 1,)


def number(kernel):
    """Give every register that has none a number."""
    for block in kernel.blocks:
        for item in [*block.instructions, *([block.last] if block.last else [])]:
            for register in results(item) + sources(item):
                if register not in kernel.numbers:
                    kernel.numbers[register] = len(kernel.registers)
                    kernel.registers.append(register)


def _bits(kernel, registers):
    return sum(1 << n for n in {kernel.numbers[r] for r in registers})


def liveness(kernel):
    """Backward data flow over the blocks until nothing changes."""
    reads, writes = [], []
    for block in kernel.blocks:
        read = written = 0
        for item in [*block.instructions, *([block.last] if block.last else [])]:
            read |= _bits(kernel, sources(item)) & ~written
            written |= _bits(kernel, results(item))
        reads.append(read)
        writes.append(written)
    changed = True
    while changed:
        changed = False
        for i in reversed(range(len(kernel.blocks))):
            block = kernel.blocks[i]
            block.live_out = 0
            for target in block.targets:
                block.live_out |= kernel.blocks[target].live_in
            live_in = reads[i] | (block.live_out & ~writes[i])
            changed |= live_in != block.live_in
            block.live_in = live_in


def _mark_waiting(kernel):
    """Mark loops that may only end by what another thread writes."""
    for members in loops(kernel.blocks).values():
        blocks = [kernel.blocks[m] for m in members]
        items = [i for b in blocks for i in b.instructions]
        leaving = {
            register
            for b in blocks
            if b.end in ("branch", "switch") and not members.issuperset(b.targets)
            for register in sources(b.last)
        }
        if leaving & _polled(items) or any(i.parts[0] == "nanosleep" for i in items):
            for block in blocks:
                block.waits = True


def _polled(items):
    """Registers whose value follows from an atomic or a strong load among `items`."""
    polled, grown = set(), True
    while grown:
        grown = False
        for item in items:
            reads = _polls(item) or polled & set(sources(item))
            if reads and not polled.issuperset(results(item)):
                polled.update(results(item))
                grown = True
    return polled


def _polls(item):
    ordered = {"acquire", "relaxed", "volatile", "cv"} & set(item.parts)
    return item.parts[0] == "atom" or (item.parts[0] == "ld" and bool(ordered))
