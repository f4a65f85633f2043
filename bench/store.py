"""The result store: one JSON file per run in reports/MACHINE/, validated whenever it is read.

{"schema": 1, "kind": K, "record": {...}, "sha256": H}: H is the hash of the record as JSON with
sorted keys and no spaces, so that a file that was cut off or edited is refused. Kinds:

  tps          what bench.tps prints: llama-bench's fields for the decode, every sample, and x_ ones
  compare      what bench.compare prints: the rates of each round, ratios, missing peers by name
  step         what bench.step --json prints: PREDICTED figures, and measured ones where there are
  ceilings     what bench.ceilings --json prints
  llama-bench  a record of llama-bench's own JSON (-o json), without the path of the model

Every record says what it was measured on (ENVIRONMENT). Besides types, what follows from other
fields must do so: rates from nanoseconds, medians from samples, sums from operations. A record with
an absolute path or the host's name is not written.
"""

import hashlib
import json
import math
import platform
import re
import statistics
from pathlib import Path

from zerfoo_numba.errors import FileError, InputError

SCHEMA = 1
NUMBER = (int, float)
ENVIRONMENT = {"cpu_info": str, "system": str, "packages": dict, "build_commit": str}
_LLAMA_BENCH = {
    "model_filename": str, "model_type": str, "model_size": int, "n_gen": int, "n_prompt": int,
    "avg_ts": NUMBER, "avg_ns": NUMBER, "samples_ns": list, "samples_ts": list, "test_time": str,
}  # fmt: skip
FIELDS = {
    "tps": _LLAMA_BENCH | ENVIRONMENT | {
        "backends": str, "x_device": str, "x_median_ts": NUMBER, "x_interval_ts": list,
        "x_graph_share": NUMBER, "x_launches_per_token": NUMBER, "x_activation": str,
        "x_prefill_tokens": int, "x_prefill_samples_ns": list, "x_ids_sha256": list,
        "x_ids_equal_without_graph": bool, "type_k": str, "n_depth": int,
    },
    "compare": ENVIRONMENT | {"model_filename": str, "model_size": int, "missing": dict,
                              "peers": dict, "test_time": str},
    "step": {"model": str, "gpu": str, "origin": str, "launches_per_token": int,
             "tokens_per_s_at_most": NUMBER, "operations": list, "environment": dict,
             "floor_us": NUMBER, "boundaries_us": NUMBER, "requested_over_stored": NUMBER},
    "ceilings": {"device": str, "read": list, "boundary_us": NUMBER, "barrier_us": NUMBER,
                 "environment": dict},
    "llama-bench": _LLAMA_BENCH | {"build_commit": str, "cpu_info": str},
}  # fmt: skip
_PATH = re.compile(r"(?:^|[\s'\"=])/(?:[\w.+-]+/)+[\w.+-]+|[A-Za-z]:\\\\")


def digest(record):
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write(kind, record, folder):
    """Put `record` in `folder`/MACHINE/; -> the path. InputError if it is private or not valid."""
    check(kind, record)
    _refuse_private(record)
    about = record.get("environment", record)
    machine = slug((about.get("gpu") or {}).get("name") or about["cpu_info"])
    model = Path(record.get("model_filename") or record.get("model") or "").stem
    stored = {"schema": SCHEMA, "kind": kind, "record": record, "sha256": digest(record)}
    path = Path(folder) / machine / f"{kind}{'-' * bool(model)}{model}-{stored['sha256'][:8]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1) + "\n")
    return path


def slug(text):
    """A folder's name: 'NVIDIA H200' becomes nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((?:R|TM)\)", "", text).lower()).strip("-")[:48]


def read(path):
    """(kind, record) of a file of the store; FileError says why it is refused."""
    try:
        stored = json.loads(Path(path).read_text())
    except ValueError as error:
        raise FileError(f"{path} is no whole JSON file ({error}); it may be cut off") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        raise FileError(f"{path} is no result of schema {SCHEMA}; see bench/store.py")
    kind, record = stored.get("kind"), stored.get("record")
    if not isinstance(record, dict) or digest(record) != stored.get("sha256"):
        raise FileError(f"{path} does not have the hash that it names; it was changed or cut off")
    try:
        check(kind, record)
    except InputError as error:
        raise FileError(f"{path} is refused: {error}") from None
    return kind, record


def read_all(folder):
    """[(path, kind, record)] of every result in `folder`, by path."""
    return [(path, *read(path)) for path in sorted(Path(folder).glob("*/*.json"))]


def llama_bench(record):
    """A record of llama-bench's JSON as the store keeps it: the model's file without its path."""
    return record | {"model_filename": Path(record["model_filename"]).name}


def check(kind, record):
    """InputError if `record` is not of `kind`: which field is missing, or what contradicts what."""
    if kind not in FIELDS:
        raise InputError(f"there is no kind {kind!r}; there are {', '.join(FIELDS)}")
    for name, types in FIELDS[kind].items():
        if name not in record:
            raise InputError(f"field {name} is missing")
        value = record[name]
        if not isinstance(value, types) or (types is not bool and isinstance(value, bool)):
            raise InputError(f"field {name} is {value!r}")
    for name in ENVIRONMENT if kind in ("step", "ceilings") else ():
        if name not in record["environment"]:
            raise InputError(f"the environment has no {name}")
    CONTRADICTIONS.get(kind, lambda record: None)(record)


def _agree(what, given, computed):
    if not math.isclose(given, computed, rel_tol=1e-3):
        raise InputError(f"{what} is {given} but follows to be {computed}")


def _check_tps(record):
    tokens, samples = record["n_gen"] or record["n_prompt"], record["samples_ns"]
    if not samples or len(samples) != len(record["samples_ts"]) or min(samples) <= 0:
        raise InputError(f"samples_ns and samples_ts have {len(samples)} and other samples")
    for ns, rate in zip(samples, record["samples_ts"], strict=True):
        _agree("a sample of samples_ts", rate, tokens * 1e9 / ns)
    _agree("avg_ts", record["avg_ts"], statistics.mean(record["samples_ts"]))
    if "x_median_ts" in record:
        _agree("x_median_ts", record["x_median_ts"], statistics.median(record["samples_ts"]))


def _check_compare(record):
    for name, peer in record["peers"].items():
        for what in ("prefill", "decode"):
            rates = peer[what]
            pairs = zip(rates["ours_tokens_per_s"], rates["theirs_tokens_per_s"], strict=True)
            ratios = [a / b for a, b in pairs]
            _agree(f"{what} ratio to {name}", rates["ratio"]["median"], statistics.median(ratios))


def _check_step(record):
    operations = record["operations"]
    launches = sum(o["launches"] for o in operations)
    _agree("launches_per_token", record["launches_per_token"], launches)
    floor = sum(o["launches"] * o["floor_us"] for o in operations)
    _agree("floor_us", record["floor_us"], floor)
    whole = record["floor_us"] + record["boundaries_us"]
    _agree("tokens_per_s_at_most", record["tokens_per_s_at_most"], 1e6 / whole)


CONTRADICTIONS = {
    "tps": _check_tps, "llama-bench": _check_tps, "compare": _check_compare, "step": _check_step,
}  # fmt: skip


def _refuse_private(record):
    text = json.dumps(record)
    for found in (*_strings(record), *record):
        if _PATH.search(found):
            raise InputError(f"the record names a path: {_PATH.search(found)[0].strip()}")
    host = platform.node()
    if len(host) > 3 and re.search(rf"\b{re.escape(host)}\b", text):
        raise InputError("the record names this host")


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
