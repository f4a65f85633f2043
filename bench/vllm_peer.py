"""vLLM, by the OpenAI-compatible HTTP API of its server at VLLM_HOST (vLLM's documentation, Online
Serving).

A server serves the models that it was started with: this one must serve the very file, which vLLM
reads experimentally, and says which one by /v1/models. A prompt is token ids, the same as ours. The
answer has no times, so that they are taken here, at the pieces of a stream: prefill is the time to
the first token, decoding that from the first token to the last. The server keeps the beginning of
an earlier prompt, so that each prompt begins with another token.
"""

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from zerfoo_numba.errors import ZerfooError

WAIT_S = 600
FIRST_IDS = 199  # other first tokens before one comes again


class VLLM:
    """A server that serves the file at `path`, by its name; ZerfooError if it does not."""

    def __init__(self, host, path):
        self.url = host if "://" in host else f"http://{host}"
        self.prompts = 0
        version = self._json("/version").get("version", "unknown")
        served = self._json("/v1/models").get("data") or [{}]
        self.model, wanted = served[0].get("id", ""), Path(path).name
        # `root` is the path or repository that the server was started with, `id` how it calls it.
        name = Path(served[0].get("root") or self.model).name
        if name != wanted:
            raise ZerfooError(f"the vLLM server serves {name or 'no model'}, not {wanted}")
        self.about = {"version": version, "serves": name, "prompt": "the same token ids"}

    def _open(self, where, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(self.url + where, data, headers)
            return urllib.request.urlopen(request, timeout=WAIT_S)
        except urllib.error.HTTPError as error:
            raise ZerfooError(f"vLLM answers {where} with {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ZerfooError(f"vLLM at VLLM_HOST cannot be reached: {reason}") from None

    def _json(self, where):
        with self._open(where) as answer:
            try:
                return json.loads(answer.read())
            except ValueError:
                raise ZerfooError(f"what answers {where} at VLLM_HOST is no vLLM server") from None

    def _stream(self, ids, count):
        """(seconds to the first token, seconds from it to the last, tokens, those of the prompt)"""
        self.prompts += 1
        prompt = [1 + (ids[0] + self.prompts) % FIRST_IDS, *ids[1:]]
        body = {
            "model": self.model, "prompt": prompt, "max_tokens": count, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        usage, times = {}, [time.perf_counter()]
        with self._open("/v1/completions", body) as answer:
            for line in answer:
                found = line.decode().strip().removeprefix("data:").strip()
                if not found or found == "[DONE]":
                    continue
                piece = json.loads(found)
                usage = piece.get("usage") or usage
                if piece.get("choices"):
                    times.append(time.perf_counter())
        if len(times) < 2 or not usage.get("completion_tokens"):
            raise ZerfooError("vLLM's answer has no tokens and no usage")
        first, last = times[1] - times[0], times[-1] - times[1]
        return first, last, usage["completion_tokens"], usage.get("prompt_tokens")

    def prefill(self, ids):
        """Seconds to the first token after `ids`, what the request itself takes included."""
        first, _, _, seen = self._stream(ids, 1)
        if seen != len(ids):
            raise ZerfooError(f"vLLM saw {seen} tokens of a prompt of {len(ids)}")
        return first

    def decode(self, ids):
        """Seconds for as many tokens, at the rate of those after the first."""
        _, last, made, _ = self._stream(ids[:1], len(ids) + 1)
        if made < 2:
            raise ZerfooError("vLLM made one token where more were asked for")
        return len(ids) * last / (made - 1)


def find_vllm(path):
    """The peer, or None with the reason why there is none."""
    host = os.environ.get("VLLM_HOST")
    if not host:
        return None, "no server is named (VLLM_HOST)"
    try:
        return VLLM(host, path), None
    except ZerfooError as error:
        return None, str(error)
