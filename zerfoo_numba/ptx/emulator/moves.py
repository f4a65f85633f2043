"""Code for mov and cvta: copies, addresses, and vectors packed and unpacked."""

import numpy as np

from zerfoo_numba.ptx.emulator.casting import numpy_type
from zerfoo_numba.ptx.emulator.memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW
from zerfoo_numba.ptx.structure import Vector

_BITS = {"b16": 16, "b32": 32, "b64": 64, "f32": 32, "f64": 64}


def move(translator, item):
    """mov and cvta: a copy, an address, or vectors packed and unpacked."""
    destination, source = item.operands[:2]
    if item.parts[0] == "cvta":
        convert_address(translator, item)
    elif isinstance(destination, Vector):
        unpack(translator, destination.items, source)
    elif isinstance(source, Vector):
        pack(translator, destination, source.items)
    else:
        translator.assign(
            destination, translator.operand(source, destination.type), destination.type
        )


def convert_address(translator, item):
    destination, source = item.operands
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(
        next((p for p in item.parts if p in ("shared", "local")), ""), 0
    )
    value = translator.operand(source, "u64")
    if window:
        sign = "-" if "to" in item.parts else "+"
        value = f"{value} {sign} {translator.constant(np.uint64(window))}"
    translator.assign(destination, value, "u64")


def unpack(translator, items, source):
    width = _BITS[source.type] // len(items)
    whole = translator.operand(source, f"u{width * len(items)}")
    translator.lines.append(f"t = {whole}")
    for i, register in enumerate(items):
        if register is not None:
            shift = translator.constant(numpy_type(f"u{width * len(items)}").type(width * i))
            piece = f"t >> {shift}" if i else "t"
            translator.assign(register, f"({piece}).astype(np.uint{width})", f"u{width}")
    translator.lines.append("del t")


def pack(translator, destination, items):
    bits = _BITS[destination.type]
    width = bits // len(items)
    pieces = []
    for i, item in enumerate(items):
        piece = f"{translator.operand(item, f'u{width}')}.astype(np.uint{bits})"
        if i:
            piece = f"({piece} << {translator.constant(numpy_type(f'u{bits}').type(width * i))})"
        pieces.append(piece)
    translator.assign(destination, f"({' | '.join(pieces)})", f"u{bits}")


def is_in_space(translator, item):
    """isspacep: does a generic address lie in the window of a space?"""
    space = item.parts[1].split("::")[0]
    windows = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
    value = translator.operand(item.operands[1], "u64")
    if space in windows:
        start = translator.constant(np.uint64(windows[space]))
        test = f"({value} - {start}) < {translator.constant(np.uint64(WINDOW))}"
    elif space == "global":
        test = f"{value} < {translator.constant(np.uint64(SHARED_WINDOW))}"
    else:
        raise translator.unsupported(item)
    translator.assign(item.operands[0], test, "pred")


EMIT = {"mov": move, "cvta": move, "isspacep": is_in_space}
