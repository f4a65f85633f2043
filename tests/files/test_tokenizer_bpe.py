"""Byte-pair vocabularies: ids equal those of the library that trained them; odd files; decoding."""

import json
from pydoc_data.topics import topics
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation

import zerfoo_numba
from zerfoo_numba import tokenizer
from zerfoo_numba.errors import FileError
from zerfoo_numba.text.bpe import BYTE_OF

TEXTS = (
    "", " ", "  ", "\n", "\t\n ", "for", " for", "The for statement", "trailing  ", "a  b   c",
    "x = {'k': [1, 2.5]}  # comment\r\n", "I'm don't we'LL they've", "12345 1,234",
    "if(a!=b){\n\n}", "\n\n\n  \n x", "HTTPServer camelCase", "nul\0nul", "a" * 300, "<|end|>",
    "https://example.com/a_b?c=1", "naïve café", "日本語の文章", "👨‍👩‍👧 🦙.cpp", "e\u0301",
)  # fmt: skip


def _sequence(*parts, use_regex=True):
    return pre_tokenizers.Sequence([*parts, ByteLevel(False, use_regex=use_regex)])


def _split(*patterns):
    parts = [pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in patterns]
    return _sequence(*parts, use_regex=False)


_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
_LARGE, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_LARGE}*{_SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{_LARGE}+{_SMALL}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_END}"
)
_DEEPSEEK3 = (
    r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _END
)
# What the publishers' own tokenizer.json files cut with.
PUBLISHED = {
    "gpt-2": ByteLevel(False),
    "starcoder": _sequence(Digits(True)),
    "command-r": _sequence(Digits(True)),
    "falcon": pre_tokenizers.Sequence(
        [Punctuation("contiguous"), ByteLevel(False), Digits(False),
         pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated")]
    ),
    "llama-bpe": _split(_GPT4 % r"\p{N}{1,3}"),
    "qwen2": _split(_GPT4 % r"\p{N}"),
    "tekken": _split(_TEKKEN),
    "deepseek-v3": _split(r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+", _DEEPSEEK3),
}  # fmt: skip
IGNORES_MERGES = ("llama-bpe", "tekken")


@pytest.fixture(scope="module", params=PUBLISHED)
def trained(request, tmp_path_factory):
    """(pre-tokenizer's name, the library's own tokenizer, ours of the same vocabulary)."""
    name = request.param
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=name in IGNORES_MERGES))
    library.pre_tokenizer = PUBLISHED[name]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=list(BYTE_OF), show_progress=False
    )
    library.train_from_iterator([topics["for"], topics["numbers"], *TEXTS], trainer)
    model = json.loads(library.to_str())["model"]
    path = tmp_path_factory.mktemp("vocab") / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return name, library, zerfoo_numba.load_tokenizer(path)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_the_library(trained, text):
    name, library, ours = trained
    bos = [1] if name in IGNORES_MERGES else []  # names for which it is the default
    ids = ours.encode(text)
    departs = name == "tekken" and "\u0301" in text  # to llama.cpp marks are no part of a word
    assert (ids == bos + library.encode(text).ids) != departs
    assert ours.decode(ids[len(bos) :]) == text


@given(text=st.text(max_size=40) | st.text("aeforst <>'S12.\n\t", max_size=60))
def test_any_text_survives_and_streams(trained, text):
    _, _, ours = trained
    ids = ours.encode(text, add_special=False)
    assert ours.decode(ids) == text
    decoder = ours.stream_decoder()
    pieces = [decoder.push(i) for i in ids]
    assert "".join(pieces) == text and decoder.finish() == ""


# A vocabulary small enough to merge by hand: "l o" before "h e"; no merge makes "hello".
MERGES = ["l o", "h e", "he l", "hel lo", "Ġ hel", "c d", "c de", "d e"]
MERGED = ["lo", "he", "hel", "Ġhel", "hello", "cd", "cde", "de"]


def by_hand(merges=MERGES, extra=(), **keys):
    """Metadata of the small vocabulary; `extra` are (token, type), `keys` replace keys."""
    tokens = [*BYTE_OF, *MERGED, *(token for token, _ in extra)]
    types = [1] * (len(tokens) - len(extra)) + [kind for _, kind in extra]
    named = {
        "model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": merges,
        "token_type": np.array(types, np.int32),
    } | keys  # fmt: skip
    metadata = {f"tokenizer.ggml.{k}": v for k, v in named.items() if v is not None}
    return SimpleNamespace(path="vocab.gguf", metadata=metadata)


def spelled(source, text, **flags):
    ours = tokenizer.from_gguf(source)
    return [ours.pieces[i] for i in ours.encode(text, **flags)]


@pytest.mark.parametrize(
    ("text", "pieces", "keys"),
    [
        ("hello", "he l lo", {"merges": MERGES[:2]}),  # lo before he; l is gone by then
        ("hello", "hello", {}),
        (" hello", "Ġ hello", {}),  # Ġ hel comes too late
        ("cde", "cd e", {"merges": ["c d", "d e"]}),
        ("cde", "c de", {"merges": ["d e", "c d"]}),
        ("cde", "c de", {"merges": ["d e", "c d", "d e"]}),  # of equals the first counts
        ("cde", "c de", {"merges": ["d e"]}),
        ("cde", "cde", {"merges": ["d e"], "pre": "llama-bpe", "add_bos_token": False}),
        ("é\n", "Ã © Ċ", {}),
    ],
)
def test_hand_checked(text, pieces, keys):
    assert spelled(by_hand(**keys), text) == pieces.split()


