"""A basic block to a Python function over NumPy arrays.

The function takes the wave and a group of lanes, reads the block's live-in registers from the
group, computes with one local variable per register, stores what later blocks need, and returns
the operand that decides where to go. Results nobody reads are not computed; locals are deleted
after their last use so that the cache keeps what is alive.
"""

import numpy as np

from zerfoo_numba.ptx import effects
from zerfoo_numba.ptx.emulator import (
    host,
    memory_instructions,
    moves,
    tensor_instructions,
    warp_instructions,
)
from zerfoo_numba.ptx.emulator.addresses import Folding
from zerfoo_numba.ptx.emulator.arithmetic import operation
from zerfoo_numba.ptx.emulator.casting import widen
from zerfoo_numba.ptx.emulator.operands import Operands
from zerfoo_numba.ptx.structure import (
    Negated,
    Pair,
    Register,
)

_NOTHING = {
    "membar", "fence", "prefetch", "prefetchu", "discard", "griddepcontrol", "brkpt", "nanosleep",
}  # fmt: skip
EMIT = {
    **memory_instructions.EMIT, **moves.EMIT, **tensor_instructions.EMIT, **warp_instructions.EMIT,
    **host.EMIT,
}  # fmt: skip


class BlockTranslator(Operands):
    """Emits the lines of one block. `layout` has the addresses of shared and local variables."""

    def __init__(self, kernel, number, layout, variant):
        self.kernel, self.block, self.layout = kernel, kernel.blocks[number], layout
        self.number, self.variant, self.traced = number, variant, variant != "plain"
        self.lines, self.names, self.values = [], {"np": np}, {}
        self.uncomputed = set()  # registers whose last write is folded into accesses
        self.carries = False  # an instruction has set the carry
        self.targets = self.block.targets

    def translate(self):
        """-> the function, its source, the registers it reads and those it stores (bit set)."""
        kept = self.alive()
        stored = [r for r in self.kernel.registers if self.block.live_out >> self.of(r) & 1]
        last = effects.sources(self.block.last) if self.block.last else []
        items = [] if self.traced else [item for item, _ in kept]
        self.folding = Folding(items, [*stored, *last])
        for item, live in kept:
            self.item = item
            for name, register in self.folding.aliases.get(id(item), {}).items():
                self.lines.append(f"{name} = {self.local(register)}")
            if id(item) in self.folding.skipped:
                self.uncomputed.update(effects.results(item))
            else:
                self.uncomputed.difference_update(effects.results(item))
                self.emit(item)
            self.release(item, live)
        result = self.ending()
        reads = [self.kernel.numbers[r] for r in self.reads]
        stores = self.stores()
        head = [f"r{n} = r[{n}]" for n in reads]
        dead = [f"r[{n}] = None" for n in reads if not self.block.live_out >> n & 1]
        tail = [f"r[{n}] = r{n}" for n in stores] + dead
        body = ["r = g.registers", *head, *self.lines, *tail, f"return {result}"]
        source = f"def block_{self.number}(w, g):\n" + "".join(f"    {line}\n" for line in body)
        exec(compile(source, f"<{self.kernel.name} block {self.number}>", "exec"), self.names)
        function = self.names[f"block_{self.number}"]
        return function, source, reads, sum(1 << n for n in stores)

    def alive(self):
        """(instruction, registers live after it) in order, without the dead ones."""
        live = {r for r in self.kernel.registers if self.block.live_out >> self.of(r) & 1}
        if self.block.last is not None:
            live -= set(effects.results(self.block.last))
            live |= set(effects.sources(self.block.last))
        kept = []
        for item in reversed(self.block.instructions):
            written = set(effects.results(item))
            guarded = self.traced and item.guard is not None  # to be counted, if nothing else
            if written and not written & live and not effects.has_effect(item) and not guarded:
                continue
            kept.append((item, live))
            if item.guard is None:
                live = live - written
            live = live | set(effects.sources(item))
        self.reads = sorted(live, key=self.of)
        return kept[::-1]

    def of(self, register):
        return self.kernel.numbers[register]

    def local(self, register):
        return f"r{self.of(register)}"

    def stores(self):
        last = [self.block.last] if self.block.last else []
        ended = set(effects.results(last[0])) if last else set()
        written = {r for i in self.block.instructions for r in effects.results(i)} - ended
        numbers = sorted(self.of(r) for r in written)
        return [n for n in numbers if self.block.live_out >> n & 1]

    def release(self, item, live):
        """Delete the locals that nothing reads any more."""
        stored = self.block.live_out
        gone = {
            r
            for r in effects.sources(item) + effects.results(item)
            if r not in live and not stored >> self.of(r) & 1
        }
        names = sorted(self.local(r) for r in gone - self.uncomputed)
        names += self.folding.ends.get(id(item), [])
        if names:
            self.lines.append("del " + ", ".join(names))

    def ending(self):
        last = self.block.last
        if self.block.end == "branch":
            guard = last.guard
            if isinstance(guard, Negated):
                self.targets = self.targets[::-1]
                guard = guard.register
            return self.local(guard)
        if self.block.end == "switch":
            return self.operand(last.operands[0], "u32")
        if self.block.end == "barrier":
            if "cluster" in last.parts:
                raise self.unsupported(last)
            first = 1 if effects.has_result(last) else 0
            kinds = ["pred" if _is_predicate(o) else "u32" for o in last.operands[first:]]
            values = [self.operand(o, k) for o, k in zip(last.operands[first:], kinds, strict=True)]
            return f"({', '.join(values)}{',' if values else ''})"
        return "None"

    def assign(self, register, expression, kind):
        """`register = expression`, whose value has the dtype of `kind`."""
        if register is None:
            self.lines.append(expression)
            return
        self.lines.append(f"{self.local(register)} = {widen(expression, kind, register.type)}")

    def emit(self, item):
        base = item.parts[0]
        old = self.keep_old(item) if item.guard is not None else []
        if base in EMIT:
            EMIT[base](self, item)
            if self.traced and effects.is_warp_synchronous(item):
                self.lines.append("w.trace.exchange(g)")
        elif base in _NOTHING or base in ("bar", "barrier"):
            self.order(item)
        else:
            self.compute(item)
        if old:
            self.select(item, old)

    def order(self, item):
        """Fences and warp barriers, which only a traced run notices; bar.arrive; nanosleep."""
        base = item.parts[0]
        if "cluster" in item.parts:
            raise self.unsupported(item)
        if base in ("bar", "barrier") and "arrive" in item.parts:
            identity, count = (self.operand(o, "u32") for o in item.operands)
            self.lines.append(f"w.barriers.note(g, {identity}, {count})")
        elif base in ("bar", "barrier") and self.traced:
            self.lines.append("w.trace.warp_barrier(g)")
        elif base in ("membar", "fence") and self.traced:
            self.lines.append("w.trace.fence(g)")

    def keep_old(self, item):
        """Save the guard and the old values of what a guarded instruction writes."""
        names = [self.local(r) for r in effects.results(item)]
        self.lines += [f"guard = {self.operand(item.guard, 'pred')}"]
        self.lines += [f"old_{name} = {name}" for name in names]
        return names

    def select(self, item, names):
        """New values where the guard holds, old ones elsewhere."""
        if self.traced:
            self.lines.append(f"w.trace.guarded({self.constant(item)}, g, guard)")
        for name in names:
            self.lines.append(f"{name} = np.where(guard, {name}, old_{name})[()]")
        self.lines.append("del guard, " + ", ".join(f"old_{name}" for name in names))

    def compute(self, item):
        """A register-to-register instruction, by the operation of that name."""
        destination = item.operands[0] if item.operands else None
        outputs = destination.items if isinstance(destination, Pair) else (destination,)
        try:
            found = operation(item.opcode, len(outputs))
        except KeyError:
            raise self.unsupported(item) from None
        operands = [*item.operands[1:], *(["carry"] if "carry" in found.inputs else [])]
        if len(operands) != len(found.inputs) or ("carry" in operands and not self.carries):
            raise self.unsupported(item, f" with {len(operands)} operands")
        arguments = [self.argument(o, k) for o, k in zip(operands, found.inputs, strict=True)]
        if self.variant == "perturbed" and found.bound is not None:
            call = f"w.trace.perturbed({self.constant(found)}, {', '.join(arguments)})"
        else:
            call = f"{self.constant(found.function)}({', '.join(arguments)})"
        if len(found.outputs) == 1:
            self.assign(outputs[0], call, found.outputs[0])
            return
        self.lines.append(f"{', '.join(f't{i}' for i in range(len(found.outputs)))} = {call}")
        registers = [*outputs, *([None] * len(found.outputs))]
        for i, kind in enumerate(found.outputs):
            if kind == "carry":
                self.lines.append(f"carry = t{i}")
                self.carries = True
            elif registers[i] is not None:
                self.assign(registers[i], f"t{i}", kind)


def _is_predicate(operand):
    register = operand.register if isinstance(operand, Negated) else operand
    return isinstance(register, Register) and register.type == "pred"
