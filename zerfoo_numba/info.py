"""What a GGUF file holds, for people: metadata, tensors, bytes by type. Reads no tensor data."""

from collections.abc import Iterable

import numpy as np

from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import ZerfooError

SHOWN_VALUES = 8
SHOWN_CHARS = 80


def record(gguf) -> dict:
    """Everything as one JSON-ready dict; arrays longer than SHOWN_VALUES by their length."""
    return {
        "path": gguf.path,
        "version": gguf.version,
        "model": _model(gguf),
        "metadata": {key: _plain(value) for key, value in gguf.metadata.items()},
        "tensors": [
            {"name": name, "type": t.type, "shape": list(t.shape), "bytes": t.data.nbytes}
            for name, t in gguf.tensors.items()
        ],
        "types": _by_type(gguf),
    }


def table(gguf) -> str:
    """The same as plain text."""
    everything = record(gguf)
    tensors = [
        (t["name"], t["type"], " x ".join(map(str, t["shape"])), f"{t['bytes']:,}")
        for t in everything["tensors"]
    ]
    types = everything["types"]
    total = {key: sum(row[key] for row in types.values()) for key in ("tensors", "bytes")}
    return "\n\n".join(
        [
            _rows(f"{gguf.path} (GGUF version {gguf.version})", everything["model"].items()),
            _rows("metadata", ((key, _short(v)) for key, v in everything["metadata"].items())),
            _rows("tensors: name, type, shape (fastest dimension first), bytes", tensors, "<<>>"),
            _rows(
                "types: tensors, bytes",
                (
                    (name, f"{row['tensors']:,}", f"{row['bytes']:,}")
                    for name, row in [*types.items(), ("all", total)]
                ),
                "<>>",
            ),
        ]
    )


def _model(gguf) -> dict:
    """What the runtime makes of the file, or the reason why it does not run it."""
    try:
        config = ModelConfig.from_gguf(gguf)
        config.check_tensors(gguf)
    except ZerfooError as error:
        return {"runs here": f"no: {error}"}
    windows = {layer.window for layer in config.layers} - {None}
    return {
        "runs here": "yes",
        "architecture": config.arch,
        "name": config.name,
        "trained context": config.context,
        "layers": config.L,
        "width": config.D,
        "feed-forward width": config.F,
        "vocabulary": config.V,
        "query heads": config.H,
        "key/value heads": config.KH,
        "head width": config.HD,
        "sliding window": max(windows, default=None),
    }


def _by_type(gguf) -> dict[str, dict[str, int]]:
    types: dict[str, dict[str, int]] = {}
    for tensor in gguf.tensors.values():
        row = types.setdefault(tensor.type, {"tensors": 0, "bytes": 0})
        row["tensors"] += 1
        row["bytes"] += tensor.data.nbytes
    return types


def _plain(value):
    """A metadata value as JSON has it."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= SHOWN_VALUES else value
    if isinstance(value, list | np.ndarray) and len(value) > SHOWN_VALUES:
        kind = "str" if isinstance(value, list) else value.dtype.name
        first = value[:SHOWN_VALUES]
        return {"count": len(value), "type": kind, "first": np.asarray(first).tolist()}
    return value


def _short(value) -> str:
    if isinstance(value, dict):
        return f"{value['count']} x {value['type']}: " + _cut(", ".join(map(str, value["first"])))
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " ..."


def _rows(title: str, rows: Iterable[tuple], align: str = "<<") -> str:
    """Aligned columns under a title. The file is untrusted: no control character gets through."""
    texts = [tuple(_printable(str(cell)) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        "  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=True)).rstrip()
        for row in texts
    ]
    return "\n".join([_printable(title), *(f"  {line}" for line in lines)])


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
