"""bench.compare with vLLM: its OpenAI-compatible API, served here in the documented form."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench import compare, store
from bench.vllm_peer import VLLM, find_vllm
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.synth import synthesize

STEP_S = 0.002  # from one token of the server to the next


class Handler(BaseHTTPRequestHandler):
    """/version, /v1/models and streamed /v1/completions, as vLLM's documentation shows them."""

    def do_GET(self):
        served = self.server.served
        root = {"root": f"/models/of/somebody/{served}"} if served else {}
        models = [{"id": "some-name", "object": "model", "owned_by": "vllm", **root}]
        answers = {
            "/version": {"version": "0.11.0"},
            "/v1/models": {"object": "list", "data": models},
        }
        self.send(json.dumps(answers[self.path]) if self.server.speaks else "<html>")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        count = min(body["max_tokens"], self.server.most)
        for _ in range(count):
            time.sleep(STEP_S)
            self.event({"choices": [{"index": 0, "text": " x", "finish_reason": None}]})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
        self.event({"choices": [], "usage": usage | {"total_tokens": sum(usage.values())}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, record):
        self.wfile.write(f"data: {json.dumps({'object': 'text_completion'} | record)}\n\n".encode())
        self.wfile.flush()

    def send(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.served, server.speaks, server.most = [], "tiny.gguf", True, 99
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("VLLM_HOST", f"127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_vllm_beside_us(server, tmp_path, capsys):
    path = tmp_path / "tiny.gguf"
    synthesize("gemma3-tiny", path)
    few = ["-n", "4", "-p", "6", "--rounds", "2", "--device", "cpu", "--against", "vllm"]
    assert compare.main(["-m", str(path), *few]) == 0
    record = json.loads(capsys.readouterr().out)
    about = record["sides"]["vllm"]
    assert about == {"version": "0.11.0", "serves": "tiny.gguf", "prompt": "the same token ids"}
    rates = record["peers"]["vllm"]
    assert all(r > 0 for r in rates["decode"]["theirs_tokens_per_s"])
    # The first of the six tokens' answer waits for one step at least.
    assert all(0 < r <= 6.001 / STEP_S for r in rates["prefill"]["theirs_tokens_per_s"])
    assert store.read(store.write("compare", record, tmp_path / "r")) == ("compare", record)
    assert "somebody" not in json.dumps(record)


def test_vllm_is_asked_for_ids_that_it_cannot_have_kept(server, tmp_path):
    peer = VLLM(f"127.0.0.1:{server.server_port}", str(tmp_path / "tiny.gguf"))
    peer.prefill([2, 3, 4, 5])
    peer.decode([2] * 4)
    peer.prefill([2, 3, 4, 5])
    first, decode, again = server.asked
    assert first["prompt"][1:] == again["prompt"][1:] == [3, 4, 5]
    assert first["prompt"][0] != again["prompt"][0]
    assert first["max_tokens"] == 1 and decode["max_tokens"] == 5 and len(decode["prompt"]) == 1
    assert decode["temperature"] == 0 and decode["ignore_eos"] and decode["model"] == "some-name"


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        ("other.gguf", "serves other.gguf, not tiny.gguf"),
        ("", "serves some-name, not tiny.gguf"),
    ],
)
def test_another_model_is_no_peer(server, served, reason):
    server.served = served
    peer, why = find_vllm("tiny.gguf")
    assert peer is None and reason in why


def test_what_is_no_vllm_server_is_named(server, monkeypatch):
    server.speaks = False
    peer, why = find_vllm("tiny.gguf")
    assert peer is None and "no vLLM server" in why
    monkeypatch.setenv("VLLM_HOST", "127.0.0.1:9")
    peer, why = find_vllm("tiny.gguf")
    assert peer is None and "cannot be reached" in why and "127" not in why


def test_an_answer_without_tokens_is_an_error(server):
    peer = VLLM(f"127.0.0.1:{server.server_port}", "tiny.gguf")
    server.most = 0
    with pytest.raises(ZerfooError, match="no tokens"):
        peer.prefill([1, 2])
    server.most = 1
    with pytest.raises(ZerfooError, match="one token"):
        peer.decode([1, 2])
