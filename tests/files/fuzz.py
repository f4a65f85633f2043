"""Mutated files, many of them: python -m tests.files.fuzz [--count N] [--seed S] [--load]

Every file must end in a model or in one ZerfooError: no other exception, no crash, under a second
of CPU time and under 64 MiB of memory beyond the file, which a limit on the address space enforces.
The files, models and image towers, go through open_gguf, both configs, the tokenizer, the chat
template and `info`; with --load they are loaded on the cpu, where they must answer a prompt.
A worker process does the work, so that a crash costs one file and is reported with it. Failing
files are kept in --keep. With --atheris the mutations are guided by coverage (pip install atheris):
what follows are libFuzzer's options, as --atheris -max_total_time=600.
"""

import argparse
import contextlib
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from tests.files import builder
from tests.files.mutate import Parts, file_bytes, mutated, taken_apart
from zerfoo_numba import chat, info, tokenizer
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import InputError, ZerfooError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.vision_config import VisionConfig

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
PROJECTOR = "clip.projector_type"
# The golden text model that belongs to a projector, if not LLaVA's.
PROJECTED = {"gemma3": "gemma3", "qwen2vl_merger": "qwen2vl", "qwen2.5vl_merger": "qwen25vl"}
SECONDS, MEBIBYTES = 1.0, 64
LOADING = 15.0  # seconds: the first use of a kernel compiles it
GUIDED_BYTES = 1 << 15  # of the files that a guided run begins with
STARTING = 900  # to use every valid file once


def small_files():
    """Parts of files of a few kilobytes: one per kind of vocabulary and family."""

    def parts(metadata, shapes):
        tensors = [(n, s, 0, bytes(4 * _size(s))) for n, s in shapes.items()]
        return Parts(tuple(metadata.items()), tuple(tensors))

    plain = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.scores": (builder.ARRAY, builder.F32, [0.0] * 20),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 17],
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    pairs = plain | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.token_type": [1] * 20,
        "tokenizer.ggml.tokens": [*"abcdefghijklmnopqr", "ab", "bc"],
        "tokenizer.ggml.merges": ["a b", "b c"],
    }
    return [
        parts(builder.gemma3_metadata(L=1) | plain, builder.gemma3_shapes(L=1)),
        parts(builder.llama_metadata(L=1) | pairs, builder.llama_shapes(L=1)),
    ]  # fmt: skip


def _size(shape):
    count = 1
    for n in shape:
        count *= n
    return count


def golden_files():
    return [taken_apart(path) for path in sorted(GOLDEN.glob("*/model.gguf"))]


def tower_files():
    return [taken_apart(path) for path in sorted(GOLDEN.glob("vision_files/*/mmproj.gguf"))]


def read(path):
    """All that is read of a file before its weights go to a device; may raise ZerfooError."""
    with open_gguf(path) as gguf:
        info.table(gguf)
        is_tower = str(gguf.metadata.get("general.architecture")) == "clip"
        problem = None
        for kind in (ModelConfig, VisionConfig):  # each part on its own
            try:
                kind.from_gguf(gguf).check_tensors(gguf)
            except ZerfooError as error:
                problem = error if is_tower == (kind is VisionConfig) else problem
        if not is_tower:
            _words(gguf)
        if problem:
            raise problem


def _words(gguf):
    words = tokenizer.from_gguf(gguf)
    ids = words.encode("Hello <s> caf\u00e9 12", parse_special=True)
    words.decode(ids, special=True)
    if "tokenizer.chat_template" in gguf.metadata:
        chat.prompt_ids(gguf.metadata, words, [{"role": "user", "content": "hi"}])


def load(path):
    """The file as a model that answers a prompt, or as a tower that sees; may raise ZerfooError."""
    from zerfoo_numba.generate import load_model

    with open_gguf(path) as gguf:
        kind, projector = (str(gguf.metadata.get(k)) for k in ("general.architecture", PROJECTOR))
    if kind != "clip":
        load_model(path, device="cpu", context=8, threads=1).logits([1, 2, 3])
        return
    model = GOLDEN / "vision_files" / PROJECTED.get(projector, "llava15") / "model.gguf"
    model = load_model(model, device="cpu", context=32, threads=1, mmproj=path)
    model.embed_image(np.zeros((40, 24, 3), np.uint8))


