"""tokenizer.ggml.model = "llama": BPE that merges the pair with the best score first.

The sentencepiece library runs on a model rebuilt from the file's tokens, scores and types: the
bytes of a ModelProto (sentencepiece_model.proto). Of the protobuf wire format that needs three
kinds of field, each begun by the number 8 * field + kind: varint (0), length-delimited (2) and
32-bit float (5).
"""

import numpy as np
import sentencepiece

from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.text.vocabulary import (
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    flag,
    numbers,
)

_BPE = 2  # TrainerSpec.ModelType
# What follows the text of a SentencePiece.
_TAIL = np.dtype([("score_tag", "u1"), ("score", "<f4"), ("type_tag", "u1"), ("type", "u1")])


class SentencePieceModel:
    """Encodes plain text and spells out one token.

    Special tokens are cut out before, so the rebuilt model knows them as control pieces only.
    `space_prefix`: encode() puts a space before the text. Errors: FileError for a damaged
    vocabulary.
    """

    def __init__(self, metadata: dict):
        self.vocabulary = vocabulary = Vocabulary(metadata, add_bos=True)
        if "tokenizer.ggml.token_type" not in metadata:
            raise FileError("the key tokenizer.ggml.token_type is missing, which the scores need")
        scores = numbers(metadata, "scores", len(vocabulary.pieces)).astype(np.float32)
        if np.isnan(scores).any():
            raise FileError(f"tokenizer.ggml.scores[{np.isnan(scores).argmax()}] is not a number")
        self.space_prefix = flag(metadata, "add_space_prefix", True)
        self._byte_of = vocabulary.byte_tokens()
        unknown = np.flatnonzero(vocabulary.types == UNKNOWN)
        self._unknown = vocabulary.unknown_id
        if self._unknown is None and unknown.size:
            self._unknown = int(unknown[0])
        model = serialize(
            vocabulary.pieces,
            scores,
            np.where(vocabulary.is_special, CONTROL, vocabulary.types),
            add_space_prefix=self.space_prefix,
            remove_extra_whitespaces=flag(metadata, "remove_extra_whitespaces", False),
        )
        try:
            self._library = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as error:
            raise FileError(f"the sentencepiece library refuses the vocabulary: {error}") from None

    def encode(self, text: str) -> list[int]:
        ids = self._library.encode(text)
        added = len(self.vocabulary.pieces)  # the unknown piece that serialize() appends
        if added not in ids:
            return ids
        if self._unknown is None:
            raise InputError(
                f"the vocabulary has neither tokens for every character of {text[:40]!r} "
                "nor byte tokens nor an unknown token"
            )
        return [self._unknown if i == added else i for i in ids]

    def piece_bytes(self, token: int) -> bytes:
        if token in self._byte_of:
            return bytes([self._byte_of[token]])
        piece = self.vocabulary.pieces[token]
        if self.vocabulary.types[token] == USER_DEFINED:
            return piece.encode()
        return piece.replace(SPACE, " ").encode()


def serialize(
    pieces: list[str],
    scores: np.ndarray,
    types: np.ndarray,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
) -> bytes:
    """A BPE model of V pieces with scores (V,) and types (V,), and an unknown piece with id V.

    Bytes stand in for unknown characters if all 256 byte pieces are there.
    """
    byte_fallback = len({pieces[i] for i in np.flatnonzero(types == BYTE).tolist()}) == 256
    if not byte_fallback:
        types = np.where(types == BYTE, CONTROL, types)
    named = _acceptable(pieces)
    tails = np.zeros(len(named), _TAIL)
    tails["score"][:-1], tails["type"][:-1], tails["type"][-1] = scores, types, UNKNOWN
    tails["score_tag"], tails["type_tag"] = 0x15, 0x18  # score = 2, type = 3
    tails, size = tails.tobytes(), _TAIL.itemsize
    chunks = []
    for at, piece in zip(range(0, len(tails), size), named, strict=True):
        data = piece.encode()
        head = _HEADS[len(data)] if len(data) < len(_HEADS) else _head(len(data))
        chunks += head, data, tails[at : at + size]
    # TrainerSpec: model_type = 3, byte_fallback = 35, unk_piece = 45
    trainer = _number(3, _BPE) + _number(35, byte_fallback) + _bytes(45, named[-1].encode())
    # NormalizerSpec: name = 1, add_dummy_prefix = 3, remove_extra_whitespaces = 4
    normalizer = _bytes(1, b"identity")
    normalizer += _number(3, add_space_prefix) + _number(4, remove_extra_whitespaces)
    return b"".join([*chunks, _bytes(2, trainer), _bytes(3, normalizer)])


def _acceptable(pieces: list[str]) -> list[str]:
    """`pieces` as the library takes them, then the unknown piece.

    It takes no empty piece, none with a NUL and none twice. The names given instead are met in no
    text: BPE would have to merge their first two characters, and those are no piece.
    """
    taken = set(pieces)
    if len(taken) == len(pieces) and "" not in taken and "\0" not in "".join(pieces):
        return [*pieces, _unused(len(pieces), taken)]
    taken = set()
    named = []
    for i, piece in enumerate([*pieces, ""]):
        if not piece or piece in taken or "\0" in piece:
            piece = _unused(i, taken)
        taken.add(piece)
        named.append(piece)
    return named


def _unused(number: int, taken: set[str]) -> str:
    piece = f"\ue000{number}\ue000"
    while piece in taken:
        piece += "\ue000"
    return piece


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _head(size: int) -> bytes:
    """What precedes the `size` bytes of a piece's text: pieces = 1, and in it piece = 1."""
    inner = _varint(1 << 3 | 2) + _varint(size)
    return _varint(1 << 3 | 2) + _varint(len(inner) + size + _TAIL.itemsize) + inner


_HEADS = [_head(size) for size in range(128)]
