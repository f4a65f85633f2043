"""A loaded model as text sees it: generation, piece by piece or whole, and chat."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from zerfoo_numba.devices import Device
from zerfoo_numba.errors import InputError
from zerfoo_numba.one_at_a_time import one_at_a_time
from zerfoo_numba.options import CacheType, Items, Path, Progress
from zerfoo_numba.sampling import Sampler
from zerfoo_numba.session import Session
from zerfoo_numba.stats import Stats
from zerfoo_numba.text import placeholders
from zerfoo_numba.vision.sequence import is_image


@one_at_a_time("generate", "chat")
class Model(Session):
    """A GGUF model on a device; see `load_model` for the arguments."""

    def stream(self, prompt: str | Iterable[Any], max_tokens: int = 64, temperature: float = 0.0,
               top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05,
               repeat_penalty: float = 1.0, seed: int | None = None,
               images: Sequence[Any] | None = None) -> Iterator[str]:  # fmt: skip
        """Continue `prompt`, piece by piece. temperature 0 is greedy.

        prompt: text, or token ids with images among them. images: those of a text, in the places
        that it marks as the model's chat template would ("<image>", "<start_of_image>",
        "<|image_pad|>"), or all before it.
        """
        ids = self._prompt(prompt, images)
        sampler = Sampler(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        last = ids[-1] if len(ids) and not is_image(ids[-1]) else None
        decoder = self.tokenizer.stream_decoder(previous=last)
        for token in self.stream_ids(ids, max_tokens, sampler):
            piece = decoder.push(token)
            if piece:
                yield piece
        rest = decoder.finish()
        if rest:
            yield rest

    def _prompt(self, prompt: str | Iterable[Any], images: Sequence[Any] | None) -> list[Any]:
        """Token ids with images among them."""
        if not isinstance(prompt, str):
            if images:
                raise InputError("images go with a text; among token ids they stand themselves")
            return list(prompt)
        if not images:
            return self.tokenizer.encode(prompt)
        return placeholders.prompt_items(self.tokenizer, prompt, list(images))

    def stream_ids(
        self, ids: Items, max_tokens: int, sampler: Sampler | None = None
    ) -> Iterator[int]:
        """The token ids that follow `ids`, until an end-of-text token or a full context."""
        self.stats = stats = Stats()
        with self.device.timer() as timing:
            tokens = self.read(ids)
        stats.prompt_tokens, stats.images = len(tokens.ids), len(tokens.pictures)
        stats.image_seconds = timing.seconds if tokens.pictures else 0.0
        sampler = None if sampler is None or sampler.greedy else sampler
        with self.lock:
            with self.device.timer() as timing:
                self.prefill(tokens)
            stats.prompt_seconds = timing.seconds
            choose = self._choices(max_tokens, sampler)
            token = next(choose)
            mine = (self.sequence, self.length)
        while stats.generated_tokens < max_tokens and token not in self.tokenizer.eos_ids:
            stats.generated_tokens += 1
            yield token
            if stats.generated_tokens == max_tokens or self.length == self.context:
                return
            start = time.perf_counter()
            with self.lock:
                if mine != (self.sequence, self.length):
                    raise InputError(
                        "another call has ended the sequence of this stream; load the model once "
                        "for each stream that is read at the same time"
                    )
                token = next(choose)
                mine = (self.sequence, self.length)
            stats.decode_steps += 1
            stats.generated_seconds += time.perf_counter() - start

    def _choices(self, count: int, sampler: Sampler | None) -> Iterator[int]:
        """Up to `count` ids after a prefill, greedy without a sampler; the device chooses, the host
        reads 4 bytes."""
        if sampler is None:
            self.greedy_start()
            return self.steps.ids("greedy", count)
        self.draws.start(sampler)
        self.draws.choose(0)
        return self.steps.ids("sampled", count)

    def generate(self, prompt: str | Iterable[Any], **options: Any) -> str:
        """The text that continues `prompt`; options as `stream`."""
        return "".join(self.stream(prompt, **options))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The answer to `messages` ([{"role": ..., "content": ...}]) by the chat template.

        A content may be a list of parts, {"type": "text", "text": ...} and {"type": "image",
        "image": ...}.
        """
        return self.generate(self.chat_ids(messages), **options)

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The token ids of `messages` under the file's chat template, ready for an answer; an
        image part is among them as its image."""
        from zerfoo_numba import chat as chat_templates  # jinja2, which few need

        return chat_templates.prompt_items(
            self.gguf.metadata, self.tokenizer, cast(list[dict[str, Any]], messages)
        )


def load_model(path: Path, device: str | Device = "auto", context: int | None = None,
               mmproj: Path | None = None, activation: str | None = None,
               cache_type: CacheType | None = None, graph: bool = True,
               fuse: bool | Iterable[str] = True, threads: int | None = None,
               requantize: str | None = None, progress: Progress | None = None,
               check_finite: bool = False) -> Model:  # fmt: skip
    """Load a GGUF model.

    device: "auto", "cuda", "cpu", "emulator", or a Device. context: tokens that the cache holds;
    by default the trained context, at most 4096. activation: "float" (float32 throughout) or
    "int8" (8-bit activations and integer dot products where the block format has them); the
    default is the device's. cache_type: "f32", "f16" (the default) or "q8_0" for keys and values,
    or a (K, V) pair of them. graph: replay decode steps from a captured graph; False walks each.
    fuse: operations that run as one launch: True the device's usual ones, False none, or a set of
    the names in `zerfoo_numba.fusion`. threads: of the cpu and the emulator; by default the
    physical cores. requantize: "Q4_0" writes every quantised matrix again in that format at load,
    as the original runtime did for speed; it loses accuracy and warns. mmproj: the file of the
    model's image tower and projector, for images in prompts. progress: called with a text, as
    "loading 40% of 806 MB" or "compiling ...", whenever there is news of what takes long.
    check_finite: look at every row of logits for NaN and infinity, at the cost of a launch and a
    read each; NumericError names the layer where the first of them arose.

    The same seed, prompt and options give the same ids on the same device, again and again and
    after another load, whatever the number of cpu threads. Between devices, GPUs of another compute
    capability, or with another `fuse`, sums may be taken in another order: logits then differ in
    their last digits, and where two tokens are all but equally likely, so may the ids.

    Threads may share a model: each call waits for its turn, so that `generate`, `chat`, `logits`
    and `taps` are right from any thread. A `stream` whose sequence another call has ended raises
    InputError. For more at once, load the model once for each thread.
    """
    options = (mmproj, activation, cache_type, graph, fuse, threads, requantize, progress)
    return Model(path, device, context, *options, check_finite)
