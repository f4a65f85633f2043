"""The function that runs blocks of which warps wait for each other in other ways than a barrier of
all: every warp runs until it gives way, in rounds, until all are through."""

from zerfoo_numba.ptx.native.layout import aligned
from zerfoo_numba.ptx.native.op_wait import ALIVE, BLOCK_BYTES, GRID, GRID_BYTES, PROGRESS
from zerfoo_numba.ptx.native.unmasked import DONE

# Rounds in which no turn of a barrier ends and no warp comes through: they wait for nothing.
HOPELESS = 1 << 21
DEADLOCK = 2  # in the status word of the launch

_BODY = """  %fixed = zext i32 %dynamic to i64
  %bytes = add i64 %fixed, {room}
  %stride = and i64 %bytes, -{align}
  %rooms = getelementptr i8, ptr %scratch, i64 {grid_bytes}
  %range = sub i64 %last, %first
  %together = {together}
  %some = icmp ult i64 %first, %last
  br i1 %some, label %group, label %end
group:
  %g = phi i64 [%first, %entry], [%g.next, %group.next]
  %g.next = add i64 %g, %together
  %grid.threads.w = mul i64 %together, {threads}
  %grid.threads = trunc i64 %grid.threads.w to i32
  call void @llvm.memset.p0.i64(ptr %scratch, i8 0, i64 {grid_bytes}, i1 false)
  store i32 %grid.threads, ptr %scratch
  %progress = getelementptr i8, ptr %scratch, i64 {progress}
  br label %prepare
prepare:
  %p = phi i64 [0, %group], [%p.next, %prepare]
  %p.o = mul i64 %p, %stride
  %p.room = getelementptr i8, ptr %rooms, i64 %p.o
  %p.state = getelementptr i8, ptr %p.room, i64 {state}
  call void @llvm.memset.p0.i64(ptr %p.state, i8 0, i64 {state_bytes}, i1 false)
  %p.alive = getelementptr i8, ptr %p.state, i64 {alive}
  store i32 {threads}, ptr %p.alive
  %p.grid = getelementptr i8, ptr %p.state, i64 {grid}
  store ptr %scratch, ptr %p.grid
  %p.next = add i64 %p, 1
  %p.more = icmp ult i64 %p.next, %together
  br i1 %p.more, label %prepare, label %round
round:
  %seen = phi i64 [0, %prepare], [%achieved, %round.end]
  %idle = phi i64 [0, %prepare], [%idle.next, %round.end]
  br label %block
block:
  %k = phi i64 [0, %round], [%k.next, %block.end]
  %left.b = phi i1 [false, %round], [%left.next, %block.end]
  %b = add i64 %g, %k
  %row = udiv i64 %b, %nx.w
  %cx.w = urem i64 %b, %nx.w
  %cx = trunc i64 %cx.w to i32
  %cz.w = udiv i64 %row, %ny.w
  %cz = trunc i64 %cz.w to i32
  %cy.w = urem i64 %row, %ny.w
  %cy = trunc i64 %cy.w to i32
  %room.o = mul i64 %k, %stride
  %room = getelementptr i8, ptr %rooms, i64 %room.o
  %meet = getelementptr i8, ptr %room, i64 {state}
  %resumes = getelementptr i8, ptr %room, i64 {resumes}
  %shared = getelementptr i8, ptr %room, i64 {shared}
  br label %warp
warp:
  %w = phi i32 [0, %block], [%w.next, %warp.end]
  %left = phi i1 [%left.b, %block], [%left.next, %warp.end]
  %resume.at = getelementptr i32, ptr %resumes, i32 %w
  %resume = load i32, ptr %resume.at
  %through = icmp eq i32 %resume, {done}
  br i1 %through, label %warp.end, label %run
run:
{call}  store i32 %result, ptr %resume.at
  %stopped = icmp ne i32 %result, {done}
  %passed = icmp eq i32 %result, {done}
  %passed.w = zext i1 %passed to i64
  %progress.old = load i64, ptr %progress
  %progress.new = add i64 %progress.old, %passed.w
  store i64 %progress.new, ptr %progress
  br label %warp.end
warp.end:
  %still = phi i1 [false, %warp], [%stopped, %run]
  %left.next = or i1 %left, %still
  %w.next = add i32 %w, 1
  %w.more = icmp ult i32 %w.next, {warps}
  br i1 %w.more, label %warp, label %block.end
block.end:
  %k.next = add i64 %k, 1
  %k.more = icmp ult i64 %k.next, %together
  br i1 %k.more, label %block, label %round.end
round.end:
  %achieved = load i64, ptr %progress
  %same = icmp eq i64 %achieved, %seen
  %idle.more = add i64 %idle, 1
  %idle.next = select i1 %same, i64 %idle.more, i64 0
  %hopeless = icmp ugt i64 %idle.next, {hopeless}
  %again = xor i1 %hopeless, true
  %go.on = and i1 %left.next, %again
  br i1 %go.on, label %round, label %group.end
group.end:
  %given.up = and i1 %left.next, %hopeless
  br i1 %given.up, label %mark, label %group.next
mark:
  store i32 {deadlock}, ptr %status
  br label %group.next
group.next:
  %g.more = icmp ult i64 %g.next, %last
  br i1 %g.more, label %group, label %end
end:
  ret void
}}
"""


class Room:
    """Where a block's state, the places at which its warps go on, and its shared memory lie, behind
    its saved warps and local memory; `room` with its static shared memory."""

    def __init__(self, scratch, plan):
        self.state = aligned(scratch.local_start + plan.warps * scratch.local, 64)
        self.resumes = self.state + BLOCK_BYTES
        self.state_bytes = BLOCK_BYTES + 4 * plan.warps
        # Rooms and the grid's state are multiples of the largest alignment: so are the addresses.
        self.align = max(plan.layout.shared_align, plan.layout.local_align)
        self.shared = aligned(self.resumes + 4 * plan.warps, plan.layout.shared_align)
        self.bytes = aligned(self.shared + plan.layout.shared_bytes, self.align)
        self.grid_bytes = aligned(GRID_BYTES, self.align)


def body(plan, scratch, call):
    """LLVM text behind the head of the function over a range of blocks."""
    room = Room(scratch, plan)
    together = "add i64 %range, 0" if plan.waiting.whole_grid else "add i64 1, 0"
    return _BODY.format(
        room=room.bytes + room.align - 1, grid_bytes=room.grid_bytes, align=room.align,
        together=together, threads=plan.threads,
        progress=PROGRESS, state=room.state, state_bytes=room.state_bytes, alive=ALIVE, grid=GRID,
        resumes=room.resumes, shared=room.shared, done=DONE, warps=plan.warps,
        call=call.replace("%scratch", "%room"), hopeless=HOPELESS, deadlock=DEADLOCK,
    )  # fmt: skip
