"""Against peers: python -m bench.compare -m FILE [--against llama.cpp,ollama,vllm] [-n 64] [-p 512]

Same file, same counts of tokens, interleaved A B A B in one run, because shared machines change
speed from minute to minute: only the ratio of neighbours says something. Each side's record says
whether it gets the same token ids. A peer that is not there is named as missing, never estimated.

llama.cpp: `llama-bench` at LLAMA_BENCH or on PATH; else llama-cpp-python in the interpreter that
LLAMA_CPP_PYTHON names, or in this one. LLAMA_CPP_EXTRA_BUFFERS=0 turns its repacked buffers off.
Ollama: the server at OLLAMA_HOST (bench/ollama_peer.py). vLLM: the server at VLLM_HOST, which must
serve the same file (bench/vllm_peer.py).
"""

import argparse
import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import zerfoo_numba
from bench.environment import environment
from bench.interval import summary
from bench.ollama_peer import find_ollama
from bench.vllm_peer import find_vllm
from zerfoo_numba.errors import ZerfooError

PEER = Path(__file__).parent / "llama_cpp_peer.py"
PEERS = ("llama.cpp", "ollama", "vllm")
SAME = {"prompt": "the same token ids"}


class Ours:
    """zerfoo-numba on `device`."""

    def __init__(self, path, context, device, threads):
        self.model = zerfoo_numba.load_model(path, device=device, context=context, threads=threads)
        self.about = {
            "device": self.model.device.description,
            "activation": self.model.activation,
            "cache_type": self.model.walk.cache.types[0],
            **SAME,
        }

    def prefill(self, ids):
        with self.model.device.timer() as timing:
            self.model.prefill(ids)
        self.model.greedy_start()
        return timing.seconds

    def decode(self, ids):
        with self.model.device.timer() as timing:
            self.model.continue_greedy(len(ids))
        return timing.seconds


