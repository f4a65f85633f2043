"""Memory as kernels see it: every state space, vector accesses, atomics, asynchronous copies."""

import numpy as np
import pytest
from numba import cuda, float32, int32, uint32
from numba.cuda import types

from zerfoo_numba import ptx
from zerfoo_numba.ptx.compile import Pointer, compile_ptx, ptx_op
from zerfoo_numba.ptx.emulator import KernelFault, Memory, load

u8, u32, u64, f32 = types.uint8, types.uint32, types.uint64, types.float32


def run(kernel, grid, block, *values, shared=0, **options):
    """Launch with raw pointers: arrays change in place."""
    memory, passed, types_ = Memory(), [], []
    arrays = []
    for i, value in enumerate(values):
        if isinstance(value, np.ndarray):
            address = memory.allocate(value.nbytes, f"array{i}", value.itemsize)
            memory.write(address, value)
            arrays.append((address, value))
            passed.append(np.uint64(address))
            types_.append(Pointer(value.dtype))
        else:
            passed.append(value)
            types_.append(value)
    program = load(compile_ptx(kernel, types_))
    result = program.run(memory, grid, block, passed, shared=shared, **options)
    for address, value in arrays:
        value[...] = memory.read(address, value.dtype, value.shape)
    return result


def vector(name, count, kind):
    """Load and store of `count` elements as functions of a uint64 address."""
    register = {"f32": f32, "u32": u32, "u64": u64, "u16": types.uint16}[kind]
    places = "{" + ", ".join(f"${i}" for i in range(count)) + "}"
    inputs = "{" + ", ".join(f"${i + 1}" for i in range(count)) + "}"
    loaded = ptx_op(
        (register,) * count, (u64,), f"ld.{name}.v{count}.{kind} {places}, [${count}];", memory=True
    )
    stored = ptx_op(
        (), (u64, *(register,) * count), f"st.global.v{count}.{kind} [$0], {inputs};", memory=True
    )
    return loaded, stored


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [
        ("global", 2, "u16"), ("global", 4, "u16"), ("global", 2, "u32"), ("global", 4, "u32"),
        ("global.nc.L1::no_allocate.L2::128B", 4, "f32"), ("volatile.global", 2, "u64"),
        ("global.cg", 4, "u32"), ("relaxed.gpu.global", 2, "f32"),
    ],
)  # fmt: skip
def test_vector_accesses_with_cache_operators(name, count, kind):
    loaded, stored = vector(name, count, kind)
    size = {"u16": 2, "u64": 8}.get(kind, 4) * count

    @cuda.jit
    def kernel(source, target):
        i = u64(cuda.grid(1))
        stored(u64(target + i * size), *loaded(u64(source + u64(size) * (63 - i))))

    x = np.random.default_rng(0).integers(0, 255, (64, size)).astype(np.uint8)
    memory = Memory()
    source, target = memory.allocate(x.nbytes, "x"), memory.allocate(x.nbytes, "y")
    memory.write(source, x)
    program = load(compile_ptx(kernel, (np.uint64(0), np.uint64(0))))
    program.run(memory, 2, 32, [np.uint64(source), np.uint64(target)])
    assert (memory.read(target, np.uint8, x.shape) == x[::-1]).all()


def test_small_integers_are_extended_and_cut():
    @cuda.jit
    def kernel(a, b, c, d):
        i = cuda.grid(1)
        c[i] = a[i] * b[i]
        d[i] = np.int8(a[i] + 100)

    rng = np.random.default_rng(1)
    a = rng.integers(-128, 128, 64).astype(np.int8)
    b = rng.integers(0, 1 << 16, 64).astype(np.uint16)
    c, d = np.zeros(64, np.int64), np.zeros(64, np.int8)
    run(kernel, 2, 32, a, b, c, d)
    assert (c == a.astype(np.int64) * b).all()
    assert (d == (a.astype(np.int64) + 100).astype(np.int8)).all()


TABLE = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)


def test_constant_and_local_memory():
    @cuda.jit
    def kernel(index, out):
        table = cuda.const.array_like(TABLE)
        own = cuda.local.array(8, int32)
        i = cuda.grid(1)
        for j in range(8):
            own[j] = table[(i + j) & 7] * 10
        out[i] = own[index[i]] + table[index[i]]

    index = np.random.default_rng(2).integers(0, 8, 100).astype(np.int32)
    out = np.zeros(100, np.int32)
    ptx.emulate(kernel, 1, 100, index, out)
    i = np.arange(100)
    assert (out == TABLE[(i + index) % 8] * 10 + TABLE[index]).all()


# For sm_120 the compiler computes addresses below 0 that only an offset brings into range.
@pytest.mark.parametrize("cc", [(9, 0), (12, 0)])
def test_static_and_dynamic_shared_memory_lie_apart(cc):
    @cuda.jit
    def kernel(x, out):
        fixed = cuda.shared.array(32, float32)
        dynamic = cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        i = cuda.grid(1)
        fixed[t] = x[i]
        dynamic[t] = -x[i]
        cuda.syncthreads()
        out[i] = fixed[31 - t] + 3 * dynamic[31 - t]

    x = np.random.default_rng(3).random(96).astype(np.float32)
    out = np.zeros_like(x)
    ptx.emulate(kernel, 3, 32, x, out, shared=128, cc=cc)
    assert (out == -2 * x.reshape(3, 32)[:, ::-1].ravel()).all()


pick = ptx_op(
    (u32,), (u64, u64, u64, u32),
    "{ .reg .pred p, q; .reg .u64 a; setp.eq.u32 p, $4, 0; setp.eq.u32 q, $4, 1;"
    " selp.u64 a, $1, $3, p; selp.u64 a, $2, a, q; ld.u32 $0, [a]; }", memory=True,
)  # fmt: skip


def test_a_generic_address_tells_its_space():
    which = ptx_op(
        (u32,), (u64,),
        "{ .reg .pred p, q, r; .reg .u64 s, l; .reg .u32 a, b; .shared .align 4 .b8 box[8];"
        " mov.u64 s, box; cvta.shared.u64 s, s; isspacep.shared p, s; isspacep.global q, $1;"
        " isspacep.local r, s; selp.u32 a, 1, 0, p; selp.u32 b, 2, 0, q; or.b32 a, a, b;"
        " selp.u32 b, 4, 0, r; or.b32 $0, a, b; }", volatile=True,
    )  # fmt: skip

    @cuda.jit
    def kernel(x, out):
        out[0] = which(x)

    memory = Memory()
    x = memory.allocate(4, "x", 4)
    load(compile_ptx(kernel, (np.uint64(0), Pointer(np.uint32)))).run(
        memory, 1, 1, [np.uint64(x), np.uint64(x)]
    )
    assert memory.read(x, np.uint32, 1)[0] == 3


def test_generic_addresses_of_three_spaces():
    generic = ptx_op(
        (u64, u64), (),
        "{ .reg .u64 s; .shared .align 4 .b8 box[128]; mov.u64 s, box; cvta.shared.u64 $0, s;"
        " .local .align 4 .b8 own[16]; mov.u64 s, own; cvta.local.u64 $1, s; }", volatile=True,
    )  # fmt: skip
    put = ptx_op((), (u64, u32), "st.u32 [$0], $1;", memory=True)

    @cuda.jit
    def kernel(x, which, out):
        t = uint32(cuda.threadIdx.x)
        box, own = generic()
        put(box + u64(4) * t, uint32(t + 100))
        put(own + u64(4), uint32(t + 200))
        cuda.syncthreads()
        out[t] = pick(x + u64(4) * t, box + u64(4) * (31 - t), own + u64(4), which[t])

    memory = Memory()
    x = memory.allocate(128, "x", 4)
    memory.write(x, np.arange(32, dtype=np.uint32))
    which = np.random.default_rng(4).integers(0, 3, 32).astype(np.uint32)
    selector, out = memory.allocate(128, "which", 4), memory.allocate(128, "out", 4)
    memory.write(selector, which)
    kinds = (np.uint64(0), Pointer(np.uint32), Pointer(np.uint32))
    load(compile_ptx(kernel, kinds)).run(memory, 1, 32, [np.uint64(v) for v in (x, selector, out)])
    t = np.arange(32)
    expected = np.choose(which, [t, 131 - t, t + 200])
    assert (memory.read(out, np.uint32, 32) == expected).all()


