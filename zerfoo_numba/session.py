"""A loaded model as token ids see it: prefill, decode, the greedy loop, the taps of parity."""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from zerfoo_numba import state
from zerfoo_numba import tokenizer as tokenizers
from zerfoo_numba.cache import bytes_by_type
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.devices import Device
from zerfoo_numba.draws import Draws
from zerfoo_numba.errors import ContextError, InputError
from zerfoo_numba.finite import FiniteCheck
from zerfoo_numba.footprint import require_room
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.model import Walk
from zerfoo_numba.one_at_a_time import one_at_a_time
from zerfoo_numba.ops import Ops
from zerfoo_numba.options import Arrays, CacheType, Items, Path, Progress, check_options, device_of
from zerfoo_numba.stats import Stats
from zerfoo_numba.steps import Steps
from zerfoo_numba.text.placeholders import placeholder
from zerfoo_numba.vision.sequence import Picture, Tokens, is_image, parts

DEFAULT_CONTEXT = 4096


@one_at_a_time("prefill", "extend", "decode", "embed_image", "save_state", "restore_state", "taps",
               "greedy_ids", "greedy_start", "continue_greedy")  # fmt: skip
class Session:
    """A GGUF model on a device; see `zerfoo_numba.generate.load_model` for the arguments.

    The model remembers one sequence: `prefill` starts it, `decode` continues it. Where ids are
    taken, an image among them (a path, data URI, PIL image, uint8 array) stands for all its tokens.
    Threads take turns, call by call; a sequence of calls belongs to one thread.
    """

    def __init__(self, path: Path, device: str | Device = "auto", context: int | None = None,
                 mmproj: Path | None = None, activation: str | None = None,
                 cache_type: CacheType | None = None, graph: bool = True,
                 fuse: bool | Iterable[str] = True, threads: int | None = None,
                 requantize: str | None = None, progress: Progress | None = None,
                 check_finite: bool = False):  # fmt: skip
        check_options(activation, requantize)
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
        self.device = device_of(device, threads)
        self.device.progress = progress
        self.activation = activation or self.device.activation
        cache_type = cache_type or "f16"
        sizes = bytes_by_type(self.config, cache_type)
        require_room(self.device.memory_info(), self.gguf, self.config, self.context, sizes)
        ops = Ops(self.device)
        self.tower = None if mmproj is None else _tower(mmproj, ops, self.config)
        together = self.tower.together if self.tower else 0
        options = (cache_type, self.activation, requantize, together, fuse)
        self.walk = Walk(ops, self.gguf, self.config, self.context, *options)
        self.draws = Draws(self.walk)
        self.gguf.release_memory()  # the weights are on the device
        self.graph = graph
        self.stats = Stats()
        self.length = 0  # tokens in the cache
        self.sequence = 0  # how many sequences were started
        self.lock = threading.RLock()
        self.finite = FiniteCheck(self) if check_finite else None
        # In the place of an image's tokens: what the vocabulary has for it.
        mark, pieces = placeholder(self.tokenizer).text, self.tokenizer.pieces
        self.image_id = pieces.index(mark) if mark in pieces else 0
        self.steps = Steps(self)

    # One sequence -----------------------------------------------------------------------------

    def prefill(self, ids: Items, all_logits: bool = False) -> np.ndarray:
        """Start a sequence with `ids`; logits of its last position (V,), or of all (T, V)."""
        tokens = self.read(ids)
        self._start()
        return self.extend(tokens, all_logits)

    def extend(self, ids: Items, all_logits: bool = False) -> np.ndarray:
        """Add `ids` to the sequence, many at a time; logits as `prefill`."""
        self.steps.forget()
        tokens = self._placed(self.read(ids))
        kept: list[Any] = []
        for chunk, last in self._chunks(tokens):
            kept.append(self._chunk(chunk, all_logits, last))
        return np.concatenate([k for k in kept if k is not None]) if all_logits else kept[-1][0]

    def decode(self, token: int) -> np.ndarray:
        """Add one token by the captured decode step; its logits (V,)."""
        self.steps.forget()
        self.room()
        self.walk.take(self._checked([token]), self.length)
        self.steps.launch("logits")
        self.moved(1, self.walk.logits)
        return self.device.read(self.walk.logits)[0]

    def read(self, items: Any) -> Tokens:
        """The `Tokens` of token ids with images among them; what is that already stays."""
        if isinstance(items, Tokens):
            return items
        if isinstance(items, str):
            raise InputError("token ids are a list of numbers, not a text: encode it first")
        ids, pictures = list[int](), list[Picture]()
        for item in items:
            if is_image(item):
                picture = self._picture(item).at(len(ids))
                pictures.append(picture)
                ids += [self.image_id] * len(picture.rows)
            else:
                ids.append(item)
        return Tokens(self._checked(ids), pictures)

    def embed_image(self, image: Any) -> np.ndarray:
        """float32 (image tokens, D): what the tower and projector make of an image."""
        return self._picture(image).rows

    def save_state(self) -> dict[str, np.ndarray]:
        """{name: array} of the sequence so far, for `numpy.savez`; see `zerfoo_numba.state`."""
        self.steps.forget()
        return state.save(self)

    def restore_state(self, saved: Arrays) -> None:
        """Go on with the sequence of which `saved` is the state, in the place of the one so far."""
        ids, places = state.fitting(self, saved)
        self._start()
        self.walk.fit(len(ids), 0)
        for buffer, array in places:
            self.device.write(buffer, array)
        self.device.write(self.walk.history.view(ids.shape), ids)
        self.device.write(self.walk.position, np.array([len(ids)], np.uint32))
        self.length = len(ids)

    # Many sequences, each from its start -----------------------------------------------------

    def logits(self, ids: Items) -> np.ndarray:
        """float32 (T, V): the logits of every position."""
        return self.prefill(ids, all_logits=True)

    def taps(self, ids: Items, inputs: Arrays | None = None) -> dict[str, np.ndarray]:
        """Named intermediate arrays, first axis T; `inputs` {"blk.3.input": (T, D)} replaces what
        that block would get. Names as in `reference`."""
        tokens = self.read(ids)
        for name, array in (inputs or {}).items():
            shape = (len(tokens.ids), self.config.D)
            if np.shape(array) != shape:
                raise InputError(f"input {name} has shape {np.shape(array)}, not {shape}")
        found = list(self.tapped(tokens, inputs or {}))
        return {name: np.concatenate([taps[name] for taps in found]) for name in found[0]}

    def tapped(self, tokens: Tokens, inputs: Arrays) -> Iterator[dict[str, np.ndarray]]:
        """The `taps` of each part of `tokens` that passes through the layers together."""
        self._start()
        for chunk, _ in self._chunks(self._placed(tokens)):
            rows = slice(self.length, self.length + len(chunk))
            self.walk.ops.taps = taps = dict[str, np.ndarray]()
            try:
                replaced = {n: np.asarray(a, np.float32)[rows] for n, a in inputs.items()}
                self._chunk(chunk, True, True, replaced)
            finally:
                self.walk.ops.taps = None
            yield taps

    # Ids that the device chooses -------------------------------------------------------------

    def greedy_ids(self, ids: Items, count: int) -> list[int]:
        """Exactly `count` greedy ids after `ids`; the host sees none of them before the last."""
        tokens = self.read(ids)
        given = len(tokens.ids)
        if given + count - 1 > self.context:
            raise ContextError(
                f"{given} prompt tokens and {count} more exceed the context of {self.context}"
            )
        self.prefill(tokens)
        self.greedy_start()
        self.continue_greedy(count - 1)
        return self.history(given, count)

    def history(self, start: int, count: int) -> list[int]:
        """The ids of `count` positions from `start` on: given, or chosen by the device."""
        return [int(t) for t in self.device.read(self.walk.history)[start : start + count]]

    def greedy_start(self) -> None:
        """Choose the token after a prefill, on the device, where the next step will find it."""
        self.walk.choose(0)

    def continue_greedy(self, count: int) -> None:
        """`count` more decode steps, each on the token that the device chose last."""
        self.steps.forget()
        for _ in range(count):
            self.room()
            self.steps.launch("greedy")
            self.moved(1, self.walk.logits)
        self.device.synchronize()

    # Parts -----------------------------------------------------------------------------------

    def _start(self) -> None:
        self.steps.forget()
        self.length = 0
        self.sequence += 1
        self.device.write(self.walk.position, np.zeros(1, np.uint32))
        self.walk.cache.reset(self.device)
        if self.walk.pictures:
            self.walk.see([])

    def _checked(self, ids: Iterable[int]) -> np.ndarray:
        ids = np.asarray(list(ids), np.int64)
        if ids.size == 0:
            raise InputError("the prompt has no tokens; give at least one")
        wrong = ids[(ids < 0) | (ids >= self.config.V)]
        if wrong.size:
            raise InputError(f"token id {wrong[0]} is not within 0 .. {self.config.V - 1}")
        return ids

    def _picture(self, image: Any) -> Picture:
        if self.tower is None:
            raise InputError(
                "an image was given, but the model was loaded without an image projector; "
                "load it with mmproj, the projector's file"
            )
        return self.tower.picture(image)

    def _placed(self, tokens: Tokens) -> Tokens:
        """`tokens`, which have room after the sequence and whose images the walk now knows."""
        count, of_images = len(tokens.ids), sum(len(p.rows) for p in tokens.pictures)
        if self.length + count > self.context:
            which = f", {of_images} of them of images," if of_images else ""
            raise ContextError(
                f"{self.length + count} tokens{which} exceed the context of {self.context}; "
                "shorten the prompt or load the model with a larger context"
            )
        if tokens.pictures:
            placed = [picture.at(self.length) for picture in tokens.pictures]
            self.walk.see([*self.walk.pictures, *placed])
        self.walk.fit(self.length + count, self.length)
        return tokens

    def _chunks(self, tokens: Tokens) -> Iterator[tuple[np.ndarray, bool]]:
        """(ids of a part that passes through the layers together, whether it is the last)."""
        start, count = self.length, len(tokens.ids)
        for first, end in parts(start, count, self.walk.chunk, self.walk.pictures):
            yield tokens.ids[first - start : end - start], end == start + count

    def room(self, ahead: int = 0) -> None:
        """Make sure of room for a token after those of the sequence and `ahead` more."""
        if self.length + ahead >= self.context:
            raise ContextError(
                f"the context of {self.context} tokens is full; load the model with a larger one"
            )
        self.walk.fit(self.length + ahead + 1, self.length + ahead)

    def _chunk(self, ids: np.ndarray, all_logits: bool, last: bool,
               inputs: Arrays | None = None) -> np.ndarray | None:  # fmt: skip
        """Up to one chunk of tokens, eagerly; logits (T, V), of the last (1, V), or None."""
        walk, T = self.walk, len(ids)
        walk.take(ids, self.length)
        walk.embed(T, self.length)
        walk.layers(T, self.length, inputs)
        logits = walk.logits if last else None
        if all_logits:
            logits = self.device.empty((T, self.config.V), np.float32, "all_logits")
        if logits is not None:
            walk.project(logits, 0 if all_logits else T - 1)
        walk.ops.advance(walk.position, T)
        self.moved(T, logits)
        return None if logits is None else self.device.read(logits)

    def moved(self, count: int, logits: Any) -> None:
        """`count` tokens have joined the sequence, and the last of them left `logits`."""
        self.length += count
        if self.finite is not None and logits is not None:
            self.finite.look(logits)


def _tower(mmproj: Path, ops: Ops, config: ModelConfig) -> Any:
    from zerfoo_numba.vision.tower import open_tower  # only images need Pillow

    return open_tower(mmproj, ops, config)
