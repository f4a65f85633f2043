"""The instructions of `waiting`: coming to a barrier, and asking whether its turn is over.

The state of a block, which `%meet` points to: how many of its threads have not exited, where the
grid's state is, and for each of 16 barriers the numbers below. The grid's state is alike, with one
barrier, and counts what has been achieved: turns that ended and warps that are through.
"""

from zerfoo_numba.ptx.native.lanes import bits_of, vector
from zerfoo_numba.ptx.native.op_compare import compare_integers
from zerfoo_numba.ptx.native.scattered import fetch, lane_loop, spill
from zerfoo_numba.ptx.native.text import wide
from zerfoo_numba.ptx.native.value import Value, constant, uniform

ALIVE, GRID, PROGRESS = 0, 8, 16
BARRIERS, BARRIER_BYTES, COUNT = 64, 32, 16
GRID_BYTES, BLOCK_BYTES = 128, BARRIERS + COUNT * BARRIER_BYTES
# In a barrier: threads and votes of this turn, its number, and the last turn's.
CAME, TURN, VOTES, LAST_VOTES, LAST_CAME = 0, 4, 8, 12, 16

_PLACE = f"""define internal ptr @wait.place(ptr %state, i32 %number) alwaysinline {{
  %low = and i32 %number, {COUNT - 1}
  %wide = zext i32 %low to i64
  %offset = mul i64 %wide, {BARRIER_BYTES}
  %at = add i64 %offset, {BARRIERS}
  %place = getelementptr i8, ptr %state, i64 %at
  ret ptr %place
}}"""

_TEST = f"""define internal i1 @wait.test(ptr %state, ptr %grid, i32 %turn, i32 %number, \
i32 %count) noinline {{
entry:
  %place = call ptr @wait.place(ptr %state, i32 %number)
  %turn.at = getelementptr i8, ptr %place, i64 {TURN}
  %now = load i32, ptr %turn.at
  %mine = icmp eq i32 %now, %turn
  br i1 %mine, label %look, label %over
look:
  %came = load i32, ptr %place
  %alive = load i32, ptr %state
  %all = icmp eq i32 %count, 0
  %needed = select i1 %all, i32 %alive, i32 %count
  %enough = icmp uge i32 %came, %needed
  br i1 %enough, label %complete, label %pending
complete:
  %votes.at = getelementptr i8, ptr %place, i64 {VOTES}
  %votes = load i32, ptr %votes.at
  %last.votes = getelementptr i8, ptr %place, i64 {LAST_VOTES}
  store i32 %votes, ptr %last.votes
  %last.came = getelementptr i8, ptr %place, i64 {LAST_CAME}
  store i32 %came, ptr %last.came
  store i32 0, ptr %place
  store i32 0, ptr %votes.at
  %next = add i32 %now, 1
  store i32 %next, ptr %turn.at
  %progress = getelementptr i8, ptr %grid, i64 {PROGRESS}
  %before = load i64, ptr %progress
  %after = add i64 %before, 1
  store i64 %after, ptr %progress
  br label %over
over:
  ret i1 false
pending:
  ret i1 true
}}"""

_COME = f"""define internal i32 @wait.come(ptr %state, i32 %number, i32 %votes, i32 %here) \
alwaysinline {{
  %place = call ptr @wait.place(ptr %state, i32 %number)
  %came = load i32, ptr %place
  %more = call i32 @llvm.ctpop.i32(i32 %here)
  %sum = add i32 %came, %more
  store i32 %sum, ptr %place
  %votes.at = getelementptr i8, ptr %place, i64 {VOTES}
  %old = load i32, ptr %votes.at
  %true = and i32 %votes, %here
  %count = call i32 @llvm.ctpop.i32(i32 %true)
  %new = add i32 %old, %count
  store i32 %new, ptr %votes.at
  %turn.at = getelementptr i8, ptr %place, i64 {TURN}
  %turn = load i32, ptr %turn.at
  ret i32 %turn
}}"""


def _helpers(code):
    code.declarations.declare("i32", "llvm.ctpop.i32", ["i32"])
    for name, text in (("wait.place", _PLACE), ("wait.test", _TEST), ("wait.come", _COME)):
        code.declarations.helper(name, lambda text=text: text)


def _grid(code):
    return code.value(f"load ptr, ptr {code.offset('%meet', GRID)}")


def wait(code, op):
    """wait.arrive.SCOPE turn, number, vote; wait.pending.SCOPE p, turn, number, count; wait.OP d,
    number: what the votes of the last turn come to."""
    name = op.need("arrive", "pending", "popc", "and", "or")
    scope = op.take("grid", "block", default="block")
    code.settle()
    code.effect()
    _helpers(code)
    state = _grid(code) if scope == "grid" else "%meet"
    if name == "arrive":
        return _arrive(code, op, state)
    return _pending(code, op, state) if name == "pending" else _outcome(code, op, name, state)


