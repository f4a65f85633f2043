"""Tensor-core products of a warp, and the copies and loads of shared memory that feed them.

Reference: NVIDIA, Parallel Thread Execution ISA, "Warp Level Matrix Instructions" and "Data
Movement and Conversion Instructions: Asynchronous copy". Compute capability 8.0.
"""

from numba.cuda import types
from numba.cuda.extending import intrinsic

from zerfoo_numba.ptx.compile import ptx_op

u32, i32, u64 = types.uint32, types.int32, types.uint64
UNIT = 16  # bytes: of one asynchronous copy, and of a row of a matrix in shared memory


def _product(kind):
    """d (16, 8) = a (16, 16) b (16, 8) + c, bytes times signed bytes: a of `kind` in two registers,
    b in one, c and d as int32 in four."""
    return ptx_op(
        (i32,) * 4, (u32,) * 3 + (i32,) * 4,
        f"mma.sync.aligned.m16n8k16.row.col.s32.{kind}.s8.s32 "
        "{$0, $1, $2, $3}, {$4, $5}, {$6}, {$7, $8, $9, $10};",
    )  # fmt: skip


mma_s8, mma_u8 = _product("s8"), _product("u8")


def make_load_matrices(offset):
    """`load(place)`: four matrices of 8 rows of 16 bytes, each in one register: lane 4 r + m gets
    bytes 4 m to 4 m + 3 of row r. Lane 8 i + r says where row r of matrix i is, in shared memory
    and with `offset` added."""
    return ptx_op(
        (u32,) * 4, (u32,),
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, " + f"[$4+{offset}];",
        memory=True,
    )  # fmt: skip


load_matrices = make_load_matrices(0)

# 16 bytes to shared memory on their way; a group of copies ends with `copy_commit`, and
# `copy_wait` waits until the thread's own have arrived. Others see them after a barrier.
copy_async = ptx_op((), (u32, u64), "cp.async.cg.shared.global [$0], [$1], 16;", memory=True)
copy_commit = ptx_op((), (), "cp.async.commit_group;", memory=True)
copy_wait = ptx_op((), (), "cp.async.wait_group 0;", memory=True)


@intrinsic
def shared_place(typing, array):
    """Where a shared array begins, in the 32-bit numbers that the instructions above take."""
    from llvmlite import ir

    def codegen(context, builder, signature, values):
        data = context.make_array(array)(context, builder, values[0]).data
        kind = ir.PointerType(data.type.pointee, 3)
        return builder.ptrtoint(builder.addrspacecast(data, kind), ir.IntType(32))

    return u32(array), codegen


@intrinsic
def global_place(typing, p, at):
    """The address of byte `at` after pointer p, for `copy_async`."""
    from llvmlite import ir

    def codegen(context, builder, signature, values):
        base, offset = values
        kind = ir.PointerType(ir.IntType(8), 1)
        base = builder.addrspacecast(builder.bitcast(base, ir.PointerType(ir.IntType(8))), kind)
        offset = context.cast(builder, offset, signature.args[1], u64)
        return builder.ptrtoint(builder.gep(base, [offset]), ir.IntType(64))

    return u64(p, at), codegen
