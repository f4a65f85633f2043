"""The code of one kernel under translation, as the instruction handlers see it."""

import contextlib
import struct

from zerfoo_numba.ptx.native import integers
from zerfoo_numba.ptx.native.lanes import predicate_of, reinterpret, select, vector
from zerfoo_numba.ptx.native.layout import COUNTS, STATUS
from zerfoo_numba.ptx.native.op_compare import invert
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.special import special
from zerfoo_numba.ptx.native.text import Writer, float_bits_text, float_text, splat_constant, wide
from zerfoo_numba.ptx.native.value import (
    BITS,
    FULL,
    LANES,
    Value,
    constant,
    join,
    of_shape,
    pattern,
    uniform,
)
from zerfoo_numba.ptx.structure import Constant, Negated, Register, Special, Symbol


class Undefined(Exception):
    """A register without a shape so far; only while shapes are being found."""


class Code(Writer):
    """Reads operands and writes registers; values of the current block are kept in `current`.

    Unmasked code runs with all 32 lanes and knows the shape of every register. Masked code runs
    with the lanes of `active` and holds as vectors all registers that masked blocks define.
    """

    def __init__(self, declarations, plan, masked=False, dry=False):
        super().__init__(declarations, dry)
        self.plan, self.masked = plan, masked
        self.guards_patterns = not masked
        self.start_block()

    def start_block(self, active="-1"):
        self.current, self.loaded, self.carry = {}, {}, None
        self.active, self._active_lanes = active, None
        self.open_guards, self.index = [], 0
        self.last_effect, self.cuts, self.guarded = None, [], False

    def count(self, block):
        """In code that counts itself: this block's instructions, once for a warp."""
        if not self.plan.counted:
            return
        at = self.offset("%status", COUNTS - STATUS + 8 * self.masked)
        old = self.value(f"load i64, ptr {at}")
        number = len(block.instructions) + (block.last is not None)
        self.line(f"store i64 {self.value(f'add i64 {old}, {number}')}, ptr {at}")

    # ---- guards of patterns

    def guard(self, failing):
        """A scalar condition under which this block must run without patterns."""
        self.open_guards.append(failing)

    def settle(self):
        """Test the open guards, before memory is touched.

        The other version starts this block over, so no effect may come before: where one does,
        the block is to be cut behind it.
        """
        if not self.open_guards:
            return
        self.guarded = True
        if self.last_effect is not None:
            self.cuts.append(self.last_effect + 1)
            self.last_effect = None
        conditions, self.open_guards = self.open_guards, []
        if self.dry:
            return
        failing = conditions[0]
        for other in conditions[1:]:
            failing = self.value(f"or i1 {failing}, {other}")
        go = self.fresh("go")
        self.branch(failing, self.wrap_label, go, ", !prof !1")
        self.label(go)

    def effect(self):
        self.last_effect = self.index

    # ---- lanes

    def active_lanes(self):
        """The active lanes as an operand of type <32 x i1>."""
        if not self.masked:
            return splat_constant("i1", "true")
        if self._active_lanes is None:
            self._active_lanes = predicate_of(self, self.active)
        return self._active_lanes

    def active_value(self):
        return uniform("i32", self.active) if self.masked else constant("i32", FULL)

    def first_lane(self):
        if not self.masked:
            return "0"
        return self.call("i32", "llvm.cttz.i32", ("i32", self.active), ("i1", "true"))

    def last_lane(self):
        if not self.masked:
            return str(LANES - 1)
        zeros = self.call("i32", "llvm.ctlz.i32", ("i32", self.active), ("i1", "true"))
        return self.value(f"sub i32 {LANES - 1}, {zeros}")

    def lane_numbers(self):
        return pattern("i32", None, range(LANES), known=0)

    # ---- operands

    def operands(self, op, *kinds):
        return [self.read(s, k) for s, k in zip(op.sources, kinds, strict=True)]

    def read(self, operand, kind=None):
        """An operand as a value of PTX type `kind`; without one, as its register holds it."""
        if isinstance(operand, Register):
            value = self.read_register(self.plan.kernel.numbers[operand])
        elif isinstance(operand, Negated):
            return invert(self, self.read(operand.register))
        elif isinstance(operand, Special):
            value = special(self, operand)
        else:
            value = self.symbol_or_number(operand, TYPES[kind or "b64"])
        if kind is None or value.type == TYPES[kind]:
            return value
        if value.bits != BITS[TYPES[kind]]:
            value = integers.convert(self, value, f"i{BITS[TYPES[kind]]}", exact=True)
        return reinterpret(self, value, TYPES[kind])

    def symbol_or_number(self, operand, type_name="i64"):
        if operand == Symbol("WARP_SZ"):
            return constant(type_name, LANES)
        if isinstance(operand, Symbol):
            return integers.convert(self, self._address(operand.name), type_name)
        assert isinstance(operand, Constant)
        if type_name in ("float", "double"):
            return self._float(operand, type_name)
        return constant(type_name, operand.value)

    def _float(self, operand, type_name):
        if operand.type == "int":
            return uniform(type_name, float_text(float(operand.value), type_name))
        if operand.type == "f64" and type_name == "float":
            number = struct.unpack("<d", struct.pack("<Q", operand.value))[0]
            return uniform(type_name, float_text(number))
        return uniform(type_name, float_bits_text(operand.value, type_name))

    def _address(self, name):
        place = self.plan.layout.symbols[name]
        if place.space == "shared":
            return constant("i64", place.offset)
        base = self.value(f"ptrtoint ptr %{place.space} to i64")
        offset = constant("i64", place.offset)
        if place.space == "data":
            return integers.add(self, uniform("i64", base), offset)
        size = self.plan.layout.local_bytes
        return integers.add(self, pattern("i64", base, [i * size for i in range(LANES)]), offset)

    def parameter(self, name):
        return self.plan.layout.parameters[name]

    # ---- registers

    def register_type(self, number):
        return TYPES[self.plan.kernel.registers[number].type]

    def holds_vector(self, number):
        """True when this code keeps the register as 32 lanes."""
        if self.masked and number in self.plan.masked_registers:
            return True
        return self.plan.shapes[number].kind == "vector"

    def read_register(self, number):
        if number in self.current:
            return self.current[number]
        if number not in self.loaded:
            self.loaded[number] = self._load_register(number)
        return self.loaded[number]

    def _load_register(self, number):
        shape = self.plan.shapes.get(number)
        if shape is None:
            raise Undefined
        type_name = self.register_type(number)
        if self.dry:
            return of_shape(type_name, shape, "%dry", "%dry")
        if self.holds_vector(number):
            place = self.place(number, "vector")
            return Value(type_name, vector=self.value(f"load {wide(type_name)}, ptr {place}"))
        scalar = None
        if shape.known is None:
            scalar = self.value(f"load {type_name}, ptr {self.place(number, 'scalar')}")
        return of_shape(type_name, shape, scalar, None)

    def place(self, number, form):
        """A pointer to a register's scalar or vector place in this code."""
        raise NotImplementedError

    def write(self, operand, value, op, guard=None):
        """A result goes to its register: extended to its width, or selected under a guard."""
        if operand is None:
            return
        number = self.plan.kernel.numbers[operand]
        type_name = self.register_type(number)
        if value.bits != BITS[type_name]:
            value = integers.convert(self, value, f"i{BITS[type_name]}", op.signed)
        value = reinterpret(self, value, type_name)
        if guard is not None:
            with contextlib.suppress(Undefined):
                value = select(self, guard, value, self.read_register(number))
        self.current[number] = value

    def store_register(self, number, value):
        """Put a value in the register's place, as this code holds it."""
        type_name = value.type
        shape = self.plan.shapes[number]
        assert join(shape, value.shape, value.bits) == shape or self.masked, (shape, value)
        if self.holds_vector(number):
            stored, place = vector(self, value), self.place(number, "vector")
            if self.masked:
                old = self.value(f"load {wide(type_name)}, ptr {place}")
                lanes = f"{wide('i1')} {self.active_lanes()}"
                kind = wide(type_name)
                stored = self.value(f"select {lanes}, {kind} {stored}, {kind} {old}")
            self.line(f"store {wide(type_name)} {stored}, ptr {place}")
        elif shape.known is None:
            self.line(f"store {type_name} {value.scalar}, ptr {self.place(number, 'scalar')}")