def _arrive(code, op, state):
    number = code.read(op.sources[0], "u32")
    votes = bits_of(code, code.read(op.sources[1], "pred"))
    here = code.active_value().scalar
    if number.is_uniform:
        arguments = (("ptr", state), ("i32", number.scalar), ("i32", votes), ("i32", here))
        turn = code.call_defined("i32", "wait.come", *arguments)
        return uniform("i32", turn)
    code.declarations.helper("wait.come.each", _come_each)
    arguments = (("ptr", state), (wide("i32"), vector(code, number)), ("i32", votes))
    turn = code.call_defined(wide("i32"), "wait.come.each", *arguments, ("i32", here))
    return Value("i32", vector=turn)


def _come_each():
    kind = wide("i32")
    return lane_loop(
        "wait.come.each", kind, f"ptr %state, {kind} %n, i32 %votes",
        f"{spill('n', 'i32')}\n  %r = alloca {kind}\n  store {kind} zeroinitializer, ptr %r",
        f"{fetch('n', 'i32')}\n  %one = shl i32 1, %lane\n"
        "  %x = call i32 @wait.come(ptr %state, i32 %n.x, i32 %votes, i32 %one)\n"
        "  %to = getelementptr i32, ptr %r, i32 %lane\n  store i32 %x, ptr %to",
        f"  %result = load {kind}, ptr %r\n  ret {kind} %result",
    )  # fmt: skip


def _pending(code, op, state):
    values = [code.read(s, "u32") for s in op.sources]
    grid = _grid(code)
    if all(v.is_uniform for v in values):
        arguments = [("i32", v.scalar) for v in values]
        text = code.call_defined("i1", "wait.test", ("ptr", state), ("ptr", grid), *arguments)
        return uniform("i1", text)
    code.declarations.helper("wait.test.each", _test_each)
    arguments = [(wide("i32"), vector(code, v)) for v in values]
    bits = code.call_defined(
        "i32", "wait.test.each", ("ptr", state), ("ptr", grid), *arguments, ("i32", code.active)
    )
    return Value("i1", vector=code.value(f"bitcast i32 {bits} to {wide('i1')}"))


def _test_each():
    kind = wide("i32")
    body = "\n".join(fetch(x, "i32") for x in "tnc")
    return lane_loop(
        "wait.test.each", "i32", f"ptr %state, ptr %grid, {kind} %t, {kind} %n, {kind} %c",
        "\n".join(spill(x, "i32") for x in "tnc") + "\n  %r = alloca i32\n  store i32 0, ptr %r",
        f"{body}\n  %x = call i1 @wait.test(ptr %state, ptr %grid, i32 %t.x, i32 %n.x, i32 %c.x)\n"
        "  %bit = zext i1 %x to i32\n  %moved = shl i32 %bit, %lane\n  %old = load i32, ptr %r\n"
        "  %new = or i32 %old, %moved\n  store i32 %new, ptr %r",
        "  %result = load i32, ptr %r\n  ret i32 %result",
    )  # fmt: skip


def _outcome(code, op, name, state):
    number = code.read(op.sources[0], "u32")
    votes, came = (_number_of(code, state, number, at) for at in (LAST_VOTES, LAST_CAME))
    if name == "popc":
        return votes
    if name == "and":
        return compare_integers(code, "eq", False, votes, came)
    return compare_integers(code, "ne", False, votes, constant("i32", 0))


def _number_of(code, state, number, offset):
    """A number kept for each barrier."""
    if number.is_uniform:
        place = code.call_defined("ptr", "wait.place", ("ptr", state), ("i32", number.scalar))
        return uniform("i32", code.value(f"load i32, ptr {code.offset(place, offset)}"))
    name = f"wait.read.{offset}"
    code.declarations.helper(name, lambda: _read_each(name, offset))
    arguments = (("ptr", state), (wide("i32"), vector(code, number)), ("i32", code.active))
    return Value("i32", vector=code.call_defined(wide("i32"), name, *arguments))


def _read_each(name, offset):
    kind = wide("i32")
    return lane_loop(
        name, kind, f"ptr %state, {kind} %n",
        f"{spill('n', 'i32')}\n  %r = alloca {kind}\n  store {kind} zeroinitializer, ptr %r",
        f"{fetch('n', 'i32')}\n  %place = call ptr @wait.place(ptr %state, i32 %n.x)\n"
        f"  %from = getelementptr i8, ptr %place, i64 {offset}\n  %x = load i32, ptr %from\n"
        "  %to = getelementptr i32, ptr %r, i32 %lane\n  store i32 %x, ptr %to",
        f"  %result = load {kind}, ptr %r\n  ret {kind} %result",
    )  # fmt: skip


def leave(code):
    """Threads exit: nobody waits for them any more."""
    number = code.call("i32", "llvm.ctpop.i32", ("i32", code.active_value().scalar))
    for place in ("%meet", _grid(code)):
        old = code.value(f"load i32, ptr {place}")
        code.line(f"store i32 {code.value(f'sub i32 {old}, {number}')}, ptr {place}")


HANDLERS = {"wait": wait}
