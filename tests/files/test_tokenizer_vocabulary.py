"""What a vocabulary's tokens are for where the file does not say, and RWKV's longest match."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerfoo_numba import tokenizer
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.text.vocabulary import CONTROL, NORMAL, USER_DEFINED, Vocabulary


def vocabulary(*texts, kinds=None, **keys):
    """A vocabulary of `texts`; every token is NORMAL unless `kinds` says otherwise."""
    named = {"tokens": list(texts), "token_type": np.array(kinds or [NORMAL] * len(texts))} | keys
    metadata = {f"tokenizer.ggml.{k}": v for k, v in named.items() if v is not None}
    return Vocabulary(metadata)


def ends(found):
    return {found.pieces[i] for i in found.eos_ids}


def test_ends_by_key_and_by_text():
    assert ends(vocabulary("a", "b")) == set()
    none = vocabulary("a", "b", eos_token_id=2**32 - 1, bos_token_id=-1)
    assert none.eos_id is None and none.bos_id is None and ends(none) == set()
    assert ends(vocabulary("a", "b", "c", "d", eos_token_id=0, eot_token_id=1, eom_token_id=2)) == {
        *"abc"
    }
    found = vocabulary("<|im_end|>", "</s>", "<|eot_id|>", "x", eos_token_id=3)
    assert ends(found) == {"<|im_end|>", "</s>", "<|eot_id|>", "x"}
    assert found.types.tolist() == [CONTROL, CONTROL, CONTROL, NORMAL]


def test_tokens_for_filling_in_the_middle():
    """One of each role, by text if no key names it; three roles end a generation."""
    texts = ("<|fim_prefix|>", "<PRE>", "<|fim_pad|>", "<|file_sep|>", "<|fim_repo|>")
    found = vocabulary(*texts)
    assert found.types.tolist() == [CONTROL, NORMAL, CONTROL, CONTROL, CONTROL]
    assert ends(found) == {"<|fim_pad|>", "<|file_sep|>", "<|fim_repo|>"}
    found = vocabulary(*texts, fim_pre_token_id=1, fim_pad_token_id=0)
    assert found.types.tolist() == [NORMAL, NORMAL, NORMAL, CONTROL, CONTROL]
    assert ends(found) == {"<|fim_prefix|>", "<|file_sep|>", "<|fim_repo|>"}
    assert vocabulary("<PRE>", "x", prefix_token_id=1).types.tolist() == [NORMAL, NORMAL]


def test_end_texts_that_do_not_end_an_answer():
    found = vocabulary("<|end|>", "<|return|>", "<|call|>", "<|channel|>")
    assert ends(found) == {"<|return|>", "<|call|>"}
    assert found.types.tolist() == [USER_DEFINED, CONTROL, CONTROL, USER_DEFINED]
    assert ends(vocabulary("<|end|>", "<|calls|>", "<|flush|>")) == {"<|calls|>", "<|flush|>"}
    assert ends(vocabulary("<|end|>", "<|call|>")) == {"<|end|>", "<|call|>"}
    found = vocabulary("</s>", "<|tool_response>")
    assert ends(found) == {"<|tool_response>"} and found.types.tolist() == [NORMAL, CONTROL]


def test_special_tokens_come_longest_first():
    found = vocabulary("<a>", "<a><a>", "<é>", "", "x", kinds=[3, 4, 2, 3, 1])
    assert [(s.text, s.parsed_only) for s in found.special] == [
        ("<a><a>", False),
        ("<é>", True),
        ("<a>", True),
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"add_bos_token": True}, "bos_token_id is missing"),
        ({"add_eos_token": True}, "eos_token_id is missing"),
        ({"eot_token_id": 2}, "eot_token_id is 2, not one of the 2 token ids"),
        ({"fim_pre_token_id": "a"}, "fim_pre_token_id is 'a'"),
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes', not a bool"),
        ({"tokens": 3}, "tokens holds no list of strings"),
        ({"token_type": np.array([1, 7])}, "not 0 to 6"),
    ],
)
def test_damaged_keys(keys, message):
    with pytest.raises(FileError, match=message):
        vocabulary("a", "b", **keys)


# RWKV: every byte, a few longer tokens, among them one that is no text by itself.
ESCAPED = {
    b"\t": r"\t", b"\n": r"\n", b"\r": r"\r", b"'": r"\'", b"\\": r"\\",
}  # fmt: skip
LONGER = {b"ab": "ab", b"abc": "abc", b"\n\n": r"\n\n", b"\xe6\x97": r"\xe6\x97", "é".encode(): "é"}


def rwkv(**keys):
    single = {}
    for byte in range(256):
        data = bytes([byte])
        plain = chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
        single[data] = ESCAPED.get(data, plain)
    tokens = ["<s>", *single.values(), *LONGER.values()]
    metadata = {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([CONTROL] + [NORMAL] * (len(tokens) - 1)),
    } | {f"tokenizer.ggml.{k}": v for k, v in keys.items()}
    return tokenizer.from_gguf(SimpleNamespace(path="rwkv.gguf", metadata=metadata))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("abcab", "abc ab"),
        ("aab", "a ab"),
        ("日", r"\xe6\x97 \xa5"),
        ("é'\\", r"é \' \\"),
        ("\n\n\n", r"\n\n \n"),
        ("<s>", "< s >"),
    ],
)
def test_the_longest_match_wins(text, pieces):
    ours = rwkv()
    ids = ours.encode(text)
    assert [ours.pieces[i] for i in ids] == pieces.split(" ") and ours.decode(ids) == text


@given(st.text("abc\n\té日🦙'\\x", max_size=30))
def test_rwkv_ids_lead_back_to_the_text(text):
    ours = rwkv()
    ids = ours.encode(text, parse_special=False)
    assert b"".join(map(ours.piece_bytes, ids)) == text.encode() and ours.decode(ids) == text


def test_rwkv_bytes_that_no_token_has():
    tokens = ["a", "<unk>"]
    lacking = rwkv(tokens=tokens, token_type=np.array([1, 2]), unknown_token_id=1)
    assert lacking.encode("ab") == [0, 1]
    with pytest.raises(InputError, match="no token for byte 0x62"):
        rwkv(tokens=tokens, token_type=np.array([1, 2])).encode("ab")
    with pytest.raises(FileError, match="no token that stands for text"):
        rwkv(tokens=[""], token_type=np.array([1]))
