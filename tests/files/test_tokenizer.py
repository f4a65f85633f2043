"""Token ids equal those of the sentencepiece library and of a plain statement of the algorithm."""

import io
import itertools
from pydoc_data.topics import topics
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

import zerfoo_numba
from zerfoo_numba import synth, tokenizer
from zerfoo_numba.errors import FileError, InputError, UnsupportedError
from zerfoo_numba.text.vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN

TEXTS = (
    "", " ", "  ", "\n", "\t\n ", "for", " for", "The for statement", "trailing  ", "a  b   c",
    "x = {'k': [1, 2.5]}  # comment\r\n", "naïve café Äpfel", "Привет, мир!", "日本語の文章",
    "👨‍👩‍👧 🦙.cpp", "nul\0nul", "\ufffd\u200b\u00a0", "a" * 300, "<s></s><unk><0x41>",
    "<tag>one<tag> two <tagtag>", "\u2581under\u2581score",
)  # fmt: skip
SYMBOLS = ("<tag>", "<tagtag>")


# add_space_prefix, remove_extra_whitespaces
SETTINGS = {"prefix": (True, False), "plain": (False, False), "prefix_strip": (True, True)}
every_setting = pytest.mark.parametrize("trained", SETTINGS, indirect=True)
settings_that_keep_text = pytest.mark.parametrize("trained", ["prefix", "plain"], indirect=True)


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """(the library's own model, our tokenizer of the same vocabulary, space put first)."""
    prefix, strip = SETTINGS[request.param]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(topics[t] for t in ("for", "class", "try")).splitlines()),
        model_writer=out, model_type="bpe", vocab_size=600, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=prefix,
        remove_extra_whitespaces=strip, user_defined_symbols=list(SYMBOLS), minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    path = tmp_path_factory.mktemp("vocab") / "vocab.gguf"
    _write_vocabulary(path, model, prefix, strip)
    return model, zerfoo_numba.load_tokenizer(path), prefix


def _write_vocabulary(path, model, prefix, strip):
    ids = range(len(model))
    kinds = [
        (model.is_unknown, UNKNOWN), (model.is_control, CONTROL),
        (model.is_byte, BYTE), (lambda i: model.id_to_piece(i) in SYMBOLS, 4),
        (lambda i: True, NORMAL),
    ]  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(i) for i in ids])
    writer.add_token_scores([model.get_score(i) for i in ids])
    writer.add_token_types([next(kind for test, kind in kinds if test(i)) for i in ids])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    writer.add_add_space_prefix(prefix)
    writer.add_bool("tokenizer.ggml.remove_extra_whitespaces", strip)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@every_setting
@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_the_sentencepiece_model(trained, text):
    model, ours, prefix = trained
    if prefix:  # llama.cpp puts a space after every special token, sentencepiece only at the start
        text = text.replace("<tag", "<_tag")
    assert ours.encode(text, add_special=False) == model.encode(text)
    assert ours.encode(text) == [model.bos_id(), *model.encode(text)]


@settings_that_keep_text
@given(text=st.text(max_size=40) | st.text("aeforst <>tag\n", max_size=60))
def test_any_text_survives_and_streams(trained, text):
    _, ours, _ = trained
    ids = ours.encode(text, parse_special=False)
    assert ours.decode(ids) == text.replace(SPACE, " ")
    decoder = ours.stream_decoder(ours.bos_id)
    assert "".join([decoder.push(i) for i in ids]) + decoder.finish() == ours.decode(ids)


@settings_that_keep_text
@given(text=st.text("aefhiorst ,\n<0é日", max_size=40))
def test_ids_equal_a_plain_merge(trained, text):
    """Merge the adjacent pair with the best score, the leftmost of equals, until none is left."""
    model, ours, prefix = trained
    score = {
        piece: model.get_score(i) for i, piece in enumerate(ours.pieces) if ours.types[i] == NORMAL
    }
    symbols = list((" " * (prefix and text != "") + text).replace(" ", SPACE))
    while True:
        pairs = [a + b for a, b in itertools.pairwise(symbols)]
        best = max(
            (i for i, pair in enumerate(pairs) if pair in score),
            key=lambda i: (score[pairs[i]], -i),
            default=None,
        )
        if best is None:
            break
        symbols[best : best + 2] = [pairs[best]]
    spelled = [s if s in score else [f"<0x{b:02X}>" for b in s.encode()] for s in symbols]
    flat = [p for s in spelled for p in ([s] if isinstance(s, str) else s)]
    assert [ours.pieces[i] for i in ours.encode(text, add_special=False)] == flat


