"""The tokens of a GGUF file and what each is for: which start, end or structure a text.

The file's keys say most of it. What they leave open is settled as llama.cpp does (llama-vocab.cpp),
so that the ids are those the file's other users get: it knows some tokens by their text alone.
"""

from typing import NamedTuple

import numpy as np

from zerfoo_numba.errors import FileError, shown

# tokenizer.ggml.token_type (gguf.md); sentencepiece_model.proto numbers its piece types alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "\u2581"  # vocabularies that spell tokens out write a space as this character

# Published files often name one end token of several, and mistype them.
END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
)  # fmt: skip
# Tokens for filling in the middle, looked for where no key names them. Some end a generation.
FIM_TEXTS = {
    ("fim_pre", "prefix"): ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>",
        "<\uff5cfim\u2581begin\uff5c>", "<PRE>", "\u2581<PRE>", "<|code_prefix|>", "<|prefix|>"),
    ("fim_suf", "suffix"): ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",
        "<\uff5cfim\u2581hole\uff5c>", "<SUF>", "\u2581<SUF>", "<|code_suffix|>", "<|suffix|>"),
    ("fim_mid", "middle"): ("<|fim_middle|>", "<fim-middle>", "<fim_middle>",
        "<\uff5cfim\u2581end\uff5c>", "<MID>", "\u2581<MID>", "<|code_middle|>", "<|middle|>"),
    ("fim_pad",): ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("fim_rep",): ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("fim_sep",): ("<|file_sep|>",),
}  # fmt: skip
FIM_ENDS = (("fim_pad",), ("fim_rep",), ("fim_sep",))
# In gpt-oss these structure the answer, so that a reader must see them.
SHOWN_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")

# GGUF has no per-token strip attribute. llama.cpp removes the white space that follows a special
# token in models whose name says Phi-3, except after these.
STRIPPING_NAMES = ("phi-3", "phi3")
NEVER_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")


class Special(NamedTuple):
    """A token cut out of a text before the rest of it is encoded."""

    text: str
    id: int
    parsed_only: bool  # where special tokens are parsed; else always
    strips: bool  # white space that follows it goes with it


