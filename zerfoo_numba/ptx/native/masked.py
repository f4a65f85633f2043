"""The function that runs a warp whose lanes disagree: one block at a time, with a lane mask.

Every block has a word of lanes that wait to run it. Blocks are tried in order, the lowest first,
which by their order (`ptx.control_flow`) brings diverged lanes together as early as possible. The
registers that masked blocks define are vectors in the warp's context.
"""

from zerfoo_numba.ptx.native import op_wait, waits
from zerfoo_numba.ptx.native.code import Code
from zerfoo_numba.ptx.native.lanes import bits_of, splat, vector
from zerfoo_numba.ptx.native.text import splat_constant, vector_constant, wide
from zerfoo_numba.ptx.native.translate import execute
from zerfoo_numba.ptx.native.unmasked import DONE, PARAMETERS, SUSPENDED, resume_number
from zerfoo_numba.ptx.native.value import BITS, full_mask
from zerfoo_numba.ptx.structure import Negated


class MaskedCode(Code):
    def __init__(self, declarations, plan):
        super().__init__(declarations, plan, masked=True)

    def place(self, number, form):
        table = getattr(self.plan.context, f"{form}s")
        return self.offset("%context", table[number])

    def function(self):
        """The text of the function @masked."""
        self._entry()
        order = self.plan.masked
        for i, number in enumerate(order):
            self._block(number, f"t.{order[i + 1]}" if i + 1 < len(order) else "end")
        self.label("end")
        self._end()
        head = f"define internal i32 @masked({PARAMETERS}) noinline {{"
        return "\n".join([head, "entry:", *self.lines, "}"])

    def _pending(self, block):
        return self.offset("%context", self.plan.context.pending(block))

    def _waiting(self, block):
        return self.offset("%context", self.plan.context.waiting(block))

    def _add_lanes(self, place, lanes):
        old = self.value(f"load i32, ptr {place}")
        self.line(f"store i32 {self.value(f'or i32 {old}, {lanes}')}, ptr {place}")

    def _barriers(self):
        blocks = self.plan.kernel.blocks
        return [b for b in self.plan.masked if blocks[b].end == "barrier"]

    def _entry(self):
        """Lanes that waited at a barrier go on behind it."""
        for b in self._barriers():
            place = self._waiting(b)
            lanes = self.value(f"load i32, ptr {place}")
            self.line(f"store i32 0, ptr {place}")
            self._add_lanes(self._pending(self.plan.kernel.blocks[b].targets[0]), lanes)
        self.jump(f"t.{self.plan.masked[0]}" if self.plan.masked else "end")

    def _end(self):
        """Nobody can run: either all are through or some wait at a barrier."""
        result = str(DONE)
        for b in self._barriers():
            lanes = self.value(f"load i32, ptr {self._waiting(b)}")
            some = self.value(f"icmp ne i32 {lanes}, 0")
            result = self.value(f"select i1 {some}, i32 {SUSPENDED}, i32 {result}")
        self.line(f"ret i32 {result}")

    def _block(self, number, after):
        block = self.plan.kernel.blocks[number]
        self.label(f"t.{number}")
        lanes = self.value(f"load i32, ptr {self._pending(number)}")
        self.branch(self.value(f"icmp ne i32 {lanes}, 0"), f"m.{number}", after)
        self.label(f"m.{number}")
        self.line(f"store i32 0, ptr {self._pending(number)}")
        self.start_block(lanes)
        if number in self.plan.returns:
            self._return_if_whole(number, lanes)
        self.count(block)
        for item in block.instructions:
            execute(self, item)
        condition = self._condition(block)
        self._flush(block)
        self._leave(number, block, condition, after)

    def _condition(self, block):
        if block.end == "branch":
            guard = block.last.guard
            return self.read(guard.register if isinstance(guard, Negated) else guard)
        if block.end == "switch":
            return self.read(block.last.operands[0], "u32")
        if block.end == "barrier":
            waits.vote(self, block)
        return None

    def _flush(self, block):
        for n in self.plan.live(block.live_out):
            if n in self.current:
                self.store_register(n, self.current[n])

    def _leave(self, number, block, condition, after):
        """Send the lanes to the next blocks; go back where one of them comes earlier."""
        if block.end == "exit":
            if self.plan.waiting:
                op_wait.leave(self)
            if block.last is not None and block.last.parts[0] == "trap":
                self.line("store i32 1, ptr %status")
            return self.jump(after)
        if block.end == "barrier":
            self._add_lanes(self._waiting(number), self.active)
            return self.jump(after)
        for target, lanes in self._ways(block, condition):
            self._add_lanes(self._pending(target), lanes)
        for target in sorted({t for t in block.targets if t <= number}):
            lanes = self.value(f"load i32, ptr {self._pending(target)}")
            following = self.fresh("on")
            self.branch(self.value(f"icmp ne i32 {lanes}, 0"), f"t.{target}", following)
            self.label(following)
        return self.jump(after)

    def _ways(self, block, condition):
        if block.end == "jump":
            return [(block.targets[0], self.active)]
        if block.end == "branch":
            taken, otherwise = block.targets
            if isinstance(block.last.guard, Negated):
                taken, otherwise = otherwise, taken
            lanes = self.value(f"and i32 {self.active}, {bits_of(self, condition)}")
            return [(taken, lanes), (otherwise, self.value(f"xor i32 {self.active}, {lanes}"))]
        ways = []
        for i, target in enumerate(block.targets):
            number = splat_constant("i32", str(i))
            equal = self.value(f"icmp eq {wide('i32')} {vector(self, condition)}, {number}")
            lanes = self.value(f"bitcast {wide('i1')} {equal} to i32")
            ways.append((target, self.value(f"and i32 {self.active}, {lanes}")))
        return ways

    # ---- back to unmasked code

    def _return_if_whole(self, number, lanes):
        """With all lanes here and every live register in its shape, unmasked code can go on."""
        check, stay = self.fresh("check"), self.fresh("stay")
        place = self.offset("%context", self.plan.context.stay)
        held = self.value(f"load i32, ptr {place}")
        self.line(f"store i32 0, ptr {place}")
        free = self.value(f"icmp eq i32 {held}, 0")
        whole = self.value(f"icmp eq i32 {lanes}, -1")
        self.branch(self.value(f"and i1 {free}, {whole}"), check, stay)
        self.label(check)
        holds, scalars = "true", []
        for n in self.plan.live(self.plan.kernel.blocks[number].live_in):
            if n in self.plan.masked_registers and self.plan.shapes[n].kind != "vector":
                holds = self._check_shape(n, holds, scalars)
        back = self.fresh("back")
        self.branch(holds, back, stay)
        self.label(back)
        for n, kind, scalar in scalars:
            place = self.offset("%context", self.plan.context.scalars[n])
            self.line(f"store {kind} {scalar}, ptr {place}")
        self.line(f"ret i32 {resume_number(number)}")
        self.label(stay)

    def _check_shape(self, number, holds, scalars):
        """`holds` and "the lanes of this register have its shape"."""
        shape, type_name = self.plan.shapes[number], self.register_type(number)
        word = f"i{BITS[type_name]}"
        kind = wide(word)
        value = self.value(f"load {kind}, ptr {self.place(number, 'vector')}")
        if shape.lanes is not None:
            value = self.value(f"sub {kind} {value}, {vector_constant(word, shape.lanes)}")
        first = self.value(f"extractelement {kind} {value}, i32 0")
        equal = self.value(f"icmp eq {kind} {value}, {splat(self, word, first)}")
        bits = self.value(f"bitcast {wide('i1')} {equal} to i32")
        tests = [self.value(f"icmp eq i32 {bits}, -1")]
        if shape.known is not None:
            tests.append(self.value(f"icmp eq {word} {first}, {_literal(word, shape.known)}"))
        elif word != "i1" and shape.mask & full_mask(word) != full_mask(word):
            outside = full_mask(word) & ~shape.mask
            rest = self.value(f"and {word} {first}, {outside}")
            tests.append(self.value(f"icmp eq {word} {rest}, 0"))
        for test in tests:
            holds = self.value(f"and i1 {holds}, {test}")
        scalars.append((number, word, first))
        return holds


def _literal(word, number):
    return ("true" if number else "false") if word == "i1" else str(number)