class LlamaCppPython:
    """llama.cpp in a process of its own; see llama_cpp_peer."""

    def __init__(self, python, path, context, threads):
        command = [python, str(PEER), path, str(context), str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.about = self._answer() | SAME

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise ZerfooError(
                f"llama.cpp stopped with status {status}; LLAMA_CPP_EXTRA_BUFFERS=0 avoids a crash "
                "of its AMX kernels"
            )
        return json.loads(line)

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def prefill(self, ids):
        return self._ask(prefill=ids)

    def decode(self, ids):
        return self._ask(decode=ids)


class LlamaBench:
    """llama-bench, a run of the program for each measurement."""

    def __init__(self, program, path, threads, gpu):
        layers = "99" if gpu else "0"
        more = ("-t", str(threads), "-r", "1", "-ngl", layers, "-o", "json")
        self.command = [program, "-m", path, *more]
        self.about = {}

    def _run(self, *options):
        done = subprocess.run([*self.command, *options], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ZerfooError(f"llama-bench stopped with status {done.returncode}: {last}")
        (record,) = json.loads(done.stdout)
        self.about = {
            k: record.get(k) for k in ("build_commit", "build_number", "type_k", "type_v")
        } | {"prompt": "random tokens of its own, as many"}
        return record["avg_ns"] / 1e9

    def prefill(self, ids):
        return self._run("-p", str(len(ids)), "-n", "0")

    def decode(self, ids):
        return self._run("-p", "0", "-n", str(len(ids)))


def find_llama_cpp(path, context, threads, gpu=False):
    """The peer, or None with the reason why there is none."""
    named = os.environ.get("LLAMA_BENCH")
    if program := shutil.which(named or "llama-bench"):
        return LlamaBench(program, path, threads, gpu), None
    if named:
        return None, "LLAMA_BENCH names no program that can be started"
    python = os.environ.get("LLAMA_CPP_PYTHON")
    if python is None and importlib.util.find_spec("llama_cpp"):
        python = sys.executable
    if python is None:
        return None, "neither llama-bench (LLAMA_BENCH) nor llama-cpp-python (LLAMA_CPP_PYTHON)"
    if not shutil.which(python):
        return None, "LLAMA_CPP_PYTHON names no program that can be started"
    try:
        return LlamaCppPython(python, path, context, threads), None
    except ZerfooError as error:
        return None, str(error)


def interleave(sides, prompt, count, rounds, progress):
    """[{side: (prefill seconds, decode seconds)}] for each round; the order turns every round."""
    ids = list(prompt)[:1] * count
    for side in sides.values():  # warm-up: first touches, code that is compiled on first use
        side.prefill(prompt)
        side.decode(ids[:8])
    results = []
    for turn in range(rounds):
        order = list(sides) if turn % 2 == 0 else list(reversed(sides))
        results.append({n: (sides[n].prefill(prompt), sides[n].decode(ids)) for n in order})
        rates = ", ".join(f"{n} {count / results[-1][n][1]:.3g}" for n in sides)
        progress(f"round {turn + 1} of {rounds}: decode tokens/s {rates}")
    return results


def rates(results, peer, prompt_tokens, count):
    """{"prefill", "decode"}: tokens/s of both sides in every round, and the ratio ours / theirs of
    neighbours, its median and the bootstrap interval of that."""
    found = {}
    for k, (what, tokens) in enumerate((("prefill", prompt_tokens), ("decode", count))):
        ours = [tokens / r["zerfoo-numba"][k] for r in results]
        theirs = [tokens / r[peer][k] for r in results]
        found[what] = {
            "tokens": tokens,
            "ours_tokens_per_s": ours,
            "theirs_tokens_per_s": theirs,
            "ratio": summary([a / b for a, b in zip(ours, theirs, strict=True)]),
        }
    return found


def compare(options, progress):
    path = options.model
    threads = options.threads or len(os.sched_getaffinity(0))
    context = options.prompt_tokens + options.n + 16
    ours = Ours(path, context, options.device, threads)
    gpu = ours.model.device.name == "cuda"
    found = {
        "llama.cpp": lambda: find_llama_cpp(path, context, threads, gpu),
        "ollama": lambda: find_ollama(path, context, threads),
        "vllm": lambda: find_vllm(path),
    }
    found = {name: found[name]() for name in options.against}
    sides = {"zerfoo-numba": ours} | {n: peer for n, (peer, _) in found.items() if peer}
    record = {
        **environment(), "model_filename": Path(path).name,
        "model_size": Path(path).stat().st_size, "threads": threads,
        "test_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "missing": {name: reason for name, (peer, reason) in found.items() if peer is None},
        "peers": {},
    }  # fmt: skip
    if len(sides) == 1:
        return record
    prompt = [2 + i % 200 for i in range(options.prompt_tokens)]
    try:
        results = interleave(sides, prompt, options.n, options.rounds, progress)
    finally:
        if "ollama" in sides:
            sides["ollama"].close()
    for name in sides.keys() - {"zerfoo-numba"}:
        record["peers"][name] = rates(results, name, len(prompt), options.n)
    return record | {"sides": {name: side.about for name, side in sides.items()}}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--against", default="llama.cpp", help=f"some of {','.join(PEERS)}")
    parser.add_argument("-n", type=int, default=64, help="decoded tokens a round")
    parser.add_argument("-p", "--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="also write the record to this JSON file")
    options = parser.parse_args(argv)
    options.against = options.against.split(",")
    if unknown := set(options.against) - set(PEERS):
        parser.error(
            f"--against takes some of {', '.join(PEERS)}, not {', '.join(sorted(unknown))}"
        )
    if min(options.n, options.prompt_tokens, options.rounds, options.threads or 1) < 1:
        parser.error("-n, --prompt-tokens, --rounds and --threads take a number of at least 1")
    try:
        record = compare(options, lambda text: print(text, file=sys.stderr))
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(record, indent=2)
    if options.out:
        Path(options.out).write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
