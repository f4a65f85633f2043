"""A kernel as machine code for one block size: translated, compiled, kept on disk."""

import functools
import hashlib
import json
import struct
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

from zerfoo_numba.errors import InputError
from zerfoo_numba.ptx import cache
from zerfoo_numba.ptx.native import op_host
from zerfoo_numba.ptx.native.driver import Scratch, module_text
from zerfoo_numba.ptx.native.layout import aligned
from zerfoo_numba.ptx.native.plan import Plan
from zerfoo_numba.ptx.native.target import host
from zerfoo_numba.ptx.native.waiting_driver import Room

_PACK = {1: "B", 2: "H", 4: "I", 8: "Q"}
_lock = threading.RLock()
_programs: dict = {}
_data: dict = {}


@dataclass(frozen=True)
class Description:
    """What a launch must know of the code; byte sizes, and (offset, size) of each parameter.

    A kernel that waits (`waiting`) takes `room_bytes` besides for each block that is there at once:
    one, or with `whole_grid` all of them.
    """

    parameters: tuple
    parameter_bytes: int
    scratch_bytes: int
    data: str
    room_bytes: int = 0
    room_align: int = 128
    whole_grid: bool = False


class Program:
    """One kernel for one block size; `address` is its function over a range of blocks."""

    def __init__(self, name, description, code, target):
        self.name, self.description = name, description
        self._engine = _load(code, target)
        self.address = self._engine.get_function_address("grid")
        self._pack = [
            (offset, struct.Struct("<" + _PACK[size])) for offset, size in description.parameters
        ]

    def scratch_bytes(self, shared, blocks=1):
        """What each thread of the machine needs to run a launch of so many blocks."""
        if not self.description.room_bytes:
            return self.description.scratch_bytes + shared
        room = aligned(self.description.room_bytes + shared, self.description.room_align)
        return self.description.scratch_bytes + room * (blocks if self.whole_grid else 1)

    @property
    def whole_grid(self):
        return self.description.whole_grid

    def pack(self, values, buffer, at):
        """Write the argument values (NumPy scalars) into `buffer` from `at` on."""
        if len(values) != len(self._pack):
            raise InputError(
                f"kernel {self.name} takes {len(self._pack)} arguments, {len(values)} were given"
            )
        for (offset, form), value in zip(self._pack, values, strict=True):
            bits = int.from_bytes(np.asarray(value).tobytes(), "little")
            form.pack_into(buffer, at + offset, bits)


def load(ptx, block, target=None, progress=None):
    """The Program of a `Ptx` for a block size of three numbers; compiled once per machine.

    `progress(text)` is called before a kernel is compiled: the first start is slower than others.
    """
    target = target or host()
    key = (ptx.text, ptx.entry, tuple(block), target)
    with _lock:
        if key not in _programs:
            _programs[key] = _from_disk(ptx, tuple(block), target, progress)
        return _programs[key]


def module_data(ptx, program):
    """The kernel's initialised variables: one copy for all block sizes of a PTX text."""
    with _lock:
        if ptx.text not in _data:
            content = bytes.fromhex(program.description.data)
            room = np.zeros(len(content) + 128, np.uint8)
            start = -room.ctypes.data % 64
            room[start : start + len(content)] = np.frombuffer(content, np.uint8)
            _data[ptx.text] = (room, room.ctypes.data + start)
        return _data[ptx.text][1]


@functools.cache
def _translator_digest():
    digest = hashlib.sha256()
    own = Path(__file__).parent
    for path in [*sorted(own.glob("*.py")), *sorted(own.parent.glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _from_disk(ptx, block, target, progress):
    identity = f"{_translator_digest()} {target.identity} {block} {ptx.entry} {ptx.text}"
    name = hashlib.sha256(identity.encode()).hexdigest()
    path = cache.folder() / "native" / f"{name}.o"
    try:
        head, _, code = path.read_bytes().partition(b"\n")
        fields = json.loads(head)
        description = Description(**fields)
    except (OSError, ValueError, TypeError):
        if progress is not None:
            threads = " x ".join(str(n) for n in block if n > 1) or "1"
            progress(f"compiling {ptx.entry} for blocks of {threads} threads")
        description, code = translate(ptx, block, target)
        head = json.dumps(asdict(description)).encode()
        cache.write_atomically(path, head + b"\n" + code)
    return Program(ptx.entry, description, code, target)


def translate(ptx, block, target, counted=False):
    """-> Description and object code; `counted` code counts its instructions (`layout.COUNTS`)."""
    plan = Plan(ptx, block, target, counted)
    code = compile_module(module_text(plan), target)
    return _description(plan), code


def _description(plan):
    layout, scratch = plan.layout, Scratch(plan)
    room, grid = Room(scratch, plan), scratch.bytes(layout.shared_bytes)
    if plan.waiting:
        grid = room.grid_bytes
    return Description(
        parameters=tuple(layout.parameter_sizes),
        parameter_bytes=layout.parameter_bytes,
        scratch_bytes=grid,
        data=layout.data.hex(),
        room_bytes=room.bytes if plan.waiting else 0,
        room_align=room.align,
        whole_grid=bool(plan.waiting and plan.waiting.whole_grid),
    )


def compile_module(text, target):
    """LLVM text to object code."""
    machine = target.machine()
    module = llvm.parse_assembly(text)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def _load(code, target):
    op_host.provide()
    machine = target.machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine
