r"""How byte-pair vocabularies cut text into words before they merge: one row per family.

`tokenizer.ggml.pre` names the row. The first pattern of a row cuts the text, each later one cuts
every part that the earlier ones left, and what a pattern does not match stays a part of its own.
Names and patterns state what llama.cpp does (llama-vocab.cpp and unicode.cpp), because files are
converted for it and judged by it. Where it departs from a vocabulary's publisher, so does the row:
to llama.cpp every letter beyond ASCII is capital and small alike, and Tekken's words end at marks.
The dialect is Oniguruma's, which the tokenizers library speaks; its \p classes follow a later
Unicode than llama.cpp's 15.0, which matters for characters younger than that alone.
"""

from typing import NamedTuple

from zerfoo_numba.errors import UnsupportedError, shown


class PreTokenizer(NamedTuple):
    patterns: tuple[str, ...]
    spelled_out: bool = False  # words are UTF-8 text with \u2581 for a space, not GPT-2's bytes
    ignore_merges: bool = False  # a word that is itself a token is not merged up from its parts
    add_bos: bool = False  # where the file has no key tokenizer.ggml.add_bos_token
    force_bos: bool = False  # whatever that key says
    whole_newlines: bool = False  # a run of newlines that is a token is not merged up either


# Alternatives that several patterns share --------------------------------------------------

_SHORT = "'s|'t|'re|'ve|'m|'ll|'d"
_SHORT_ANY_CASE = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # with the one character before it
_MARKED_WORD = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_MARKED_WORD_SHORT = rf"{_MARKED_WORD}{_SHORT_ANY_CASE}?"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_LINES = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"  # a run leaves its last space to the next word


def _any_of(*alternatives: str) -> str:
    return "|".join(alternatives)


def _cased(letters: str, end: str = "") -> str:
    """Words that end where small letters are followed by a capital one."""
    first, capital, small = r"[^\r\n\p{L}\p{N}]?", f"[{letters}&&[^a-z]]", f"[{letters}&&[^A-Z]]"
    return f"{first}{capital}*{small}+{end}|{first}{capital}+{small}*{end}"


# Patterns ----------------------------------------------------------------------------------

_LINE = r"[^\n]+|\n+"
_GPT2 = _any_of(_SHORT, r" ?\p{L}+", r" ?\p{N}+", _SIGNS, r"\s+(?!\S)")
_LLAMA3 = _any_of(
    _SHORT_ANY_CASE, _WORD, r"\p{N}{1,3}", _SIGNS + r"[\r\n]*", _LINES, _SPACES
)  # fmt: skip
_LLAMA3_DIGIT_RUNS = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN2_NOTHING_SHORT = _QWEN2.removeprefix(f"{_SHORT_ANY_CASE}|")
_QWEN35 = _QWEN2.replace(_WORD, _MARKED_WORD).replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
_HALVED_SPACES = _any_of(
    *(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)), r"\s{1,2}(?!\S)", r"\s"
)
_JAIS2 = _LLAMA3.removesuffix(_SPACES) + _HALVED_SPACES
_SEED = _any_of(_SHORT_ANY_CASE, _WORD, r"\p{N}", _SIGNS, _LINES, _SPACES)
_EXAONE_MOE = _any_of(
    _SHORT_ANY_CASE, r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+", r"\p{N}",
    _SIGNS + r"[\r\n/]?", _LINES, _SPACES,
)  # fmt: skip


def _like_tekken(words: str, digits: str) -> str:
    return _any_of(words, digits, _SIGNS + r"[\r\n/]*", _LINES, _SPACES)


_TEKKEN = _like_tekken(_cased(r"\p{L}"), r"\p{N}")
_GPT4O = _like_tekken(_cased(r"\p{L}", f"{_SHORT_ANY_CASE}?"), r"\p{N}{1,3}")
_GRANITE = _like_tekken(_cased(r"[\p{L}\p{M}]", f"{_SHORT_ANY_CASE}?"), r"\p{N}{1,3}")
_AYA = _like_tekken(_MARKED_WORD_SHORT, r"\p{N}{1,3}")
_YOUTU = _like_tekken(_MARKED_WORD_SHORT, r"\p{N}")

_HAN = (
    r"\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{20000}-\x{2a6df}\x{2a700}-\x{2ebef}"
    r"\x{f900}-\x{faff}\x{2f800}-\x{2fa1f}"
)
_KIMI_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^{_HAN}]]+{_SHORT_ANY_CASE}?"
_KIMI = _any_of(
    f"[{_HAN}]+", _KIMI_WORD, r"\p{N}{1,3}", _SIGNS + r"[\r\n]*", _LINES, _SPACES
)  # fmt: skip

