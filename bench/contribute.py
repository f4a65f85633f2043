"""A result for the store in one command: python -m bench.contribute -m FILE [--device D]

Measures decoding with the graph and without it, each peer that is there and the machine's ceilings,
and writes one file for each to reports/MACHINE/. Instead, --campaign takes what
bench.campaign measured, --file what a command of bench printed as JSON, and --llama-bench what
llama-bench did. What must not be published (host name, paths) is refused; see bench/store.py.
`python -m bench.report` renders the page afterwards.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench import store
from zerfoo_numba.errors import FileError, InputError, ZerfooError

ROOT = Path(__file__).parent.parent


def measure(options):
    """(kind, record) of each measurement of the model, as it ends."""
    file = str(options.model.resolve())
    device = ("--device", options.device)
    run = ("bench.tps", "-m", file, "-n", str(options.n), "--runs", str(options.runs), "--json")
    yield "tps", answer(*run, *device)
    yield "tps", answer(*run, *device, "--no-graph")
    compare = ("bench.compare", "-m", file, "-n", str(options.n), "-p", str(options.prompt_tokens))
    more = ("--rounds", str(options.runs), "--against", "llama.cpp,ollama,vllm")
    yield "compare", answer(*compare, *more, *device)
    yield "ceilings", answer("bench.ceilings", "--json", "--largest", str(options.largest), *device)


def answer(*command):
    """The JSON that a command of bench prints; its errors become ours."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ZerfooError(f"{command[0]} failed: {last.removeprefix('error: ')}")
    return json.loads(done.stdout)


def campaign(folder):
    """(kind, record) of each part of a campaign that was measured."""
    for path in sorted(folder.glob("*.json")):
        part = _json(path)
        if not isinstance(part, dict) or part.get("status") != "done":
            continue
        result = part.get("result")
        if isinstance(result, list):
            yield from (("llama-bench", store.llama_bench(record)) for record in result)
        elif kind := kind_of(result):
            yield kind, result


def kind_of(record):
    """The kind of what a command of bench prints, or None."""
    if "samples_ns" in record:
        return "tps"
    if "peers" in record:
        return "compare"
    if "formats" in record:
        return "quants"
    return record.get("kind") if record.get("kind") in store.FIELDS else None


def _json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is no JSON file that can be read ({error})") from None


def results(options):
    if options.campaign:
        return campaign(options.campaign)
    if options.llama_bench:
        found = _json(options.llama_bench)
        return [("llama-bench", store.llama_bench(r)) for r in found]
    if options.file:
        record = _json(options.file)
        return [(kind_of(record), record)]
    if options.model is None:
        raise InputError("there is nothing to contribute: give -m, --campaign or --file")
    return measure(options)


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.contribute", description=first)
    parser.add_argument("-m", "--model", type=Path)
    parser.add_argument("--campaign", type=Path, metavar="DIR")
    parser.add_argument("--file", type=Path, help="JSON that a command of bench printed")
    parser.add_argument("--llama-bench", type=Path, metavar="FILE")
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="FOLDER")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("-p", "--prompt-tokens", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--largest", type=int, default=256, help="MiB of the largest buffer read")
    options = parser.parse_args(argv)
    try:
        for kind, record in results(options):
            print(store.write(kind, record, options.reports))
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
