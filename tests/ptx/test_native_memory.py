"""Loads and stores of the native engine: every address pattern, width and space; wrap-around."""

import mmap
import sys

import numpy as np
import pytest
from numba import cuda
from numba.cuda.types import float32, int32, uint8, uint16, uint32, uint64

from tests.ptx.native_agree import LEVELS, agree, assembled, native

NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE
THREADS = 72  # two warps and a partial one, which runs masked
# How a thread's element number follows from its number: as PTX lines from %tid to %e.
PATTERNS = {
    "one for all": "mov.u32 %e, 3;",
    "one each": "mov.u32 %e, %tid;",
    "every second": "shl.b32 %e, %tid, 1;",
    "every third": "mul.lo.u32 %e, %tid, 3;",
    "every 40th": "mul.lo.u32 %e, %tid, 40;",
    "backwards": "sub.u32 %e, 100, %tid;",
    "pairs share": "shr.u32 %e, %tid, 1;",
    "eights share": "shr.u32 %e, %tid, 3; mul.lo.u32 %e, %e, 5;",
    "rows of eight": "and.b32 %e, %tid, 7; shr.u32 %u, %tid, 3; mad.lo.u32 %e, %u, 20, %e;",
    "columns": "shr.u32 %e, %tid, 2; and.b32 %u, %tid, 3; mad.lo.u32 %e, %u, 24, %e;",
    "neighbours swap": "xor.b32 %e, %tid, 1;",
    "scattered": "mul.lo.u32 %e, %tid, 37; and.b32 %u, %e, 64; shr.u32 %u, %u, 5;"
    " rem.u32 %e, %e, 101; add.u32 %e, %e, %u;",
}
WIDTHS = (("b8", 1, "b16"), ("s8", 1, "b32"), ("u16", 2, "b32"), ("s16", 2, "b64"),
          ("b32", 4, "b32"), ("f32", 4, "f32"), ("b64", 8, "b64"), ("f64", 8, "f64"))  # fmt: skip
ELEMENTS = 40 * THREADS


FEW = ("one for all", "backwards", "scattered", "columns")  # for CPUs that LLVM is slow for


class Accesses:
    """PTX lines that load or store by every pattern, width and count, for THREADS threads."""

    def __init__(self, counts, patterns):
        self.declared, self.body, self.bytes = [".reg .b64 %at, %side;"], [], 0
        self.counts, self.patterns = counts, patterns

    def each(self):
        """Yield (element number's register, type, bytes, registers) of every access."""
        for p, pattern in enumerate(self.patterns):
            # A register of its own for each pattern: one with several would be a plain vector.
            self.declared.append(f".reg .b32 %e{p}, %u{p};")
            self.body.append(PATTERNS[pattern].replace("%e", f"%e{p}").replace("%u", f"%u{p}"))
            for kind, size, register in WIDTHS:
                for count in (c for c in self.counts if c * size <= 16):
                    names = [f"%x{len(self.declared)}_{i}" for i in range(count)]
                    self.declared.append(f".reg .{register} {', '.join(names)};")
                    vector = f".v{count}" if count > 1 else ""
                    text = names[0] if count == 1 else "{" + ", ".join(names) + "}"
                    yield f"%e{p}", vector + "." + kind, size * count, names, text

    def beside(self, verb, names, offset=0):
        """Lines that load or store whole registers, one element to a thread, in array %b."""
        bits = int(self.declared[-1].split()[1][2:])
        self.body.append(f"mad.wide.u32 %side, %number, {bits // 8}, %b;")
        for i, name in enumerate(names):
            place = f"[%side+{offset + i * 2 * THREADS * bits // 8}]"
            operands = f"{name}, {place}" if verb == "ld" else f"{place}, {name}"
            self.body.append(f"{verb}.global.b{bits} {operands};")
        return len(names) * 2 * THREADS * bits // 8

    def kernel(self):
        return assembled(self.body, self.declared)


def loads(counts, patterns):
    a = Accesses(counts, patterns)
    for element, kind, size, names, text in a.each():
        a.body.append(f"mad.wide.u32 %at, {element}, {size}, %a; ld.global{kind} {text}, [%at];")
        a.bytes += a.beside("st", names, a.bytes)
    return a.kernel(), a.bytes


def stores(counts, patterns):
    a = Accesses(counts, patterns)
    for element, kind, size, names, text in a.each():
        a.beside("ld", names)
        a.body.append(f"mad.wide.u32 %at, {element}, {size}, %a;")
        a.body.append(f"st.global{kind} [%at+{a.bytes}], {text};")
        a.bytes += size * ELEMENTS
    return a.kernel(), a.bytes


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("counts", [(1,), (2, 4)])
def test_global_loads(counts, level):
    kernel, size = loads(counts, FEW if level == "generic" else PATTERNS)
    data = np.random.default_rng(1).integers(0, 256, 16 * ELEMENTS, np.uint8)
    agree(kernel, 2, THREADS, data, np.zeros(size, np.uint8), levels=[level])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("counts", [(1,), (2, 4)])