class Vocabulary:
    """The V tokens of a file.

    `pieces`: as the file spells them; `types` (V,); `ids`: the first id of each spelling.
    `bos_id`, `eos_id`, `unknown_id`: None where the file names none. `eos_ids`: every id that ends
    a generation. `special`: longest first. `add_bos`: what holds where the file has no such key.
    Errors: FileError for a damaged vocabulary.
    """

    def __init__(self, metadata: dict, add_bos: bool = False, force_bos: bool = False):
        self.pieces = strings(metadata, "tokens")
        self.ids = dict(zip(reversed(self.pieces), reversed(range(len(self.pieces))), strict=True))
        self.types = self._types(metadata)
        self.add_bos = flag(metadata, "add_bos_token", add_bos) or force_bos
        self.add_eos = flag(metadata, "add_eos_token", False)
        self.bos_id = self._named(metadata, "bos", self.add_bos)
        self.eos_id = self._named(metadata, "eos", self.add_eos)
        self.unknown_id = self._named(metadata, "unknown")
        named = (self.eos_id, self._named(metadata, "eot"), self._named(metadata, "eom"))
        self.eos_ids = {i for i in named if i is not None}
        self._find_by_text(metadata)
        name = metadata.get("general.name", "")
        if not isinstance(name, str):
            raise FileError(f"general.name is {shown(name)}, not a text")
        self.special = self._special_tokens(name)

    def _types(self, metadata: dict) -> np.ndarray:
        if "tokenizer.ggml.token_type" not in metadata:  # gguf.md: it may be missing
            return np.full(len(self.pieces), NORMAL)
        types = numbers(metadata, "token_type", len(self.pieces)).astype(np.int64)
        if types.min() < 0 or types.max() > BYTE:
            raise FileError(f"tokenizer.ggml.token_type holds a value that is not 0 to {BYTE}")
        types[types == 0] = NORMAL  # "undefined"
        return types

    def _named(self, metadata: dict, role: str, required: bool = False) -> int | None:
        key = f"tokenizer.ggml.{role}_token_id"
        value, count = metadata.get(key, -1), len(self.pieces)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and value in (-1, 0xFFFFFFFF):  # published files write "none" as -1
            if required:
                raise FileError(f"the key {key} is missing, which the vocabulary needs")
            return None
        if not whole or not 0 <= value < count:
            raise FileError(f"{key} is {shown(value)}, not one of the {count} token ids")
        return value

    def _find_by_text(self, metadata: dict) -> None:
        """Control tokens and ends of a generation that the file does not mark as such."""
        ids, ends = self.ids, self.eos_ids
        by_text = {ids[text] for text in END_TEXTS if text in ids}
        ends |= by_text
        for roles, texts in FIM_TEXTS.items():
            named = [i for role in roles if (i := self._named(metadata, role)) is not None]
            found = named or [ids[text] for text in texts if text in ids][:1]
            by_text.update([] if named else found)
            ends.update(found if roles in FIM_ENDS else [])
        self.types[list(by_text)] = CONTROL
        self.types[[ids[text] for text in SHOWN_TEXTS if text in ids]] = USER_DEFINED
        texts = {self.pieces[i] for i in ends}
        calls = "<|flush|>" in texts and texts & {"<|call|>", "<|calls|>"}
        if "<|end|>" in texts and (calls or texts >= {"<|return|>", "<|call|>"}):
            self._take_back("<|end|>", USER_DEFINED)  # there it ends a message, not the answer
        if "<|tool_response>" in texts and "</s>" in texts:
            self._take_back("</s>", NORMAL)

    def _take_back(self, end: str, kind: int) -> None:
        self.eos_ids.discard(self.ids[end])
        self.types[self.ids[end]] = kind

    def _special_tokens(self, name: str) -> list[Special]:
        strips = any(part in name.lower() for part in STRIPPING_NAMES)
        found = [
            Special(
                self.pieces[i],
                i,
                parsed_only=bool(self.types[i] != USER_DEFINED),
                strips=strips and self.pieces[i] not in NEVER_STRIPPING,
            )
            for i in np.flatnonzero(self.is_special).tolist()
            if self.pieces[i]
        ]
        return sorted(found, key=lambda token: -len(token.text.encode()))

    @property
    def is_special(self) -> np.ndarray:
        """(V,) bool: the tokens that are cut out of a text before it is encoded."""
        return np.isin(self.types, (CONTROL, UNKNOWN, USER_DEFINED))

    def byte_tokens(self) -> dict[int, int]:
        """Token id -> the byte it stands for, of the tokens that are typed so."""
        byte_of = {f"<0x{byte:02X}>": byte for byte in range(256)}
        ids = np.flatnonzero(self.types == BYTE).tolist()
        for i in ids:
            if self.pieces[i] not in byte_of:
                raise FileError(f"token {i} is a byte token but is spelled {shown(self.pieces[i])}")
        return {i: byte_of[self.pieces[i]] for i in ids}


# Values of the file's keys -----------------------------------------------------------------


def strings(metadata: dict, name: str) -> list[str]:
    values = _array(metadata, name)
    if not isinstance(values, list) or not values:
        raise FileError(f"tokenizer.ggml.{name} holds no list of strings")
    return values


def numbers(metadata: dict, name: str, count: int) -> np.ndarray:
    values = _array(metadata, name)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise FileError(f"tokenizer.ggml.{name} holds no array of numbers")
    if len(values) != count:
        raise FileError(f"tokenizer.ggml.{name} has {len(values)} entries for {count} tokens")
    return values


def flag(metadata: dict, name: str, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, bool | np.bool_):
        raise FileError(f"tokenizer.ggml.{name} is {shown(value)}, not a bool")
    return bool(value)


def _array(metadata: dict, name: str):
    key = f"tokenizer.ggml.{name}"
    if key not in metadata:
        raise FileError(f"the key {key} is missing, which the vocabulary needs")
    return metadata[key]