_CJK = r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+"
_YOUTU_CJK = _any_of(
    r"[\x{ac00}-\x{d7a3}\x{3131}-\x{318e}]+",
    r"[\x{ff01}…“”‘’—\x{ff1a}\x{ff1b}\x{ff0c}\x{3001}-\x{303f}\x{fe30}-\x{fe4f}]+",  # noqa: RUF001
    r"[\x{3105}-\x{312f}]+", _CJK,
)  # fmt: skip
_AFMOE_CJK = (
    r"[\x{3400}-\x{4dbf}\x{4e00}-\x{9fff}\x{8c48}-\x{faff}\x{3040}-\x{30ff}\x{ff65}-\x{ff9f}"
    r"\x{2f00}-\x{2fdf}\x{0e40}-\x{0eff}\x{1780}-\x{17ff}\x{1000}-\x{109f}\x{1100}-\x{11ff}]+"
)
# Letters that have case, but for those that DeepSeek's list of ranges leaves out.
_DEEPSEEK_LETTERS = (
    r"\s?[[\p{Lu}\p{Ll}\p{Lt}]&&[^\x{0560}-\x{0588}\x{10c7}-\x{10ff}\x{1c80}-\x{1c8f}"
    r"\x{2d00}-\x{2d2d}\x{a790}-\x{a7fa}\x{ab30}-\x{ab68}\x{10570}-\x{105bc}\x{10d50}-\x{10d85}"
    r"\x{16e40}-\x{1d7cb}\x{1df00}-\x{1df2a}]]+"
)
_DEEPSEEK_SIGNS = (
    r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3001}-\x{3002}]+"
)
_DEEPSEEK_CJK = r"[[\x{0800}-\x{9fa5}\x{ac00}-\x{d7ff}]&&[^\s]]+"
_DEEPSEEK3_WORD = _any_of(
    r"[!-/:-@\[-`{-~][A-Za-z]+", r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
)  # fmt: skip
_DEEPSEEK3_SIGNS = r" ?[\p{P}\p{S}]+"
_DEEPSEEK3 = _any_of(_DEEPSEEK3_WORD, _DEEPSEEK3_SIGNS + r"[\r\n]*", _LINES, _SPACES)
_SPARK = _any_of(_DEEPSEEK3_WORD, _DEEPSEEK3_SIGNS, r"[\r\n]", _SPACES)
# Text before a number stays in one part with the number's first group.
_GROUPED_DIGITS = r"[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"  # noqa: RUF001

# The families ------------------------------------------------------------------------------

_FAMILIES = (  # names, patterns, flags
    ("default", [r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9]{3}"]),
    ("falcon", [r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9]{3}"]),
    ("gpt-2 phi-2 mpt olmo jais exaone4 trillion granite-docling gigachat a.x-4.0 mellum"
     " modern-bert roberta-bpe jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code",
     [_GPT2]),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", [r"\p{N}", _GPT2]),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     [_LLAMA3], "ignore_merges", "add_bos"),
    ("dbrx smaug-bpe chatglm-bpe", [_LLAMA3]),
    ("glm4 glm5", [_LLAMA3], "ignore_merges"),
    ("minicpm5", [r"\p{N}{1,3}", _LLAMA3_DIGIT_RUNS], "ignore_merges"),
    ("jais-2", [_JAIS2]),
    ("qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan grok-2 solar-open kormo f2llmv2 bailingmoe"
     " bailingmoe2 llada-moe", [_QWEN2]),
    ("laguna", [_LINE, _QWEN2]),
    ("ufakzeka", [_QWEN2_NOTHING_SHORT]),
    ("qwen35", [_QWEN35]),
    ("seed-coder", [_SEED]),
    ("exaone-moe", [_EXAONE_MOE]),
    ("tekken", [_TEKKEN], "ignore_merges", "add_bos"),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", [_GPT4O]),
    ("granite-embed-multi-97m", [_GRANITE], "ignore_merges"),
    ("tiny_aya cohere2moe", [_GROUPED_DIGITS, _AYA]),
    ("youtu", [_YOUTU_CJK, _YOUTU], "ignore_merges"),
    ("deepseek-llm",
     [r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_SIGNS, r"\s+\z", _DEEPSEEK_CJK, r"\p{N}+"]),
    ("deepseek-coder", [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}"]),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", [r"\p{N}{1,3}", _CJK, _DEEPSEEK3]),
    ("spark2_5", [r"\p{N}{1,3}", _CJK, _SPARK, r"\p{N}"]),
    ("afmoe", [_GROUPED_DIGITS, _AFMOE_CJK, _DEEPSEEK3]),
    ("kimi-k2", [_KIMI]),
    ("superbpe", [r"\p{N}+", "(?=(?:[0-9]{3})+(?![0-9]))"]),
    ("bloom poro-chat gpt3-finnish", [_BLOOM]),
    ("viking", [_BLOOM, r"\p{N}"]),
    ("chameleon",
     ["<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", r"[\t\n]|    |  ", r"\p{N}",
      r"[\p{P}!-/:-@\[-`{-~]", _GPT2], "add_bos"),
    ("gemma4 granite-embed-multi-311m", [_LINE], "spelled_out", "force_bos", "whole_newlines"),
    ("sarvam-moe", [_LINE], "spelled_out"),
)  # fmt: skip

PRETOKENIZERS = {
    name: PreTokenizer(tuple(patterns), **dict.fromkeys(flags, True))
    for names, patterns, *flags in _FAMILIES
    for name in names.split()
}


def pretokenizer(name: str | None) -> PreTokenizer:
    """The row that `tokenizer.ggml.pre` names; without the key llama.cpp takes "default".

    Errors: UnsupportedError listing the known names.
    """
    if name is None or (isinstance(name, str) and not name):
        name = "default"
    if not isinstance(name, str) or name not in PRETOKENIZERS:
        raise UnsupportedError(
            f"tokenizer.ggml.pre is {shown(name)}; known: {', '.join(sorted(PRETOKENIZERS))}"
        )
    return PRETOKENIZERS[name]