def test_global_stores(counts, level):
    # Where several threads store to one place, PTX does not say whose value stays.
    chosen = [p for p in PATTERNS if "share" not in p and "all" not in p]
    kernel, size = stores(counts, [p for p in chosen if level != "generic" or p in FEW])
    data = np.random.default_rng(2).integers(0, 256, 64 * THREADS, np.uint8)
    agree(kernel, 1, THREADS, np.zeros(size, np.uint8), data, levels=[level])


@cuda.jit
def spaces(out, x):
    """Shared and local memory, by constant and by changing indices, of several widths."""
    t = uint32(cuda.threadIdx.x)
    bytes_ = cuda.shared.array(512, uint8)
    words = cuda.shared.array((4, 128), uint32)
    own = cuda.local.array(16, float32)
    pairs = cuda.local.array(8, uint64)
    for i in range(4):
        words[i, t] = x[uint32(t + uint32(128 * i))]
        bytes_[uint32(uint32(4 * t) + uint32(i))] = uint8(x[t] >> uint32(i))
    cuda.syncthreads()
    for i in range(16):
        own[i] = float32(int32(words[uint32(i & 3), uint32(uint32(t + i) & uint32(63))] & 0xFFFF))
    for i in range(8):
        pairs[i] = uint64(bytes_[uint32(uint32(t * uint32(7) + i) & uint32(255))]) << uint64(33)
    total, high = float32(0.0), uint64(0)
    for i in range(16):
        at = uint32(x[uint32(t + uint32(i))] & uint32(15))
        total += own[at] * float32(i + 1)
        high += pairs[uint32(at >> uint32(1))]
    out[t] = uint32(uint32(total) ^ uint32(high >> uint64(32)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [128, 96, 72])
def test_shared_and_local_memory(threads, level):
    x = np.random.default_rng(3).integers(0, 1 << 32, 1024, np.uint32)
    agree(spaces, 3, threads, np.zeros(128, np.uint32), x, levels=[level])


TABLE = np.random.default_rng(4).integers(-99, 99, (16, 8)).astype(np.int32)


@cuda.jit
def constants(out, x):
    table = cuda.const.array_like(TABLE)
    i = uint32(cuda.grid(1))
    out[i] = table[3, uint32(i & uint32(7))] * 1000 + table[x[i] & 15, uint32(i & uint32(7))]


@pytest.mark.parametrize("level", LEVELS)
def test_constant_memory(level):
    x = np.random.default_rng(5).integers(0, 16, 144, np.int32)
    (out, _) = agree(constants, 2, 72, np.zeros(144, np.int32), x, levels=[level])
    i = np.arange(144)
    assert (out == TABLE[3, i % 8] * 1000 + TABLE[x, i % 8]).all()


@cuda.jit
def dynamic(out, x):
    """A shared array whose size the launch says, behind one of fixed size."""
    t = uint32(cuda.threadIdx.x)
    fixed = cuda.shared.array(32, uint16)
    box = cuda.shared.array(0, uint32)
    fixed[uint32(t & uint32(31))] = uint16(7)
    box[t] = x[t]
    cuda.syncthreads()
    other = box[uint32(cuda.blockDim.x) - uint32(1) - t]
    out[uint32(cuda.grid(1))] = other + fixed[uint32(t & uint32(31))]


def test_dynamic_shared_memory():
    x = np.random.default_rng(6).integers(0, 1 << 31, 96, np.uint32)
    out, _ = agree(dynamic, 2, 96, np.zeros(192, np.uint32), x, shared=4 * 96)
    assert (out == np.tile(x[::-1] + 7, 2)).all()


def wrapping(signed):
    """16-bit element numbers that wrap around within a warp, in a loop, after stores."""
    word = "s16" if signed else "u16"
    body = [
        "cvt.u16.u32 %t, %tid; mov.u32 %i, 0; mov.u32 %sum, 0;",
        "mad.wide.u32 %to, %number, 4, %b;",
        "again:",
        "mad.wide.u32 %from, %i, 2, %c; ld.global.u16 %start, [%from];",
        f"add.u16 %e, %start, %t; cvt.{'s64' if signed else 'u64'}.{word} %at, %e;",
        "add.u64 %at, %at, %a; ld.global.u8 %x, [%at+32768];",
        "mad.lo.u32 %sum, %sum, 3, %x; st.global.u32 [%to], %sum;",
        f"sub.u16 %e, %start, %t; cvt.{'s64' if signed else 'u64'}.{word} %at, %e;",
        "add.u64 %at, %at, %a; ld.global.u8 %y, [%at+32768]; add.u32 %sum, %sum, %y;",
        "add.u32 %i, %i, 1; setp.lt.u32 %more, %i, 8; @%more bra again;",
        "st.global.u32 [%to], %sum;",
    ]
    declared = [
        ".reg .b16 %t, %start, %e;", ".reg .b32 %i, %sum, %x, %y;",
        ".reg .b64 %from, %at, %to;", ".reg .pred %more;",
    ]  # fmt: skip
    return assembled(body, declared, "abc")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("signed", [False, True])
def test_element_numbers_that_wrap_around(signed, level):
    data = np.random.default_rng(7).integers(0, 256, 3 << 15, np.uint8)
    ends = [100, 65520, 3, 32760, 5, 65535, 32700, 0]
    starts = np.array(ends, np.uint16)
    out, _ = agree(wrapping(signed), 2, 72, data, np.zeros(144, np.uint32), starts,
                   levels=[level])[1:]  # fmt: skip
    assert len(set(out.tolist())) > 60


@pytest.mark.parametrize("level", LEVELS)
def test_what_came_before_a_wrap_around_happens_once(level):
    """Where patterns fail a block starts over without them, but not its effects."""
    body = [
        "cvt.u16.u32 %t, %tid; mad.wide.u32 %to, %number, 4, %b;",
        "red.global.add.u32 [%b+1024], 1; atom.global.add.u32 %x, [%to], 7;",
        "mad.wide.u32 %from, %cta, 2, %c; ld.global.u16 %start, [%from];",
        "add.u16 %e, %start, %t; cvt.u64.u16 %at, %e; add.u64 %at, %at, %a;",
        "ld.global.u8 %y, [%at]; red.global.add.u32 [%to], %y; red.global.add.u32 [%b+1028], 1;",
        "ld.global.u16 %start, [%from+2]; sub.u16 %e, %start, %t; cvt.u64.u16 %at, %e;",
        "add.u64 %at, %at, %a; ld.global.u8 %y, [%at]; red.global.add.u32 [%to], %y;",
    ]
    declared = [
        ".reg .b16 %t, %start, %e;", ".reg .b32 %x, %y;", ".reg .b64 %from, %at, %to;",
    ]  # fmt: skip
    data = np.random.default_rng(8).integers(0, 256, 1 << 16, np.uint8)
    starts = np.array([65500, 20, 100, 65535, 3], np.uint16)
    _, out, _ = agree(assembled(body, declared, "abc"), 4, 50, data, np.zeros(300, np.uint32),
                      starts, levels=[level])  # fmt: skip
    assert out[256] == out[257] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="reserves 4 GiB of addresses as Linux does it")
