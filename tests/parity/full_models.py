"""Real models in files of the reader's own: which file, which shape, and what must hold of it."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import reference
import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.tolerances import MODEL

PROMPT = "The capital of France is"
TOKENS = 64
CONTEXT = 128


class Dims(NamedTuple):
    """Layers, width, heads, key/value heads, head width, feed-forward width, vocabulary, experts;
    0 for what a model lacks."""

    L: int
    D: int
    H: int
    KH: int
    HD: int
    F: int
    V: int
    E: int = 0


class FullModel(NamedTuple):
    """The environment variable that names the file, its architecture, and {size: shape}."""

    variable: str
    arch: str
    sizes: dict[str, Dims]


FULL_MODELS = (
    FullModel("GEMMA3_GGUF_PATH", "gemma3", {"1B": Dims(26, 1152, 4, 1, 256, 6912, 262144)}),
    FullModel("DEEPSEEK_R1_GGUF_PATH", "qwen2", {"1.5B": Dims(28, 1536, 12, 2, 128, 8960, 151936)}),
    FullModel(
        "LLAMA32_GGUF_PATH",
        "llama",
        {
            "1B": Dims(16, 2048, 32, 8, 64, 8192, 128256),
            "3B": Dims(28, 3072, 24, 8, 128, 8192, 128256),
        },
    ),
    FullModel(
        "MISTRAL_GGUF_PATH",
        "llama",
        {
            "7B v0.1, v0.2": Dims(32, 4096, 32, 8, 128, 14336, 32000),
            "7B v0.3": Dims(32, 4096, 32, 8, 128, 14336, 32768),
        },
    ),
    FullModel(
        "QWEN25_GGUF_PATH",
        "qwen2",
        {
            "0.5B": Dims(24, 896, 14, 2, 64, 4864, 151936),
            "1.5B": Dims(28, 1536, 12, 2, 128, 8960, 151936),
            "7B": Dims(28, 3584, 28, 4, 128, 18944, 152064),
        },
    ),
    FullModel("PHI35_GGUF_PATH", "phi3", {"mini": Dims(32, 3072, 32, 32, 96, 8192, 32064)}),
    FullModel("TINYLLAMA_GGUF_PATH", "llama", {"1.1B": Dims(22, 2048, 32, 4, 64, 5632, 32000)}),
    FullModel(
        "COMMAND_R_GGUF_PATH",
        "command-r",
        {
            "35B": Dims(40, 8192, 64, 64, 128, 22528, 256000),
            "32B 08-2024": Dims(40, 8192, 64, 8, 128, 24576, 256000),
            "R+ 104B": Dims(64, 12288, 96, 8, 128, 33792, 256000),
        },
    ),
    FullModel(
        "FALCON_GGUF_PATH",
        "falcon",
        {
            "7B": Dims(32, 4544, 71, 1, 64, 18176, 65024),
            "40B": Dims(60, 8192, 128, 8, 64, 32768, 65024),
        },
    ),
    FullModel(
        "MIXTRAL_GGUF_PATH",
        "llama",
        {
            "8x7B": Dims(32, 4096, 32, 8, 128, 14336, 32000, 8),
            "8x22B": Dims(56, 6144, 48, 8, 128, 16384, 32768, 8),
        },
    ),
    FullModel(
        "MAMBA_GGUF_PATH",
        "mamba",
        {
            "130M": Dims(24, 768, 0, 0, 0, 0, 50280),
            "370M": Dims(48, 1024, 0, 0, 0, 0, 50280),
            "790M": Dims(48, 1536, 0, 0, 0, 0, 50280),
            "1.4B": Dims(48, 2048, 0, 0, 0, 0, 50280),
            "2.8B": Dims(64, 2560, 0, 0, 0, 0, 50280),
            "Falcon 7B": Dims(64, 4096, 0, 0, 0, 0, 65024),
        },
    ),
    FullModel(
        "RWKV_GGUF_PATH",
        "rwkv6",
        {
            "1.6B": Dims(24, 2048, 0, 0, 0, 7168, 65536),
            "3B": Dims(32, 2560, 0, 0, 0, 8960, 65536),
            "7B": Dims(32, 4096, 0, 0, 0, 14336, 65536),
        },
    ),
    FullModel(
        "RWKV7_GGUF_PATH",
        "rwkv7",
        {
            "0.1B": Dims(12, 768, 0, 0, 0, 3072, 65536),
            "0.4B": Dims(24, 1024, 0, 0, 0, 4096, 65536),
            "1.5B": Dims(24, 2048, 0, 0, 0, 8192, 65536),
            "2.9B": Dims(32, 2560, 0, 0, 0, 10240, 65536),
        },
    ),
)


def named_file(row):
    """The file that the row's variable names, or None where it is not set.

    Exactly that file: a folder is not searched for one that would do.
    """
    value = os.environ.get(row.variable)
    if not value:
        return None
    path = Path(value)
    assert not path.is_dir(), f"{row.variable} names a directory, {path}; it must name one file"
    assert path.is_file(), f"{row.variable} names {path}, which is no file"
    return path


def check(row, path, device, folder):
    """Every check on one file; the record of its greedy text goes to `folder`.

    device: a name or a Device. Raises AssertionError saying what does not hold.
    """
    expected = reference.load_model(path)
    size = check_shape(row, expected.config)
    model = zerfoo_numba.load_model(
        path, device=device, context=CONTEXT, activation="float", cache_type="f32"
    )
    ids = model.tokenizer.encode(PROMPT)
    check_logits(row, model, expected, ids)
    answer = check_replay(row, model, ids)
    record = {
        "variable": row.variable,
        "file": path.name,
        "architecture": row.arch,
        "size": size,
        "device": model.device.name,
        "prompt": PROMPT,
        "ids": answer,
        "text": model.tokenizer.decode(answer),
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, ensure_ascii=False)
    (folder / f"{row.variable}.json").write_text(text + "\n", encoding="utf-8")
    return record


def check_shape(row, config):
    """The name of the size that the file has."""
    arch = config.arch
    assert arch == row.arch, f"{row.variable}: the file's architecture is {arch}, not {row.arch}"
    found = Dims(*(getattr(config, letter) for letter in Dims._fields if letter != "E"))
    found = found._replace(E=config.experts.E if config.experts else 0)
    sizes = {shape: name for name, shape in row.sizes.items()}
    assert found in sizes, f"{row.variable}: the file has {found}; known are {row.sizes}"
    return sizes[found]


def check_logits(row, model, expected, ids):
    """The logits of a short prompt against the reference's."""
    assert_close(row.variable, model.logits(ids), expected.logits(ids), MODEL["full"])


def check_replay(row, model, ids):
    """The ids of TOKENS greedy tokens: the same by replay of the captured step and without."""
    answers = {}
    for model.graph in (False, True):
        answers[model.graph] = model.greedy_ids(ids, TOKENS)
    assert answers[True] == answers[False], (
        f"{row.variable}: replayed decode steps chose {answers[True]}, eager ones {answers[False]}"
    )
    return answers[True]
