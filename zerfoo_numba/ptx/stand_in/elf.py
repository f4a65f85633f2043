"""A shared library written byte by byte: functions that jump to addresses of a table.

No compiler is needed, and the table is filled after loading. Programs that ask the system for a
library of the same name get this one once it is loaded, because the loader compares the SONAME.
Reference: System V ABI, chapters 4 and 5 (object files, dynamic linking), and its supplements for
AMD64 and AArch64.
"""

import platform
import struct

from zerfoo_numba.errors import DeviceError

PAGE = 0x10000  # as large as any page of these machines
SLOTS, IDLE = "slots", "idle"  # the table, and a function that does nothing and returns 0
_MACHINES = {"x86_64": 62, "amd64": 62, "aarch64": 183, "arm64": 183}
_X86 = 62
_CODE_BYTES = 8
_EXECUTABLE, _WRITABLE = 5, 6  # segment flags: read and execute, read and write
_NULL, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 0, 4, 5, 6, 10, 11, 14


def shared_library(soname, names):
    """The bytes of a library whose function `names[i]` jumps to the address in slot i."""
    machine = _MACHINES.get(platform.machine().lower())
    if machine is None:
        raise DeviceError(f"no library can be written for {platform.machine()} processors")
    symbols = [*names, IDLE]
    strings = b"\0" + b"\0".join(s.encode() for s in [soname, *symbols, SLOTS]) + b"\0"
    at_symbols = 64 + 3 * 56  # behind the header and three program headers
    at_strings = at_symbols + 24 * (len(symbols) + 2)
    at_hash = -(-(at_strings + len(strings)) // 8) * 8
    at_code = -(-(at_hash + 4 * (3 + len(symbols) + 2)) // 16) * 16
    code_end = at_code + _CODE_BYTES * len(symbols)
    at_dynamic = -(-code_end // PAGE) * PAGE
    at_slots = at_dynamic + 16 * 7
    end = at_slots + 8 * len(names)

    code = [_jump(machine, at_code + _CODE_BYTES * i, at_slots + 8 * i) for i in range(len(names))]
    code.append(_idle(machine))
    dynamic = [
        (_SONAME, 1), (_HASH, at_hash), (_STRTAB, at_strings), (_SYMTAB, at_symbols),
        (_STRSZ, len(strings)), (_SYMENT, 24), (_NULL, 0),
    ]  # fmt: skip
    parts = {
        0: _header(machine) + _program_headers(code_end, at_dynamic, end),
        at_symbols: _symbols(strings, symbols, at_code, at_slots),
        at_strings: strings,
        at_hash: _hash_table(len(symbols) + 2),
        at_code: b"".join(code),
        at_dynamic: b"".join(struct.pack("<QQ", *entry) for entry in dynamic),
    }
    image = bytearray(end)
    for at, part in parts.items():
        image[at : at + len(part)] = part
    return bytes(image)


def _header(machine):
    magic = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return magic + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)


def _program_headers(code_end, at_dynamic, end):
    def one(kind, flags, start, stop):
        return struct.pack("<IIQQQQQQ", kind, flags, start, start, start, stop - start,
                           stop - start, PAGE if kind == 1 else 8)  # fmt: skip

    return (
        one(1, _EXECUTABLE, 0, code_end)
        + one(1, _WRITABLE, at_dynamic, end)
        + one(2, _WRITABLE, at_dynamic, at_dynamic + 16 * 7)
    )


def _symbols(strings, names, at_code, at_slots):
    def name(text):
        return strings.index(b"\0" + text.encode() + b"\0") + 1

    table = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
    for i, each in enumerate(names):  # global functions of section 1 (any but "undefined")
        place = at_code + _CODE_BYTES * i
        table.append(struct.pack("<IBBHQQ", name(each), 0x12, 0, 1, place, _CODE_BYTES))
    table.append(struct.pack("<IBBHQQ", name(SLOTS), 0x11, 0, 1, at_slots, 8))
    return b"".join(table)


def _hash_table(count):
    """One bucket with every symbol in one chain: looked up rarely, so a list will do."""
    chain = [*range(2, count), 0]
    return struct.pack(f"<{3 + count}I", 1, count, 1, 0, *chain)


def _jump(machine, here, slot):
    if machine == _X86:  # jmp *slot(%rip)
        return b"\xff\x25" + struct.pack("<i", slot - (here + 6)) + b"\xcc\xcc"
    load = 0x58000000 | ((slot - here) // 4 & 0x7FFFF) << 5 | 16  # ldr x16, slot; br x16
    return struct.pack("<II", load, 0xD61F0200)


def _idle(machine):
    if machine == _X86:  # xor %eax, %eax; ret
        return b"\x31\xc0\xc3".ljust(_CODE_BYTES, b"\xcc")
    return struct.pack("<II", 0x52800000, 0xD65F03C0)  # mov w0, 0; ret
