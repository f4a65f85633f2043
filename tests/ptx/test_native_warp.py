"""Shuffles, votes, matches, reductions and atomics of the native engine; carries; 8-bit floats."""

import time

import numpy as np
import pytest

from tests.ptx.native_agree import LEVELS, agree, assembled, native
from zerfoo_numba.ptx.native import Pool

THREADS = 128
DECLARED = [
    ".reg .b32 %x, %y, %z, %n, %lane, %mask; .reg .b64 %at, %to, %wide, %l, %m;",
    ".reg .pred %p, %q; .reg .f32 %f; .reg .f64 %d; .reg .b16 %h;",
]


def each(lines, results=1, guard=None):
    """A kernel that reads %x of its thread from %a, runs `lines` and stores %y, %z to %b."""
    body = [
        "mad.wide.u32 %at, %number, 4, %a; ld.global.u32 %x, [%at]; and.b32 %lane, %tid, 31;",
        f"mad.wide.u32 %to, %number, {4 * results}, %b; mov.u32 %y, 0; mov.u32 %z, 0;",
    ]
    if guard:
        body.append(f"{guard} @!%q bra skip;")
    body += lines
    if guard:
        body.append("skip:")
    body.append("st.global.u32 [%to], %y;")
    if results == 2:
        body.append("st.global.u32 [%to+4], %z;")
    return assembled(body, DECLARED)


