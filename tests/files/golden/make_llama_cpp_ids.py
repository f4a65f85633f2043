"""What llama.cpp makes of some texts under every pre-tokenizer it knows -> llama_cpp_ids.json.

Needs llama-cpp-python beside the development tools. The vocabulary is trained across word
boundaries, so that every other way to cut a text gives other ids.

    python tests/files/golden/make_llama_cpp_ids.py
"""
# ruff: noqa: RUF001

import ctypes
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from zerfoo_numba.text.bpe import BYTE_OF
from zerfoo_numba.text.pretokenizers import PRETOKENIZERS

TEXTS = (
    "Hello, world! I'm SURE we'll see'RE 'it's' don'T  he'Ll’s",
    "12 123 1234 12345 a1b22c333d 1,234.5 x=12 ²½Ⅷ٣٤٥٦ 12²34 1234Ⅷ",
    "one  two   three    four \n\nfive\n \nsix\t\tseven \t\n  \n   end   ",
    "\r\nline\r\n\r\n  next\n\n\n\nmore   \n",
    "camelCase HTTPServer XMLHttpRequest iPhone ÀÉîô ŠTŘÍbro ΑΒγδ ДАнет",
    "if (a != b) { return x**2; }  // ~tilde ~~ ~é `code` ^_^ <= => $5 +1 |x|",
    "http://example.com/a/b?c=1#d [EOS] <|end|> <sentinel:12> IMGIMGABCDZ",
    "中文字符和中文，混合English文本。漢字かなカタカナー 〇 龥龦 豈",
    "한국어 문장 ㅋㅋ ㄱㄴ ㄅㄆ ﹏︰ “quotes” ‘x’ …—： ；",
    "नमस्ते दुनिया ไทยภาษา ລາວ ខ្មែរ မြန်မာ العَرَبِيَّة، ؟ עִברִית",
    "e\u0301a\u0308 n\u0303 \u0301x क्षि é ſ İ ǅ ʰ ª Ა ა Ꭰꭰ ՠև 𝐀𝐛 𐐀 𞤀",
    "😀👨\u200d👩\u200d👧 🏽🚀!!! ✅ ☺\ufe0f 🇩🇪 a\u200bb \ufeffc \u00add",
    "a\u00a0b\u3000c\u2003d \u3000\u3000e\u0085f\u2028g \x0b\x0c h\u1680i\u205fj",
    "  !\u3000  're  \u4e2d\n  'S   12  abc  ",
    "a   12 bc  345\n   6789   0 \n7",
    "word wordword Word WORD word's\n\n\n",
    "A!B?C.D,E;F:G-H_I/J\\K*L@M#N%O&P(Q)R[S]T{U}V",
    "!!!\n\n...\n/// \n--/\n/x",
    "do dodo do doo do a'dog b'Dog",
    " " * 40 + "x" + " " * 7 + "\n" + " " * 5 + "y",
)
OUT = Path(__file__).with_name("llama_cpp_ids.json")
WHOLE = "word"  # a token that no merge makes


def vocabulary(merges):
    """256 byte characters, the merges' results, a token no merge makes, and 256 byte tokens."""
    merged = dict.fromkeys(merge.replace(" ", "") for merge in merges)
    return [*BYTE_OF, *merged, WHOLE, *(f"<0x{byte:02X}>" for byte in range(256))]


def write_vocabulary(path, tokens, merges):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 256) + [6] * 256)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def train():
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 500, initial_alphabet=list(BYTE_OF), max_token_length=6,
        show_progress=False,
    )  # fmt: skip
    library.train_from_iterator(TEXTS, trainer)
    merges = json.loads(library.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges if "".join(pair) != WHOLE]


def ids_of_llama_cpp(path, name):
    """Ids of TEXTS, and whether a BOS token comes first."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    overrides = (llama_cpp.llama_model_kv_override * 2)()
    overrides[0].key = b"tokenizer.ggml.pre"
    overrides[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
    ctypes.memmove(ctypes.addressof(overrides[0].value), name.encode() + b"\0", len(name) + 1)
    params.kv_overrides = overrides
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp does not know the pre-tokenizer {name}")
    vocab = llama_cpp.llama_model_get_vocab(model)
    rows = []
    for text in TEXTS:
        data = text.encode()
        room = (llama_cpp.llama_token * (4 * len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), False, False)
        assert count > 0
        rows.append(list(room[:count]))
    bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))
    llama_cpp.llama_model_free(model)
    return rows, bos


def main():
    quiet = llama_cpp.llama_log_callback(lambda *message: None)
    llama_cpp.llama_log_set(quiet, None)
    merges = train()
    tokens = vocabulary(merges)
    groups = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_vocabulary(path, tokens, merges)
        for name in PRETOKENIZERS:
            rows, bos = ids_of_llama_cpp(path, name)
            groups.setdefault(json.dumps([bos, rows]), []).append(name)
    families = []
    for key, names in groups.items():
        bos, rows = json.loads(key)
        families.append({"names": names, "bos": bos, "ids": rows})
    OUT.write_text(
        "{\n"
        + f'"tokens": {json.dumps(tokens, ensure_ascii=False)},\n'
        + f'"merges": {json.dumps(merges, ensure_ascii=False)},\n'
        + f'"texts": {json.dumps(TEXTS, ensure_ascii=False)},\n'
        + '"families": [\n'
        + ",\n".join(json.dumps(f, separators=(",", ":")) for f in families)
        + "\n]}\n",
        newline="\n",
    )
    print(f"{OUT.name}: {len(PRETOKENIZERS)} names, {len(families)} families")


if __name__ == "__main__":
    main()
