"""The text that a kernel's printf makes.

Arguments lie one behind the other, each at a multiple of its size; floats come as float64.
Reference: CUDA C++ Programming Guide, "Formatted Output", and C11, 7.21.6.1.
"""

import re
import struct

_CONVERSION = re.compile(
    rb"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d*))?(hh|h|ll|l|z|j|t)?([diouxXeEfFgGaAcsp%])"
)
_LONG = ("l", "ll", "z", "j", "t")
_CUT = {"hh": 8, "h": 16}


class Arguments:
    """Reads values in order; `read(address, size)` gives bytes of memory."""

    def __init__(self, read, address):
        self.read, self.at = read, address

    def take(self, size):
        self.at = -(-self.at // size) * size
        data = self.read(self.at, size)
        self.at += size
        return data

    def integer(self, size, signed):
        return int.from_bytes(self.take(size), "little", signed=signed)


def string(read, address):
    """The bytes of a C string."""
    found = bytearray()
    while (byte := read(address + len(found), 1)) != b"\0":
        found += byte
    return bytes(found)


def formatted(read, pattern, address):
    """-> the text of a format string at `pattern` with arguments at `address`, and their number."""
    arguments, count = Arguments(read, address), 0
    pieces, start, text = [], 0, string(read, pattern)
    for match in _CONVERSION.finditer(text):
        pieces.append(text[start : match.start()].decode("utf-8", "replace"))
        start = match.end()
        if match[5] == b"%":
            pieces.append("%")
            continue
        count += 1
        pieces.append(_one(match, arguments, read))
    pieces.append(text[start:].decode("utf-8", "replace"))
    return "".join(pieces), count


def _one(match, arguments, read):
    """One conversion; widths given as `*` are arguments too."""
    flags, width, precision, size, kind = (
        None if p is None else p.decode() for p in match.groups()
    )
    width = str(arguments.integer(4, True)) if width == "*" else width or ""
    if precision is not None:
        given = str(arguments.integer(4, True)) if precision == "*" else precision
        precision = "." + given
    form = f"%{flags}{width}{precision or ''}"
    if kind in "di":
        number = arguments.integer(8 if size in _LONG else 4, True)
        return (form + "d") % _cut(number, size, True)
    if kind in "uoxX":
        number = _cut(arguments.integer(8 if size in _LONG else 4, False), size, False)
        if kind == "o" and "#" in flags:
            return f"%{flags}{width}s".replace("#", "") % f"0{number:o}"
        return (form + ("d" if kind == "u" else kind)) % number
    if kind == "c":
        return (form + "s") % chr(arguments.integer(4, False) & 0xFF)
    if kind == "p":
        return (f"%{flags}{width}s") % f"{arguments.integer(8, False):#x}"
    if kind == "s":
        return (form + "s") % string(read, arguments.integer(8, False)).decode("utf-8", "replace")
    (number,) = struct.unpack("<d", arguments.take(8))
    if kind in "aA":
        return (f"%{flags}{width}s") % (number.hex() if kind == "a" else number.hex().upper())
    return (form + kind) % number


def _cut(number, size, signed):
    bits = _CUT.get(size)
    if bits is None:
        return number
    number &= (1 << bits) - 1
    return number - (1 << bits) if signed and number >> bits - 1 else number
