"""Text to token ids and back, from the vocabulary in a GGUF file's metadata.

A tokenizer cuts text at special tokens and has a model of its vocabulary's kind encode what lies
between them. `MODELS` has one row per kind. The cutting follows llama.cpp (llama-vocab.cpp:
tokenizer_st_partition), so that the ids are those the file's other users get.
"""

import codecs
import operator
from collections.abc import Iterable
from typing import Any, Protocol

from zerfoo_numba.errors import FileError, InputError, UnsupportedError, shown
from zerfoo_numba.text.bpe import BytePairModel
from zerfoo_numba.text.longest_match import LongestMatchModel
from zerfoo_numba.text.sentencepiece_model import SentencePieceModel
from zerfoo_numba.text.vocabulary import CONTROL, NORMAL, UNKNOWN, Special

# tokenizer.ggml.model -> a class with `vocabulary`, `encode(text)`, `piece_bytes(token)` and
# `space_prefix`: whether encode() puts a space before the text.
MODELS = {
    "llama": SentencePieceModel,
    "gpt2": BytePairModel,
    "gemma4": BytePairModel,
    "rwkv": LongestMatchModel,
}

_WHITE = " \t\n\v\f\r"


class File(Protocol):
    """What of an open GGUF file a tokenizer reads."""

    path: str
    metadata: dict[str, Any]


def from_gguf(gguf: File) -> "Tokenizer":
    """The tokenizer of an open GGUF file (`gguf.metadata`).

    Errors: FileError for a missing key or contradictory arrays, UnsupportedError for a vocabulary
    kind that is not in MODELS or a pre-tokenizer that is not in PRETOKENIZERS.
    """
    kind = gguf.metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise FileError(f"{gguf.path} has no key tokenizer.ggml.model: it carries no vocabulary")
    if not isinstance(kind, str) or kind not in MODELS:
        raise UnsupportedError(
            f"{gguf.path}: tokenizer.ggml.model is {shown(kind)}; supported: {', '.join(MODELS)}"
        )
    try:
        return Tokenizer(MODELS[kind](gguf.metadata))
    except (FileError, UnsupportedError) as error:
        raise type(error)(f"{gguf.path}: {error}") from None


class Tokenizer:
    """A vocabulary in use.

    `pieces`: the V tokens as the file spells them; `types` (V,): tokenizer.ggml.token_type.
    `bos_id` and `eos_id` are None where the file names none. `eos_ids`: every id that ends a
    generation. `add_bos`, `add_eos`: what encode() adds.
    """

    def __init__(self, model: Any):
        self._model = model
        self._vocabulary = vocabulary = model.vocabulary
        self.pieces, self.types = vocabulary.pieces, vocabulary.types
        self.bos_id, self.eos_id = vocabulary.bos_id, vocabulary.eos_id
        self.eos_ids = vocabulary.eos_ids
        self.add_bos, self.add_eos = vocabulary.add_bos, vocabulary.add_eos
        self._is_special = vocabulary.is_special

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        add_special: with the BOS and EOS tokens that the file asks for. parse_special: control
        tokens spelled out in the text ("<end_of_turn>") become their ids; user-defined ones
        always do. Errors: InputError for text that UTF-8 cannot carry or the vocabulary lacks.
        """
        if not isinstance(text, str):
            raise InputError(f"text to encode must be a str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"character {error.start} of the text is half a surrogate pair"
            ) from None
        ids = [self.bos_id] if add_special and self.add_bos else []
        for part in self._split(text, parse_special):
            ids += [part] if isinstance(part, int) else self._model.encode(part)
        return [*ids, self.eos_id] if add_special and self.add_eos else ids

    def _split(self, text: str, parse_special: bool) -> list[str | int]:
        """`text` cut at its special tokens: non-empty strings and ids."""
        parts: list[str | int] = [text] if text else []
        for token in self._vocabulary.special:
            if token.text not in text or (token.parsed_only and not parse_special):
                continue
            cut: list[str | int] = []
            for part in parts:
                cut += [part] if isinstance(part, int) else _cut(part, token)
            parts = cut
        return parts

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD.

        special: also write control and unknown tokens, which are left out otherwise.
        Errors: InputError for an id outside the vocabulary.
        """
        decoder = StreamDecoder(self, starts=True, special=special)
        return "".join([decoder.push(i) for i in ids]) + decoder.finish()

    def stream_decoder(self, previous: int | None = None) -> "StreamDecoder":
        """A decoder for ids that come one by one and continue a text whose last id is `previous`.

        It matters after a control token only: the space that encode() put there is left out.
        """
        return StreamDecoder(self, previous is not None and self.is_special(previous))

    def piece_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for in a text: a whole number of characters or not."""
        return self._model.piece_bytes(self.check_id(token))

    def starts_with_added_space(self, token: int) -> bool:
        """Whether `token` begins with the space that encode() puts first, if it comes first."""
        return (
            self._model.space_prefix
            and bool(self.types[token] == NORMAL)
            and self._model.piece_bytes(token).startswith(b" ")
        )

    def is_special(self, token: int) -> bool:
        """Whether `token` is a control, unknown or user-defined one, cut out before encoding."""
        return bool(self._is_special[self.check_id(token)])

    def check_id(self, token: int) -> int:
        """`token` as an int. Errors: InputError if it is none of the vocabulary's ids."""
        try:
            i = operator.index(token)
        except TypeError:
            raise InputError(f"a token id must be an integer, not {shown(token)}") from None
        if not 0 <= i < len(self.pieces):
            raise InputError(
                f"token id {i} is out of range: the vocabulary has ids 0 to {len(self.pieces) - 1}"
            )
        return i


class StreamDecoder:
    """Ids in, text out as soon as it is complete: never half a UTF-8 character."""

    def __init__(self, tokenizer: Tokenizer, starts: bool, special: bool = False):
        self._tokenizer, self._special = tokenizer, special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._text_starts = starts

    def push(self, token: int) -> str:
        """The text that `token` completes, "" if it ends inside a character."""
        tokenizer = self._tokenizer
        i = tokenizer.check_id(token)
        starts, self._text_starts = self._text_starts, tokenizer.is_special(i)
        if tokenizer.types[i] in (CONTROL, UNKNOWN):
            return self._utf8.decode(tokenizer.pieces[i].encode() if self._special else b"")
        data = tokenizer.piece_bytes(i)
        added = starts and tokenizer.starts_with_added_space(i)
        return self._utf8.decode(data[added:])

    def finish(self) -> str:
        """What an unfinished character leaves: U+FFFD or ""."""
        return self._utf8.decode(b"", final=True)


def _cut(text: str, token: Special) -> list[str | int]:
    first, *rest = text.split(token.text)
    parts: list[str | int] = [first]
    for piece in rest:
        parts += [token.id, piece.lstrip(_WHITE) if token.strips else piece]
    return [part for part in parts if part != ""]
