"""mma, movmatrix, ldmatrix and cp.async of the native engine.

Products against the matrices themselves, laid out by the PTX ISA's fragment formulas, and against
the emulator bit by bit; copies against what they copy.
"""

import numpy as np
import pytest

from tests.ptx.native_agree import LEVELS, agree, assembled, native

FLOATS = ["f16", "bf16", "tf32", "e4m3", "e5m2"]
FORMS = [
    "m16n8k8.row.col.f32.f16.f16.f32", "m16n8k16.row.col.f32.f16.f16.f32",
    "m16n8k16.row.col.f16.f16.f16.f16", "m16n8k16.row.col.f32.bf16.bf16.f32",
    "m16n8k8.row.col.f32.tf32.tf32.f32", "m16n8k4.row.col.f32.tf32.tf32.f32",
    "m16n8k32.row.col.f32.e4m3.e5m2.f32", "m16n8k16.row.col.s32.s8.s8.s32",
    "m16n8k32.row.col.s32.u8.s8.s32", "m16n8k32.row.col.satfinite.s32.s8.u8.s32",
]  # fmt: skip
_WIDTH = {"f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8}


def registers(form):
    """(of a, of b, of c, of d) in 32-bit registers."""
    d, a, _, c = form.split(".")[-4:]
    depth = int(form.split(".")[0].partition("k")[2])
    right = depth * _WIDTH[a] // 128
    return 2 * right, right, 2 if c == "f16" else 4, 2 if d == "f16" else 4


def product(form):
    """A kernel: every lane has its fragments of a, b and c in a row of the first array."""
    counts = registers(form)
    kinds = ["b32", "b32", *("f32" if k == "f32" else "b32" for k in form.split(".")[-1:] * 2)]
    names = [[f"%{letter}r{i}" for i in range(n)] for letter, n in zip("abcd", counts, strict=True)]
    declared = [f".reg .{kind} {', '.join(n)};" for kind, n in zip(kinds, names, strict=True)]
    given = [n for group in names[:3] for n in group]
    lines = [f"mad.wide.u32 %a, %number, {4 * len(given)}, %a;"]
    lines += [f"mad.wide.u32 %b, %number, {4 * counts[3]}, %b;"]
    kind = dict(zip((n for g in names for n in g), np.repeat(kinds, counts), strict=True))
    lines += [f"ld.global.{kind[n]} {n}, [%a+{4 * i}];" for i, n in enumerate(given)]
    text = ", ".join(f"{{{', '.join(group)}}}" for group in [names[3], *names[:3]])
    lines += [f"mma.sync.aligned.{form} {text};"]
    lines += [f"st.global.{kind[n]} [%b+{4 * i}], {n};" for i, n in enumerate(names[3])]
    return assembled(lines, declared)


def values(rng, kind, count):
    """Registers of small finite numbers of a packed type."""
    if kind == "tf32":
        return rng.integers(-64, 65, count).astype(np.float32).view(np.uint32)
    if kind in ("f16", "f32"):
        kinds = {"f16": np.float16, "f32": np.float32}[kind]
        return rng.normal(0, 4, 4 * count // np.dtype(kinds).itemsize).astype(kinds).view(np.uint32)
    if kind == "bf16":
        pairs = rng.normal(0, 4, 2 * count).astype(np.float32).view(np.uint32) >> 16
        return pairs.astype(np.uint16).view(np.uint32)
    if kind in ("e4m3", "e5m2"):
        return rng.integers(0, 0x78, 4 * count).astype(np.uint8).view(np.uint32)
    return rng.integers(0, 1 << 32, count, np.uint64).astype(np.uint32)


@pytest.mark.parametrize("form", FORMS)
def test_products_agree_with_the_emulator(form):
    rng = np.random.default_rng(5)
    counts, (d, a, b, c) = registers(form), form.split(".")[-4:]
    parts = [values(rng, k, 64 * n).reshape(64, n) for k, n in zip((a, b, c), counts, strict=False)]
    fragments = np.ascontiguousarray(np.concatenate(parts, axis=1))
    out = np.zeros((64, counts[3]), np.float32 if d == "f32" else np.uint32)
    levels = LEVELS if form == FORMS[0] else ("host",)
    (_, got) = agree(product(form), 2, 32, fragments, out, levels=levels)
    assert got.view(np.uint32).any()


@pytest.mark.parametrize(("kind", "depth"), [("f16", 16), ("s8", 32)])
def test_products_by_the_layout(kind, depth):
    rng = np.random.default_rng(6)
    dtype, wide = (np.float16, np.float32) if kind == "f16" else (np.int8, np.int32)
    a, b = (rng.integers(-8, 9, s).astype(dtype) for s in ((16, depth), (depth, 8)))
    c = rng.integers(-9, 9, (16, 8)).astype(wide)
    per = depth // 8
    rows, members = np.arange(32) // 4, np.arange(32) % 4
    fragments = np.zeros((32, 10), np.uint32)
    for i in range(4):
        for n in range(32):
            at = members[n] * per + 4 * per * (i // 2)
            word = a[rows[n] + 8 * (i % 2), at : at + per]
            fragments[n, i] = np.ascontiguousarray(word).view(np.uint32)[0]
            if i < 2:
                at = members[n] * per + 4 * per * i
                word = b[at : at + per, rows[n]]
                fragments[n, 4 + i] = np.ascontiguousarray(word).view(np.uint32)[0]
            place = rows[n] + 8 * (i // 2), 2 * members[n] + i % 2
            fragments[n, 6 + i] = np.array(c[place]).view(np.uint32)
    types = "f32.f16.f16.f32" if kind == "f16" else "s32.s8.s8.s32"
    out = np.zeros((32, 4), wide)
    native(product(f"m16n8k{depth}.row.col.{types}"), 1, 32, fragments, out)
    wanted = a.astype(np.int64) @ b.astype(np.int64) + c.astype(np.int64)
    for i in range(4):
        assert (out[:, i] == wanted[rows + 8 * (i // 2), 2 * members + i % 2]).all()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_from_shared_memory(count, transposed):
    names = [f"%x{i}" for i in range(count)]
    trans = ".trans" if transposed else ""
    lines = [
        "shl.b32 %at, %tid, 4; add.u32 %at, %at, %base; mul.wide.u32 %wide, %tid, 16;",
        "add.u64 %a, %a, %wide; ld.global.v4.b32 {%v0, %v1, %v2, %v3}, [%a];",
        "st.shared.v4.b32 [%at], {%v0, %v1, %v2, %v3}; bar.sync 0;",
        # The rows in another order: lane n gives the address of row 5 n mod 32.
        "mul.lo.u32 %at, %tid, 5; and.b32 %at, %at, 31; shl.b32 %at, %at, 4;",
        "add.u32 %at, %at, %base;",
        f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{', '.join(names)}}}, [%at];",
        f"mad.wide.u32 %b, %tid, {4 * count}, %b;",
        *(f"st.global.b32 [%b+{4 * i}], {n};" for i, n in enumerate(names)),
    ]
    declared = [
        ".shared .align 16 .b8 tile[512];", ".reg .b64 %wide;",
        f".reg .b32 %at, %base, %v0, %v1, %v2, %v3, {', '.join(names)};",
    ]  # fmt: skip
    x = np.random.default_rng(8).integers(0, 1 << 16, (32, 8)).astype(np.uint16)
    kernel = assembled(["mov.u32 %base, tile;", *lines], declared)
    _, out = agree(kernel, 1, 32, x, np.zeros((32, count), np.uint32), levels=LEVELS)
    rows = x[5 * np.arange(32) % 32].reshape(4, 8, 8)
    for m in range(count):
        matrix = np.ascontiguousarray(rows[m].T if transposed else rows[m])
        assert (out[:, m] == matrix.view(np.uint32).ravel()).all()


def test_a_matrix_is_transposed():
    lines = [
        "mul.wide.u32 %wide, %tid, 4; add.u64 %a, %a, %wide; add.u64 %b, %b, %wide;",
        "ld.global.b32 %x, [%a]; movmatrix.sync.aligned.m8n8.trans.b16 %x, %x;",
        "st.global.b32 [%b], %x;",
    ]
    x = np.random.default_rng(9).integers(0, 1 << 16, (8, 8)).astype(np.uint16)
    kernel = assembled(lines, [".reg .b64 %wide; .reg .b32 %x;"])
    _, out = agree(kernel, 1, 32, x, np.zeros((8, 8), np.uint16))
    assert (out == x.T).all()


@pytest.mark.parametrize(
    ("nbytes", "size"), [(4, ""), (8, ""), (16, ""), (16, "%size"), (8, "%size")]
)
def test_copies_into_shared_memory(nbytes, size):
    """With a size of their own the lanes copy from 0 to all bytes, and zeros behind them."""
    mode = "cg" if nbytes == 16 else "ca"
    words = nbytes // 4
    given = f", {size}" if size else ""
    lines = [
        f"mul.lo.u32 %at, %tid, {nbytes}; mov.u32 %base, tile; add.u32 %at, %at, %base;",
        f"mad.wide.u32 %a, %tid, {nbytes}, %a; mad.wide.u32 %b, %tid, {nbytes}, %b;",
        f"rem.u32 %size, %tid, {nbytes + 1};",
        f"cp.async.{mode}.shared.global [%at], [%a], {nbytes}{given};",
        "cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;",
        *(f"ld.shared.b32 %x, [%at+{4 * i}]; st.global.b32 [%b+{4 * i}], %x;"
          for i in range(words)),
    ]  # fmt: skip
    declared = [".shared .align 16 .b8 tile[768];", ".reg .b32 %at, %base, %size, %x;"]
    x = np.random.default_rng(10).integers(1, 256, (48, nbytes)).astype(np.uint8)
    levels = LEVELS if nbytes == 16 else ("host",)
    kernel = assembled(lines, declared)
    _, out = agree(kernel, 1, 48, x, np.zeros_like(x), levels=levels)
    wanted = x.copy()
    if size:
        for n in range(48):
            wanted[n, n % (nbytes + 1) :] = 0
    assert (out == wanted).all()
