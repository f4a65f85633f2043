"""Text to token ids and back, from the vocabulary in a GGUF file's metadata.

A tokenizer splits text at special tokens and encodes what lies between them. The splitting, the
space put before text and the tokens that end a generation follow llama.cpp (llama-vocab.cpp), so
that the ids are those the file's other users get. `TOKENIZERS` has one row per vocabulary kind.
"""

import codecs
import operator
from collections.abc import Iterable

import numpy as np
import sentencepiece

from zerfoo_numba import sentencepiece_model
from zerfoo_numba.errors import FileError, InputError, UnsupportedError

# tokenizer.ggml.token_type (gguf.md); sentencepiece_model.proto numbers its piece types alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "\u2581"  # SentencePiece writes a space as this character

# What llama.cpp takes for tokenizer.ggml.model = "llama" where a file does not say.
FLAG_DEFAULTS = {
    "add_bos_token": True,
    "add_eos_token": False,
    "add_space_prefix": True,
    "remove_extra_whitespaces": False,
}

# Published files often name one end token of several, so llama.cpp knows the others by their text.
END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",
    "<EOT>", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
)  # fmt: skip

# GGUF has no per-token strip attribute. llama.cpp removes the white space that follows a special
# token in models whose name says Phi-3, except after these.
STRIPPING_NAMES = ("phi-3", "phi3")
NEVER_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")
_WHITE = " \t\n\v\f\r"


