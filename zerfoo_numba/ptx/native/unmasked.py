"""The function that runs a warp with all lanes: registers in SSA values, shapes kept.

It leaves to masked code where lanes disagree or a pattern would wrap around, and to its caller at
a barrier; both ways the live registers go to the warp's context, from which it can resume.
"""

from zerfoo_numba.ptx.native import op_wait, waits
from zerfoo_numba.ptx.native.code import Code
from zerfoo_numba.ptx.native.lanes import bits_of, vector
from zerfoo_numba.ptx.native.text import splat_constant, wide
from zerfoo_numba.ptx.native.translate import execute
from zerfoo_numba.ptx.native.value import LANES
from zerfoo_numba.ptx.structure import Negated

PARAMETERS = (
    "ptr noalias %params, ptr %data, ptr %shared, ptr %local, ptr noalias %context, ptr %status, "
    "ptr %meet, i32 %cx, i32 %cy, i32 %cz, i32 %nx, i32 %ny, i32 %nz, i32 %dynamic, i32 %warp"
)
ARGUMENTS = PARAMETERS.replace("noalias ", "")
DONE, SUSPENDED = -1, -2  # what a warp function returns besides the number of a block to go on at


def resume_number(block):
    return block + 1


class UnmaskedCode(Code):
    """Registers live in stack slots that LLVM turns into SSA values."""

    def __init__(self, declarations, plan):
        super().__init__(declarations, plan)
        self.slots = {}
        self.resumed = set()

    def place(self, number, form):
        type_name = self.register_type(number)
        kind = wide(type_name) if form == "vector" else type_name
        self.slots[f"%{form}.{number}"] = kind
        return f"%{form}.{number}"

    @property
    def wrap_label(self):
        return f"wrap.{self.block_number}"

    def function(self):
        """The text of the function @warp."""
        blocks = self.plan.kernel.blocks
        for number, block in enumerate(blocks):
            self.label(f"u.{number}")
            self.block_number = number
            self.start_block()
            self.count(block)
            self.run(block)
            self.finish(number, block)
        self.label("done")
        self.line(f"ret i32 {DONE}")
        self._masked_call()
        for number in sorted(self.resumed | self.plan.returns):
            self._resume(number)
        body, self.lines = self.lines, []
        self._entry()
        head = f"define internal i32 @warp({PARAMETERS}, i32 %resume) alwaysinline {{"
        return "\n".join([head, "entry:", *self.lines, *body, "}"])

    def run(self, block):
        for self.index, item in enumerate(block.instructions):
            execute(self, item)
        if block.end == "branch":
            guard = block.last.guard
            self.condition = self.read(guard.register if isinstance(guard, Negated) else guard)
        elif block.end == "switch":
            self.condition = self.read(block.last.operands[0], "u32")
        self.settle()
        if block.end == "barrier":
            waits.vote(self, block)

    def finish(self, number, block):
        guarded = self.guarded
        for n in self.plan.live(block.live_out):
            if n in self.current:
                self.store_register(n, self.current[n])
        if block.end == "exit":
            if self.plan.waiting:
                op_wait.leave(self)
            if block.last is not None and block.last.parts[0] == "trap":
                self.line("store i32 1, ptr %status")
            self.jump("done")
        elif block.end == "jump":
            self.jump(f"u.{block.targets[0]}")
        elif block.end == "barrier":
            self._barrier(block)
        elif block.end == "branch":
            self._branch(block)
        else:
            self._switch(block)
        if guarded:  # the slots still hold what they held when the block began
            self.label(self.wrap_label)
            self.start_block()
            self._to_masked(block.live_in, [(number, "-1")], stay=True)

    # ---- ways out of a block

    def _branch(self, block):
        taken, otherwise = block.targets
        if isinstance(block.last.guard, Negated):
            taken, otherwise = otherwise, taken
        p = self.condition
        if p.is_uniform:
            return self.branch(p.scalar, f"u.{taken}", f"u.{otherwise}")
        if p.tests:
            some, mixed = self.fresh("some"), self.fresh("mixed")
            self.branch(p.tests[0], f"u.{taken}", some)
            self.label(some)
            self.branch(p.tests[1], f"u.{otherwise}", mixed)
            self.label(mixed)
        bits = bits_of(self, p)
        some, mixed = self.fresh("some"), self.fresh("mixed")
        self.branch(self.value(f"icmp eq i32 {bits}, -1"), f"u.{taken}", some)
        self.label(some)
        self.branch(self.value(f"icmp eq i32 {bits}, 0"), f"u.{otherwise}", mixed)
        self.label(mixed)
        rest = self.value(f"xor i32 {bits}, -1")
        live = 0
        for t in block.targets:
            live |= self.plan.kernel.blocks[t].live_in
        return self._to_masked(live, [(taken, bits), (otherwise, rest)])

    def _switch(self, block):
        index = self.condition
        if index.is_uniform:
            cases = " ".join(f"i32 {i}, label %u.{t}" for i, t in enumerate(block.targets))
            return self.line(f"switch i32 {index.scalar}, label %done [{cases}]")
        ways, live = [], 0
        for i, target in enumerate(block.targets):
            number = splat_constant("i32", str(i))
            equal = self.value(f"icmp eq {wide('i32')} {vector(self, index)}, {number}")
            ways.append((target, self.value(f"bitcast {wide('i1')} {equal} to i32")))
            live |= self.plan.kernel.blocks[target].live_in
        return self._to_masked(live, ways)

    def _barrier(self, block):
        target = block.targets[0]
        self.resumed.add(target)
        for n in self.plan.live(self.plan.kernel.blocks[target].live_in):
            self._save(n, as_vector=self.holds_vector(n))
        self.line(f"ret i32 {resume_number(target)}")

    def _to_masked(self, live, ways, stay=False):
        """Save the live registers, note which lanes go where, and run the masked function."""
        for n in self.plan.live(live):
            self._save(n, self.holds_vector(n) or n in self.plan.masked_registers)
        context = self.plan.context
        self.call(
            "void", "llvm.memset.p0.i64", ("ptr", "%context"), ("i8", "0"),
            ("i64", context.header_bytes), ("i1", "false"),
        )  # fmt: skip
        for target, lanes in ways:
            place = self.offset("%context", context.pending(target))
            old = self.value(f"load i32, ptr {place}")
            self.line(f"store i32 {self.value(f'or i32 {old}, {lanes}')}, ptr {place}")
        if stay:
            self.line(f"store i32 1, ptr {self.offset('%context', context.stay)}")
        self.jump("masked")

    def _save(self, number, as_vector):
        value = self.read_register(number)
        context, type_name = self.plan.context, value.type
        if as_vector:
            place = self.offset("%context", context.vectors[number])
            self.line(f"store {wide(type_name)} {vector(self, value)}, ptr {place}, align 64")
        elif self.plan.shapes[number].known is None:  # a constant here may be none elsewhere
            place = self.offset("%context", context.scalars[number])
            self.line(f"store {type_name} {value.scalar}, ptr {place}")

    # ---- ways in

    def _masked_call(self):
        self.label("masked")
        result = self.value(f"call i32 @masked({ARGUMENTS})")
        self._leaves = result
        stop = self.value(f"icmp slt i32 {result}, 0")
        self.branch(stop, "leave", "enter")
        self.label("leave")
        self.line(f"ret i32 {result}")

    def _resume(self, number):
        """Load the live registers from the context and go on at a block."""
        self.label(f"r.{number}")
        context = self.plan.context
        for n in self.plan.live(self.plan.kernel.blocks[number].live_in):
            type_name = self.register_type(n)
            if self.holds_vector(n):
                kind, form, at, align = wide(type_name), "vector", context.vectors[n], 64
            elif self.plan.shapes[n].known is None:
                kind, form, at, align = type_name, "scalar", context.scalars[n], 1
            else:
                continue
            place = self.offset("%context", at)
            value = self.value(f"load {kind}, ptr {place}, align {align}")
            self.line(f"store {kind} {value}, ptr {self.place(n, form)}")
        self.jump(f"u.{number}")

    def _entry(self):
        """Stack slots, and the switch over the places to start or resume at."""
        undefined = self.plan.live(self.plan.kernel.blocks[0].live_in)
        undefined = [n for n in undefined if self.holds_vector(n)]
        places = [(self.place(n, "vector"), wide(self.register_type(n))) for n in undefined]
        for name, kind in self.slots.items():
            self.lines.append(f"  {name} = alloca {kind}")
            if kind[0] != "<":
                self.lines.append(f"  store {kind} {_zero(kind)}, ptr {name}")
        for place, kind in places:
            self.line(f"store {kind} zeroinitializer, ptr {place}")
        again = f"icmp eq i32 %resume, {SUSPENDED}"
        self.branch(self.value(again), "masked", "enter")
        self.label("enter")
        self.lines.append(f"  %at = phi i32 [%resume, %entry], [{self._leaves}, %masked]")
        numbers = sorted(self.resumed | self.plan.returns)
        cases = " ".join(f"i32 {resume_number(n)}, label %r.{n}" for n in numbers)
        self.line(f"switch i32 %at, label %start [{cases}]")
        self.label("start")
        self._start()

    def _start(self):
        if not self.plan.partial:
            return self.jump("u.0")
        last = self.plan.warps - 1
        self.branch(self.value(f"icmp eq i32 %warp, {last}"), "part", "u.0")
        self.label("part")
        lanes = (1 << (self.plan.threads % LANES)) - 1
        return self._to_masked(0, [(0, str(lanes))])


def _zero(kind):
    return {"float": "0.0", "double": "0.0", "i1": "false"}.get(kind, "0")