def run_everywhere(kernel, x, results=1):
    out = np.zeros(results * x.size, np.uint32)
    return agree(kernel, x.size // THREADS, THREADS, x, out, levels=LEVELS)[1]


def words(seed, high=1 << 32):
    return np.random.default_rng(seed).integers(0, high, 2 * THREADS, np.uint32)


def test_shuffles_by_constant_distances():
    lines = []
    for mode in ("up", "down", "bfly", "idx"):
        for b, c in ((1, 31), (5, 31), (16, 31), (3, 0x181F), (2, 0x1C07), (31, 0x101F)):
            c = c & ~31 if mode == "up" else c
            lines.append(f"shfl.sync.{mode}.b32 %n|%p, %x, {b}, {c}, -1;")
            lines.append("mad.lo.u32 %y, %y, 31, %n; selp.u32 %n, 1, 0, %p; add.u32 %y, %y, %n;")
            lines.append("xor.b32 %x, %x, %n;")
    run_everywhere(each(lines), words(1))


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles_by_each_lanes_own_number(mode):
    own, warps = "and.b32 %n, %x, 31;", "shr.u32 %n, %tid, 5;"
    lines = [f"mov.u32 %z, {0 if mode == 'up' else 31};"]
    for number in (own, warps, "add.u32 %n, %lane, 3;"):
        lines.append(f"{number} shfl.sync.{mode}.b32 %n|%p, %x, %n, %z, -1;")
        lines.append("mad.lo.u32 %y, %y, 7, %n; @%p add.u32 %y, %y, 1;")
    run_everywhere(each(lines), words(2))


def test_shuffles_of_patterns_and_uniforms():
    lines = []
    for value in ("mul.lo.u32 %n, %tid, 12;", "mov.u32 %n, %ctaid.x;"):
        lines.append(f"{value} shfl.sync.bfly.b32 %n, %n, 8, 31, -1; add.u32 %y, %y, %n;")
        lines.append(f"{value} shfl.sync.down.b32 %n, %n, %lane, 31, -1; mad.lo.u32 %y, %y, 5, %n;")
    run_everywhere(each(lines), words(3))


VOTES = [
    "setp.gt.s32 %p, %x, 0; vote.sync.ballot.b32 %y, %p, %mask;",
    "vote.sync.any.pred %q, %p, %mask; selp.u32 %n, 1, 0, %q; add.u32 %y, %y, %n;",
    "vote.sync.all.pred %q, %p, %mask; selp.u32 %n, 2, 0, %q; add.u32 %y, %y, %n;",
    "vote.sync.uni.pred %q, %p, %mask; selp.u32 %n, 4, 0, %q; add.u32 %y, %y, %n;",
    "activemask.b32 %n; mad.lo.u32 %y, %y, 3, %n;",
]
MATCHES = [
    "and.b32 %n, %x, 3; match.any.sync.b32 %y, %n, %mask;",
    "match.all.sync.b32 %z|%p, %n, %mask; @%p add.u32 %y, %y, 1; add.u32 %y, %y, %z;",
    "cvt.u64.u32 %l, %n; match.any.sync.b64 %n, %l, %mask; mad.lo.u32 %y, %y, 3, %n;",
    "shr.u32 %n, %tid, 5; match.all.sync.b32 %z|%p, %n, %mask; xor.b32 %y, %y, %z;",
]
REDUCTIONS = [
    f"redux.sync.{name}.{kind} %n, %x, %mask; mad.lo.u32 %y, %y, 3, %n;"
    for name, kind in (
        ("add", "u32"), ("add", "s32"), ("min", "u32"), ("min", "s32"), ("max", "u32"),
        ("max", "s32"), ("and", "b32"), ("or", "b32"), ("xor", "b32"),
    )
]  # fmt: skip


@pytest.mark.parametrize("lines", [VOTES, MATCHES, REDUCTIONS], ids=["vote", "match", "redux"])
@pytest.mark.parametrize("part", [False, True])
def test_what_a_warp_finds_together(lines, part):
    """All lanes, and ten of them with the mask that says so."""
    mask, guard = ("-1", None) if not part else ("1023", "setp.lt.u32 %q, %lane, 10;")
    run_everywhere(each([f"mov.u32 %mask, {mask};", *lines], guard=guard), words(4))
    run_everywhere(each([f"mov.u32 %mask, {mask};", *lines], guard=guard), words(4) & 1)


def test_match_all_of_equal_values():
    x = np.repeat(words(5)[: 2 * THREADS // 32], 32)
    run_everywhere(each(["mov.u32 %mask, -1; mov.u32 %n, %x;", *MATCHES[1:2]]), x)


def test_carry_chains():
    """128-bit sums and differences, and a 64-bit product's, of numbers next to the ends."""
    text = """
    ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%at]; ld.global.v4.u32 {%b0, %b1, %b2, %b3}, [%at+16];
    add.cc.u32 %r0, %a0, %b0; addc.cc.u32 %r1, %a1, %b1; addc.cc.u32 %r2, %a2, %b2;
    addc.u32 %r3, %a3, %b3; st.global.v4.u32 [%to], {%r0, %r1, %r2, %r3};
    sub.cc.u32 %r0, %a0, %b0; subc.cc.u32 %r1, %a1, %b1; subc.cc.u32 %r2, %a2, %b2;
    subc.u32 %r3, %a3, %b3; st.global.v4.u32 [%to+16], {%r0, %r1, %r2, %r3};
    mad.lo.cc.u32 %r0, %a0, %b0, %a2; madc.hi.u32 %r1, %a0, %b0, %a3;
    st.global.v2.u32 [%to+32], {%r0, %r1};
    """
    declared = [f".reg .b32 {', '.join(f'%{n}{i}' for n in 'abr' for i in range(4))};"]
    body = ["mad.wide.u32 %at, %number, 32, %a; mad.wide.u32 %to, %number, 48, %b;", text]
    kernel = assembled(body, [*declared, ".reg .b64 %at, %to;"])
    rng = np.random.default_rng(6)
    edges = np.array([0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1], np.uint32)
    x = np.where(rng.random((50, 8)) < 0.7, rng.choice(edges, (50, 8)), rng.integers(0, 1 << 32, 8))
    x = x.astype(np.uint32)
    _, out = agree(kernel, 1, 50, x, np.zeros((50, 12), np.uint32), levels=LEVELS)
    for row, got in zip(x.tolist(), out.tolist(), strict=True):
        a, b = (sum(w << 32 * i for i, w in enumerate(row[k : k + 4])) for k in (0, 4))
        numbers = [sum(w << 32 * i for i, w in enumerate(got[k : k + 4])) for k in (0, 4)]
        assert numbers == [(a + b) % 2**128, (a - b) % 2**128]


ATOMICS = [(name, kind) for name in ("add", "min", "max", "exch") for kind in ("u32", "u64")]
ATOMICS += [("min", "s32"), ("max", "s64"), ("and", "b32"), ("or", "b64"), ("xor", "b32")]
ATOMICS += [("inc", "u32"), ("dec", "u32")]


@pytest.mark.parametrize("space", ["global", "shared"])
def test_atomics_on_places_of_their_own(space):
    """Every thread its own place, so that also the old values that come back are defined."""
    body = [".shared .align 8 .b8 box[1024];", "mad.wide.u32 %to, %number, 8, %b;"]
    body += ["mad.wide.u32 %at, %number, 8, %a; ld.global.u64 %l, [%at];"]
    if space == "shared":
        body += ["mul.lo.u32 %n, %tid, 8; mov.u32 %x, box; add.u32 %n, %n, %x;"]
        body += ["cvt.u64.u32 %at, %n; st.shared.u64 [%at], %l;"]
    body.append("shr.u64 %m, %l, 7; mov.u64 %wide, 0;")
    for name, kind in ATOMICS:
        kind = kind.replace("u", "b") if name == "exch" else kind
        value, old = ("%m", "%d0") if kind.endswith("64") else ("%x", "%y")
        body.append(f"cvt.u32.u64 %x, %m; atom.{space}.{name}.{kind} {old}, [%at], {value};")
        body.append("cvt.u64.u32 %d0, %y;" if old == "%y" else "")
        body.append("mad.lo.u64 %wide, %wide, 31, %d0; add.u64 %m, %m, 977;")
        body.append(f"red.{space}.add.u32 [%at], 5;")
    for kind, value in (("b32", "%y"), ("b64", "%wide")):
        body.append(f"ld.{space}.{kind} {'%x' if kind == 'b32' else '%m'}, [%at];")
        other = "%x" if kind == "b32" else "%m"
        body.append(f"atom.acq_rel.gpu.{space}.cas.{kind} {value}, [%at], {other}, {value};")
    body.append(f"ld.{space}.u64 %m, [%at]; xor.b64 %wide, %wide, %m; st.global.u64 [%to], %wide;")
    kernel = assembled(body, [*DECLARED, ".reg .b64 %d0;"])
    x = np.random.default_rng(7).integers(0, 1 << 63, 144, np.uint64)
    agree(kernel, 2, 72, x, np.zeros_like(x), levels=LEVELS)


def test_atomics_that_collide_on_several_cpu_threads():
    body = [
        "mad.wide.u32 %at, %number, 4, %a; ld.global.u32 %x, [%at]; and.b32 %n, %x, 15;",
        "mad.wide.u32 %to, %n, 4, %b; red.global.add.u32 [%to], 1;",
        "cvt.rn.f32.u32 %f, %n; red.relaxed.gpu.global.add.f32 [%b+64], %f;",
        "atom.global.max.u32 %y, [%b+68], %x; atom.add.release.gpu.u32 %z, [%b+72], %y;",
        "sub.u32 %z, %z, %z; red.global.add.u32 [%b+72], %z; fence.acq_rel.gpu; membar.gl;",
    ]
    x = np.random.default_rng(8).integers(0, 1 << 32, 96 * 400, np.uint32)
    out, pool = np.zeros(20, np.uint32), Pool(4)
    native(assembled(body, DECLARED), 400, 96, x, out, pool=pool)
    counts = np.bincount(x & 15, minlength=16)
    assert (out[:16] == counts).all()
    assert out[16:17].view(np.float32)[0] == (counts * np.arange(16)).sum()
    assert out[17] == x.max()


def test_a_compare_and_swap_loop():
    """The largest float of all, by swaps that are tried again where another thread was faster."""
    body = [
        "mad.wide.u32 %at, %number, 4, %a; ld.global.f32 %f, [%at]; ld.global.u32 %n, [%b];",
        "again: mov.b32 %g, %n; setp.ge.f32 %p, %g, %f; @%p bra end;",
        "mov.b32 %x, %f; mov.u32 %y, %n; atom.global.cas.b32 %n, [%b], %y, %x;",
        "setp.ne.u32 %p, %n, %y; @%p bra again; end:",
    ]
    kernel = assembled(body, [*DECLARED, ".reg .f32 %g;"])
    x = np.random.default_rng(10).standard_normal(40 * 500).astype(np.float32)
    agree(kernel, 5, 40, x, np.zeros(1, np.float32), levels=LEVELS)
    out = np.zeros(1, np.float32)
    native(kernel, 500, 40, x, out, pool=Pool(4))
    assert out[0] == x.max()


def test_strong_loads_and_stores():
    body = ["mad.wide.u32 %at, %number, 4, %a; mad.wide.u32 %to, %number, 4, %b;"]
    for how in ("volatile", "relaxed.gpu", "acquire.cta", "relaxed.sys"):
        store = how.replace("acquire", "release")
        body.append(f"ld.{how}.global.u32 %x, [%at]; st.{store}.global.u32 [%to], %x;")
        body.append("mul.lo.u32 %x, %x, 3; st.volatile.global.u32 [%at], %x;")
    body.append("ld.volatile.global.u32 %x, [%a+12]; st.relaxed.gpu.global.u32 [%b+1200], %x;")
    x = np.random.default_rng(9).integers(0, 1 << 32, 512, np.uint32)
    agree(assembled(body, DECLARED), 3, 50, x, np.zeros_like(x), levels=LEVELS)


def test_one_lane_is_elected():
    lines = [
        "setp.ge.u32 %p, %tid, 40; mul.wide.u32 %g, %tid, 8; add.u64 %a, %a, %g;",
        "@%p bra far; elect.sync %x|%q, 0xFFFFFFF0; bra.uni on;",
        "far: elect.sync %x|%q, 0xFFFFFFFF; on:",
        "selp.u32 %y, 1, 0, %q; mov.u32 %z, WARP_SZ; add.u32 %y, %y, %z;",
        "st.global.v2.u32 [%a], {%x, %y};",
    ]
    kernel = assembled(lines, [".reg .b32 %x, %y, %z; .reg .pred %p, %q; .reg .b64 %g;"], "a")
    out = np.zeros((64, 2), np.uint32)
    native(kernel, 1, 64, out)
    lane, tid = np.arange(64) % 32, np.arange(64)
    leader = np.where(tid >= 40, 8, 4)
    assert (out[:, 0] == leader).all()
    assert (out[:, 1] - 32 == (lane == leader)).all()


def test_spaces_of_addresses_and_the_time():
    lines = [
        "mov.u64 %g, tile; cvta.shared.u64 %s, %g; mov.u64 %g, own; cvta.local.u64 %l, %g;",
        *(f"isspacep.{space} %p, {x}; selp.u32 %y, 1, 0, %p; shl.b32 %x, %x, 1; or.b32 %x, %x, %y;"
          for x in ("%a", "%s", "%l") for space in ("global", "shared", "local")),
        "mov.u64 %l, %globaltimer; mul.wide.u32 %g, %tid, 16; add.u64 %a, %a, %g;",
        "cvt.u64.u32 %s, %x; st.global.u64 [%a], %s; st.global.u64 [%a+8], %l;",
    ]  # fmt: skip
    declared = [
        ".shared .b8 tile[64]; .local .align 8 .b8 own[16];", ".reg .b64 %g, %s, %l;",
        ".reg .b32 %x, %y; .reg .pred %p;",
    ]  # fmt: skip
    out = np.zeros((40, 2), np.uint64)
    start = time.time_ns()
    native(assembled(["mov.u32 %x, 0;", *lines], declared, "a"), 1, 40, out)
    assert (out[:, 0] == 0b100010001).all()
    assert (out[:, 1] >= start).all()
    assert (out[:, 1] <= time.time_ns()).all()
