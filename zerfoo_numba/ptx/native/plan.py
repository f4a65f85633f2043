"""What must be known of a kernel before its code is written: shapes, divergence, masked blocks.

Shapes are found by running the translation dry over all blocks until nothing changes, so that
there is one set of rules. They hold in unmasked code; masked code falls back to vectors, and a
return from it to unmasked code first checks at run time that every live register has its shape.
"""

from dataclasses import replace
from itertools import pairwise

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.control_flow import parse
from zerfoo_numba.ptx.effects import operand_registers, results, sources
from zerfoo_numba.ptx.native import waiting, waits
from zerfoo_numba.ptx.native.code import Code, Undefined
from zerfoo_numba.ptx.native.layout import Context, Layout
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.text import Declarations
from zerfoo_numba.ptx.native.translate import execute
from zerfoo_numba.ptx.native.value import BITS, LANES, VECTOR, Shape, full_mask, join
from zerfoo_numba.ptx.structure import Special

_MOST_ROUNDS = 100
_PURE = {
    "add", "sub", "mul", "mad", "shl", "shr", "and", "or", "xor", "not", "cvt", "mov", "cvta",
    "neg", "mul24", "mad24",
}  # fmt: skip


def _bits(number):
    """The numbers of the bits that are set, lowest first."""
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


