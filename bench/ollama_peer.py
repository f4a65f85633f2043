"""Ollama, by its HTTP API at OLLAMA_HOST (docs/api.md of the ollama repository).

The GGUF file is uploaded as a blob and becomes a model of that one file; each run is a request to
/api/generate without a template, and its own eval_count and eval_duration (nanoseconds) are the
result. Ollama takes text, no token ids: the prompt has other tokens than ours, as many as it says.
It keeps the beginning of an earlier prompt, so that each prompt begins with another number.
"""

import contextlib
import hashlib
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

from zerfoo_numba.errors import ZerfooError

NAME = "zerfoo-numba-compare"
WAIT_S = 600


class Ollama:
    """A server with the model of the file at `path`; `close` removes the model again."""

    def __init__(self, host, path, context, threads):
        self.url = host if "://" in host else f"http://{host}"
        self.prompts = 0
        self.options = {"temperature": 0, "num_ctx": context, "num_thread": threads}
        version = self._ask("GET", "/api/version").get("version", "unknown")
        self.about = {"version": version, "prompt": "its own tokens of a text, about as many"}
        digest = self._upload(path)
        files = {Path(path).name: digest}
        self._ask("POST", "/api/create", {"model": NAME, "files": files, "stream": False})

    def _upload(self, path):
        with open(path, "rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            file.seek(0)
            size = {"Content-Length": str(os.fstat(file.fileno()).st_size)}
            self._send("POST", f"/api/blobs/{digest}", file, size)
        return digest

    def _ask(self, method, where, body=None):
        data = None if body is None else json.dumps(body).encode()
        answer = self._send(method, where, data, {"Content-Type": "application/json"})
        try:
            return json.loads(answer) if answer else {}
        except ValueError:
            raise ZerfooError(f"what answers {where} at OLLAMA_HOST is no Ollama") from None

    def _send(self, method, where, data, headers):
        request = urllib.request.Request(self.url + where, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise ZerfooError(f"Ollama answers {where} with {error.code} {error.reason}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ZerfooError(f"Ollama at OLLAMA_HOST cannot be reached: {reason}") from None

    def _generate(self, words, count):
        self.prompts += 1
        return self._ask("POST", "/api/generate", {
            "model": NAME, "prompt": f"{self.prompts} " + "the " * max(words - 1, 0), "raw": True,
            "stream": False, "options": self.options | {"num_predict": count},
        })  # fmt: skip

    def prefill(self, ids):
        """Seconds for a prompt of about as many tokens, at the rate that Ollama reports."""
        found = self._generate(len(ids), 1)
        return _seconds(found, "prompt_eval", len(ids))

    def decode(self, ids):
        """Seconds for as many tokens, at the rate that Ollama reports for those it made."""
        return _seconds(self._generate(1, len(ids)), "eval", len(ids))

    def close(self):
        with contextlib.suppress(ZerfooError):
            self._ask("DELETE", "/api/delete", {"model": NAME})


def _seconds(found, what, count):
    made, taken = found.get(f"{what}_count"), found.get(f"{what}_duration")
    if not made or not taken:
        raise ZerfooError(f"Ollama's answer has no {what}_count and {what}_duration")
    return count * taken / made / 1e9


def find_ollama(path, context, threads):
    """The peer, or None with the reason why there is none."""
    host = os.environ.get("OLLAMA_HOST")
    if not host:
        return None, "no server is named (OLLAMA_HOST)"
    try:
        return Ollama(host, path, context, threads), None
    except ZerfooError as error:
        return None, str(error)
