"""Vocabularies for synthetic models: any number of distinct, readable tokens, and a chat template.

The words are made of syllables, with and without a space before them, and text that is made of them
is encoded as these words: every token is reached by merging two others.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.text.bpe import BYTE_OF
from zerfoo_numba.text.vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN


@dataclass(frozen=True)
class Family:
    """How the models of one publisher write text: their special tokens, and a chat.

    `kind` and `pre`: tokenizer.ggml.model and .pre; `roles` {role: special token that has it}.
    """

    kind: str
    pre: str
    special: tuple[str, ...]
    roles: dict[str, str]
    template: str
    space_prefix: bool = False

    @property
    def first(self):
        """The tokens before the words: special ones, then one for every byte."""
        if self.kind == "llama":
            return [*self.special, *(f"<0x{byte:02X}>" for byte in range(256))]
        if self.kind == "rwkv":
            return [*self.special, *(f"\\x{byte:02x}" for byte in range(256))]
        return [*self.special, *sorted(BYTE_OF, key=BYTE_OF.get)]


_BEGIN, _END, _USER, _ASSISTANT = (
    f"<\uff5c{text}\uff5c>"
    for text in ("begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "User", "Assistant")
)

FAMILIES = {
    "gemma3": Family(
        "llama", "default",
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"padding": "<pad>", "eos": "<eos>", "bos": "<bos>", "unknown": "<unk>"},
        "{{ bos_token }}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ message.content | trim }}"
        "<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "mistral": Family(
        "llama", "default",
        ("<unk>", "<s>", "</s>"),
        {"unknown": "<unk>", "bos": "<s>", "eos": "</s>"},
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
        "[INST] {{ message.content | trim }} [/INST]{% else %} {{ message.content | trim }}"
        "{{ eos_token }}{% endif %}{% endfor %}",
        space_prefix=True,
    ),
    "llama3": Family(
        "gpt2", "llama-bpe",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eot_id|>"),
        {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"},
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}"
        "<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}",
    ),
    "phi3": Family(
        "llama", "default",
        ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"),
        {"unknown": "<unk>", "bos": "<s>", "eos": "<|endoftext|>", "padding": "<|endoftext|>"},
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|assistant|>' if message.role == 'assistant' else '<|user|>' }}\n"
        "{{ message.content | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ),
    "qwen2.5": Family(
        "gpt2", "qwen2",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"bos": "<|endoftext|>", "eos": "<|im_end|>", "padding": "<|endoftext|>"},
        "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "command-r": Family(
        "gpt2", "command-r",
        ("<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
         "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        {"bos": "<BOS_TOKEN>", "eos": "<|END_OF_TURN_TOKEN|>", "padding": "<PAD>"},
        "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
        "{{ '<|CHATBOT_TOKEN|>' if message.role == 'assistant' else '<|USER_TOKEN|>' }}"
        "{{ message.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    ),
    "falcon": Family(
        "gpt2", "falcon",
        ("<|endoftext|>", ">>BOS<<"),
        {"bos": ">>BOS<<", "eos": "<|endoftext|>"},
        "{{ bos_token }}{% for message in messages %}"
        "{{ 'Falcon' if message.role == 'assistant' else 'User' }}: "
        "{{ message.content | trim }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Falcon:{% endif %}",
    ),
    "gpt-neox": Family(
        "gpt2", "olmo",
        ("<|endoftext|>", "<|padding|>"),
        {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "padding": "<|padding|>"},
        "{{ bos_token }}{% for message in messages %}{{ message.content | trim }}\n{% endfor %}",
    ),
    "rwkv": Family(
        "rwkv", "default",
        ("<s>",),
        {"bos": "<s>", "eos": "<s>"},
        "{{ bos_token }}{% for message in messages %}"
        "{{ 'Assistant' if message.role == 'assistant' else 'User' }}: "
        "{{ message.content | trim }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}",
    ),
    "deepseek-r1": Family(
        "gpt2", "deepseek-r1-qwen",
        (_END, _BEGIN, _USER, _ASSISTANT),
        {"bos": _BEGIN, "eos": _END, "padding": _END},
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
        f"{_USER}{{{{ message.content | trim }}}}{{% else %}}{_ASSISTANT}"
        "{{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{_ASSISTANT}{{% endif %}}",
    ),
}  # fmt: skip


def vocabulary(V, family="gemma3"):
    """The tokenizer's metadata: V tokens of a family of FAMILIES."""
    row = FAMILIES[family]
    first = row.first
    rest = V - len(first)
    if row.kind == "llama":
        words = list(itertools.islice(_pieces(), rest))
        merging = {"scores": np.zeros(V, np.float32)}
        merging["scores"][len(first) :] = -np.arange(rest)
    elif row.kind == "rwkv":  # the longest token that fits needs neither scores nor merges
        words, merging = list(itertools.islice(_words(" "), rest)), {}
    else:
        merges = list(itertools.islice(_merges(), rest))
        words = list(map("".join, merges))
        merging = {"merges": list(map(" ".join, merges))}
    types = [UNKNOWN if token == "<unk>" else CONTROL for token in row.special]
    types += [BYTE if row.kind == "llama" else NORMAL] * 256 + [NORMAL] * rest
    keys = {
        "model": row.kind,
        "pre": row.pre,
        "tokens": first + words,
        **merging,
        "token_type": np.array(types, np.int32),
        **{f"{role}_token_id": first.index(token) for role, token in row.roles.items()},
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": row.space_prefix,
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return named | {"tokenizer.chat_template": row.template}


_SYLLABLES = [c + v for c in "bcdfghjklmnpqrstvwxyz" for v in "aeiou"]


def _words(space):
    """Ever longer words, each without and with a space before it."""
    for length in itertools.count(1):
        for syllables in itertools.product(_SYLLABLES, repeat=length):
            word = "".join(syllables)
            yield word
            yield space + word


def _pieces():
    """Of SentencePiece: the printable characters, then words."""
    yield SPACE
    yield from map(chr, range(33, 127))
    yield from _words(SPACE)


def _merges():
    """Of byte pairs: the two tokens that each word is made of by the merges before its own."""
    ranks = {}
    for word in _words("Ġ"):  # GPT-2's space
        pair = _last_merge(word, ranks)
        ranks[pair] = len(ranks)
        yield pair


def _last_merge(word, ranks):
    parts = list(word)
    while len(parts) > 2:
        pairs = [ranks.get(pair, math.inf) for pair in itertools.pairwise(parts)]
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return tuple(parts)