def judged(path, use):
    """None, or what is wrong with how `use` took the file."""
    _forget_peak()
    start, before = time.process_time(), _peak()
    try:
        use(path)
    except ZerfooError as error:
        message = str(error)
        if not 10 < len(message) < 1500 or "\n" in message:
            return f"a message of {len(message)} characters: {message[:200]!r}"
    except RecursionError:
        return "RecursionError"
    except Exception:
        return traceback.format_exc()
    seconds, grown = time.process_time() - start, _peak() - before
    limit = SECONDS if use is read else LOADING
    if seconds > limit:
        return f"{seconds:.1f} s"
    if use is read and grown > MEBIBYTES:
        return f"{grown:.0f} MiB"
    return None


def _forget_peak():
    """Count from here on; elsewhere than on Linux, growth beyond an earlier peak alone is seen."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak():
    """The most memory this process has had, in MiB (Linux counts in KiB, macOS in bytes)."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _limit_memory():
    """Let no more than MEBIBYTES, and some for what Python itself keeps, be allocated from here on:
    what asks for more fails, whether it would be touched or not."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ((MEBIBYTES + KEPT) << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


KEPT = 16  # MiB


def sources(loading):
    if loading:
        return [*golden_files(), *tower_files()]
    return [*small_files(), *small_files(), *golden_files()[::4], *tower_files()]


def _work(connection, folder, seed, loading):
    """Take numbers, answer with what is wrong with that file or None; it lies in `folder`."""
    parts, path = sources(loading), Path(folder) / "file.gguf"
    use = load if loading else read
    for whole in parts:  # valid: they warm up imports and caches, and must pass
        path.write_bytes(file_bytes(whole))
        with contextlib.suppress(InputError):  # a small vocabulary may lack the text's bytes
            use(path)
    if not loading:
        _limit_memory()
    connection.send("ready")
    while True:
        number = connection.recv()
        rng = random.Random(f"{seed} {number}")
        path.write_bytes(mutated(rng.choice(parts), rng))
        connection.send(judged(path, use))


class Worker:
    """A process that judges files; a crash there is an answer here."""

    def __init__(self, *arguments):
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, *arguments), daemon=True)
        self._process.start()
        there.close()
        if (first := self._answer(STARTING)) != "ready":
            raise RuntimeError(f"the valid files do not pass: {first}")

    def judge(self, number):
        self._pipe.send(number)
        return self._answer()

    def _answer(self, seconds=600):  # by the clock: others may need the machine
        try:
            return self._pipe.recv() if self._pipe.poll(seconds) else f"no answer in {seconds} s"
        except (EOFError, OSError):
            self._process.join()
            return f"the process died with {self._process.exitcode}"

    def stop(self):
        self._process.kill()
        self._process.join()


def campaign(count, seed, loading, keep=None, progress=None):
    """Run `count` files; -> [(number, what is wrong)]. A worker that failed is replaced."""
    failures, worker = [], None
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            worker = worker or Worker(folder, seed, loading)
            wrong = worker.judge(number)
            if wrong is not None:
                failures.append((number, wrong))
                worker.stop()
                worker = None
                if keep:
                    Path(keep).mkdir(parents=True, exist_ok=True)
                    raw = (Path(folder) / "file.gguf").read_bytes()
                    Path(keep, f"{seed}-{number}.gguf").write_bytes(raw)
            if progress and (number + 1) % 1000 == 0:
                progress(f"{number + 1} files, {len(failures)} failures")
        if worker:
            worker.stop()
    return failures


def guided(arguments):
    """libFuzzer's loop over `read`, with the valid files as its corpus."""
    import atheris

    with atheris.instrument_imports(include=["zerfoo_numba"], enable_loader_override=False):
        import zerfoo_numba.gguf_header  # noqa: F401
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as folder:
        path, corpus = Path(folder) / "file.gguf", Path(folder) / "corpus"
        corpus.mkdir()
        files = [file_bytes(parts) for parts in (*small_files(), *golden_files(), *tower_files())]
        for i, raw in enumerate(raw for raw in files if len(raw) < GUIDED_BYTES):
            (corpus / str(i)).write_bytes(raw)

        def one(data):
            path.write_bytes(data)
            with contextlib.suppress(ZerfooError):
                read(path)

        atheris.Setup([sys.argv[0], *arguments, str(corpus)], one)
        atheris.Fuzz()


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.files.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load", action="store_true", help="load each file as a model on the cpu")
    parser.add_argument("--keep", help="a folder for the files that fail")
    parser.add_argument("--atheris", nargs=argparse.REMAINDER, help="libFuzzer's own options")
    options = parser.parse_args(arguments)
    if options.atheris is not None:
        return guided(options.atheris)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    failures = campaign(options.count, options.seed, options.load, options.keep, say)
    for number, wrong in failures:
        print(f"file {number} of seed {options.seed}: {wrong}")
    print(f"{options.count} files, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