def test_special_tokens_and_the_ends_of_a_text():
    extra = [("<|x|>", 3), ("<tag>", 4), ("  ", 4)]
    source = by_hand(extra=extra, bos_token_id=0, eos_token_id=1, add_bos_token=True,
                     add_eos_token=True)  # fmt: skip
    text = "a<|x|>b<tag>c  d"
    assert spelled(source, text) == [*"!a<|x|>b", "<tag>", "c", "  ", "d", '"']
    assert spelled(source, text, add_special=False, parse_special=True) == [
        *("a", "<|x|>", "b", "<tag>", "c", "  ", "d")
    ]
    ours = tokenizer.from_gguf(source)
    assert ours.decode(ours.encode(text, False, True)) == "ab<tag>c  d"
    assert ours.decode(ours.encode(text, False, True), special=True) == text


@pytest.mark.parametrize(
    ("keys", "added"),
    [
        ({}, False), ({"pre": "llama-bpe"}, True), ({"pre": "tekken"}, True),
        ({"pre": "chameleon"}, True), ({"pre": "llama-bpe", "add_bos_token": False}, False),
        ({"pre": "qwen2", "add_bos_token": True}, True),
        ({"model": "gemma4", "pre": None, "add_bos_token": False}, True),
    ],
)  # fmt: skip
def test_who_begins_with_a_bos_token(keys, added):
    assert tokenizer.from_gguf(by_hand(bos_token_id=5, **keys)).encode("") == [5] * added


def test_pieces_that_merges_need_but_the_file_lacks():
    """Their text gets the tokens of its bytes; so does a character without a token: nothing."""
    assert spelled(by_hand(["x y", "xy z"]), "axyzb") == [*"axyzb"]
    tokens = [token for token in BYTE_OF if token != "q"]
    lacking = by_hand(["a b"], tokens=[*tokens, "ab"], token_type=None)
    assert spelled(lacking, "abqaqb") == ["ab", "a", "b"]  # a and b do not meet over the q


def test_bytes_that_are_no_text():
    ours = tokenizer.from_gguf(by_hand())
    ids = [ours.pieces.index(c) for c in "Ã©ðŁ"]
    assert [ours.piece_bytes(i) for i in ids] == [b"\xc3", b"\xa9", b"\xf0", b"\x9f"]
    assert ours.decode(ids) == "é\ufffd"
    decoder = ours.stream_decoder()
    assert [decoder.push(i) for i in ids] == ["", "é", "", ""] and decoder.finish() == "\ufffd"
    assert {ours.piece_bytes(i) for i in range(256)} == {bytes([b]) for b in range(256)}


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPELLED_OUT = [
    "<pad>", "<eos>", "<bos>", "\n", "\n\n", "\n\n\n", "\u2581", "a", "b", "é", "ab", "\u2581ab",
]  # fmt: skip


def spelled_out(**keys):
    tokens = [*SPELLED_OUT, *BYTES]
    types = np.repeat([3, 1, 6], [3, len(SPELLED_OUT) - 3, 256])
    named = {"model": "gemma4", "pre": None, "bos_token_id": 2, "eos_token_id": 1} | keys
    return by_hand(["a b", "\u2581 ab", "\n \n"], tokens=tokens, token_type=types, **named)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab ab", "ab \u2581ab"),
        ("  ab", "\u2581 \u2581ab"),
        ("aéc\t", "a é <0x63> <0x09>"),
        ("日", "<0xE6> <0x97> <0xA5>"),
        ("<0x41>", "<0x3C> <0x30> <0x78> <0x34> <0x31> <0x3E>"),
    ],
)
def test_vocabularies_that_spell_tokens_out(text, pieces):
    ours = tokenizer.from_gguf(spelled_out())
    ids = ours.encode(text, add_special=False)
    assert [ours.pieces[i] for i in ids] == pieces.split() and ours.decode(ids) == text


@pytest.mark.parametrize(
    ("keys", "runs"), [({}, [3]), ({"model": "gpt2", "pre": "sarvam-moe"}, [2, 1])]
)
def test_gemma4_takes_a_run_of_newlines_whole(keys, runs):
    pieces = spelled(spelled_out(**keys), "\n\n\n", add_special=False)
    assert [len(piece) for piece in pieces] == runs


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (by_hand(merges=None), "tokenizer.ggml.merges is missing"),
        (by_hand(merges=np.zeros(3)), "merges holds no list of strings"),
        (by_hand(extra=[("lo", 1)]), "both spelled 'lo'"),
        (by_hand(token_type=np.ones(3, np.int32)), "token_type has 3 entries"),
        (by_hand(pre="llama-bpe"), "tokenizer.ggml.bos_token_id is missing"),
    ],
)
def test_damaged_vocabularies(source, message):
    with pytest.raises(FileError, match=f"vocab.gguf: .*{message}"):
        tokenizer.from_gguf(source)


def test_what_llama_cpp_forgives():
    """Empty tokens, merges of one part, no token types."""
    source = by_hand([*MERGES, "alone", ""], tokens=[*BYTE_OF, *MERGED, "", ""], token_type=None)
    assert spelled(source, "hello") == ["hello"]
    assert tokenizer.from_gguf(source).decode([256 + len(MERGED)]) == ""


def test_150_thousand_tokens_load():
    pairs = [(a, b) for a in BYTE_OF for b in BYTE_OF]
    triples = [(a + b, c) for a, b in pairs[:330] for c in BYTE_OF]
    merges = [*pairs, *triples]
    tokens = [*BYTE_OF, *("".join(pair) for pair in merges)]
    source = by_hand([" ".join(pair) for pair in merges], tokens=tokens, token_type=None)
    ours = tokenizer.from_gguf(source)
    assert (
        len(ours.pieces) > 150_000 and ours.decode(ours.encode("to be decoded")) == "to be decoded"
    )
