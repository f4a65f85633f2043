"""Where things lie: parameters, module data, shared and local memory, a launch, a saved warp."""

from dataclasses import dataclass

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.ptx.native.opcode import TYPES
from zerfoo_numba.ptx.native.value import BITS, LANES

# A launch as the compiled code reads it: byte offsets in a record of RECORD_BYTES.
FUNCTION, PARAMS, DATA, NX, NY, NZ, DYNAMIC, STATUS = 0, 8, 16, 24, 28, 32, 36, 40
RECORD_BYTES = 128
# Where code that counts itself adds up what warps execute: unmasked and masked, 8 bytes each.
COUNTS = 80


def aligned(number, to):
    return -(-number // to) * to


@dataclass(frozen=True)
class Place:
    """A variable's byte offset in its space; shared and data are per block and per module."""

    space: str
    offset: int


class Layout:
    """Offsets of one kernel's parameters and variables; sizes in bytes."""

    def __init__(self, kernel):
        self.parameters, self.parameter_sizes = {}, []
        self.parameter_bytes = 0
        for p in kernel.parameters:
            self.parameter_bytes = aligned(self.parameter_bytes, p.align)
            self.parameters[p.name] = self.parameter_bytes
            self.parameter_sizes.append((self.parameter_bytes, p.size))
            self.parameter_bytes += p.size
        self.symbols = {}
        self.shared_bytes = self.local_bytes = 0
        self.data = b""
        dynamic = []
        for v in kernel.variables:
            if v.space == "shared" and (v.external or v.size == 0):
                dynamic.append(v)
            elif v.space == "shared":
                self.shared_bytes = self._add(v, "shared", self.shared_bytes)
            elif v.space == "local":
                self.local_bytes = self._add(v, "local", self.local_bytes)
            else:
                self._add_data(v)
        # What starts at a multiple of its alignment in its space must do so in memory.
        self.local_align = max([64, *(v.align for v in kernel.variables if v.space == "local")])
        self.shared_align = max([128, *(v.align for v in kernel.variables if v.space == "shared")])
        wide = self.local_align if self.local_align > 64 else 16
        self.local_bytes = aligned(self.local_bytes, wide)
        for v in dynamic:
            self.shared_bytes = aligned(self.shared_bytes, max(16, v.align))
        for v in dynamic:
            self.symbols[v.name] = Place("shared", self.shared_bytes)

    def _add(self, variable, space, used):
        start = aligned(used, variable.align)
        self.symbols[variable.name] = Place(space, start)
        return start + variable.size

    def _add_data(self, variable):
        if variable.external:
            raise UnsupportedError(
                f"the variable {variable.name} is external; the native engine has nothing to link"
            )
        start = aligned(len(self.data), max(64, variable.align))
        self.symbols[variable.name] = Place("data", start)
        content = (variable.data or b"").ljust(variable.size, b"\0")
        self.data = self.data.ljust(start, b"\0") + content


class Context:
    """What a warp leaves in memory when it stops at a barrier or changes to masked code.

    A word per block for the lanes that wait to run it, one for those that wait at its barrier, one
    that is set when the first block must not return to unmasked code; then the registers, as a
    scalar, as 32 lanes, or both.
    """

    def __init__(self, registers, blocks):
        self.blocks = blocks
        self.header_bytes = aligned(8 * blocks + 4, 64)
        self.scalars, self.vectors = {}, {}
        at = self.header_bytes
        for n in range(len(registers)):
            self.scalars[n] = at
            at += 8
        for n, register in enumerate(registers):
            size = aligned(max(1, BITS[TYPES[register.type]]) * LANES // 8, 64)
            at = aligned(at, 64)
            self.vectors[n] = at
            at += size
        self.bytes = aligned(at, 64)

    def pending(self, block):
        return 4 * block

    def waiting(self, block):
        return 4 * (self.blocks + block)

    @property
    def stay(self):
        return 8 * self.blocks
