"""A loaded model as text sees it: generation, piece by piece or whole, and chat."""

import time

from zerfoo_numba.errors import InputError
from zerfoo_numba.sampling import Sampler
from zerfoo_numba.session import Session
from zerfoo_numba.stats import Stats
from zerfoo_numba.text import placeholders
from zerfoo_numba.vision.sequence import is_image


class Model(Session):
    """A GGUF model on a device; see `load_model` for the arguments."""

    def stream(self, prompt, max_tokens=64, temperature=0.0, top_k=40, top_p=0.95, min_p=0.05,
               repeat_penalty=1.0, seed=None, images=None):  # fmt: skip
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

    def _prompt(self, prompt, images):
        """Token ids with images among them."""
        if not isinstance(prompt, str):
            if images:
                raise InputError("images go with a text; among token ids they stand themselves")
            return list(prompt)
        if not images:
            return self.tokenizer.encode(prompt)
        return placeholders.prompt_items(self.tokenizer, prompt, list(images))

    def stream_ids(self, ids, max_tokens, sampler=None):
        """The token ids that follow `ids`, until an end-of-text token or a full context."""
        self.stats = stats = Stats()
        with self.device.timer() as timing:
            tokens = self.read(ids)
        stats.prompt_tokens, stats.images = len(tokens.ids), len(tokens.pictures)
        stats.image_seconds = timing.seconds if tokens.pictures else 0.0
        choose = self._choices(None if sampler is None or sampler.greedy else sampler)
        with self.device.timer() as timing:
            self.prefill(tokens)
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

    def _choices(self, sampler):
        """Endless ids after a prefill, greedy without a sampler; the device chooses, the host reads
        4 bytes."""
        kind = "greedy" if sampler is None else "sampled"
        if sampler is None:
            self.greedy_start()
        else:
            self.draws.start(sampler)
            self.draws.choose(0)
        while True:
            yield int(self.device.read(self.walk.tokens.view((1,)))[0])
            self._continue(kind, 1)

    def generate(self, prompt, **options):
        """The text that continues `prompt`; options as `stream`."""
        return "".join(self.stream(prompt, **options))

    def chat(self, messages, **options):
        """The answer to `messages` ([{"role": ..., "content": ...}]) by the chat template.

        A content may be a list of parts, {"type": "text", "text": ...} and {"type": "image",
        "image": ...}.
        """
        return self.generate(self.chat_ids(messages), **options)

    def chat_ids(self, messages):
        """The token ids of `messages` under the file's chat template, ready for an answer; an
        image part is among them as its image."""
        from zerfoo_numba import chat as chat_templates  # jinja2, which few need

        return chat_templates.prompt_items(self.gguf.metadata, self.tokenizer, messages)


def load_model(path, device="auto", context=None, mmproj=None, activation=None, cache_type=None,
               graph=True, fuse=True, threads=None, requantize=None, progress=None):  # fmt: skip
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
    """
    options = (mmproj, activation, cache_type, graph, fuse, threads, requantize, progress)
    return Model(path, device, context, *options)
