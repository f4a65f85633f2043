"""How each pre-tokenizer cuts text into words: by hand, and as llama.cpp's ids show."""
# ruff: noqa: RUF001

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from zerfoo_numba import tokenizer
from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.text.bpe import splitter
from zerfoo_numba.text.pretokenizers import PRETOKENIZERS

GOLDEN = json.loads((Path(__file__).parent / "golden/llama_cpp_ids.json").read_text())

# Texts with a bar between the words.
BY_HAND = {
    # Contractions in small letters; one space goes with the word; signs in runs.
    "gpt-2": ["I|'m| sure| don|'|T|:| 12345|!!", "a| | b|\n|c| ", "naïve|,| 日本語|😀👍| ½|x"],
    # The same between signs; ASCII digits in threes from the left.
    "default": ["I|'|m| |123|45", "a|$|b| x| |^_^|y|`| |½٣٤"],
    "falcon": ["I|'|m| |123|45", "a|$|b|`|z| ٣٤٥٦| 12"],
    # Every digit alone.
    "starcoder": ["x| |1|2|½|٣| y|'s", "a|1|b|2|.|5"],
    # Any case; three digits; one sign before a word; newlines with what comes before.
    "llama-bpe": [
        "I|'m| DON|'T| |123|45|(x|).\n\n|y",
        "a| | b| \n\n|  | x",
        "日本語|。\n|é|👍| 👍",
    ],
    "minicpm5": ["x| |123|456|7|é", "a|'S|!\n"],
    # Spaces before a word in powers of two.
    "jais-2": ["a|" + " " * 8 + "|" + " " * 4 + "|" + " " * 2 + "| b", "a|\n|b|'Ve"],
    "qwen2": ["I|'M| |1|2|½|(x|).\n\n|y", "नमस|्त|े"],
    "laguna": ["a|.|\n\n|b| |1|2"],  # a line ends before its newline
    "ufakzeka": ["Ankara|'dan|'S|!\n|1|2"],
    "qwen35": ["नमस्ते| e\u0301a|.\n|1|2|'s"],  # marks belong to the word
    "seed-coder": ["x|).|\n\n|y| |1|2|'S"],
    "exaone-moe": ["one two three|,|1|2|!\n|\n|x", "a b| | c|'s"],  # single spaces inside
    # Capitals begin a word; slashes with the newlines after signs.
    "tekken": ["camel|Case| HTTPServer| x|'s|1|2|.\n/|y"],
    "gpt-4o": ["camel|Case's| HTTPServer|123|4|.\n/|y"],
    "granite-embed-multi-97m": ["camel|Case's| नमस्ते|123|4"],
    # Digits in threes from the right.
    "tiny_aya": ["x|1|234|567|'s", "नमस्ते's| CamelCase|12|345"],
    "superbpe": ["a b|1|234|567|, c"],
    "afmoe": ["a|1|234|中文가|_foo| x|!\n"],
    # Scripts apart.
    "youtu": ["中文|，|한국|ABC's|1|2|、。| x", "ㄅㄆ|ㅋㅋ"],
    "deepseek-llm": ["a|\n|\n|b| don|'|t| |中文|12345|。|ÀÉ| x", "ა| x|  "],
    "deepseek-coder": ["a|\n| b|!?|1|2|中文| |नमस|्|त|े"],
    "deepseek-v3": ["123|4|中文かな|_foo|.bar| x|~~!\n\n|y| नमस्ते"],
    "spark2_5": ["1|2|3|4|中文|_foo| !|\n|\n|y|½"],
    "kimi-k2": ["中文|abc's|中|123|4|.\n|かな"],
    # What is cut is what stands between spaces and signs.
    "bloom": ["one|,| two|! (|x", "a1b| 12"],
    "viking": ["one|,| |1|2|a"],
    "chameleon": ["x|    |  |y|\n|IMGIMGABZ|1|2|.|!"],
    "gemma4": ["one two  12|\n\n|x's"],
}


@pytest.mark.parametrize(
    ("name", "cut"), [(name, cut) for name, cuts in BY_HAND.items() for cut in cuts]
)
def test_words_by_hand(name, cut):
    text = cut.replace("|", "")
    spans = splitter(PRETOKENIZERS[name]).pre_tokenize_str(text)
    assert "|".join(text[a:b] for _, (a, b) in spans) == cut


def test_every_way_to_cut_is_checked_by_hand():
    ways = {row.patterns for row in PRETOKENIZERS.values()}
    assert ways == {PRETOKENIZERS[name].patterns for name in BY_HAND}


def golden_tokenizer(name):
    count = len(GOLDEN["tokens"])
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": GOLDEN["tokens"],
        "tokenizer.ggml.token_type": np.repeat([1, 6], [count - 256, 256]),
        "tokenizer.ggml.merges": GOLDEN["merges"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return tokenizer.from_gguf(SimpleNamespace(path="golden", metadata=metadata))


@pytest.mark.parametrize("family", GOLDEN["families"], ids=lambda family: family["names"][0])
def test_ids_equal_those_of_llama_cpp(family):
    for name in family["names"]:
        ours = golden_tokenizer(name)
        assert [ours.encode(text, add_special=False) for text in GOLDEN["texts"]] == family["ids"]
        assert ours.add_bos == family["bos"]


def test_the_texts_tell_every_family_from_every_other():
    families = {name: i for i, f in enumerate(GOLDEN["families"]) for name in f["names"]}
    assert families.keys() == PRETOKENIZERS.keys()
    rows = {}
    for name, row in PRETOKENIZERS.items():
        rows.setdefault(row, set()).add(families[name])
    assert sorted(rows.values()) == [{i} for i in range(len(GOLDEN["families"]))]


def test_no_name_is_the_default_name():
    assert golden_tokenizer("").encode("I'm 12345") == golden_tokenizer("default").encode(
        "I'm 12345"
    )


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnsupportedError, match=r"golden: .*'gpt-5'; known: a\.x-4\.0, .*qwen2"):
        golden_tokenizer("gpt-5")
