"""Pictures that name what they were drawn from: the hashes of their records stand in the PNG."""

import struct
import zlib
from pathlib import Path

from zerfoo_numba.errors import FileError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEY = "Source"


def save(figure, path, digests):
    """Write the figure as a PNG that names the `digests` (bench.store.digest) of its records."""
    figure.savefig(path, metadata={KEY: " ".join(sorted(digests))})


def sources(path):
    """The digests that the PNG at `path` names, sorted; [] of a picture that names none."""
    data = Path(path).read_bytes()
    if not data.startswith(SIGNATURE):
        raise FileError(f"{path} is no PNG file")
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if data[at + 8 + size : at + 12 + size] != struct.pack(">I", zlib.crc32(kind + body)):
            raise FileError(f"{path} is damaged or cut off")
        if kind == b"tEXt" and body.startswith(KEY.encode() + b"\0"):
            return body.partition(b"\0")[2].decode("latin-1").split()
        at += 12 + size
    return []
