"""tokenizer.ggml.model = "gpt2": words merged pair by pair, in the order of the file's merges.

The tokenizers library merges, on a model rebuilt from the file's tokens and merges; the words come
from the pre-tokenizer that tokenizer.ggml.pre names. Most vocabularies spell a token by the bytes
of its UTF-8 text, each byte as one of 256 printable characters (openai/gpt-2, encoder.py); Gemma 4
and its like (tokenizer.ggml.model = "gemma4") spell it out, with U+2581 for a space.
"""

import re

import tokenizers
from tokenizers import models, pre_tokenizers

from zerfoo_numba.errors import FileError, shown
from zerfoo_numba.text.pretokenizers import PreTokenizer, pretokenizer
from zerfoo_numba.text.vocabulary import SPACE, USER_DEFINED, Vocabulary, strings


def _byte_characters() -> dict[str, int]:
    """Character -> byte: a printable byte of Latin-1 is its own, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


BYTE_OF = _byte_characters()


class BytePairModel:
    """Encodes plain text and spells out one token.

    Errors: FileError for tokens or merges that contradict each other, UnsupportedError for an
    unknown pre-tokenizer.
    """

    space_prefix = False

    def __init__(self, metadata: dict):
        row = _row(metadata)
        self.vocabulary = vocabulary = Vocabulary(metadata, row.add_bos, row.force_bos)
        self._spelled_out = row.spelled_out
        self._byte_of = vocabulary.byte_tokens()
        pieces = [piece or f"[EMPTY_{i}]" for i, piece in enumerate(vocabulary.pieces)]
        ids = {piece: i for i, piece in enumerate(pieces)}
        if len(ids) != len(pieces):
            twice = next(i for i, piece in enumerate(pieces) if ids[piece] != i)
            raise FileError(
                f"tokens {twice} and {ids[pieces[twice]]} are both spelled {shown(pieces[twice])}"
            )
        self._whole = {p: i for p, i in ids.items() if row.whole_newlines and not p.strip("\n")}
        merges = _merges(metadata)
        self._replaced = self._add_missing(ids, merges)
        self._library = _library(row, ids, merges)

    def _add_missing(self, ids: dict[str, int], merges: list[tuple[str, str]]) -> dict:
        """Number the pieces that merges need but that are no tokens; what stands for each of them.

        Text left in such a piece gets the tokens of its bytes (llama.cpp drops most of it). The
        last piece added is for characters that no token has.
        """
        count = len(ids)
        needed = {piece for pair in merges for piece in pair}.union(map("".join, merges))
        added = sorted(needed.difference(ids))
        ids.update(zip(added, range(count, count + len(added)), strict=True))
        spelled = [
            [f"<0x{b:02X}>" for b in piece.encode()] if self._spelled_out else piece
            for piece in added
        ]
        replaced = {
            ids[piece]: [ids[s] for s in parts if ids.get(s, count) < count]
            for piece, parts in zip(added, spelled, strict=True)
        }
        unknown = max(ids, key=len) + "\ue000"
        ids[unknown] = len(ids)
        return replaced | {ids[unknown]: []}

    def encode(self, text: str) -> list[int]:
        if not self._spelled_out:
            return self._merged(text)
        found: list[int] = []
        for part in re.findall(r"[^\n]+|\n+", text):
            whole = self._whole.get(part)
            found += self._merged(part.replace(" ", SPACE)) if whole is None else [whole]
        return found

    def _merged(self, text: str) -> list[int]:
        ids = self._library.encode(text, add_special_tokens=False).ids
        if self._replaced.keys().isdisjoint(ids):
            return ids
        return [j for i in ids for j in self._replaced.get(i, (i,))]

    def piece_bytes(self, token: int) -> bytes:
        piece = self.vocabulary.pieces[token]
        if token in self._byte_of:
            return bytes([self._byte_of[token]])
        if self.vocabulary.types[token] == USER_DEFINED:
            return piece.encode()
        if self._spelled_out:
            return piece.replace(SPACE, " ").encode()
        return b"".join(
            bytes([BYTE_OF[character]]) if character in BYTE_OF else character.encode()
            for character in piece
        )


def _row(metadata: dict) -> PreTokenizer:
    if metadata.get("tokenizer.ggml.model") == "gemma4":
        return pretokenizer("gemma4")
    return pretokenizer(metadata.get("tokenizer.ggml.pre"))


def _merges(metadata: dict) -> list[tuple[str, str]]:
    """The pairs to merge, first things first; of a pair that comes twice the first counts."""
    pairs = {}
    for merge in strings(metadata, "merges"):
        cut = merge.find(" ", 1)
        if cut > 0:
            pairs[merge[:cut], merge[cut + 1 :]] = None
    return list(pairs)


def splitter(row: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """What cuts text into the words of a row."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in row.patterns]
    )


def _library(row: PreTokenizer, ids: dict[str, int], merges: list) -> tokenizers.Tokenizer:
    """The last of `ids` stands for characters that no token has."""
    library = tokenizers.Tokenizer(
        models.BPE(
            ids,
            merges,
            unk_token=next(reversed(ids)),
            byte_fallback=row.spelled_out,
            ignore_merges=row.ignore_merges,
        )
    )
    if row.spelled_out:
        library.pre_tokenizer = splitter(row)
    else:
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([splitter(row), in_bytes])
    return library
