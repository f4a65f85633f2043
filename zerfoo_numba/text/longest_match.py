r"""tokenizer.ggml.model = "rwkv": at every byte the longest token that the text goes on with.

The file stores a token as the text of a byte string: \t, \n, \r, \xHH, and \ before any other
character for that character (llama.cpp, llama-vocab.cpp: llama_unescape_rwkv_token).
"""

import re

from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.text.vocabulary import Vocabulary

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_NAMED = {"t": b"\t", "n": b"\n", "r": b"\r"}


class LongestMatchModel:
    """Encodes plain text and spells out one token. Errors: FileError for a damaged vocabulary."""

    space_prefix = False

    def __init__(self, metadata: dict):
        self.vocabulary = Vocabulary(metadata)
        self._bytes = [_unescape(piece) for piece in self.vocabulary.pieces]
        # Unlike llama.cpp, plain text never yields a control token.
        plain = ~self.vocabulary.is_special
        self._ids = {data: i for i, data in enumerate(self._bytes) if data and plain[i]}
        if not self._ids:
            raise FileError("tokenizer.ggml.tokens holds no token that stands for text")
        lengths: dict[int, set[int]] = {}
        for data in self._ids:
            lengths.setdefault(data[0], set()).add(len(data))
        self._lengths = {first: sorted(some, reverse=True) for first, some in lengths.items()}

    def encode(self, text: str) -> list[int]:
        data, at, found = text.encode(), 0, []
        while at < len(data):
            for length in self._lengths.get(data[at], ()):
                token = self._ids.get(data[at : at + length])
                if token is not None:
                    break
            else:
                token, length = self.vocabulary.unknown_id, 1
                if token is None:
                    raise InputError(
                        f"the vocabulary has no token for byte {data[at]:#04x} of the text "
                        "and no unknown token"
                    )
            found.append(token)
            at += length
        return found

    def piece_bytes(self, token: int) -> bytes:
        return self._bytes[token]


def _unescape(piece: str) -> bytes:
    out, end = [], 0
    for match in _ESCAPE.finditer(piece):
        out.append(piece[end : match.start()].encode())
        what, end = match[1], match.end()
        if what[0] == "x" and len(what) == 3:
            out.append(bytes([int(what[1:], 16)]))
        else:
            out.append(_NAMED.get(what, what.encode()))
    return b"".join(out) + piece[end:].encode()
