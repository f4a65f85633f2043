"""What the commands write where, with a stand-in for the model; one run with the real one."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import zerfoo_numba
from zerfoo_numba import terminal
from zerfoo_numba.cli import main
from zerfoo_numba.errors import ContextError


class Model:
    """Answers with fixed pieces and remembers what it was asked."""

    def __init__(self, pieces=("Two ", "pie", "ces")):
        self.pieces = pieces
        self.asked = []
        self.config = SimpleNamespace(name="stand-in")
        self.device = SimpleNamespace(name="none", description="no device")
        self.stats = SimpleNamespace(
            prompt_tokens=4, prompt_seconds=2.0, generated_tokens=11, decode_steps=10,
            generated_seconds=0.5,
            graph_share=1.0, images=0, image_seconds=0.0,
        )  # fmt: skip

    def chat_ids(self, messages):
        return [(m["role"], m["content"]) for m in messages]

    def stream(self, prompt, **options):
        self.asked.append((prompt, options))
        for piece in self.pieces:
            if isinstance(piece, type):
                raise piece("stopped")
            yield piece


@pytest.fixture
def model(monkeypatch):
    stand_in = Model()

    def load_model(path, **options):
        stand_in.loaded = (path, options)
        return stand_in

    monkeypatch.setattr(zerfoo_numba, "load_model", load_model)
    return stand_in


def typed(monkeypatch, text):
    """`text` on a stdin that is no terminal."""
    stream = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)


def test_generate_writes_the_text_alone_to_stdout(model, capsys):
    assert main(["generate", "-m", "m.gguf", "-p", "hello"]) == 0
    out, err = capsys.readouterr()
    assert out == "Two pieces\n"
    assert err == (
        "prompt 4 tokens in 2.00 s (2.0/s); generated 11 tokens in 0.50 s (20.0/s); none; "
        "100% of launches from the graph\n"
    )
    assert model.asked[0][0] == "hello"


def test_flags_reach_the_model(model):
    line = (
        "generate -m m.gguf -p x -n -1 -s 5 --temp 0.7 --top-k 9 --top-p 0.8 --min-p 0.1 "
        "--repeat-penalty 1.1 -c 128 -t 2 --device cuda --activation float --cache-type f16 "
        "--no-graph --check-finite"
    )
    assert main(line.split()) == 0
    assert model.loaded == ("m.gguf", {
        "context": 128, "threads": 2, "device": "cuda", "activation": "float", "requantize": None,
        "cache_type": "f16", "graph": False, "mmproj": None, "progress": terminal.note,
        "check_finite": True,
    })  # fmt: skip
    assert model.asked[0][1] == {
        "max_tokens": sys.maxsize, "seed": 5, "temperature": 0.7, "top_k": 9, "top_p": 0.8,
        "min_p": 0.1, "repeat_penalty": 1.1,
    }  # fmt: skip


def test_cache_types_of_k_and_v(model):
    for more, wanted in (
        (["-ctk", "q8_0", "-ctv", "f16"], ("q8_0", "f16")),
        (["--cache-type-v", "q8_0"], ("f16", "q8_0")),
        (["--cache-type", "f16", "-ctk", "q8_0"], ("q8_0", "f16")),
        (["--cache-type", "q8_0"], "q8_0"),
    ):
        assert main(["generate", "-m", "m.gguf", "-p", "x", *more]) == 0
        assert model.loaded[1]["cache_type"] == wanted


def test_defaults_are_those_of_the_public_interface(model):
    main(["generate", "-m", "m.gguf", "-p", "x"])
    assert model.loaded[1] == {
        "context": None, "threads": None, "device": "auto", "activation": None, "requantize": None,
        "cache_type": None, "graph": True, "mmproj": None, "progress": terminal.note,
        "check_finite": False,
    }  # fmt: skip
    assert model.asked[0][1] == {
        "max_tokens": 64, "seed": None, "temperature": 0.0, "top_k": 40, "top_p": 0.95,
        "min_p": 0.05, "repeat_penalty": 1.0,
    }  # fmt: skip


def test_generate_json(model, capsys):
    assert main(["generate", "-m", "m.gguf", "-p", "é", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["prompt"] == "é" and record["text"] == "Two pieces"
    assert record["generated_tokens"] == 11 and record["device"] == "none"


def test_a_prompt_from_a_file_and_from_stdin(model, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_bytes("é\r\nend\n".encode())
    main(["generate", "-m", "m.gguf", "-f", str(tmp_path / "p.txt")])
    typed(monkeypatch, "from stdin\n\n")
    main(["generate", "-m", "m.gguf", "-f", "-"])
    assert [prompt for prompt, _ in model.asked] == ["é\r\nend", "from stdin\n"]


def test_ctrl_c_keeps_what_was_written_and_exits_130(model, capsys):
    model.pieces = ("Two ", KeyboardInterrupt)
    assert main(["generate", "-m", "m.gguf", "-p", "x"]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("Two ", "\n")


def test_progress_is_for_terminals(model, capsys, monkeypatch):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True)
    main(["generate", "-m", "m.gguf", "-p", "x"])
    out, err = capsys.readouterr()
    assert out == "Two pieces\n"
    assert "loading m.gguf ..." in err and "reading the prompt ..." in err
    assert "stand-in on no device" in err


def test_chat_keeps_the_conversation(model, capsys, monkeypatch):
    typed(monkeypatch, "one\ntwo \\\nlines\n/help\n\n/reset\nthree\n/exit\nnever\n")
    assert main(["chat", "-m", "m.gguf", "-sys", "be kind"]) == 0
    system, answer = ("system", "be kind"), ("assistant", "Two pieces")
    assert [prompt for prompt, _ in model.asked] == [
        [system, ("user", "one")],
        [system, ("user", "one"), answer, ("user", "two \nlines")],
        [system, ("user", "three")],
    ]
    out, err = capsys.readouterr()
    assert out == "Two pieces\n" * 3
    assert "/reset" in err


def test_chat_with_one_message(model, capsys):
    assert main(["chat", "-m", "m.gguf", "-p", "hi"]) == 0
    assert model.asked[0][0] == [("user", "hi")]
    assert capsys.readouterr().out == "Two pieces\n"


def test_chat_at_a_terminal_survives_ctrl_c_and_a_full_context(model, capsys, monkeypatch):
    typed(monkeypatch, "one\ntwo\nthree\n")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers = iter([("Tw", KeyboardInterrupt), (ContextError,), ("fine",)])
    stream = model.stream

    def next_answer(prompt, **options):
        model.pieces = next(answers)
        return stream(prompt, **options)

    model.stream = next_answer
    assert main(["chat", "-m", "m.gguf"]) == 0
    interrupted = [("user", "one"), ("assistant", "Tw")]
    assert [prompt for prompt, _ in model.asked] == [
        [("user", "one")],
        [*interrupted, ("user", "two")],
        [*interrupted, ("user", "three")],  # the turn that did not fit is not remembered
    ]
    out, err = capsys.readouterr()
    assert out == "Tw\nfine\n"
    assert "stopped; /reset starts again" in err


def test_tokenize(tiny, capsys):
    text = "ba be<end_of_turn>"
    assert main(["tokenize", "-m", str(tiny), "-p", text]) == 0
    assert "5 -> '<end_of_turn>'" in capsys.readouterr().out
    main(["tokenize", "-m", str(tiny), "-p", text, "--ids"])
    ids = json.loads(capsys.readouterr().out)
    assert ids == zerfoo_numba.load_tokenizer(tiny).encode(text, parse_special=True)
    main(["tokenize", "-m", str(tiny), "-p", text, "--ids", "--no-bos", "--no-parse-special"])
    plain = json.loads(capsys.readouterr().out)
    assert ids[0] not in plain and 5 not in plain
    main(["tokenize", "-m", str(tiny), "-p", text, "--json"])
    assert json.loads(capsys.readouterr().out)["ids"] == ids
    main(["tokenize", "-m", str(tiny), "--decode", str(ids)])
    assert capsys.readouterr().out == f"<bos>{text}\n"


def test_info(tiny, capsys):
    assert main(["info", str(tiny)]) == 0
    out, err = capsys.readouterr()
    rows = {tuple(line.split()) for line in out.splitlines()}
    assert {("runs", "here", "yes"), ("layers", "7"), ("gemma3.block_count", "7")} <= rows
    gguf = zerfoo_numba.open_gguf(tiny)
    for name, tensor in gguf.tensors.items():
        shape = " x ".join(map(str, tensor.shape)).split()
        assert (name, tensor.type, *shape, f"{tensor.data.nbytes:,}") in rows
    total = sum(tensor.data.nbytes for tensor in gguf.tensors.values())
    assert ("all", str(len(gguf.tensors)), f"{total:,}") in rows
    assert err == ""
    main(["info", "-m", str(tiny), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["metadata"]["tokenizer.ggml.tokens"]["count"] == 768
    assert sum(row["bytes"] for row in record["types"].values()) == total


def test_info_shows_what_it_cannot_run_and_no_control_characters(tiny, tmp_path, capsys):
    from tests.cli.test_errors import rewrite

    changed = {"general.architecture": "bloom", "general.name": "\x1b[2Jred\n"}
    path = rewrite(tiny, tmp_path / "odd.gguf", changed)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "no: " in out and "'bloom' is not supported" in out
    assert "\x1b" not in out and r"\x1b[2Jred\n" in out


def test_synth(tmp_path, tiny, capsys):
    assert main(["synth", "gemma3-tiny", str(tmp_path / "out.gguf")]) == 0
    assert (tmp_path / "out.gguf").read_bytes() == tiny.read_bytes()
    assert capsys.readouterr().out == ""


def test_synth_takes_a_quantisation(tmp_path, capsys):
    path = tmp_path / "out.gguf"
    assert main(["synth", "llama-3.2-tiny", str(path), "--quantization", "Q8_0"]) == 0
    kinds = {tensor.type for tensor in zerfoo_numba.open_gguf(path).tensors.values()}
    assert kinds == {"F32", "Q8_0"}
    assert main(["synth", "llama-3.2-tiny", str(path), "--quantization", "Q9_9"]) == 2
    assert "Q4_K_M" in capsys.readouterr().err


def test_synth_lists_the_models_it_knows(capsys):
    assert main(["synth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"gemma3-1b", "deepseek-r1-1.5b", "llama-3.2-1b", "llama-3.2-3b", "mistral-7b"} <= {
        line.split()[0] for line in lines
    }
    assert main(["synth", "mistral-7b"]) == 2
    assert "mistral-7b needs" in capsys.readouterr().err


def test_help_shows_examples(capsys):
    for arguments, example in ((["-h"], "synth gemma3-tiny"), (["chat", "-h"], "chat -m")):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert f"zerfoo-numba {example}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["info"], ["numba", "sentencepiece", "jinja2"]),
        (["tokenize", "-p", "ba", "-m"], ["numba", "jinja2"]),
    ],
)
def test_light_commands_import_nothing_heavy(arguments, unused, tiny):
    code = (
        "import sys; from zerfoo_numba.cli import main; main(sys.argv[2:]); "
        "sys.exit(bool(set(sys.argv[1].split(',')) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, ",".join(unused), *arguments, str(tiny)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def test_generate_with_the_emulator(tiny, capsys):
    flags = ["-p", "ba be", "-n", "3", "-c", "32", "--device", "emulator"]
    assert main(["generate", "-m", str(tiny), *flags, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["device"] == "emulator" and record["generated_tokens"] == 3
    assert record["text"] and record["generated_seconds"] > 0
