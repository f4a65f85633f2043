"""PTX types as NumPy types, and the casts between how a register is kept and how it is read."""

import numpy as np

NUMPY = {
    "pred": "bool", "b8": "uint8", "u8": "uint8", "s8": "int8", "b16": "uint16", "u16": "uint16",
    "s16": "int16", "f16": "uint16", "bf16": "uint16", "b32": "uint32", "u32": "uint32",
    "s32": "int32", "f16x2": "uint32", "bf16x2": "uint32", "b64": "uint64", "u64": "uint64",
    "s64": "int64", "f32": "float32", "f64": "float64", "carry": "bool",
}  # fmt: skip
_NAMES = {
    "bool": "pred", "uint8": "u8", "int8": "s8", "uint16": "u16", "int16": "s16", "uint32": "u32",
    "int32": "s32", "uint64": "u64", "int64": "s64", "float32": "f32", "float64": "f64",
}  # fmt: skip


def numpy_type(kind):
    return np.dtype(NUMPY[kind])


def integer(value, dtype):
    if dtype.kind == "b":
        return np.bool_(value)
    if dtype.kind == "f":
        return dtype.type(value)
    bits = 8 * dtype.itemsize
    value &= (1 << bits) - 1
    if dtype.kind == "i" and value >> bits - 1:
        value -= 1 << bits
    return dtype.type(value)


def cast(expression, kept, kind):
    """An expression of a register kept as `kept`, read as `kind`."""
    have, want = numpy_type(kept), numpy_type(kind)
    if have == want:
        return expression
    if have.itemsize == want.itemsize:
        return f"{expression}.view(np.{want.name})"
    if have.kind == "f":
        expression = f"{expression}.view(np.uint{8 * have.itemsize})"
    return f"{expression}.astype(np.{want.name})"


def widen(expression, kind, kept):
    """An expression of type `kind`, as a register kept as `kept` holds it."""
    have, want = numpy_type(kind), numpy_type(kept)
    if have.itemsize < want.itemsize and have.kind in "iu":
        wide = f"{'int' if have.kind == 'i' else 'uint'}{8 * want.itemsize}"
        expression, have = f"{expression}.astype(np.{wide})", np.dtype(wide)
    return cast(expression, _NAMES[have.name], _NAMES[want.name])
