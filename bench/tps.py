"""Tokens per second: python -m bench.tps -m FILE [-n 256] [-p TEXT] [--device D] [--json]

The procedure: prefill, a warm-up of decode steps thrown away, then N decode steps timed from the
first to the last, greedy, with no stop at an end-of-text token and nothing read back in between;
the whole at least three times, the median reported with its bootstrap interval and every sample.
Afterwards all tokens of the first run are decoded again without the graph, in an own run whose
hash stands beside: they must be the same.
Field names are llama-bench's where it has one; ours begin with x_.
"""

import argparse
import datetime
import hashlib
import json
import resource
import statistics
import sys
import time

import zerfoo_numba
from bench.environment import environment
from bench.interval import median_interval
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.fusion import FUSIONS

WARM_UP = 16
PROMPT = "The quick brown fox jumps over the lazy dog and"
FUSE = f"all, or some of {','.join(FUSIONS)}; without it what is usual on the device"

PROGRAMMATIC = "on cuda, whatever --device says: launch each kernel while the one before it ends"


def fusions(text):
    """The set of fusions that the value of --fuse names."""
    return set(FUSIONS) if text == "all" else set(text.split(","))


def measure(model, ids, count, runs, warm_up=WARM_UP, progress=lambda text: None):
    """A dict for each run: prefill `ids`, throw `warm_up` steps away, time `count` steps."""
    samples = []
    for run in range(runs):
        with model.device.timer() as prefill:
            model.prefill(ids)
        model.greedy_start()
        model.stats = type(model.stats)()
        model.continue_greedy(warm_up)
        with model.device.timer() as decode:
            model.continue_greedy(count)
        produced = model.history(len(ids), warm_up + count + 1)
        sample = {
            "ids": produced,
            "prefill_ns": round(prefill.seconds * 1e9),
            "decode_ns": round(decode.seconds * 1e9),
            "graph_share": model.stats.graph_share,
            "launches_per_token": model.stats.launches / (warm_up + count),
            "ids_sha256": hashed(produced),
        }
        samples.append(sample)
        progress(f"run {run + 1} of {runs}: {count / decode.seconds:.3g} tokens/s")
    return samples


def hashed(ids):
    return hashlib.sha256(str(ids).encode()).hexdigest()


def walked(model, ids, count):
    """`count` ids after `ids`, by walking every step instead of replaying one."""
    graph, model.graph = model.graph, False
    try:
        return model.greedy_ids(ids, count)
    finally:
        model.graph = graph


def memory_bytes(device):
    """What is in use on a GPU now, or the most that this process has used of main memory."""
    if device.name == "cuda":
        free, total = device.memory_info()
        return total - free
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def result(model, path, ids, count, samples):
    """One record with llama-bench's names, for the decode; the prefill stands beside it."""
    ns = [s["decode_ns"] for s in samples]
    rates = [count * 1e9 / n for n in ns]
    tensors = model.gguf.tensors.values()
    parity = hashed(walked(model, ids, len(samples[0]["ids"])))
    return {
        **environment(),
        "gpu_info": model.device.description if model.device.name == "cuda" else "",
        "backends": model.device.name,
        "model_filename": path.rsplit("/", 1)[-1],
        "model_type": f"{model.config.arch} {model.config.name}",
        "model_size": sum(t.data.nbytes for t in tensors),
        "type_k": model.walk.cache.types[0],
        "type_v": model.walk.cache.types[1],
        "n_prompt": 0,
        "n_gen": count,
        "n_depth": len(ids) + WARM_UP,
        "test_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "avg_ns": round(statistics.mean(ns)),
        "stddev_ns": round(statistics.stdev(ns)) if len(ns) > 1 else 0,
        "avg_ts": statistics.mean(rates),
        "stddev_ts": statistics.stdev(rates) if len(rates) > 1 else 0.0,
        "samples_ns": ns,
        "samples_ts": rates,
        "x_median_ts": statistics.median(rates),
        "x_interval_ts": median_interval(rates),
        "x_prefill_tokens": len(ids),
        "x_prefill_samples_ns": [s["prefill_ns"] for s in samples],
        "x_graph_share": min(s["graph_share"] for s in samples),
        "x_launches_per_token": samples[0]["launches_per_token"],
        "x_ids_sha256": sorted({s["ids_sha256"] for s in samples}),
        "x_parity_ids_sha256": parity,
        "x_ids_equal_without_graph": {s["ids_sha256"] for s in samples} == {parity},
        "x_memory_bytes": memory_bytes(model.device),
        "x_activation": model.activation,
        "x_device": model.device.description,
        "x_weight_bytes_by_type": _bytes_by_type(tensors),
    }


def _bytes_by_type(tensors):
    total = {}
    for tensor in tensors:
        total[tensor.type] = total.get(tensor.type, 0) + tensor.data.nbytes
    return total


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.tps", description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-p", "--prompt", default=PROMPT)
    parser.add_argument("-n", type=int, default=256, help="decoded tokens per run (default 256)")
    parser.add_argument("-r", "--runs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache-type", default=None)
    parser.add_argument("--activation", choices=("float", "int8"))
    parser.add_argument("--depth", type=int, help="length of the prompt, made of its tokens")
    parser.add_argument("--fuse", type=fusions, default=True, metavar="NAMES", help=FUSE)
    parser.add_argument("--no-fuse", dest="fuse", action="store_false", help="each operation alone")
    parser.add_argument("--no-graph", action="store_true", help="walk every step, no replay")
    parser.add_argument("--programmatic", action="store_true", help=PROGRAMMATIC)
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a line")
    options = parser.parse_args(argv)
    if options.n < 1 or options.runs < 1 or (options.depth or 1) < 1:
        parser.error("-n, --runs and --depth take a number of at least 1")
    try:
        record = run(options)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(record, indent=2))
    else:
        print(
            f"{record['x_device']}: {record['x_median_ts']:.4g} tokens/s "
            f"({record['x_interval_ts'][0]:.4g} to {record['x_interval_ts'][1]:.4g}), median of "
            f"{options.runs} x {options.n} tokens; {100 * record['x_graph_share']:.1f} % of "
            f"{record['x_launches_per_token']:.0f} launches a token in the graph"
        )
    return 0


def run(options):
    vocabulary = zerfoo_numba.load_tokenizer(options.model)
    ids = vocabulary.encode(options.prompt)
    if options.depth:
        ids = [ids[i % len(ids)] for i in range(options.depth)]
    context = len(ids) + WARM_UP + options.n + 1
    start = time.perf_counter()
    device = open_device("cuda", programmatic=True) if options.programmatic else options.device
    model = zerfoo_numba.load_model(
        options.model, device=device, context=context, cache_type=options.cache_type,
        graph=not options.no_graph, fuse=options.fuse, activation=options.activation,
    )  # fmt: skip
    model.device.synchronize()
    loaded = time.perf_counter() - start

    def progress(text):
        print(text, file=sys.stderr)

    samples = measure(model, ids, options.n, options.runs, progress=progress)
    record = result(model, options.model, ids, options.n, samples)
    fuse = options.fuse if isinstance(options.fuse, bool) else ",".join(sorted(options.fuse))
    switches = {"x_load_s": loaded, "x_fuse": fuse, "x_programmatic": options.programmatic}
    return record | switches


if __name__ == "__main__":
    sys.exit(main())
