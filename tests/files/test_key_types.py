"""Every key that is read is checked for its type: a value of another one is an error that names it.

Which keys are read is not listed here but observed, on every golden file.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.files.fuzz import GOLDEN
from zerfoo_numba import chat, tokenizer
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.gguf_file import open_gguf
from zerfoo_numba.metadata import NOT_RUN
from zerfoo_numba.vision_config import VisionConfig

WRONG = {
    "an array": np.array([0.5, 1.5], np.float32),
    "integers": np.array([3, 9999], np.int32),
    "flags": np.array([True, False]),
    "nothing": np.empty(0, np.int32),
    "texts": ["x", "y"],
    "no texts": [],
    "text": "no such thing",
    "flag": True,
    "NaN": float("nan"),
    "negative": -5,
    "huge": 2**64 - 1,
    "fraction": 0.3,
}
FILES = sorted([*GOLDEN.glob("*/model.gguf"), *GOLDEN.glob("vision_files/*/*.gguf")])
FLAGS = ("add_", "remove_", ".use_", "causal", "weights_norm", "dt_b_c_rms", "pattern")
# Keys whose absence llama.cpp allows, which few files have.
MORE = (
    *("attention.scale", "logit_scale", "embedding_scale", "residual_scale"),
    *("attn_logit_softcapping", "final_logit_softcapping", "rope.scaling.factor"),
    *("expert_weights_norm", *NOT_RUN),
)


class Watched(dict):
    """A file's metadata that notes which of its keys somebody asked for."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.read.add(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


def readers(gguf):
    """What reads the metadata of this file, each by itself."""
    if gguf.metadata["general.architecture"] == "clip":
        return (VisionConfig.from_gguf,)
    return (
        ModelConfig.from_gguf,
        tokenizer.from_gguf,
        lambda gguf: chat.templates(gguf.metadata),
    )


def with_metadata(gguf, metadata):
    return SimpleNamespace(path=gguf.path, metadata=metadata, tensors=gguf.tensors)


def fits(key, held, value):
    """Whether `value` is one of those that `key` may have, as another file might."""
    if isinstance(held, bool) or any(word in key for word in FLAGS):
        flags = key.endswith("pattern") and getattr(value, "dtype", None) is np.dtype(bool)
        return flags or isinstance(value, bool)
    if isinstance(held, float | None):
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return any(isinstance(held, kind) and isinstance(value, kind) for kind in (str, list))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_value_of_another_type_is_an_error_that_names_the_key(path):
    gguf = open_gguf(path)
    arch = gguf.metadata["general.architecture"]
    for read in readers(gguf):
        watched = Watched(gguf.metadata)
        read(with_metadata(gguf, watched))
        keys = watched.read & {*gguf.metadata, *(f"{arch}.{name}" for name in MORE)}
        for key in keys:
            for what, value in WRONG.items():
                if fits(key, gguf.metadata.get(key), value):
                    continue
                try:
                    read(with_metadata(gguf, dict(gguf.metadata) | {key: value}))
                except ZerfooError as error:
                    assert key.removeprefix(f"{arch}.") in str(error), (what, key, str(error))
                else:
                    pytest.fail(f"{key} = {what} was accepted for {gguf.metadata.get(key)!r}")
