"""bench.compare: rounds, ratios and missing peers; Ollama by the answers of a local HTTP server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench import compare, store
from bench.ollama_peer import NAME, Ollama, find_ollama
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.synth import synthesize


class Handler(BaseHTTPRequestHandler):
    """What Ollama 0.5 answers; the server keeps what it was asked."""

    def do_GET(self):
        self.answer({"version": "0.5.7"})

    def do_DELETE(self):
        self.take()
        self.answer({})

    def do_POST(self):
        body = self.take()
        if self.path == "/api/generate" and self.server.broken:
            self.answer({"response": ""})
        elif self.path == "/api/generate":
            count = body["options"]["num_predict"]
            words = len(body["prompt"].split())
            self.answer({
                "response": "x", "done": True,
                "prompt_eval_count": words + 1, "prompt_eval_duration": (words + 1) * 10**6,
                "eval_count": count, "eval_duration": count * 10**7,
            })  # fmt: skip
        elif self.path == "/api/create" and self.server.refusing:
            self.send_error(400, "unsupported architecture")
        else:
            self.answer({"status": "success"})

    def take(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        given = json.loads(body) if body[:1] == b"{" else body
        self.server.asked.append((self.command, self.path, given))
        return given

    def answer(self, record):
        text = json.dumps(record).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.broken, server.refusing = [], False, False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    synthesize("gemma3-tiny", path)
    return str(path)


@pytest.fixture
def llama_bench(tmp_path, monkeypatch):
    program = tmp_path / "llama-bench"
    program.write_text('#!/bin/sh\necho \'[{"avg_ns": 20000000, "build_commit": "abc"}]\'\n')
    program.chmod(0o755)
    monkeypatch.setenv("LLAMA_BENCH", str(program))


def measured(model_path, capsys, *more):
    few = ["-n", "4", "-p", "6", "--rounds", "2", "--device", "cpu"]
    assert compare.main(["-m", model_path, *few, *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_both_peers_in_one_run(model_path, server, llama_bench, capsys, tmp_path):
    record = measured(model_path, capsys, "--against", "llama.cpp,ollama")
    assert record["missing"] == {}
    assert record["sides"]["ollama"]["version"] == "0.5.7"
    assert record["sides"]["zerfoo-numba"]["prompt"] == "the same token ids"
    assert "its own tokens" in record["sides"]["ollama"]["prompt"]
    assert record["sides"]["llama.cpp"]["build_commit"] == "abc"
    decode = record["peers"]["ollama"]["decode"]
    assert decode["theirs_tokens_per_s"] == pytest.approx([100.0, 100.0])
    assert record["peers"]["ollama"]["prefill"]["theirs_tokens_per_s"] == pytest.approx([1000] * 2)
    theirs = record["peers"]["llama.cpp"]["decode"]["theirs_tokens_per_s"]
    assert theirs == pytest.approx([200.0, 200.0])
    ratios = decode["ratio"]["samples"]
    assert ratios == pytest.approx([n / 100 for n in decode["ours_tokens_per_s"]])
    assert min(ratios) <= decode["ratio"]["low"] <= decode["ratio"]["high"] <= max(ratios)
    path = store.write("compare", record, tmp_path / "reports")
    assert store.read(path) == ("compare", record)


def test_ollama_gets_the_very_file_and_loses_it_again(model_path, server, capsys):
    measured(model_path, capsys, "--against", "ollama")
    blob, create, *runs, delete = server.asked
    assert blob[1].startswith("/api/blobs/sha256:")
    assert blob[2] == Path(model_path).read_bytes()
    assert create[1:] == (
        "/api/create",
        {"model": NAME, "files": {"tiny.gguf": blob[1].removeprefix("/api/blobs/")},
         "stream": False},
    )  # fmt: skip
    assert delete == ("DELETE", "/api/delete", {"model": NAME})
    prompts = [body["prompt"] for _, _, body in runs]
    assert len(set(prompts)) == len(prompts)  # no beginning is kept from an earlier one
    assert all(body["raw"] and body["options"]["temperature"] == 0 for _, _, body in runs)


def test_missing_peers_are_named_with_the_reason(model_path, monkeypatch, capsys):
    for name in ("LLAMA_BENCH", "LLAMA_CPP_PYTHON", "OLLAMA_HOST", "VLLM_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    record = measured(model_path, capsys, "--against", "llama.cpp,ollama,vllm")
    assert record["peers"] == {}
    assert "LLAMA_BENCH" in record["missing"]["llama.cpp"]
    assert "OLLAMA_HOST" in record["missing"]["ollama"]
    assert "VLLM_HOST" in record["missing"]["vllm"]


@pytest.mark.parametrize("name", ["LLAMA_BENCH", "LLAMA_CPP_PYTHON"])
def test_a_variable_that_names_no_program_is_the_reason(name, tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(name, str(tmp_path / "none"))
    peer, reason = compare.find_llama_cpp("m.gguf", 64, 1)
    assert peer is None and reason == f"{name} names no program that can be started"


def test_a_server_that_is_not_there_or_refuses_is_missing(model_path, server, monkeypatch):
    server.refusing = True
    peer, reason = find_ollama(model_path, 64, 1)
    assert peer is None and "/api/create with 400" in reason
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    peer, reason = find_ollama(model_path, 64, 1)
    assert peer is None and "cannot be reached" in reason and "127" not in reason


def test_an_answer_without_counts_is_an_error(model_path, server):
    peer = Ollama(f"http://127.0.0.1:{server.server_port}", model_path, 64, 1)
    server.broken = True
    with pytest.raises(ZerfooError, match="eval_count"):
        peer.decode([1, 2, 3])
