"""Vocabularies of synthetic models: complete, distinct, and every word is spelled by merging."""

import collections
from types import SimpleNamespace

import numpy as np
import pytest

from zerfoo_numba import chat, tokenizer
from zerfoo_numba.synth import SHAPES
from zerfoo_numba.synth_vocabulary import FAMILIES, vocabulary


def load(V, family):
    return tokenizer.from_gguf(SimpleNamespace(path=family, metadata=vocabulary(V, family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_complete_and_distinct(family):
    V = max(shape.V for shape in SHAPES.values() if shape.vocabulary == family)
    keys, row = vocabulary(V, family), FAMILIES[family]
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert len(tokens) == len(set(tokens)) == len(types) == V
    special, unknown = len(row.special), int("<unk>" in row.special)
    counts = {1: V - special, 2: unknown, 3: special - unknown}
    if row.kind == "llama":
        counts |= {1: V - special - 256, 6: 256}
        assert all(tokens[i] == f"<0x{i - special:02X}>" for i in range(special, special + 256))
        assert (np.diff(keys["tokenizer.ggml.scores"][special + 256 :]) == -1).all()
    assert collections.Counter(types.tolist()) == {k: n for k, n in counts.items() if n}
    for role, token in row.roles.items():
        assert tokens[keys[f"tokenizer.ggml.{role}_token_id"]] == token


def test_every_sentencepiece_word_is_reached_by_merging_two_pieces():
    tokens = vocabulary(60000)["tokenizer.ggml.tokens"][262:]
    known = set(tokens)
    for word in tokens:
        parts = ((word[:i], word[i:]) for i in range(1, len(word)))
        assert len(word) == 1 or any(a in known and b in known for a, b in parts), word


@pytest.mark.parametrize("family", FAMILIES)
def test_every_word_is_encoded_as_itself(family):
    """By the merges alone: llama-bpe would take a word that is a token as it is."""
    metadata = vocabulary(30000, family)
    if metadata["tokenizer.ggml.pre"] == "llama-bpe":
        metadata["tokenizer.ggml.pre"] = "dbrx"  # the same pattern
    ours = tokenizer.from_gguf(SimpleNamespace(path=family, metadata=metadata))
    first = len(FAMILIES[family].first)
    words = [i for i in range(first, 30000, 7) if len(ours.pieces[i]) > 1]
    assert len(words) > 4000
    for i in words:
        text = ours.piece_bytes(i).decode()
        if FAMILIES[family].space_prefix:
            if not text.startswith(" "):
                continue  # a word within another: a text cannot begin with it
            text = text.removeprefix(" ")
        assert ours.encode(text)[1:] == [i], text


@pytest.mark.parametrize("family", FAMILIES)
def test_any_text_makes_the_round_trip_and_a_chat_is_rendered(family):
    ours = load(1000, family)
    text = "baba ca 42\n\té 早 🙂  it's"
    assert ours.decode(ours.encode(text)) == text
    metadata = vocabulary(1000, family)
    messages = [{"role": "user", "content": "baba"}]
    ids = chat.prompt_ids(metadata, ours, messages)
    assert ids[0] == ours.bos_id
    assert ids.count(ours.bos_id) == 1
    assert "baba" in ours.decode(ids)
    assert "<" not in ours.decode(ids), "a special token of the template is no token"
