"""PTX's register-to-register instructions as pure NumPy functions: `operation(opcode)`.

The families live in the `arithmetic_*` files beside this one. Memory, control flow and what
passes between the lanes of a warp (shfl, vote) belong to the engine. Results are those bits that
PTX defines; which NaN a float32 or float64 instruction returns is not among them, and neither is
the quotient of a division by zero (all ones here, as on hardware).
"""

import functools

from zerfoo_numba.ptx.emulator.arithmetic_approx import APPROXIMATE, Bound
from zerfoo_numba.ptx.emulator.arithmetic_bits import BIT_PATTERNS
from zerfoo_numba.ptx.emulator.arithmetic_compare import COMPARE, pack, unpack
from zerfoo_numba.ptx.emulator.arithmetic_convert import CONVERT
from zerfoo_numba.ptx.emulator.arithmetic_float import FLOAT
from zerfoo_numba.ptx.emulator.arithmetic_half import HALF, HALF_KINDS
from zerfoo_numba.ptx.emulator.arithmetic_integer import INTEGER
from zerfoo_numba.ptx.emulator.arithmetic_operation import (
    DTYPES,
    Opcode,
    Operation,
    UnsupportedInstruction,
)
from zerfoo_numba.ptx.emulator.arithmetic_packed import PACKED
from zerfoo_numba.ptx.emulator.arithmetic_product import PRODUCTS
from zerfoo_numba.ptx.emulator.arithmetic_tensor import TENSOR, ldmatrix_source

__all__ = [
    "DTYPES",
    "Bound",
    "Operation",
    "UnsupportedInstruction",
    "ldmatrix_source",
    "operation",
    "pack",
    "unpack",
]

_ANY_TYPE = {**BIT_PATTERNS, **COMPARE, **CONVERT, **PACKED, **TENSOR}
_INTEGER = {**INTEGER, **PRODUCTS}
_BY_TYPE = {
    **{kind: {**HALF, **APPROXIMATE} for kind in HALF_KINDS},
    **{kind: {**FLOAT, **APPROXIMATE} for kind in ("f32", "f64", "f32x2")},
}


@functools.cache
def operation(opcode, destinations=1):
    """What `opcode` ("mad.lo.s32") does, as an `Operation`.

    `destinations` is 2 for a setp that writes `p|q`. Raises UnsupportedInstruction for an
    opcode, or a combination of modifiers, whose result would not be exact.
    """
    op = Opcode(opcode, destinations)
    kind = op.parts[-1] if op.parts else ""
    build = _ANY_TYPE.get(op.name) or _BY_TYPE.get(kind, _INTEGER).get(op.name)
    if build is None:
        raise UnsupportedInstruction(opcode)
    result = build(op)
    op.end()
    return result
