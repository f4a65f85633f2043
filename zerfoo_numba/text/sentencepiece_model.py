"""A vocabulary as the bytes of a sentencepiece.ModelProto, which the sentencepiece library reads.

Format: sentencepiece_model.proto. Of the protobuf wire format it needs three kinds of field, each
begun by the number 8 * field + kind: varint (0), length-delimited (2) and 32-bit float (5).
"""

import struct

import numpy as np

_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


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
    byte_fallback = len({p for p, kind in zip(pieces, types, strict=True) if kind == _BYTE}) == 256
    if not byte_fallback:
        types = np.where(types == _BYTE, _CONTROL, types)
    named = _acceptable(pieces)
    tail = struct.Struct("<BfBB").pack  # score = 2, type = 3
    chunks = []
    for piece, score, kind in zip(
        named, [*scores.tolist(), 0.0], [*types.tolist(), _UNKNOWN], strict=True
    ):
        chunks.append(_bytes(1, _bytes(1, piece.encode()) + tail(0x15, score, 0x18, kind)))
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
    taken: set[str] = set()
    named = []
    for i, piece in enumerate([*pieces, ""]):
        if not piece or piece in taken or "\0" in piece:
            piece = f"\ue000{i}\ue000"
            while piece in taken:
                piece += "\ue000"
        taken.add(piece)
        named.append(piece)
    return named


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
