"""PTX instructions that Numba-CUDA has no name for, as functions for kernels.

Reference: NVIDIA, Parallel Thread Execution ISA.
"""

from numba.cuda import types
from numba.cuda.extending import intrinsic

from zerfoo_numba.ptx.compile import ptx_op

i8 = types.int8
u16, u32, i32, u64, f32 = types.uint16, types.uint32, types.int32, types.uint64, types.float32

# Bit patterns and halves.
f32_from_bits = ptx_op((f32,), (u32,), "mov.b32 $0, $1;")
bits_from_f32 = ptx_op((u32,), (f32,), "mov.b32 $0, $1;")
f32_from_f16 = ptx_op((f32,), (u16,), "cvt.f32.f16 $0, $1;")
f16_from_f32 = ptx_op((u16,), (f32,), "cvt.rn.f16.f32 $0, $1;")

# Fast functions: rsqrt and ex2 within 2 ulp, rcp within 1 ulp.
rsqrt = ptx_op((f32,), (f32,), "rsqrt.approx.f32 $0, $1;")
rcp = ptx_op((f32,), (f32,), "rcp.approx.f32 $0, $1;")
ex2 = ptx_op((f32,), (f32,), "ex2.approx.f32 $0, $1;")

# To the nearest integer, ties to even.
round_to_i32 = ptx_op((i32,), (f32,), "cvt.rni.s32.f32 $0, $1;")

# Four 8-bit products added to a 32-bit sum.
dp4a_s8 = ptx_op((i32,), (i32, i32, i32), "dp4a.s32.s32 $0, $1, $2, $3;")
dp4a_u8 = ptx_op((i32,), (u32, i32, i32), "dp4a.u32.s32 $0, $1, $2, $3;")
dp4a_u8_from_zero = ptx_op((i32,), (u32, i32), "dp4a.u32.s32 $0, $1, $2, 0;")

# The rounded product: no compiler makes one instruction of it and of an addition that follows.
mul_rn = ptx_op((f32,), (f32, f32), "mul.rn.f32 $0, $1, $2;")

# The upper half of the 64-bit product.
mul_hi = ptx_op((u32,), (u32, u32), "mul.hi.u32 $0, $1, $2;")

# (a & b) | c.
and_or = ptx_op((u32,), (u32, u32, u32), "lop3.b32 $0, $1, $2, $3, 0xEA;")

# Four bytes chosen out of eight: nibble j of the selector names byte j of the result.
prmt = ptx_op((u32,), (u32, u32, u32), "prmt.b32 $0, $1, $2, $3;")


def _data(context, builder, p, value):
    """The address that a value of type p, a pointer or an array, stands for."""
    if isinstance(p, types.Array):
        return context.make_array(p)(context, builder, value).data
    return value


def byte_load(result, count=1):
    """`load(p, at)`: the `result` at byte `at` after pointer (or array) p, or a tuple of `count`.

    `at` must be a multiple of the size of what is loaded, as one access of up to 16 bytes.
    """
    from llvmlite import ir

    returned = result if count == 1 else types.UniTuple(result, count)
    nbytes = count * result.bitwidth // 8

    @intrinsic
    def load(typing, p, at):
        def codegen(context, builder, signature, values):
            base, offset = values
            base = _data(context, builder, p, base)
            base = builder.bitcast(base, ir.PointerType(ir.IntType(8)))
            offset = context.cast(builder, offset, signature.args[1], types.uint64)
            item = context.get_value_type(result)
            kind = item if count == 1 else ir.VectorType(item, count)
            address = builder.bitcast(builder.gep(base, [offset]), ir.PointerType(kind))
            value = builder.load(address, align=nbytes)
            if count == 1:
                return value
            items = [builder.extract_element(value, ir.IntType(32)(j)) for j in range(count)]
            return context.make_tuple(builder, signature.return_type, items)

        return returned(p, at), codegen

    return load


load_u16, load_u32 = byte_load(u16), byte_load(u32)
load_u32x2, load_u32x4 = byte_load(u32, 2), byte_load(u32, 4)
load_f32x2, load_f32x4 = byte_load(f32, 2), byte_load(f32, 4)


def byte_store(kind, count=1):
    """`store(p, at, value)`: `value`, or a tuple of `count`, to byte `at` after pointer or array p.

    `at` must be a multiple of the size of what is stored, as one access of up to 16 bytes.
    """
    from llvmlite import ir

    stored = kind if count == 1 else types.UniTuple(kind, count)
    nbytes = count * kind.bitwidth // 8

    @intrinsic
    def store(typing, p, at, value):
        def codegen(context, builder, signature, values):
            base, offset, value = values
            base = _data(context, builder, p, base)
            base = builder.bitcast(base, ir.PointerType(ir.IntType(8)))
            offset = context.cast(builder, offset, signature.args[1], types.uint64)
            whole = value
            if count > 1:
                whole = ir.Constant(ir.VectorType(context.get_value_type(kind), count), None)
                for j in range(count):
                    item = builder.extract_value(value, j)
                    whole = builder.insert_element(whole, item, ir.IntType(32)(j))
            address = builder.gep(base, [offset])
            address = builder.bitcast(address, ir.PointerType(whole.type))
            builder.store(whole, address, align=nbytes)
            return context.get_dummy_value()

        return types.void(p, at, stored), codegen

    return store


@intrinsic
def f32_after(typing, p, at):
    """A pointer to float32 at byte `at` after pointer (or array) p."""
    from llvmlite import ir

    def codegen(context, builder, signature, values):
        base, offset = values
        base = builder.bitcast(_data(context, builder, p, base), ir.PointerType(ir.IntType(8)))
        offset = context.cast(builder, offset, signature.args[1], types.uint64)
        address = builder.gep(base, [offset])
        return builder.bitcast(address, context.get_value_type(signature.return_type))

    return types.CPointer(f32)(p, at), codegen


@intrinsic
def shift_right(typing, word, count):
    """A 32-bit `word >> count`, count < 32 (Numba's own `>>` works in 64 bits)."""

    def codegen(context, builder, signature, values):
        return builder.lshr(*values)

    return u32(u32, u32), codegen


@intrinsic
def atomic_add(typing, p, i, value):
    """Adds `value` (uint32) to element i of the uint32 that p points to; what was there before."""
    from llvmlite import ir

    def codegen(context, builder, signature, values):
        base, index, added = values
        index = context.cast(builder, index, signature.args[1], types.uint64)
        base = _data(context, builder, p, base)
        base = builder.bitcast(base, ir.PointerType(ir.IntType(32)))
        return builder.atomic_rmw("add", builder.gep(base, [index]), added, "monotonic")

    return u32(p, i, u32), codegen
