"""Every bad input ends in one sentence on stderr, nothing on stdout, and exit code 2."""

import os
import struct
import subprocess
import sys

import pytest

import zerfoo_numba
from zerfoo_numba.cli import main
from zerfoo_numba.config import ARCHS
from zerfoo_numba.gguf_file import TYPE_BY_NAME
from zerfoo_numba.gguf_writer import write_gguf


def rewrite(source, path, metadata=(), drop=(), retype=()):
    """A copy of the GGUF file `source` with other metadata (None drops a key), tensors dropped, or
    given another type and zeros for data."""
    gguf = zerfoo_numba.open_gguf(source)
    merged = gguf.metadata | dict(metadata)
    kinds = {n: (t.shape, dict(retype).get(n, t.type)) for n, t in gguf.tensors.items()}

    def data(name, shape, kind):
        if name in dict(retype):
            block = TYPE_BY_NAME[kind]
            return [bytes(shape[0] * shape[1] // block.block_size * block.block_bytes)]
        return [gguf.tensors[name].data.tobytes()]

    write_gguf(
        path,
        {key: value for key, value in merged.items() if value is not None},
        {name: kind for name, kind in kinds.items() if name not in drop},
        data,
    )
    return path


def generate(model, *more, prompt="ba be"):
    return ["generate", "-m", model, "-p", prompt, "-n", "1", "--device", "emulator", *more]


def text_file(tiny, tmp):
    (tmp / "notes.txt").write_text("not a model at all, only text")
    return generate(tmp / "notes.txt")


def truncated(tiny, tmp):
    (tmp / "cut.gguf").write_bytes(tiny.read_bytes()[:-100_000])
    return generate(tmp / "cut.gguf")


def truncated_metadata(tiny, tmp):
    (tmp / "cut.gguf").write_bytes(tiny.read_bytes()[:2000])
    return ["info", tmp / "cut.gguf"]


def unknown_type_id(tiny, tmp):
    """A type id that no ggml type has, in the place of Q4_K's 12."""
    raw, name = tiny.read_bytes(), b"blk.0.attn_q.weight"
    at = raw.index(name) + len(name)
    assert raw[at : at + 24] == struct.pack("<IQQI", 2, 256, 256, 12)
    (tmp / "type.gguf").write_bytes(raw[: at + 20] + struct.pack("<I", 99) + raw[at + 24 :])
    return generate(tmp / "type.gguf")


def not_utf8(tiny, tmp):
    (tmp / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    return ["tokenize", "-m", tiny, "-f", tmp / "latin1.txt"]


CASES = {
    "no such file": (lambda tiny, tmp: generate(tmp / "none.gguf"), ["none.gguf"]),
    "a directory": (lambda tiny, tmp: generate(tmp), ["directory"]),
    "not a GGUF": (text_file, ["notes.txt", "GGUF"]),
    "empty file": (lambda tiny, tmp: ["info", _touch(tmp / "empty.gguf")], ["empty"]),
    "truncated file": (truncated, ["cut.gguf", "bytes"]),
    "truncated metadata": (truncated_metadata, ["cut.gguf"]),
    "unsupported architecture": (
        lambda tiny, tmp: generate(
            rewrite(tiny, tmp / "arch.gguf", {"general.architecture": "bloom"})
        ),
        ["'bloom'", *ARCHS],
    ),
    "unknown tensor type": (unknown_type_id, ["blk.0.attn_q.weight", "99"]),
    "unsupported tensor type": (  # ggml's type for activations, which no file should hold
        lambda tiny, tmp: generate(
            rewrite(tiny, tmp / "q8.gguf", retype={"blk.0.attn_q.weight": "Q8_K"})
        ),
        ["blk.0.attn_q.weight", "Q8_K", "Q4_K"],
    ),
    "missing key": (
        lambda tiny, tmp: generate(rewrite(tiny, tmp / "key.gguf", {"gemma3.block_count": None})),
        ["gemma3.block_count"],
    ),
    "missing tensor": (
        lambda tiny, tmp: generate(
            rewrite(tiny, tmp / "tensor.gguf", drop=["blk.3.ffn_down.weight"])
        ),
        ["blk.3.ffn_down.weight"],
    ),
    "missing vocabulary": (
        lambda tiny, tmp: generate(
            rewrite(tiny, tmp / "vocab.gguf", {"tokenizer.ggml.scores": None})
        ),
        ["tokenizer.ggml.scores"],
    ),
    "other vocabulary kind": (
        lambda tiny, tmp: generate(
            rewrite(tiny, tmp / "bpe.gguf", {"tokenizer.ggml.model": "bert"})
        ),
        ["'bert'", "llama"],
    ),
    "prompt longer than the context": (
        lambda tiny, tmp: generate(tiny, "-c", "8", prompt="ba " * 20),
        ["context", "8"],
    ),
    "context longer than trained": (
        lambda tiny, tmp: generate(tiny, "-c", "5000"),
        ["5000", "2048"],
    ),
    "no chat template": (
        lambda tiny, tmp: [
            *("chat", "-p", "hi", "--device", "emulator", "-m"),
            rewrite(tiny, tmp / "plain.gguf", {"tokenizer.chat_template": None}),
        ],
        ["tokenizer.chat_template"],
    ),
    "unknown device": (lambda tiny, tmp: generate(tiny, "--device", "abacus"), ["abacus"]),
    "unknown activation": (lambda tiny, tmp: generate(tiny, "--activation", "x"), ["'x'"]),
    "unknown cache type": (lambda tiny, tmp: generate(tiny, "--cache-type", "q9"), ["q9", "f16"]),
    "top-p out of range": (lambda tiny, tmp: generate(tiny, "--top-p", "1.5"), ["top_p", "1.5"]),
    "token id out of range": (
        lambda tiny, tmp: ["tokenize", "-m", tiny, "--decode", "5 768"],
        ["768", "767"],
    ),
    "no token id": (lambda tiny, tmp: ["tokenize", "-m", tiny, "--decode", "5 x"], ["5 x"]),
    "no prompt file": (
        lambda tiny, tmp: ["tokenize", "-m", tiny, "-f", tmp / "none.txt"],
        ["none.txt"],
    ),
    "prompt is not UTF-8": (not_utf8, ["latin1.txt", "byte 2"]),
    "unknown synthetic model": (
        lambda tiny, tmp: ["synth", "gpt5", tmp / "out.gguf"],
        ["'gpt5'", "gemma3-tiny"],
    ),
    "no place to write": (
        lambda tiny, tmp: ["synth", "gemma3-tiny", tmp / "none" / "out.gguf"],
        ["none/out.gguf"],
    ),
}


def _touch(path):
    path.touch()
    return path


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_exit_code_2(case, tiny, tmp_path, capsys):
    arguments, words = CASES[case]
    code = main([str(a) for a in arguments(tiny, tmp_path)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("zerfoo-numba: ") and err.count("\n") == 1 and len(err) < 500
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["generate"], ["generate", "-m", "x"], ["info", "x", "y"],
     ["generate", "-m", "x", "-p", "a", "-n", "b"],
     ["tokenize", "-m", "x", "-p", "a", "--decode", "1"]],
)  # fmt: skip
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_reader_that_leaves_is_no_error(tiny):
    """`zerfoo-numba info FILE | head -1`: no traceback, and the code that a shell expects."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "zerfoo_numba", "info", tiny], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