class Tokenizer:
    """What every vocabulary kind shares; a subclass encodes plain text and spells out one piece.

    `pieces`: the V tokens as the file spells them. `bos_id` is None where the file names none.
    `eos_ids`: every id that ends a generation. Errors: FileError for a damaged vocabulary.
    """

    add_space_prefix = False

    def __init__(self, metadata: dict):
        self.pieces = _array(metadata, "tokens")
        if not isinstance(self.pieces, list) or not self.pieces:
            raise FileError("tokenizer.ggml.tokens holds no list of strings")
        self.types = _numbers(metadata, "token_type", len(self.pieces)).astype(np.int64)
        if self.types.min() < 0 or self.types.max() > BYTE:
            raise FileError(f"tokenizer.ggml.token_type holds a value that is not 0 to {BYTE}")
        self.types[self.types == 0] = NORMAL  # "undefined"
        self.add_bos = _flag(metadata, "add_bos_token")
        self.add_eos = _flag(metadata, "add_eos_token")
        self.bos_id = _token_id(metadata, "bos_token_id", len(self.pieces), self.add_bos)
        self.eos_id = _token_id(metadata, "eos_token_id", len(self.pieces), True)
        eot = _token_id(metadata, "eot_token_id", len(self.pieces), False)
        eom = _token_id(metadata, "eom_token_id", len(self.pieces), False)
        ends = set(END_TEXTS)
        by_text = [i for i, piece in enumerate(self.pieces) if piece in ends]
        self.types[by_text] = CONTROL
        self.eos_ids = {self.eos_id, eot, eom, *by_text} - {None}
        self._special = self._special_tokens(str(metadata.get("general.name", "")))

    def _special_tokens(self, name: str) -> list[tuple[str, int, bool, bool]]:
        """(text, id, only when special tokens are parsed, strips what follows), longest first."""
        strips = any(part in name.lower() for part in STRIPPING_NAMES)
        found = []
        for i in np.flatnonzero(np.isin(self.types, (CONTROL, UNKNOWN, USER_DEFINED))).tolist():
            user = self.types[i] == USER_DEFINED
            text = self.pieces[i].replace(SPACE, " ") if user else self.pieces[i]
            if text:
                found.append((text, i, not user, strips and text not in NEVER_STRIPPING))
        return sorted(found, key=lambda token: -len(token[0].encode()))

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
            ids += [part] if isinstance(part, int) else self._encode_text(part)
        return [*ids, self.eos_id] if add_special and self.add_eos else ids

    def _split(self, text: str, parse_special: bool) -> list[str | int]:
        """`text` cut at its special tokens: non-empty strings and ids."""
        parts: list[str | int] = [text] if text else []
        for token, i, parsed_only, strips in self._special:
            if token not in text or (parsed_only and not parse_special):
                continue
            cut: list[str | int] = []
            for part in parts:
                cut += [part] if isinstance(part, int) else _cut(part, token, i, strips)
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

    def is_special(self, token: int) -> bool:
        """Whether `token` is a control, unknown or user-defined one, cut out before encoding."""
        return self.types[self.check_id(token)] in (CONTROL, UNKNOWN, USER_DEFINED)

    def check_id(self, token: int) -> int:
        """`token` as an int. Errors: InputError if it is none of the vocabulary's ids."""
        try:
            i = operator.index(token)
        except TypeError:
            raise InputError(f"a token id must be an integer, not {token!r}") from None
        if not 0 <= i < len(self.pieces):
            raise InputError(
                f"token id {i} is out of range: the vocabulary has ids 0 to {len(self.pieces) - 1}"
            )
        return i

    def _encode_text(self, text: str) -> list[int]:
        raise NotImplementedError

    def _piece_bytes(self, token: int) -> bytes:
        raise NotImplementedError


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
        kind = tokenizer.types[i]
        starts, self._text_starts = self._text_starts, tokenizer.is_special(i)
        if kind in (CONTROL, UNKNOWN):
            return self._utf8.decode(tokenizer.pieces[i].encode() if self._special else b"")
        data = tokenizer._piece_bytes(i)
        # encode() put a space before this text; it is not part of it.
        if starts and kind == NORMAL and tokenizer.add_space_prefix and data.startswith(b" "):
            data = data[1:]
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What an unfinished character leaves: U+FFFD or ""."""
        return self._utf8.decode(b"", final=True)


class SentencePieceTokenizer(Tokenizer):
    """tokenizer.ggml.model = "llama": BPE that merges the pair with the best score first.

    The sentencepiece library runs on a model rebuilt from the file's tokens, scores and types.
    All special tokens are cut out before, so the rebuilt model knows them as control pieces only.
    """

    def __init__(self, metadata: dict):
        super().__init__(metadata)
        scores = _numbers(metadata, "scores", len(self.pieces)).astype(np.float32)
        if np.isnan(scores).any():
            raise FileError(f"tokenizer.ggml.scores[{np.isnan(scores).argmax()}] is not a number")
        self.add_space_prefix = _flag(metadata, "add_space_prefix")
        self._byte_of = self._byte_tokens()
        unknown = np.flatnonzero(self.types == UNKNOWN)
        self._unknown = _token_id(metadata, "unknown_token_id", len(self.pieces), False)
        if self._unknown is None and unknown.size:
            self._unknown = int(unknown[0])
        model = sentencepiece_model.serialize(
            self.pieces,
            scores,
            np.where(np.isin(self.types, (UNKNOWN, USER_DEFINED)), CONTROL, self.types),
            add_space_prefix=self.add_space_prefix,
            remove_extra_whitespaces=_flag(metadata, "remove_extra_whitespaces"),
        )
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as error:
            raise FileError(f"the sentencepiece library refuses the vocabulary: {error}") from None

    def _byte_tokens(self) -> dict[int, int]:
        """Token id -> the byte it stands for."""
        byte_of = {f"<0x{byte:02X}>": byte for byte in range(256)}
        ids = np.flatnonzero(self.types == BYTE).tolist()
        for i in ids:
            if self.pieces[i] not in byte_of:
                raise FileError(f"token {i} is a byte token but is spelled {self.pieces[i]!r}")
        return {i: byte_of[self.pieces[i]] for i in ids}

    def _encode_text(self, text: str) -> list[int]:
        ids = self._model.encode(text)
        added = len(self.pieces)  # the unknown piece that serialize() appends
        if added not in ids:
            return ids
        if self._unknown is None:
            raise InputError(
                f"the vocabulary has neither tokens for every character of {text[:40]!r} "
                "nor byte tokens nor an unknown token"
            )
        return [self._unknown if i == added else i for i in ids]

    def _piece_bytes(self, token: int) -> bytes:
        if token in self._byte_of:
            return bytes([self._byte_of[token]])
        return self.pieces[token].replace(SPACE, " ").encode()


TOKENIZERS = {"llama": SentencePieceTokenizer}


def from_gguf(gguf) -> Tokenizer:
    """The tokenizer of an open GGUF file (`gguf.metadata`).

    Errors: FileError for a missing key or contradictory arrays, UnsupportedError for a vocabulary
    kind that is not in TOKENIZERS.
    """
    kind = gguf.metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise FileError(f"{gguf.path} has no key tokenizer.ggml.model: it carries no vocabulary")
    if kind not in TOKENIZERS:
        raise UnsupportedError(
            f"{gguf.path}: tokenizer.ggml.model is {kind!r}; supported: {', '.join(TOKENIZERS)}"
        )
    try:
        return TOKENIZERS[kind](gguf.metadata)
    except FileError as error:
        raise FileError(f"{gguf.path}: {error}") from None


def _cut(text: str, token: str, i: int, strips: bool) -> list[str | int]:
    first, *rest = text.split(token)
    parts: list[str | int] = [first]
    for piece in rest:
        parts += [i, piece.lstrip(_WHITE) if strips else piece]
    return [part for part in parts if part != ""]


def _array(metadata: dict, name: str):
    key = f"tokenizer.ggml.{name}"
    if key not in metadata:
        raise FileError(f"the key {key} is missing, which the vocabulary needs")
    return metadata[key]


def _numbers(metadata: dict, name: str, count: int) -> np.ndarray:
    values = _array(metadata, name)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise FileError(f"tokenizer.ggml.{name} holds no array of numbers")
    if len(values) != count:
        raise FileError(f"tokenizer.ggml.{name} has {len(values)} entries for {count} tokens")
    return values


def _flag(metadata: dict, name: str) -> bool:
    value = metadata.get(f"tokenizer.ggml.{name}", FLAG_DEFAULTS[name])
    if not isinstance(value, bool | np.bool_):
        raise FileError(f"tokenizer.ggml.{name} is {value!r}, not a bool")
    return bool(value)


def _token_id(metadata: dict, name: str, count: int, required: bool) -> int | None:
    key = f"tokenizer.ggml.{name}"
    if key not in metadata:
        if required:
            raise FileError(f"the key {key} is missing, which the vocabulary needs")
        return None
    value = metadata[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise FileError(f"{key} is {value!r}, not one of the {count} token ids")
    return value
