"""Code for tensor-core instructions and for asynchronous copies into shared memory."""

import numpy as np

from zerfoo_numba.ptx.emulator.access import GlobalAccess, SharedAccess
from zerfoo_numba.ptx.emulator.arithmetic import ldmatrix_source, operation
from zerfoo_numba.ptx.emulator.faults import fault
from zerfoo_numba.ptx.emulator.memory import ELEMENT
from zerfoo_numba.ptx.structure import Constant, Register, Vector

WARP = 32


def whole_warps(group, instruction):
    """Tensor instructions need every lane of the warp (`.aligned`)."""
    if not group.whole_warps:
        what = "a tensor instruction runs without all 32 lanes of the warp"
        raise fault(group.wave, group, instruction, what, 0, "warp")


class WarpOperation:
    """An operation on registers as (warps, 32) arrays: mma, movmatrix."""

    def __init__(self, instruction, found):
        self.instruction, self.function = instruction, found.function

    def __call__(self, group, *registers):
        whole_warps(group, self.instruction)
        tables = [np.broadcast_to(r, group.size).reshape(-1, WARP) for r in registers]
        result = self.function(*tables)
        parts = result if isinstance(result, tuple) else (result,)
        return [p.reshape(-1) for p in parts]


def matrix(translator, item):
    """mma.sync and movmatrix: registers flattened in the order of the text."""
    try:
        found = operation(item.opcode)
    except KeyError:
        raise translator.unsupported(item) from None
    outputs, *inputs = (o.items if isinstance(o, Vector) else (o,) for o in item.operands)
    inputs = [register for group in inputs for register in group]
    arguments = ", ".join(
        translator.operand(o, k) for o, k in zip(inputs, found.inputs, strict=True)
    )
    function = translator.constant(WarpOperation(item, found))
    translator.lines.append(f"t = {function}(g, {arguments})")
    for i, (register, kind) in enumerate(zip(outputs, found.outputs, strict=True)):
        translator.assign(register, f"t[{i}]", kind)
    translator.lines.append("del t")


class LoadMatrix:
    """ldmatrix: 1, 2 or 4 matrices of 8 x 8 b16; lane 8 m + r has the address of row r of m."""

    def __init__(self, instruction, count, offset):
        self.instruction, self.count = instruction, count
        self.rows, self.columns = ldmatrix_source("trans" in instruction.parts)
        self.half = SharedAccess(instruction, 2, 1, offset)
        self.row = SharedAccess(instruction, 16, 1, offset)

    def __call__(self, wave, group, address):
        whole_warps(group, self.instruction)
        address = np.broadcast_to(address, group.size).astype(np.uint64).reshape(-1, WARP)
        used = address[:, : 8 * self.count]
        if (used & np.uint64(15)).any():
            self.row.misaligned(wave, group, address.reshape(-1))
        results = []
        for m in range(self.count):
            halves = [
                self.half.load(wave, group, np.ascontiguousarray(
                    address[:, 8 * m + self.rows[:, h]] + self.columns[:, h].astype(np.uint64)
                ).reshape(-1)).astype(np.uint32)
                for h in (0, 1)
            ]  # fmt: skip
            results.append(halves[0] | halves[1] << np.uint32(16))
        return results

    def readers(self, group):
        """Positions of the lanes whose addresses count."""
        return np.flatnonzero(group.laneid < 8 * self.count)


def load_matrix(translator, item):
    """ldmatrix.sync.aligned.m8n8.x4{.trans}.shared.b16 {...}, [a]"""
    parts = item.parts
    shared = any(p.startswith("shared") for p in parts)
    if "m8n8" not in parts or parts[-1] != "b16" or not shared:
        raise translator.unsupported(item)
    outputs = item.operands[0].items if isinstance(item.operands[0], Vector) else item.operands[:1]
    base, offset = translator.address(item.operands[1])
    found = LoadMatrix(item, len(outputs), offset)
    site = translator.constant(found)
    translator.lines.append(f"a = {base}")
    if translator.traced:
        translator.lines.append(f"w.trace.part({site}.row, w, g, a, {site}.readers(g))")
    translator.lines.append(f"t = {site}(w, g, a)")
    for i, register in enumerate(outputs):
        translator.assign(register, f"t[{i}]", "u32")
    translator.lines.append("del t")


class AsyncCopy:
    """cp.async: `nbytes` from global to shared memory, zeros beyond the source size."""

    def __init__(self, instruction, nbytes, to, source):
        self.instruction, self.nbytes = instruction, nbytes
        self.to = SharedAccess(instruction, nbytes, 1, to)
        self.whole = GlobalAccess(instruction, nbytes, 1, source)
        self.single = GlobalAccess(instruction, 1, 1, source)
        self.to.write = True

    def __call__(self, wave, group, to, source, size=None):
        trace = wave.trace
        if size is None or (type(size) is not np.ndarray and int(size) == self.nbytes):
            if trace is not None:
                trace.access(self.whole, wave, group, source)
            value = self.whole.load(wave, group, source)
        else:
            value = self.partial(wave, group, np.broadcast_to(source, group.size), size)
        if trace is not None:
            trace.access(self.to, wave, group, to, (value,))
            if trace.copies():
                base = group.shared_base(0)
                start = self.to.whole(group, to)
                start = start if base is None else start + base
                trace.copies().issue(group, self.instruction, start, self.nbytes)
        self.to.store(wave, group, to, value)

    def partial(self, wave, group, source, size):
        """Each lane's own number of source bytes, which are read one by one."""
        size = np.broadcast_to(size, group.size)
        value = np.zeros((group.size, self.nbytes), np.uint8)
        for i in range(self.nbytes):
            lanes = np.flatnonzero(size > i)
            if len(lanes):
                part = group if len(lanes) == group.size else group.part(lanes)
                at = source[lanes] + np.uint64(i)
                if wave.trace is not None:
                    wave.trace.access(self.single, wave, part, at)
                value[lanes, i] = self.single.load(wave, part, at)
        return value.view(ELEMENT[self.nbytes]).reshape(-1)


def asynchronous(translator, item):
    """cp.async.{ca,cg}.shared.global [to], [from], n{, size}; commit_group; wait_group n."""
    parts = item.parts
    if parts[1] != "async" or "bulk" in parts or "mbarrier" in parts:
        raise translator.unsupported(item)
    if parts[2] in ("commit_group", "wait_group", "wait_all"):
        if translator.traced:
            allowed = item.operands[0].value if parts[2] == "wait_group" else None
            call = "commit(g)" if parts[2] == "commit_group" else f"wait(g, {allowed})"
            translator.lines.append(f"if w.trace.copies(): w.trace.copies().{call}")
        return
    to, to_offset = translator.address(item.operands[0])
    source, source_offset = translator.address(item.operands[1])
    found = AsyncCopy(item, item.operands[2].value, to_offset, source_offset)
    arguments, more = [to, source], list(item.operands[3:])
    if any("cache_hint" in p for p in parts):
        more.pop()
    if more and isinstance(more[0], Register) and more[0].type != "pred":
        arguments.append(translator.operand(more[0], "u32"))
    elif more and not isinstance(more[0], Constant):
        raise translator.unsupported(item)
    elif more:
        arguments.append(translator.operand(more[0], "u32"))
    translator.lines.append(f"{translator.constant(found)}(w, g, {', '.join(arguments)})")


EMIT = {"mma": matrix, "movmatrix": matrix, "ldmatrix": load_matrix, "cp": asynchronous}
