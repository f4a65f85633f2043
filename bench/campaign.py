"""Everything to be measured on a GPU, in one command: python -m bench.campaign --out DIR

Part by part (bench/campaign_parts.py), each in a process of its own with its own time limit: the
device's ceilings; for each full-size synthetic model the default, llama-bench beside it where
LLAMA_BENCH names the program, each switch alone, longer contexts, prefill, and every operation of a
step; the parity suite. Each part writes DIR/PART.json as it ends, with what it answered or how it
failed; a run that is repeated skips the parts that are done, so that it resumes where it was cut
off. Parts that do not fit --limit seconds are left for the next run. In the end DIR.tar.gz holds
all of it.
"""

import argparse
import json
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from bench.campaign_parts import MODELS, interpreter, parts
from bench.environment import environment
from bench.gpus import find_gpu
from zerfoo_numba import synth
from zerfoo_numba.errors import InputError, ZerfooError

LIMIT_S = 530  # under nine minutes, archive included
ROOT = Path(__file__).parent.parent
TAIL = 2000  # characters of what a failed part said


def done(path):
    """Whether a part has been measured; a file that is cut off is not one."""
    try:
        return json.loads(path.read_text())["status"] == "done"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run(part, limit_s):
    """The record of one part, whatever happens to it."""
    record = {"part": part.name, "command": [Path(c).name for c in interpreter(part)]}
    start = time.monotonic()
    try:
        process = subprocess.run(
            interpreter(part), cwd=ROOT, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        outcome = {"status": "timeout", "limit_s": limit_s}
    except OSError as error:
        outcome = {"status": "failed", "error": f"cannot be started: {error.strerror}"}
    else:
        outcome = judged(part, process)
    return record | outcome | {"seconds": round(time.monotonic() - start, 2)}


def judged(part, process):
    """{"status", "result"} of a process that has ended, or why it counts as failed."""
    if part.answer == "pytest":
        counts = {w: int(n) for n, w in re.findall(r"(\d+) (passed|failed|error|skipped)",
                                                   process.stdout)}  # fmt: skip
        if process.returncode in (0, 1) and counts:  # failures of tests are a result too
            return {"status": "done", "result": counts}
    elif process.returncode == 0:
        try:
            return {"status": "done", "result": json.loads(process.stdout)}
        except ValueError:
            return {"status": "failed", "error": "its answer is no JSON"}
    said = (process.stderr.strip() or process.stdout.strip())[-TAIL:].replace(str(ROOT), ".")
    return {"status": "failed", "returncode": process.returncode, "error": said}


def campaign(options, progress):
    """{part: its record's status, or "left"}; the files stand in `options.out`."""
    out = options.out
    models = options.model_folder or out.with_name(out.name + ".models")
    for folder in (out, models):
        folder.mkdir(parents=True, exist_ok=True)
    (out / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")
    end = time.monotonic() + options.limit
    found = {}
    for part in parts(options, models):
        path = out / f"{part.name}.json"
        if not done(path):
            left = end - time.monotonic()
            if left < 1:
                found[part.name] = "left"
                continue
            record = run(part, min(part.limit_s, left))
            if record["status"] == "timeout" and left < part.limit_s:
                found[part.name] = "left"  # it was the campaign that had no more time
                continue
            path.write_text(json.dumps(record, indent=1) + "\n")
            progress(f"{part.name}: {record['status']} after {record['seconds']:.0f} s")
            found[part.name] = record["status"]
        else:
            found[part.name] = "done before"
    archive(out)
    return found


def archive(folder):
    """FOLDER.tar.gz of the parts' files."""
    path = folder.with_name(folder.name + ".tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(folder.glob("*.json")):
            tar.add(file, f"{folder.name}/{file.name}", filter=_anonymous)
    return path


def _anonymous(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def arguments(argv):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.campaign", description=first)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpu", default="H200", help="whose rates bench.step sets beside")
    parser.add_argument("--models", default=",".join(MODELS), help="synthetic models, by commas")
    parser.add_argument("--model-folder", type=Path, help="where they lie; DIR.models otherwise")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--depths", default="4096,16384")
    parser.add_argument("--cached", type=int, default=1024, help="tokens before that of bench.step")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--largest", type=int, default=1024, help="MiB of the largest buffer read")
    parser.add_argument("--parity", default="tests/parity", help="arguments of pytest")
    parser.add_argument("--parity-limit", type=int, default=150)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for everything")
    options = parser.parse_args(argv)
    options.models = options.models.split(",")
    options.parity = options.parity.split()
    options.depths = [int(n) for n in options.depths.split(",") if n]
    return options


def main(argv=None):
    options = arguments(argv)
    try:
        find_gpu(options.gpu)
        unknown = [name for name in options.models if name not in synth.SHAPES]
        if unknown:
            raise InputError(f"there is no synthetic model {unknown[0]!r}")
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = campaign(options, lambda text: print(text, file=sys.stderr, flush=True))
    for name, status in found.items():
        print(f"{name:<36} {status}")
    return 0 if all(status.startswith("done") for status in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
