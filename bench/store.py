"""The result store: one JSON file per run in reports/MACHINE/, validated whenever it is read.

{"schema": 1, "kind": K, "record": {...}, "sha256": H}: H is the hash of the record as JSON with
sorted keys and no spaces, so that a file that was cut off or edited is refused. Kinds:

  tps          what bench.tps prints: llama-bench's fields for the decode, every sample, and x_ ones
  compare      what bench.compare prints: the rates of each round, ratios, missing peers by name
  step         what bench.step --json prints: PREDICTED figures, and measured ones where there are
  ceilings     what bench.ceilings --json prints
  roofline     what bench.roofline writes, PREDICTED or measured as its `origin` says
  vision       what bench.vision --json prints
  quants       what bench.quants --json prints, or its quants.json
  llama-bench  a record of llama-bench's own JSON (-o json), without the path of the model

Every record says what it was measured on (ENVIRONMENT). Besides types, what follows from other
fields must do so: rates from nanoseconds, medians from samples, sums from operations. A record with
an absolute path or the host's name is not written. Two files with the same record are refused.
"""

import hashlib
import json
import math
import platform
import re
import statistics
from pathlib import Path

from bench.interval import median_interval
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME

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
        "x_parity_ids_sha256": str, "x_ids_equal_without_graph": bool, "type_k": str,
        "n_depth": int,
    },
    "compare": ENVIRONMENT | {"model_filename": str, "model_size": int, "missing": dict,
                              "peers": dict, "test_time": str},
    "step": {"model": str, "gpu": str, "origin": str, "launches_per_token": int,
             "tokens_per_s_at_most": NUMBER, "operations": list, "environment": dict,
             "floor_us": NUMBER, "boundaries_us": NUMBER, "requested_over_stored": NUMBER},
    "ceilings": {"device": str, "read": list, "rates": dict, "boundary_us": NUMBER,
                 "barrier_us": NUMBER, "environment": dict},
    "roofline": {"model": str, "origin": str, "device": str, "activation": str, "cache_type": str,
                 "roofs": dict, "decode": dict, "prefill": dict, "environment": dict},
    "vision": {"model": str, "projector": str, "device": str, "image_tokens": int, "runs": int,
               "prepare_ms": NUMBER, "tower_ms": NUMBER, "tower_gflop": NUMBER,
               "images_per_s": NUMBER, "prompt_tokens_per_s": NUMBER,
               "decode_tokens_per_s": NUMBER, "samples_s": dict, "environment": dict},
    "quants": {"accuracy": dict, "counts": dict, "speed": dict, "formats": list,
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
    model = slug(model_name(record), ".")
    stored = {"schema": SCHEMA, "kind": kind, "record": record, "sha256": digest(record)}
    path = Path(folder) / machine / f"{kind}{'-' * bool(model)}{model}-{stored['sha256'][:8]}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(stored, indent=1) + "\n")
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from None
    return path


def slug(text, kept=""):
    """Part of a path: 'NVIDIA H200' becomes nvidia-h200; `kept` are characters that may stay."""
    plain = re.sub(r"\((?:R|TM)\)", "", text).lower()
    return re.sub(rf"[^a-z0-9_{re.escape(kept)}]+", "-", plain).strip("-")[:48]


def model_name(record):
    """What a record calls its model, without the ending of a file."""
    name = record.get("model_filename") or record.get("model") or ""
    return Path(name).name.removesuffix(".gguf")


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
    found, digests = [], {}
    for path in sorted(Path(folder).glob("*/*.json")):
        kind, record = read(path)
        first = digests.setdefault(digest(record), path)
        if first is not path:
            raise FileError(f"{path} has the same record as {first.name}; one of them is to go")
        found.append((path, kind, record))
    return found


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
    for name in ENVIRONMENT if "environment" in FIELDS[kind] else ():
        if name not in record["environment"]:
            raise InputError(f"the environment has no {name}")
    try:
        CONTRADICTIONS.get(kind, lambda record: None)(record)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(f"it has other fields than its kind ({error!r})") from None


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
        hashes = {record.get("x_parity_ids_sha256")}
        if record["x_ids_equal_without_graph"] != (set(record["x_ids_sha256"]) == hashes):
            raise InputError("x_ids_equal_without_graph is not what the hashes say")
        bounds = median_interval(record["samples_ts"])
        for given, computed in zip(record["x_interval_ts"], bounds, strict=True):
            _agree("a bound of x_interval_ts", given, computed)


def _check_compare(record):
    for name, peer in record["peers"].items():
        for what in ("prefill", "decode"):
            rates = peer[what]
            pairs = zip(rates["ours_tokens_per_s"], rates["theirs_tokens_per_s"], strict=True)
            ratios = [a / b for a, b in pairs]
            _agree(f"{what} ratio to {name}", rates["ratio"]["median"], statistics.median(ratios))
            low, high = median_interval(ratios)
            _agree(f"low {what} ratio to {name}", rates["ratio"]["low"], low)
            _agree(f"high {what} ratio to {name}", rates["ratio"]["high"], high)


def _check_step(record):
    operations = record["operations"]
    launches = sum(o["launches"] for o in operations)
    _agree("launches_per_token", record["launches_per_token"], launches)
    floor = sum(o["launches"] * o["floor_us"] for o in operations)
    _agree("floor_us", record["floor_us"], floor)
    whole = record["floor_us"] + record["boundaries_us"]
    _agree("tokens_per_s_at_most", record["tokens_per_s_at_most"], 1e6 / whole)


def _check_ceilings(record):
    if not record["read"] or min(r["gb_per_s"] for r in record["read"]) <= 0:
        raise InputError("a rate of reading is not positive")
    for kind, rate in record["rates"].items():
        _agree(f"the rate of {kind}", rate["tops"], statistics.median(rate["samples_tops"]))


def _check_roofline(record):
    memory = record["roofs"]["read"][-1][1]
    for step in (record["decode"], record["prefill"]):
        points, sums = step["points"], step["sums"]
        for name in ("memory_us", "floor_us", "cost_flops", "unique_sectors"):
            _agree(f"the sum of {name}", sums[name], sum(p["launches"] * p[name] for p in points))
        for p in points:
            nbytes = 32 * p["unique_sectors"]
            _agree("memory_us", p["memory_us"], nbytes / memory / 1e3)
            _agree("an intensity", p["intensity"], p["cost_flops"] / nbytes)
            time = p.get("measured_us", p["floor_us"])
            _agree("a rate in tflops", p["tflops"], p["cost_flops"] / time / 1e6)
        if "step_us" in sums:
            _agree("tokens_per_s", sums["tokens_per_s"], 1e6 * step["tokens"] / sums["step_us"])


def _check_vision(record):
    median = {name: statistics.median(values) for name, values in record["samples_s"].items()}
    for name in ("prepare", "tower"):
        _agree(f"{name}_ms", record[f"{name}_ms"], 1e3 * median[name])
    whole = median["prepare"] + median["tower"]
    _agree("images_per_s", record["images_per_s"], 1 / whole)
    for name, what in (("prompt", "prefill"), ("decode", "decode")):
        tokens = record["prompt_tokens" if name == "prompt" else "decoded_tokens"]
        _agree(f"{name}_tokens_per_s", record[f"{name}_tokens_per_s"], tokens / median[what])


def _check_quants(record):
    for f in record["formats"]:
        if block := TYPE_BY_NAME.get(f["name"]):
            bits = 8 * block.block_bytes / block.block_size
            _agree(f"bits per weight of {f['name']}", f["bits_per_weight"], bits)
        if f["errors"] and not 0 <= f["errors"]["float"]["top1_agreement"] <= 1:
            raise InputError(f"the top-1 agreement of {f['name']} is no share")


CONTRADICTIONS = {
    "tps": _check_tps, "llama-bench": _check_tps, "compare": _check_compare, "step": _check_step,
    "ceilings": _check_ceilings, "roofline": _check_roofline, "vision": _check_vision,
    "quants": _check_quants,
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
