"""Operands as expressions of the generated code."""

import numpy as np

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.emulator.casting import cast, integer, numpy_type
from zerfoo_numba.ptx.emulator.special import SPECIAL
from zerfoo_numba.ptx.structure import Address, Constant, Negated, Register, Special, Symbol


class Operands:
    """What a block's translator knows of registers, constants, symbols and addresses.

    Needs `kernel`, `layout`, the instruction `item` in hand, and the dicts `names` (the globals
    of the generated code) and `values` (constants already named).
    """

    def constant(self, value):
        """The name under which the generated code finds a constant object."""
        key = id(value)
        if isinstance(value, np.generic):
            key = (value.dtype.str, value.tobytes())
        if key not in self.values:
            self.values[key] = f"c{len(self.values)}"
            self.names[self.values[key]] = value
        return self.values[key]

    def unsupported(self, item, why=""):
        what = f"the emulator does not know the instruction {item.where}{why}"
        return UnsupportedError(what)

    def operand(self, operand, kind):
        """An expression for an operand as an array or scalar of the dtype of `kind`."""
        dtype = numpy_type(kind)
        match operand:
            case Register():
                return cast(self.local(operand), operand.type, kind)
            case Negated(register):
                return f"~{self.local(register)}"
            case Constant(value, "int"):
                return self.constant(integer(value, dtype))
            case Constant(value, float_kind):
                bits = np.dtype(np.uint32 if float_kind == "f32" else np.uint64).type(value)
                number = bits.view(numpy_type(float_kind))
                if dtype.kind == "f":
                    return self.constant(dtype.type(number))
                return self.constant(bits.astype(dtype))
            case Special(name):
                return self.special(name, kind)
            case Symbol(name):
                return self.symbol(name, dtype)
        raise self.unsupported(self.item)

    def special(self, name, kind):
        if name not in SPECIAL:
            raise self.unsupported(self.item, f": no special register {name}")
        wide = name in ("%clock64", "%globaltimer", "%gridid")
        return cast(f"g.special({name!r})", "b64" if wide else "b32", kind)

    def symbol(self, name, dtype):
        if name == "WARP_SZ":
            return self.constant(dtype.type(32))
        if name in self.layout:
            return self.constant(dtype.type(self.layout[name]))
        if not any(v.name == name for v in self.kernel.variables):
            raise self.unsupported(self.item, f": {name} has no address")
        return f"w.launch.symbols[{name!r}]"

    def address(self, operand):
        """(expression of the base address, constant offset)."""
        if not isinstance(operand, Address):
            raise self.unsupported(self.item)
        base = operand.base
        if isinstance(base, Register):
            kind = "u64" if base.type == "b64" else "u32"
            return cast(self.local(base), base.type, kind), operand.offset
        return self.operand(base, "u64"), operand.offset

    def argument(self, operand, kind):
        if isinstance(operand, str):
            return operand
        if kind == "imm":
            if not isinstance(operand, Constant):
                raise self.unsupported(self.item)
            return str(operand.value)
        return self.operand(operand, kind)