copy_16 = ptx_op((), (u32, u64), "cp.async.cg.shared.global [$0], [$1], 16;", memory=True)
copy_4 = ptx_op((), (u32, u64, u32), "cp.async.ca.shared.global [$0], [$1], 4, $2;", memory=True)
commit = ptx_op((), (), "cp.async.commit_group;", memory=True)
wait_0 = ptx_op((), (), "cp.async.wait_group 0;", memory=True)


@pytest.mark.parametrize("address", [0, 1 << 40, 1 << 58, (1 << 56) + (1 << 33), 3 << 62])
@pytest.mark.parametrize("lanes", [False, True])
def test_a_generic_address_of_no_space_is_a_fault(address, lanes):
    word = ptx_op((u32,), (u64,), "ld.u32 $0, [$1];", memory=True)

    @cuda.jit
    def kernel(x, address, out):
        t = u64(cuda.threadIdx.x)
        out[t] = word(u64(address if not lanes or t == 5 else x + u64(4) * t))

    memory = Memory()
    x, out = memory.allocate(128, "x", 4), memory.allocate(128, "out", 4)
    program = load(compile_ptx(kernel, (np.uint64(0), np.uint64(0), Pointer(np.uint32))))
    values = [np.uint64(v) for v in (x, address, out)]
    with pytest.raises(KernelFault, match=r"outside every allocation|out of bounds") as error:
        program.run(memory, 1, 32, values)
    assert error.value.thread == (5 if lanes else 0, 0, 0)


def test_asynchronous_copies():
    @cuda.jit
    def kernel(x, size, out):
        box = cuda.shared.array(256, float32)
        t = uint32(cuda.threadIdx.x)
        copy_16(uint32(t * 16), u64(x + u64(16) * t))
        copy_4(uint32(512 + t * 4), u64(x + u64(4) * t), size[t])
        commit()
        wait_0()
        cuda.syncthreads()
        for i in range(4):
            out[uint32(t * 4 + i)] = box[uint32(t * 4 + i)]
        out[uint32(128 + t)] = box[uint32(128 + t)]

    x = np.random.default_rng(8).random(128).astype(np.float32)
    size = np.array([4, 0, 2, 1] * 8, np.uint32)
    memory = Memory()
    places = [memory.allocate(n, name, 4) for n, name in ((512, "x"), (128, "size"), (640, "out"))]
    memory.write(places[0], x)
    memory.write(places[1], size)
    kinds = (np.uint64(0), Pointer(np.uint32), Pointer(np.float32))
    load(compile_ptx(kernel, kinds)).run(memory, 1, 32, [np.uint64(p) for p in places], checks=True)
    out = memory.read(places[2], np.float32, 160)
    assert (out[:128] == x).all()
    kept = x[:32].view(np.uint32) & ((1 << 8 * size.astype(np.uint64)) - 1).astype(np.uint32)
    assert (out[128:].view(np.uint32) == kept).all()


def test_an_address_outside_memory_is_a_clear_error_without_checks():
    @cuda.jit
    def kernel(x, n):
        x[cuda.grid(1) + n] = 1

    for offset, message in ((30, r"writes array0\[32\].*32 elements"), (1 << 40, "outside every")):
        with pytest.raises(KernelFault, match=message):
            run(kernel, 1, 32, np.zeros(32, np.float32), np.int64(offset))
    with pytest.raises(KernelFault, match=r"writes array0\[-3\]"):
        run(kernel, 1, 32, np.zeros(32, np.float32), np.int64(-3))


def test_a_misaligned_address_is_a_clear_error_without_checks():
    word = ptx_op((u32,), (u64,), "ld.global.u32 $0, [$1];", memory=True)

    @cuda.jit
    def kernel(x, out):
        i = u64(cuda.grid(1))
        out[i] = word(u64(x + i))

    memory = Memory()
    x, out = memory.allocate(64, "x", 4), memory.allocate(64, "out", 4)
    program = load(compile_ptx(kernel, (np.uint64(0), Pointer(np.uint32))))
    with pytest.raises(KernelFault, match=r"misaligned address .* thread \(1, 0, 0\)"):
        program.run(memory, 1, 4, [np.uint64(x), np.uint64(out)])
