"""Random structured programs, as PTX text and as Python functions of one thread.

Statements nest: assignments, table look-ups, if/else, counted loops with break and continue. At
the top level threads also exchange values, by shuffles and through shared memory, or exit early.
"""

import random

import numpy as np

REGISTERS, TABLE, DEPTH = 5, 64, 3
MASK = 0xFFFFFFFF
_BINARY = {
    "add.u32": lambda a, b: a + b,
    "sub.u32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "xor.b32": lambda a, b: a ^ b,
    "and.b32": lambda a, b: a & b,
    "min.u32": min,
    "max.s32": lambda a, b: max(a, b, key=lambda x: x - ((x & 0x80000000) << 1)),
}
_COMPARE = {"lt": int.__lt__, "ge": int.__ge__, "eq": int.__eq__, "ne": int.__ne__}


class Break(Exception):
    pass


class Continue(Exception):
    pass


class Exit(Exception):
    pass


class Program:
    """`statements` is a list of tuples (kind, ...); see the methods named after the kinds."""

    def __init__(self, seed, exits):
        self.random, self.exits = random.Random(seed), exits
        self.labels = 0
        self.statements = [self.statement(0, False, top=True) for _ in range(7)]

    def statement(self, depth, in_loop, top=False):
        choices = ["assign"] * 3 + ["guarded", "load", "load_signed"]
        choices += ["branch", "loop"] * (2 if depth < DEPTH else 0)
        choices += ["leave", "skip"] * in_loop
        choices += ["exit"] if self.exits else ["shuffle", "share"] * top
        return self.make(self.random.choice(choices), depth, in_loop)

    def make(self, kind, depth, in_loop):
        pick = self.random.randrange
        a, b = pick(REGISTERS), pick(REGISTERS)
        if kind == "assign":
            c = pick(REGISTERS) if pick(2) else pick(1 << 32)
            return kind, a, self.random.choice(list(_BINARY)), b, c, pick(2)
        if kind in ("load", "load_signed", "share"):
            return kind, a, b, pick(TABLE)
        if kind == "shuffle":
            return kind, a, b, 1 << pick(5)
        condition = (self.random.choice(list(_COMPARE)), a, pick(8) << 29 | pick(1 << 29))
        if kind in ("leave", "skip", "exit"):
            return kind, condition
        if kind == "guarded":
            return kind, condition, self.make("assign", depth, in_loop)
        inside = in_loop or kind == "loop"
        body = [self.statement(depth + 1, inside) for _ in range(1 + pick(3))]
        if kind == "loop":
            return kind, 1 + pick(4), body
        return kind, condition, body, [self.statement(depth + 1, in_loop) for _ in range(pick(3))]

    # One thread in Python.

    def execute(self, statements, r, thread, table):
        for kind, *s in statements:
            getattr(self, f"do_{kind}")(r, thread, table, *s)

    def holds(self, r, condition):
        name, a, value = condition
        return _COMPARE[name](r[a], value)

    def do_assign(self, r, thread, table, a, name, b, c, register):
        right = r[c % REGISTERS] if register else c
        r[a] = _BINARY[name](r[b], right) & MASK

    def do_guarded(self, r, thread, table, condition, assignment):
        if self.holds(r, condition):
            self.do_assign(r, thread, table, *assignment[1:])

    def do_load(self, r, thread, table, a, b, offset):
        r[a] = int(table[(r[b] + offset) % TABLE])

    def do_load_signed(self, r, thread, table, a, b, offset):
        r[a] = int(table[TABLE // 2 + (r[b] % TABLE) - TABLE // 2])

    def do_branch(self, r, thread, table, condition, yes, no):
        self.execute(yes if self.holds(r, condition) else no, r, thread, table)

    def do_loop(self, r, thread, table, count, body):
        for _ in range(count):
            try:
                self.execute(body, r, thread, table)
            except Continue:
                continue
            except Break:
                break

    def do_leave(self, r, thread, table, condition):
        if self.holds(r, condition):
            raise Break

    def do_skip(self, r, thread, table, condition):
        if self.holds(r, condition):
            raise Continue

    def do_exit(self, r, thread, table, condition):
        if self.holds(r, condition):
            raise Exit

    def expected(self, threads, block, table):
        """(threads, REGISTERS) of what every thread's registers hold at its end."""
        rows = [[(t * (i + 1)) & MASK for i in range(REGISTERS)] for t in range(threads)]
        done = [False] * threads
        for statement in self.statements:
            kind, *s = statement
            before = [list(r) for r in rows]
            for t, r in enumerate(rows):
                start = t - t % (32 if kind == "shuffle" else block)
                if kind == "shuffle":
                    r[s[0]] = before[start + ((t - start) ^ s[2])][s[1]]
                elif kind == "share":
                    r[s[0]] = before[start + (t - start + s[2]) % block][s[1]]
                elif not done[t]:
                    try:
                        self.execute([statement], r, t, table)
                    except Exit:
                        done[t] = True
        return np.array(rows, np.uint32)

    # The same as PTX.

    def label(self):
        self.labels += 1
        return f"L{self.labels}"

    def text(self, statements, ends):
        lines = []
        for kind, *s in statements:
            lines += getattr(self, f"ptx_{kind}")(ends, *s)
        return lines

    def test(self, condition):
        name, a, value = condition
        return f"setp.{name}.u32 %p1, %r{a}, {value};"

    def ptx_assign(self, ends, a, name, b, c, register):
        right = f"%r{c % REGISTERS}" if register else str(c)
        return [f"{name} %r{a}, %r{b}, {right};"]

    def ptx_guarded(self, ends, condition, assignment):
        [line] = self.ptx_assign(ends, *assignment[1:])
        return [self.test(condition), f"@%p1 {line}"]

    def ptx_load(self, ends, a, b, offset):
        return [
            f"add.u32 %r20, %r{b}, {offset};", f"and.b32 %r20, %r20, {TABLE - 1};",
            "add.u32 %r20, %r20, 8;", "mul.wide.u32 %rd3, %r20, 4;",
            "add.s64 %rd4, %rd1, %rd3;", f"ld.global.u32 %r{a}, [%rd4+-32];",
        ]  # fmt: skip

    def ptx_load_signed(self, ends, a, b, offset):
        return [
            f"and.b32 %r20, %r{b}, {TABLE - 1};", f"add.s32 %r20, %r20, {-TABLE // 2};",
            "cvt.s64.s32 %rd3, %r20;", "shl.b64 %rd3, %rd3, 2;", "add.s64 %rd4, %rd1, %rd3;",
            f"ld.global.u32 %r{a}, [%rd4+{2 * TABLE}];",
        ]  # fmt: skip

    def ptx_branch(self, ends, condition, yes, no):
        other, end = self.label(), self.label()
        lines = [self.test(condition), f"@!%p1 bra {other};", *self.text(yes, ends)]
        return [*lines, f"bra {end};", f"{other}:", *self.text(no, ends), f"{end}:"]

    def ptx_loop(self, ends, count, body):
        head, step, end = self.label(), self.label(), self.label()
        counter = f"%c{self.labels}"
        inside = self.text(body, (step, end))
        return [
            f".reg .b32 {counter};", f"mov.u32 {counter}, 0;", f"{head}:", *inside, f"{step}:",
            f"add.u32 {counter}, {counter}, 1;", f"setp.lt.u32 %p1, {counter}, {count};",
            f"@%p1 bra {head};", f"{end}:",
        ]  # fmt: skip

    def ptx_leave(self, ends, condition):
        return [self.test(condition), f"@%p1 bra {ends[1]};"]

    def ptx_skip(self, ends, condition):
        return [self.test(condition), f"@%p1 bra {ends[0]};"]

    def ptx_exit(self, ends, condition):
        return [self.test(condition), "@%p1 bra OUT;"]

    def ptx_shuffle(self, ends, a, b, distance):
        return [f"shfl.sync.bfly.b32 %r{a}, %r{b}, {distance}, 31, -1;"]

    def ptx_share(self, ends, a, b, distance):
        return [
            "mul.wide.u32 %rd3, %r10, 4;", "mov.u64 %rd4, box;", "add.s64 %rd3, %rd4, %rd3;",
            f"st.shared.u32 [%rd3], %r{b};", "bar.sync 0;", f"add.u32 %r20, %r10, {distance};",
            "mov.u32 %r21, %ntid.x;", "rem.u32 %r20, %r20, %r21;", "shl.b32 %r20, %r20, 2;",
            "cvt.u64.u32 %rd3, %r20;", "add.s64 %rd3, %rd4, %rd3;",
            f"ld.shared.u32 %r{a}, [%rd3];", "bar.sync 0;",
        ]  # fmt: skip

    def ptx(self):
        """The whole text: entry `k` of a table and of the results, REGISTERS for each thread."""
        head = """.version 8.0\n.target sm_90\n.address_size 64
        .visible .entry k(.param .u64 table, .param .u64 out) {
        .reg .pred %p<4>; .reg .b32 %r<40>; .reg .b64 %rd<9>; .shared .align 4 .b8 box[4096];
        ld.param.u64 %rd1, [table]; ld.param.u64 %rd2, [out];
        mov.u32 %r10, %tid.x; mov.u32 %r11, %ctaid.x; mov.u32 %r12, %ntid.x;
        mad.lo.u32 %r13, %r11, %r12, %r10;"""
        start = [f"mul.lo.u32 %r{i}, %r13, {i + 1};" for i in range(REGISTERS)]
        end = ["OUT:", f"mul.wide.u32 %rd3, %r13, {4 * REGISTERS};", "add.s64 %rd4, %rd2, %rd3;"]
        end += [f"st.global.u32 [%rd4+{4 * i}], %r{i};" for i in range(REGISTERS)]
        return "\n".join([head, *start, *self.text(self.statements, None), *end, "ret; }\n"])
