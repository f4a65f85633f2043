"""The compiled loop that threads run over a list of launches, so that no Python runs in between.

A launch is done when all its blocks are finished, not when all threads have come by: a thread
that the system has taken away holds nobody up unless it was inside a block. Blocks are claimed in
chunks by a compare-and-swap on a word that also holds the run's generation, so that a thread that
wakes up late cannot touch a later run. It may still look at the records of an old one: threads
count themselves in and out, and records are kept while one is inside. Where there is room for
times, the first thread notes when it saw each launch done.
"""

import functools

from zerfoo_numba.ptx.native.layout import RECORD_BYTES
from zerfoo_numba.ptx.native.program import _load, compile_module
from zerfoo_numba.ptx.native.target import host

# Byte offsets in a launch record, beside those of `layout`.
TOTAL, CHUNK, CLAIM, FINISHED = 48, 56, 64, 72
# Byte offsets in the region that all threads share; the scratch pointers follow, 8 bytes each.
GENERATION, RECORDS, COUNT, TIMES, CLOCK, INSIDE, SLEEPING, SCRATCH = 0, 8, 16, 24, 32, 40, 64, 1024

_TEXT = """target triple = "{triple}"
declare i32 @{yield}()
{clock_declaration}
declare i64 @llvm.umin.i64(i64, i64)
{pause_declaration}

define internal void @wait(i64 %turn) {{
  %short = icmp ult i64 %turn, {spins}
  br i1 %short, label %spin, label %give
spin:
  {pause}
  ret void
give:
  %ignored = call i32 @{yield}()
  ret void
}}

define internal void @publish(ptr %region, ptr %records, i64 %count) {{
entry:
  %old = load i64, ptr %region
  %next = add i64 %old, 1
  %generation = and i64 %next, 2147483647
  %mark = shl i64 %generation, 32
  %records.at = getelementptr i8, ptr %region, i64 {records}
  store ptr %records, ptr %records.at
  %count.at = getelementptr i8, ptr %region, i64 {count}
  store i64 %count, ptr %count.at
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i.next, %loop]
  %offset = mul i64 %i, {record}
  %r = getelementptr i8, ptr %records, i64 %offset
  %finished = getelementptr i8, ptr %r, i64 {finished}
  store i64 0, ptr %finished
  %claim = getelementptr i8, ptr %r, i64 {claim}
  store atomic i64 %mark, ptr %claim release, align 8
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %end
end:
  store atomic i64 %generation, ptr %region seq_cst, align 8
  ret void
}}

define internal void @retire(ptr %records, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i.next, %loop]
  %offset = mul i64 %i, {record}
  %r = getelementptr i8, ptr %records, i64 %offset
  %claim = getelementptr i8, ptr %r, i64 {claim}
  store atomic i64 -1, ptr %claim release, align 8
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %end
end:
  fence seq_cst
  ret void
}}

; All launches of the run of a generation. Returns early when that run is over.
define internal void @work(ptr %region, i64 %thread, i64 %generation) {{
entry:
  %records.at = getelementptr i8, ptr %region, i64 {records}
  %records = load ptr, ptr %records.at
  %count.at = getelementptr i8, ptr %region, i64 {count}
  %count = load i64, ptr %count.at
  %scratch.o = mul i64 %thread, 8
  %scratch.b = add i64 %scratch.o, {scratch}
  %scratch.at = getelementptr i8, ptr %region, i64 %scratch.b
  %scratch = load ptr, ptr %scratch.at
  br label %launch
launch:
  %i = phi i64 [0, %entry], [%i.next, %launch.next]
  %offset = mul i64 %i, {record}
  %r = getelementptr i8, ptr %records, i64 %offset
  %function = load ptr, ptr %r
  %total.at = getelementptr i8, ptr %r, i64 {total}
  %total = load i64, ptr %total.at
  %chunk.at = getelementptr i8, ptr %r, i64 {chunk}
  %chunk = load i64, ptr %chunk.at
  %claim = getelementptr i8, ptr %r, i64 {claim}
  %finished = getelementptr i8, ptr %r, i64 {finished}
  br label %try
try:
  %seen = load atomic i64, ptr %claim acquire, align 8
  %theirs = lshr i64 %seen, 32
  %current = icmp eq i64 %theirs, %generation
  br i1 %current, label %take, label %leave
take:
  %first = and i64 %seen, 4294967295
  %some = icmp ult i64 %first, %total
  br i1 %some, label %swap, label %drain
swap:
  %wanted = add i64 %seen, %chunk
  %pair = cmpxchg ptr %claim, i64 %seen, i64 %wanted acq_rel monotonic, align 8
  %mine = extractvalue {{i64, i1}} %pair, 1
  br i1 %mine, label %run, label %try
run:
  %end = add i64 %first, %chunk
  %last = call i64 @llvm.umin.i64(i64 %end, i64 %total)
  call void %function(ptr %r, i64 %first, i64 %last, ptr %scratch)
  %done = sub i64 %last, %first
  %before = atomicrmw add ptr %finished, i64 %done release
  br label %try
drain:
  %turn = phi i64 [0, %take], [%turn.next, %again]
  %so.far = load atomic i64, ptr %finished acquire, align 8
  %all = icmp eq i64 %so.far, %total
  br i1 %all, label %launch.done, label %hold
hold:
  call void @wait(i64 %turn)
  %now = load atomic i64, ptr %claim acquire, align 8
  %now.g = lshr i64 %now, 32
  %same = icmp eq i64 %now.g, %generation
  br i1 %same, label %again, label %leave
again:
  %turn.next = add i64 %turn, 1
  br label %drain
launch.done:
  %times.at = getelementptr i8, ptr %region, i64 {times}
  %times = load ptr, ptr %times.at
  %quiet = icmp eq ptr %times, null
  %helps = icmp ne i64 %thread, 0
  %silent = or i1 %quiet, %helps
  br i1 %silent, label %launch.next, label %stamp
stamp:
  %time.o = mul i64 %i, 16
  %time = getelementptr i8, ptr %times, i64 %time.o
  %clock.at = getelementptr i8, ptr %region, i64 {clock}
  %clock = load i32, ptr %clock.at
  {read_clock}
  br label %launch.next
launch.next:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %launch, label %leave
leave:
  ret void
}}

; A whole run, in one call so that no interrupt of the program leaves one that is under way.
define void @execute(ptr %region, ptr %records, i64 %count) {{
  call void @publish(ptr %region, ptr %records, i64 %count)
  %generation = load i64, ptr %region
  call void @work(ptr %region, i64 0, i64 %generation)
  call void @retire(ptr %records, i64 %count)
  ret void
}}

; A helper thread: works on every new run, and returns to sleep when none comes for a while.
define void @serve(ptr %region, i64 %thread) {{
entry:
  %flag.b = add i64 %thread, {sleeping}
  %flag = getelementptr i8, ptr %region, i64 %flag.b
  %inside = getelementptr i8, ptr %region, i64 {inside}
  br label %look
look:
  %last = phi i64 [0, %entry], [%last, %idle], [%generation, %busy], [%last, %stay]
  %turn = phi i64 [0, %entry], [%turn.next, %idle], [0, %busy], [0, %stay]
  %generation = load atomic i64, ptr %region acquire, align 8
  %old = icmp eq i64 %generation, %last
  br i1 %old, label %pause, label %busy
busy:
  %before = atomicrmw add ptr %inside, i64 1 seq_cst
  call void @work(ptr %region, i64 %thread, i64 %generation)
  %after = atomicrmw sub ptr %inside, i64 1 seq_cst
  br label %look
pause:
  call void @wait(i64 %turn)
  %turn.next = add i64 %turn, 1
  %long = icmp ugt i64 %turn.next, {patience}
  br i1 %long, label %tire, label %idle
idle:
  br label %look
tire:
  store atomic i8 1, ptr %flag seq_cst, align 1
  %check = load atomic i64, ptr %region seq_cst, align 8
  %none = icmp eq i64 %check, %last
  br i1 %none, label %sleep, label %stay
stay:
  store atomic i8 0, ptr %flag seq_cst, align 1
  br label %look
sleep:
  ret void
}}
"""


@functools.cache
def functions():
    """The loaded code's addresses by name."""
    target = host()
    windows = "windows" in target.triple
    clock = "%clocked = call i32 @clock_gettime(i32 %clock, ptr %time)"
    pause = "call void @llvm.x86.sse2.pause()" if target.is_x86 else ""
    text = _TEXT.format(
        triple=target.triple, spins=2000, patience=2400, record=RECORD_BYTES, records=RECORDS,
        count=COUNT, claim=CLAIM, finished=FINISHED, total=TOTAL, chunk=CHUNK, scratch=SCRATCH,
        inside=INSIDE, sleeping=SLEEPING, times=TIMES, clock=CLOCK, pause=pause, pause_declaration=(
            "declare void @llvm.x86.sse2.pause()" if target.is_x86 else ""
        ), read_clock="" if windows else clock, clock_declaration=(
            "" if windows else "declare i32 @clock_gettime(i32, ptr)"
        ), **{"yield": "SwitchToThread" if windows else "sched_yield"},
    )  # fmt: skip
    engine = _load(compile_module(text, target), target)
    _kept.append(engine)
    names = ("execute", "serve")
    return {name: engine.get_function_address(name) for name in names}


_kept: list = []