def test_32_bit_element_numbers_that_wrap_around():
    """The lanes of one warp read from both ends of 4 GiB, of which two pages are ever touched."""
    room = mmap.mmap(-1, (1 << 32) + 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    data = np.frombuffer(room, np.uint8)
    low, high = np.arange(64, dtype=np.uint8), np.arange(100, 164, dtype=np.uint8)
    data[:64], data[(1 << 32) - 64 : 1 << 32] = low, high
    body = ["mad.wide.u32 %to, %number, 4, %b;", "ld.global.u32 %base, [%b];"]
    body += ["add.u32 %e, %base, %tid; cvt.u64.u32 %at, %e; add.u64 %at, %at, %a;"]
    body += ["ld.global.u8 %x, [%at]; st.global.u32 [%to], %x;"]
    declared = [".reg .b32 %base, %e, %x;", ".reg .b64 %to, %at;"]
    out = np.full(32, (1 << 32) - 10, np.uint32)
    native(assembled(body, declared), 1, 32, data, out)
    assert (out == np.concatenate([high[-10:], low[:22]])).all()
    del data


@pytest.mark.parametrize("align", [256, 2048])
def test_variables_start_where_their_alignment_says(align):
    declared = [
        f".shared .align 4 .b8 first[4]; .shared .align {align} .b8 second[8];",
        f".local .align {align} .b8 own[24]; .reg .b64 %s, %l, %g; .reg .b32 %unused;",
    ]
    lines = [
        "mov.u64 %s, second; cvta.shared.u64 %s, %s; mov.u64 %l, own; cvta.local.u64 %l, %l;",
        "mul.wide.u32 %g, %number, 16; add.u64 %a, %a, %g;",
        "mov.u32 %unused, first; st.shared.u32 [%unused], %unused;",
        "st.global.u64 [%a], %s; st.global.u64 [%a+8], %l;",
    ]
    for wait in ("", "bar.sync 3;"):
        x = np.zeros((2 * 96, 2), np.uint64)
        native(assembled([*lines, wait], declared, "a"), 2, 96, x)
        assert x.all()
        assert not (x % np.uint64(align)).any()
        assert len(np.unique(x[:96, 1])) == 96
