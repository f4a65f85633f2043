"""The function that runs a range of blocks, around the warp functions; and the whole module."""

from zerfoo_numba.ptx.native import waiting_driver, waits
from zerfoo_numba.ptx.native.layout import (
    DATA,
    DYNAMIC,
    NX,
    NY,
    NZ,
    PARAMS,
    STATUS,
    aligned,
)
from zerfoo_numba.ptx.native.masked import MaskedCode
from zerfoo_numba.ptx.native.text import Declarations
from zerfoo_numba.ptx.native.unmasked import DONE, UnmaskedCode
from zerfoo_numba.ptx.native.value import LANES

# Spills of 64-byte vectors must not straddle cache lines.
_ATTRIBUTES = '"stackrealign" alignstack(64)'

_HEAD = """define void @grid(ptr %record, i64 %first, i64 %last, ptr %scratch) {attributes} {{
entry:
  %params.at = getelementptr i8, ptr %record, i64 {params}
  %params = load ptr, ptr %params.at
  %data.at = getelementptr i8, ptr %record, i64 {data}
  %data = load ptr, ptr %data.at
  %nx.at = getelementptr i8, ptr %record, i64 {nx}
  %nx = load i32, ptr %nx.at
  %ny.at = getelementptr i8, ptr %record, i64 {ny}
  %ny = load i32, ptr %ny.at
  %nz.at = getelementptr i8, ptr %record, i64 {nz}
  %nz = load i32, ptr %nz.at
  %dynamic.at = getelementptr i8, ptr %record, i64 {dynamic}
  %dynamic = load i32, ptr %dynamic.at
  %status = getelementptr i8, ptr %record, i64 {status}
  %nx.w = zext i32 %nx to i64
  %ny.w = zext i32 %ny to i64
"""

_BLOCKS = """  %shared = getelementptr i8, ptr %scratch, i64 {shared}
  %some = icmp ult i64 %first, %last
  br i1 %some, label %block, label %end
block:
  %b = phi i64 [%first, %entry], [%b.next, %block.end]
  %row = udiv i64 %b, %nx.w
  %cx.w = urem i64 %b, %nx.w
  %cx = trunc i64 %cx.w to i32
  %cz.w = udiv i64 %row, %ny.w
  %cz = trunc i64 %cz.w to i32
  %cy.w = urem i64 %row, %ny.w
  %cy = trunc i64 %cy.w to i32
"""

_TAIL = """block.end:
  %b.next = add i64 %b, 1
  %b.more = icmp ult i64 %b.next, %last
  br i1 %b.more, label %block, label %end
end:
  ret void
}
"""

_CALL = """  %w.w = zext i32 %w to i64
  %context.o = mul i64 %w.w, {context}
  %context = getelementptr i8, ptr %scratch, i64 %context.o
  %local.o = mul i64 %w.w, {local}
  %local.b = add i64 %local.o, {local_start}
  %local = getelementptr i8, ptr %scratch, i64 %local.b
  %result = call i32 @warp(ptr %params, ptr %data, ptr %shared, ptr %local, ptr %context, \
ptr %status, ptr %meet, i32 %cx, i32 %cy, i32 %cz, i32 %nx, i32 %ny, i32 %nz, i32 %dynamic, \
i32 %w, i32 %resume)
"""

_PLAIN = """  br label %warp
warp:
  %w = phi i32 [0, %block], [%w.next, %warp]
  %resume = add i32 0, 0
{call}  %w.next = add i32 %w, 1
  %w.more = icmp ult i32 %w.next, {warps}
  br i1 %w.more, label %warp, label %block.end
"""

# Barriers: rounds over the warps, each running to its next barrier, until all are through.
_ROUNDS = """  br label %clear
clear:
  %i = phi i32 [0, %block], [%i.next, %clear]
  %i.at = getelementptr i32, ptr %resumes, i32 %i
  store i32 0, ptr %i.at
  %i.next = add i32 %i, 1
  %i.more = icmp ult i32 %i.next, {warps}
  br i1 %i.more, label %clear, label %round
round:
{next_round}  br label %warp
warp:
  %w = phi i32 [0, %round], [%w.next, %warp.end]
  %left = phi i1 [false, %round], [%left.next, %warp.end]
  %resume.at = getelementptr i32, ptr %resumes, i32 %w
  %resume = load i32, ptr %resume.at
  %through = icmp eq i32 %resume, {done}
  br i1 %through, label %warp.end, label %run
run:
{call}  store i32 %result, ptr %resume.at
  %stopped = icmp ne i32 %result, {done}
  br label %warp.end
warp.end:
  %still = phi i1 [false, %warp], [%stopped, %run]
  %left.next = or i1 %left, %still
  %w.next = add i32 %w, 1
  %w.more = icmp ult i32 %w.next, {warps}
  br i1 %w.more, label %warp, label %round.end
round.end:
  br i1 %left.next, label %round, label %block.end
"""


class Scratch:
    """What one thread needs to run blocks: saved warps, local memory, shared memory."""

    def __init__(self, plan):
        self.context = plan.context.bytes
        self.local = LANES * plan.layout.local_bytes
        layout = plan.layout
        self.local_start = aligned(plan.warps * self.context, layout.local_align)
        self.shared = aligned(self.local_start + plan.warps * self.local, layout.shared_align)

    def bytes(self, shared_bytes):
        return aligned(self.shared + shared_bytes, 128)


def grid_function(plan):
    scratch = Scratch(plan)
    call = _CALL.format(
        context=scratch.context, local=scratch.local, local_start=scratch.local_start
    )
    head = _HEAD.format(
        attributes=_ATTRIBUTES, params=PARAMS, data=DATA, nx=NX, ny=NY, nz=NZ, dynamic=DYNAMIC,
        status=STATUS,
    )  # fmt: skip
    if plan.waiting:
        return head + waiting_driver.body(plan, scratch, call)
    barriers = any(b.end == "barrier" for b in plan.kernel.blocks)
    body = _PLAIN.format(call=call, warps=plan.warps)
    if barriers:
        body = _ROUNDS.format(call=call, warps=plan.warps, done=DONE, next_round=waits.next_round())
    if barriers:
        room = f"  %resumes = alloca [{plan.warps} x i32]\n"
        room += f"  %meet = alloca [{waits.MEET_BYTES} x i8], align 8\n"
        head = head.replace("entry:\n", "entry:\n" + room, 1)
    else:
        body = body.replace("ptr %meet", "ptr null")
    return head + _BLOCKS.format(shared=scratch.shared) + body + _TAIL


def module_text(plan):
    """The LLVM module of one kernel for one block size."""
    declarations = Declarations(plan.target)
    parts = [
        MaskedCode(declarations, plan).function(),
        UnmaskedCode(declarations, plan).function(),
        grid_function(plan),
    ]
    constants = '!0 = !{}\n!1 = !{!"branch_weights", i32 1, i32 100000}\n'
    head = f'target triple = "{plan.target.triple}"\n'
    return "\n".join([head, *parts, declarations.text, constants])
