"""What a GGUF file holds, for people: the model, what it needs, its text, metadata, tensors, bytes
by type. Reads no tensor data."""

from collections.abc import Iterable

import numpy as np

from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import ContextError, ZerfooError
from zerfoo_numba.features import features, text, unsupported
from zerfoo_numba.footprint import footprint, most_tokens_per_s

SHOWN_VALUES = 8
SHOWN_CHARS = 80
DEFAULT_CONTEXT = 4096  # where the trained one is longer, as in `load_model`


def record(gguf, context: int | None = None) -> dict:
    """Everything as one JSON-ready dict; arrays longer than SHOWN_VALUES by their length.

    `context`: tokens for which memory and reads are counted. Errors: ContextError for more than
    the model was trained with. What cannot be run is no error here but an entry.
    """
    config, reason = _config(gguf)
    return {
        "path": gguf.path,
        "version": gguf.version,
        "model": _model(config, reason),
        "features": features(gguf, config) if config else [],
        "unsupported": ([reason] if reason else []) + unsupported(gguf),
        "needs": _needs(gguf, config, context) if config else None,
        "text": text(gguf.metadata),
        "metadata": {key: _plain(value) for key, value in gguf.metadata.items()},
        "tensors": [
            {"name": name, "type": t.type, "shape": list(t.shape), "bytes": t.data.nbytes}
            for name, t in gguf.tensors.items()
        ],
        "types": _by_type(gguf),
    }


def table(gguf, context: int | None = None) -> str:
    """The same as plain text."""
    everything = record(gguf, context)
    tensors = [
        (t["name"], t["type"], " x ".join(map(str, t["shape"])), f"{t['bytes']:,}")
        for t in everything["tensors"]
    ]
    types = everything["types"]
    total = {key: sum(row[key] for row in types.values()) for key in ("tensors", "bytes")}
    return "\n\n".join(
        [
            _rows(f"{gguf.path} (GGUF version {gguf.version})", everything["model"].items()),
            *_summary(everything),
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


def _summary(everything: dict) -> list[str]:
    """What the model has, what it needs, how it reads text."""
    parts = [
        _rows(title, [(line,) for line in everything[title]], "<")
        for title in ("unsupported", "features")
        if everything[title]
    ]
    if everything["needs"]:
        needs = dict(everything["needs"])
        speeds = needs.pop("at most tokens per second")
        rows = [(name, f"{value:,}") for name, value in needs.items()]
        parts.append(_rows("needs", rows, "<>"))
        most = [(n, "does not fit" if v is None else f"{v:,.0f}/s") for n, v in speeds.items()]
        parts.append(_rows("tokens that the bandwidth allows, at most", most, "<>"))
    return [*parts, _rows("text", everything["text"].items())]


def _config(gguf) -> tuple[ModelConfig | None, str | None]:
    """What the runtime makes of the file, or the reason why it does not run it."""
    try:
        config = ModelConfig.from_gguf(gguf)
        config.check_tensors(gguf)
    except ZerfooError as error:
        return None, str(error)
    return config, None


def _model(config: ModelConfig | None, reason: str | None) -> dict:
    if config is None:
        return {"runs here": f"no: {reason}"}
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


def _needs(gguf, config: ModelConfig, context: int | None) -> dict:
    """Bytes, at a context, and what the bandwidth of known GPUs makes of them."""
    if context is not None and not 1 <= context <= config.context:
        raise ContextError(
            f"a context of {context} tokens is not within 1 .. {config.context}, for which the "
            "model was trained"
        )
    wanted = footprint(gguf, config, context or min(config.context, DEFAULT_CONTEXT))
    kept = "recurrent state" if config.recurrent else "KV cache (f16)"
    return {
        "context": wanted.context,
        "bytes of weights": wanted.weights,
        f"bytes of {kept}": wanted.cache,
        "bytes of memory": wanted.memory,
        "bytes read per token": wanted.read,
        "at most tokens per second": most_tokens_per_s(wanted),
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
