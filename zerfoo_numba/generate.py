"""A loaded model: prefill, decode, generation, and the taps that parity reads."""

import time
import warnings

import numpy as np

from zerfoo_numba import chat as chat_templates
from zerfoo_numba import tokenizer as tokenizers
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import ContextError, InputError, UnsupportedError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.model import Walk
from zerfoo_numba.ops import Ops
from zerfoo_numba.sampling import Sampler
from zerfoo_numba.stats import Stats

DEFAULT_CONTEXT = 4096
ACTIVATIONS = ("float", "int8")
REQUANTIZED = ("Q4_0",)


class Model:
    """A GGUF model on a device; see `load_model` for the arguments.

    The model remembers one sequence: `prefill` starts it, `decode` continues it.
    """

    def __init__(self, path, device="auto", context=None, activation=None, cache_type=None,
                 graph=True, threads=None, requantize=None):  # fmt: skip
        if requantize not in (None, *REQUANTIZED):
            known = ", ".join(REQUANTIZED)
            raise UnsupportedError(f"weights can be requantised to {known}, not {requantize!r}")
        if requantize is not None:
            warnings.warn(f"requantising to {requantize} at load loses accuracy", stacklevel=4)
        if activation not in (None, *ACTIVATIONS):
            known = ", ".join(ACTIVATIONS)
            raise UnsupportedError(f"activation {activation!r} is not one of {known}")
        self.gguf = open_gguf(path)
        self.config = ModelConfig.from_gguf(self.gguf)
        self.config.check_tensors(self.gguf)
        self.tokenizer = tokenizers.from_gguf(self.gguf)
        self.context = context or min(self.config.context, DEFAULT_CONTEXT)
        if not 1 <= self.context <= self.config.context:
            raise ContextError(
                f"a context of {self.context} tokens is not within 1 .. {self.config.context}, "
                "for which the model was trained"
            )
        self.device = _device(device, threads)
        self.activation = activation or self.device.activation
        options = (cache_type or "f32", self.activation, requantize)
        self.walk = Walk(Ops(self.device), self.gguf, self.config, self.context, *options)
        self.gguf.release_memory()  # the weights are on the device
        self.graph = graph
        self.stats = Stats()
        self.length = 0  # tokens in the cache
        self._graphs = {}

    # One sequence -----------------------------------------------------------------------------

    def prefill(self, ids, all_logits=False):
        """Start a sequence with `ids`; logits of its last position (V,), or of all (T, V)."""
        self._start()
        return self.extend(ids, all_logits)

    def extend(self, ids, all_logits=False):
        """Add `ids` to the sequence, many at a time; logits as `prefill`."""
        ids = self._checked(ids)
        if self.length + len(ids) > self.context:
            raise ContextError(
                f"{self.length + len(ids)} tokens exceed the context of {self.context}; "
                "shorten the prompt or load the model with a larger context"
            )
        self.walk.fit(self.length + len(ids), self.length)
        kept = []
        for start in range(0, len(ids), self.walk.chunk):
            part = ids[start : start + self.walk.chunk]
            last = start + len(part) == len(ids)
            kept.append(self._chunk(part, all_logits, last))
        return np.concatenate([k for k in kept if k is not None]) if all_logits else kept[-1][0]

    def decode(self, token):
        """Add one token by the captured decode step; its logits (V,)."""
        self._room()
        self.walk.take(self._checked([token]), self.length)
        self._replay("sampled")
        self.length += 1
        return self.device.read(self.walk.logits)[0]

    # Many sequences, each from its start -----------------------------------------------------

    def logits(self, ids):
        """float32 (T, V): the logits of every position."""
        return self.prefill(ids, all_logits=True)

    def taps(self, ids, inputs=None):
        """Named intermediate arrays, first axis T; `inputs` {"blk.3.input": (T, D)} replaces what
        that block would get. Names as in `reference`."""
        ids = self._checked(ids)
        for name, array in (inputs or {}).items():
            if np.shape(array) != (len(ids), self.config.D):
                shape = (len(ids), self.config.D)
                raise InputError(f"input {name} has shape {np.shape(array)}, not {shape}")
        self._start()
        self.walk.fit(len(ids), 0)
        parts = []
        for start in range(0, len(ids), self.walk.chunk):
            rows = slice(start, min(start + self.walk.chunk, len(ids)))
            self.walk.ops.taps = taps = {}
            try:
                replaced = {n: np.asarray(a, np.float32)[rows] for n, a in (inputs or {}).items()}
                self._chunk(ids[rows], True, True, replaced)
            finally:
                self.walk.ops.taps = None
            parts.append(taps)
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    # Text ------------------------------------------------------------------------------------

    def stream(self, prompt, max_tokens=64, temperature=0.0, top_k=40, top_p=0.95, min_p=0.05,
               repeat_penalty=1.0, seed=None, images=None):  # fmt: skip
        """Continue `prompt` (text or token ids), piece by piece. temperature 0 is greedy."""
        if images:
            raise UnsupportedError("this model was loaded without an image projector (mmproj)")
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        sampler = Sampler(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        decoder = self.tokenizer.stream_decoder(previous=ids[-1] if ids else None)
        for token in self.stream_ids(ids, max_tokens, sampler):
            piece = decoder.push(token)
            if piece:
                yield piece
        rest = decoder.finish()
        if rest:
            yield rest

    def stream_ids(self, ids, max_tokens, sampler=None):
        """The token ids that follow `ids`, until an end-of-text token or a full context."""
        self.stats = stats = Stats(prompt_tokens=len(ids))
        choose = (
            self._greedy_choice()
            if sampler is None or sampler.greedy
            else (self._sampled_choice(sampler, list(ids)))
        )
        with self.device.timer() as timing:
            self.prefill(ids)
        stats.prompt_seconds = timing.seconds
        token = next(choose)
        while stats.generated_tokens < max_tokens and token not in self.tokenizer.eos_ids:
            stats.generated_tokens += 1
            yield token
            if stats.generated_tokens == max_tokens or self.length == self.context:
                return
            start = time.perf_counter()
            token = next(choose)
            stats.decode_steps += 1
            stats.generated_seconds += time.perf_counter() - start

    def _greedy_choice(self):
        """Endless greedy ids after a prefill; the device chooses, the host reads 4 bytes."""
        self.greedy_start()
        while True:
            yield int(self.device.read(self.walk.tokens.view((1,)))[0])
            self.continue_greedy(1)

    def _sampled_choice(self, sampler, seen):
        """Endless sampled ids after a prefill; the host samples from the logits it reads."""
        logits = self.device.read(self.walk.logits)[0]
        while True:
            seen.append(sampler.sample(logits, seen))
            yield seen[-1]
            logits = self.decode(seen[-1])

    def greedy_ids(self, ids, count):
        """Exactly `count` greedy ids after `ids`; the host sees none of them before the last."""
        if len(ids) + count - 1 > self.context:
            raise ContextError(
                f"{len(ids)} prompt tokens and {count} more exceed the context of {self.context}"
            )
        self.prefill(ids)
        self.greedy_start()
        self.continue_greedy(count - 1)
        return self.history(len(ids), count)

    def history(self, start, count):
        """The ids of `count` positions from `start` on: given, or chosen by the device."""
        return [int(t) for t in self.device.read(self.walk.history)[start : start + count]]

    def greedy_start(self):
        """Choose the token after a prefill, on the device, where the next step will find it."""
        self.walk.choose(0)

    def continue_greedy(self, count):
        """`count` more decode steps, each on the token that the device chose last."""
        for _ in range(count):
            self._room()
            self._replay("greedy")
            self.length += 1
        self.device.synchronize()

    def generate(self, prompt, **options):
        """The text that continues `prompt`; options as `stream`."""
        return "".join(self.stream(prompt, **options))

    def chat(self, messages, **options):
        """The answer to `messages` ([{"role": ..., "content": ...}]) by the chat template."""
        return self.generate(self.chat_ids(messages), **options)

    def chat_ids(self, messages):
        """The token ids of `messages` under the file's chat template, ready for an answer."""
        return chat_templates.prompt_ids(self.gguf.metadata, self.tokenizer, messages)

    # Parts -----------------------------------------------------------------------------------

    def _start(self):
        self.length = 0
        self.device.write(self.walk.position, np.zeros(1, np.uint32))

    def _checked(self, ids):
        ids = np.asarray(list(ids), np.int64)
        if ids.size == 0:
            raise InputError("the prompt has no tokens; give at least one")
        wrong = ids[(ids < 0) | (ids >= self.config.V)]
        if wrong.size:
            raise InputError(f"token id {wrong[0]} is not within 0 .. {self.config.V - 1}")
        return ids

    def _room(self):
        if self.length >= self.context:
            raise ContextError(
                f"the context of {self.context} tokens is full; load the model with a larger one"
            )
        self.walk.fit(self.length + 1, self.length)

    def _chunk(self, ids, all_logits, last, inputs=None):
        """Up to one chunk of tokens, eagerly; logits (T, V), of the last (1, V), or None."""
        walk, T = self.walk, len(ids)
        walk.take(ids, self.length)
        walk.embed(T)
        walk.layers(T, self.length, inputs)
        logits = None
        if all_logits:
            out = self.device.empty((T, self.config.V), np.float32, "all_logits")
            walk.project(out, 0)
            logits = self.device.read(out)
        elif last:
            walk.project(walk.logits, T - 1)
            logits = self.device.read(walk.logits)
        walk.ops.advance(walk.position, T)
        self.length += T
        return logits

    def _replay(self, kind):
        """One decode step: the captured launches, or the walk itself with `graph=False`."""
        step = {"greedy": self.walk.greedy_step, "sampled": self.walk.sampled_step}[kind]
        if self.graph and kind not in self._graphs:
            self._graphs[kind] = self.device.capture(step)
        before = self.device.launch_count
        if self.graph:
            self._graphs[kind].replay()
            self.stats.graph_launches += self._graphs[kind].launches
            self.stats.launches += self._graphs[kind].launches
        else:
            step()
        self.stats.launches += self.device.launch_count - before


def load_model(path, device="auto", context=None, mmproj=None, activation=None, cache_type=None,
               graph=True, fuse=True, threads=None, requantize=None):  # fmt: skip
    """Load a GGUF model.

    device: "auto", "cuda", "cpu", "emulator", or a Device. context: tokens that the cache holds;
    by default the trained context, at most 4096. activation: "float" (float32 throughout) or
    "int8" (8-bit activations and integer dot products where the block format has them); the
    default is the device's. cache_type: "f32" or "f16". graph: replay decode steps from a captured
    graph; False walks each one. threads: of the cpu and the emulator; by default the physical
    cores. requantize: "Q4_0" writes every quantised matrix again in that format at load, as the
    original runtime did for speed; it loses accuracy and warns.
    """
    if mmproj is not None:
        raise UnsupportedError("image projectors (mmproj) are not supported yet")
    options = (activation, cache_type, graph, threads, requantize)
    return Model(path, device, context, *options)


def _device(device, threads):
    if not isinstance(device, str):
        return device
    return open_device(device, **({} if threads is None else {"threads": threads}))
