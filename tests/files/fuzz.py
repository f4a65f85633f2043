"""Mutated files, many of them: python -m tests.files.fuzz [--count N] [--seed S] [--load]

Every file must end in a model or in one ZerfooError: no other exception, no crash, under a second
of CPU time and under 64 MiB of memory beyond the file. The files go through open_gguf, the config
and the tokenizer; with --load they are loaded as models on the cpu, which must answer a prompt.
A worker process does the work, so that a crash costs one file and is reported with it. Failing
files are kept in --keep. With --atheris the mutations are guided by coverage (pip install atheris).
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

from tests.files import builder
from tests.files.mutate import Parts, file_bytes, mutated, taken_apart
from zerfoo_numba import chat, tokenizer
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import InputError, ZerfooError
from zerfoo_numba.gguf_file import open_gguf

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
SECONDS, MEBIBYTES = 1.0, 64
LOADING = 15.0  # seconds: the first use of a kernel compiles it


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


def read(path):
    """All that is read of a file before its weights go to a device; may raise ZerfooError."""
    with open_gguf(path) as gguf:
        with contextlib.suppress(ZerfooError):  # each part on its own
            ModelConfig.from_gguf(gguf).check_tensors(gguf)
        words = tokenizer.from_gguf(gguf)
        ids = words.encode("Hello <s> caf\u00e9 12", parse_special=True)
        words.decode(ids, special=True)
        if "tokenizer.chat_template" in gguf.metadata:
            chat.prompt_ids(gguf.metadata, words, [{"role": "user", "content": "hi"}])


def load(path):
    """The file as a model that answers a prompt; may raise ZerfooError."""
    from zerfoo_numba.generate import load_model

    model = load_model(path, device="cpu", context=8, threads=1)
    model.logits([1, 2, 3])


def judged(path, use):
    """None, or what is wrong with how `use` took the file."""
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


def _peak():
    """The most memory this process has had, in MiB (Linux counts in KiB, macOS in bytes)."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def sources(loading):
    return golden_files() if loading else [*small_files(), *small_files(), *golden_files()[::4]]


def _work(connection, folder, seed, loading):
    """Take numbers, answer with what is wrong with that file or None; it lies in `folder`."""
    parts, path = sources(loading), Path(folder) / "file.gguf"
    use = load if loading else read
    for whole in parts:  # valid: they warm up imports and caches, and must pass
        path.write_bytes(file_bytes(whole))
        with contextlib.suppress(InputError):  # a small vocabulary may lack the text's bytes
            use(path)
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
        if (first := self._answer()) != "ready":
            raise RuntimeError(f"the valid files do not pass: {first}")

    def judge(self, number):
        self._pipe.send(number)
        return self._answer()

    def _answer(self):
        try:
            return self._pipe.recv() if self._pipe.poll(120) else "no answer in 120 s"
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
        for i, parts in enumerate(small_files()):
            (corpus / str(i)).write_bytes(file_bytes(parts))

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