# A vocabulary small enough to merge by hand. "bc" scores above "ab", "▁ab" is reached from "▁a".
BYTES = [f"<0x{b:02X}>" for b in range(256)]
ROWS = [
    ("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("<|end|>", 0, 3), ("<x>", 0, 4),
    ("<x><x>", 0, 4), *[(b, 0, 6) for b in BYTES],
    ("\u2581", -9, 1), ("a", -9, 1), ("b", -9, 1), ("c", -9, 1),
    ("bc", -1, 1), ("ab", -2, 1), ("\u2581a", -3, 1), ("\u2581ab", -4, 1),
]  # fmt: skip


def by_hand(rows=ROWS, **keys):
    """Metadata of the small vocabulary; `keys` replace keys, None removes one."""
    pieces, scores, types = zip(*rows, strict=True)
    named = {
        "model": "llama", "tokens": list(pieces), "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32), "bos_token_id": 1, "eos_token_id": 2,
    } | keys  # fmt: skip
    metadata = {f"tokenizer.ggml.{k}": v for k, v in named.items() if v is not None}
    return SimpleNamespace(path="vocab.gguf", metadata=metadata)


@pytest.mark.parametrize(
    ("text", "spelled", "keys", "flags"),
    [
        ("abc", "\u2581a bc", {}, {}),  # bc before ab; then ▁a
        ("ab", "\u2581ab", {}, {}),  # ab before ▁a; then ▁ab
        ("abc", "a bc", {"add_space_prefix": False}, {}),
        ("b", "<s> \u2581 b", {}, {"add_special": True}),
        ("b", "\u2581 b </s>", {"add_bos_token": False, "add_eos_token": True},
         {"add_special": True}),
        ("", "<s>", {}, {"add_special": True}),
        ("\u00e9", "\u2581 <0xC3> <0xA9>", {}, {}),
        ("b<|end|>b", "\u2581 b <0x3C> <0x7C> <0x65> <0x6E> <0x64> <0x7C> <0x3E> b", {}, {}),
        ("b<|end|>b", "\u2581 b <|end|> \u2581 b", {}, {"parse_special": True}),
        ("b<x>b", "\u2581 b <x> \u2581 b", {}, {}),  # user-defined: always cut out
        ("<x><x><x>", "<x><x> <x>", {}, {}),  # the longest first
        ("a  b", "\u2581a \u2581 b", {"remove_extra_whitespaces": True}, {}),
    ],
)  # fmt: skip
def test_hand_checked(text, spelled, keys, flags):
    ours = tokenizer.from_gguf(by_hand(**keys))
    ids = ours.encode(text, **({"add_special": False} | flags))
    assert [ours.pieces[i] for i in ids] == spelled.split()


def test_phi3_strips_what_follows_a_special_token():
    metadata = by_hand().metadata | {"general.name": "Phi-3 mini"}
    ours = tokenizer.from_gguf(SimpleNamespace(path="", metadata=metadata))
    ids = ours.encode("<|end|>\n b<s> b", add_special=False, parse_special=True)
    assert [ours.pieces[i] for i in ids] == [
        "<|end|>",
        "\u2581",
        "b",
        "<s>",
        "\u2581",
        "\u2581",
        "b",
    ]


def test_decode_leaves_out_special_tokens_and_added_spaces():
    ours = tokenizer.from_gguf(by_hand())
    ids = ours.encode("a<|end|> b", parse_special=True)
    assert ours.decode(ids) == "a b"
    assert ours.decode(ids, special=True) == "<s>a<|end|> b"


def test_stream_decoder_never_emits_half_a_character():
    ours = tokenizer.from_gguf(by_hand())
    decoder = ours.stream_decoder()
    ids = [ours.pieces.index(f"<0x{b:02X}>") for b in "é🦙".encode()]
    assert [decoder.push(i) for i in ids] == ["", "é", "", "", "", "🦙"]
    assert decoder.push(ids[2]) == "" and decoder.finish() == "\ufffd"


def test_stream_decoder_keeps_the_space_of_a_continuation():
    ours = tokenizer.from_gguf(by_hand())
    space_a, b = ours.pieces.index("\u2581a"), ours.pieces.index("b")
    assert ours.stream_decoder().push(space_a) == " a"
    assert ours.stream_decoder(b).push(space_a) == " a"
    assert ours.stream_decoder(ours.bos_id).push(space_a) == "a"


def test_every_token_that_ends_a_generation():
    assert tokenizer.from_gguf(by_hand()).eos_ids == {2, 3}  # the key, and <|end|> by its text
    keys = {"eos_token_id": 6, "eot_token_id": 7, "eom_token_id": 8}
    assert tokenizer.from_gguf(by_hand(**keys)).eos_ids == {2, 3, 6, 7, 8}


def test_without_bytes_unknown_characters_become_the_unknown_token():
    rows = [row for row in ROWS if row[2] != BYTE]
    assert tokenizer.from_gguf(by_hand(rows)).encode("\u00e9", False)[-1] == 0
    rows = [("a", 0, 1) if row[0] == "<unk>" else row for row in rows]
    with pytest.raises(InputError, match="unknown token"):
        tokenizer.from_gguf(by_hand(rows)).encode("\u00e9")


def test_odd_pieces_are_taken():
    """An empty, a repeated and a NUL piece keep their ids and are never produced."""
    ours = tokenizer.from_gguf(by_hand([*ROWS, ("", 0, 1), ("bc", 0, 1), ("\0", 0, 1)]))
    assert ours.encode("abc\0", False)[1:] == [ours.pieces.index("bc"), ours.pieces.index("<0x00>")]
    assert ours.decode([len(ROWS) + 1]) == "bc"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        *[({key: None}, f"tokenizer.ggml.{key} ") for key in
          ("tokens", "scores", "token_type", "bos_token_id")],
        ({"add_eos_token": True, "eos_token_id": None}, "tokenizer.ggml.eos_token_id"),
        ({"model": None}, "tokenizer.ggml.model"),
        ({"scores": np.zeros(3, np.float32)}, "scores has 3 entries for"),
        ({"token_type": np.ones(9, np.int32)}, "token_type has 9 entries for"),
        ({"scores": ["a"]}, "scores holds no array of numbers"),
        ({"scores": np.full(len(ROWS), np.nan, np.float32)}, "is not a number"),
        ({"token_type": np.full(len(ROWS), 7)}, "not 0 to 6"),
        ({"token_type": np.full(len(ROWS), 6)}, "byte token but is spelled '<unk>'"),
        ({"tokens": [], "scores": np.zeros(0), "token_type": np.zeros(0)}, "no list of strings"),
        ({"bos_token_id": 100000}, "bos_token_id is 100000"),
        ({"eos_token_id": -2}, "eos_token_id is -2"),
        ({"bos_token_id": 2**32 - 1}, "bos_token_id is missing"),
        ({"add_bos_token": 1}, "add_bos_token is 1, not a bool"),
    ],
)  # fmt: skip
def test_damaged_vocabularies(keys, message):
    with pytest.raises(FileError, match=message) as caught:
        tokenizer.from_gguf(by_hand(**keys))
    assert "vocab.gguf" in str(caught.value)


def test_other_vocabulary_kinds_name_the_supported_ones():
    with pytest.raises(UnsupportedError, match=r"'bert'; supported: llama, gpt2, gemma4, rwkv"):
        tokenizer.from_gguf(by_hand(model="bert"))


@pytest.mark.parametrize("ids", [[len(ROWS)], [-1], ["a"], [1.5], [None]])
def test_decode_refuses_what_is_no_id(ids):
    with pytest.raises(InputError, match="token id"):
        tokenizer.from_gguf(by_hand()).decode(ids)


@pytest.mark.parametrize("text", [b"bytes", None, 5, "half \ud800"])
def test_encode_refuses_what_is_no_text(text):
    with pytest.raises(InputError):
        tokenizer.from_gguf(by_hand()).encode(text)


def test_a_quarter_of_a_million_tokens_load():
    vocabulary = SimpleNamespace(path="", metadata=synth.vocabulary(262144))
    ours = tokenizer.from_gguf(vocabulary)
    assert ours.decode(ours.encode("to be decoded")) == "to be decoded"