class Plan:
    """The analysis of one kernel for one block size (three numbers)."""

    def __init__(self, ptx, block, target, counted=False):
        self.kernel = parse(ptx.text, ptx.entry)
        self.block = tuple(block)
        self.threads = block[0] * block[1] * block[2]
        self.warps = -(-self.threads // LANES)
        self.partial = self.threads % LANES != 0
        self.target, self.counted = target, counted
        self.layout = Layout(self.kernel)
        self.waiting = waiting.lower(self.kernel, self.threads)
        if not self.waiting:
            waits.prepare(self.kernel)
        self.forced, self.masked_registers = set(), set()
        self.streams = self._streams()
        self.shapes = self._undefined_at_entry()
        self._find_shapes()
        for b in self.kernel.blocks:
            b.instructions = self._addresses_first(b.instructions)
        while self._cut_before_guards():
            self._find_shapes()  # a piece knows of a register what holds at all its definitions
        self._find_masked_blocks()
        self.context = Context(self.kernel.registers, len(self.kernel.blocks))

    # ---- shapes

    def _undefined_at_entry(self):
        """Registers that may be read before they are written: anything, here a uniform."""
        shapes = {}
        for n, register in enumerate(self.kernel.registers):
            if self.kernel.blocks[0].live_in >> n & 1:
                shapes[n] = Shape("uniform", None, full_mask(TYPES[register.type]))
        return shapes

    def _streams(self):
        """Registers computed from the number of the block: addresses that no other block reads."""
        found, before = set(), None
        while before != len(found):
            before = len(found)
            for item in (i for b in self.kernel.blocks for i in b.instructions):
                own = any(isinstance(o, Special) and o.name == "%ctaid.x" for o in item.operands)
                if item.parts[0] != "ld" and (own or found & set(sources(item))):
                    found.update(results(item))
        return found

    def dry_code(self):
        return Code(Declarations(self.target), self, dry=True)

    def _find_shapes(self):
        for _ in range(_MOST_ROUNDS):
            changed = False
            for block in self.kernel.blocks:
                changed |= self._run_dry(block)
            changed |= self._force_where_surely_divergent()
            if not changed:
                return
        raise UnsupportedError(f"the shapes of kernel {self.kernel.name} do not settle")

    def _run_dry(self, block):
        code, changed = self.dry_code(), False
        for item in block.instructions:
            try:
                execute(code, item)
            except Undefined:
                continue
            for register in results(item):
                changed |= self._join(code, self.kernel.numbers[register])
        return changed

    def _join(self, code, number):
        if number not in code.current:
            return False
        old = self.shapes.get(number)
        type_name = TYPES[self.kernel.registers[number].type]
        new = VECTOR if number in self.forced else join(
            old, code.current[number].shape, BITS[type_name]
        )  # fmt: skip
        self.shapes[number] = new
        return new != old

    def _force_where_surely_divergent(self):
        """Registers that join after a branch like `lane == 0` hold different values for sure.

        Keeping them uniform would only make every return to unmasked code fail.
        """
        after, changed = self.meeting_points(), False
        for i, block in enumerate(self.kernel.blocks):
            if block.end != "branch" or not self._surely_divergent(block):
                continue
            meeting = after[i]
            live = self.kernel.blocks[meeting].live_in if meeting is not None else 0
            for y in self._between(block.targets, meeting):
                for item in self.kernel.blocks[y].instructions:
                    for register in results(item):
                        n = self.kernel.numbers[register]
                        if live >> n & 1 and n not in self.forced:
                            self.forced.add(n)
                            self.shapes[n] = VECTOR
                            changed = True
        return changed

    def _surely_divergent(self, block):
        guard = operand_registers(block.last.guard)[0]
        for item in block.instructions:
            if item.parts[0] == "setp" and item.parts[1] in ("eq", "ne") and guard in results(item):
                shapes = (self.shapes.get(self.kernel.numbers[r]) for r in sources(item))
                return any(s is not None and s.kind == "pattern" for s in shapes)
        return False

    def _between(self, starts, end):
        seen, stack = set(), [s for s in starts if s != end]
        while stack:
            b = stack.pop()
            if b not in seen and b != end:
                seen.add(b)
                stack += self.kernel.blocks[b].targets
        return seen

    def meeting_points(self):
        """The immediate post-dominator of every block; None is the end of the kernel."""
        blocks = self.kernel.blocks
        end = len(blocks)
        everything = (1 << end + 1) - 1
        after = [everything] * end + [1 << end]  # sets of blocks as bits
        changed = True
        while changed:
            changed = False
            for b in reversed(range(end)):
                new = everything
                for t in blocks[b].targets or (end,):
                    new &= after[t]
                new |= 1 << b
                changed |= new != after[b]
                after[b] = new
        nearest = []
        for b in range(end):
            strict = after[b] & ~(1 << b)
            # An endless loop reaches no end; it has no meeting point either.
            found = next((p for p in _bits(strict) if not strict & ~after[p]), end)
            nearest.append(found if found != end else None)
        return nearest

    # ---- order of instructions

    def _cut_before_guards(self):
        """Cut the blocks where a guard needs a start; whether there were any."""
        cuts = {}
        for i, block in enumerate(self.kernel.blocks):
            code = self.run_dry(block)
            if code.cuts:
                cuts[i] = sorted(set(code.cuts))
        if cuts:
            self._cut(cuts)
        return bool(cuts)

    def run_dry(self, block):
        """A dry pass over a block with the final shapes."""
        code = self.dry_code()
        for code.index, item in enumerate(block.instructions):
            execute(code, item)
        code.settle()
        return code

    def _addresses_first(self, items):
        """The instructions of a block with its address arithmetic to the front."""
        early, late = [], []
        written, read = set(), set()
        for item in items:
            uses, defines = set(sources(item)), set(results(item))
            moves = self._is_address_arithmetic(item) and not uses & written
            if moves and not defines & (written | read):
                early.append(item)
            else:
                late.append(item)
                written |= defines
                read |= uses
        return early + late

    def _is_address_arithmetic(self, item):
        pure = item.parts[0] in _PURE or item.parts[:2] == ("ld", "param")
        if not pure or item.guard is not None or item.parts[-1] in ("f32", "f64", "f16", "cc"):
            return False
        if "cc" in item.parts:
            return False
        shapes = [self.shapes.get(self.kernel.numbers[r], VECTOR) for r in results(item)]
        return all(s.kind != "vector" for s in shapes)

    def _cut(self, cuts):
        old = self.kernel.blocks
        place, new = {}, []
        for i, block in enumerate(old):
            place[i] = len(new)
            new += self._pieces(block, cuts.get(i, []))
        for i, block in enumerate(new):
            if block.end == "cut":
                block.end, block.targets = "jump", (i + 1,)
            else:
                block.targets = tuple(place[t] for t in block.targets)
        self.kernel.blocks = new

    def _pieces(self, block, cuts):
        bounds = [0, *cuts, len(block.instructions)]
        pieces, live = [], block.live_out
        for start, stop in reversed(list(pairwise(bounds))):
            items = block.instructions[start:stop]
            final = stop == bounds[-1]
            piece = replace(block, instructions=items, live_out=live)
            if not final:
                piece = replace(piece, end="cut", last=None, targets=())
            live = self._live_before([*items, *([piece.last] if piece.last else [])], live)
            piece.live_in = live
            pieces.append(piece)
        return pieces[::-1]

    def _live_before(self, items, live):
        for item in reversed(items):
            for register in results(item):
                live &= ~(1 << self.kernel.numbers[register])
            for register in sources(item):
                live |= 1 << self.kernel.numbers[register]
        return live

    # ---- masked code

    def _find_masked_blocks(self):
        """`masked`: blocks that may run masked; `returns`: where they may go back to unmasked."""
        blocks, after = self.kernel.blocks, self.meeting_points()
        starts, returns = [0] if self.partial else [], set()
        for i, block in enumerate(blocks):
            code = self.run_dry(block)
            if code.guarded:
                starts.append(i)
                returns.update(block.targets)
            if block.end in ("branch", "switch") and self._diverges(code, block):
                starts += block.targets
                returns.add(after[i])
        self.masked = sorted(self._between(starts, None))
        self.returns = returns & set(self.masked)
        for i in self.masked:
            block = blocks[i]
            for item in [*block.instructions, *([block.last] if block.last else [])]:
                self.masked_registers |= {self.kernel.numbers[r] for r in results(item)}

    def _diverges(self, code, block):
        operand = block.last.guard if block.end == "branch" else block.last.operands[0]
        number = self.kernel.numbers[operand_registers(operand)[0]]
        return not code.read_register(number).is_uniform

    def live(self, bits):
        """The register numbers of a bit set."""
        return list(_bits(bits))
