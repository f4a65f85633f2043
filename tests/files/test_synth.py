"""Synthetic models: the tensor types of real files, complete metadata, never half a file."""

import collections
import itertools

import gguf
import numpy as np
import pytest

import reference
from reference.quant import dequantize
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME, open_gguf
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.synth import SHAPES, shape_tensors, synthesize, vocabulary
from zerfoo_numba.synth_blocks import RECIPES, random_blocks, tensor_type


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("synth") / "tiny.gguf"
    synthesize("gemma3-tiny", path)
    return path


def test_gemma3_1b_has_the_types_of_the_published_q4_k_m_file():
    tensors = shape_tensors(SHAPES["gemma3-1b"], RECIPES["Q4_K_M"])
    kinds = {name: kind for name, (dims, kind) in tensors.items() if len(dims) == 2}
    assert kinds.pop("token_embd.weight") == "Q8_0"
    counts = collections.Counter(kinds.values())
    assert counts == {"Q5_0": 117, "Q4_K": 39, "Q6_K": 13, "Q8_0": 13}


def test_recipe_agrees_with_llama_quantize_on_six_layers_of_256():
    """llama-quantize gave 38 Q4_K and 5 Q6_K to a model of this shape, the embedding included."""
    recipe = RECIPES["Q4_K_M"]
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    names = [f"blk.{i}.{n}.weight" for i, n in itertools.product(range(6), names)]
    kinds = [tensor_type(recipe, n, (256, 256), 6, True) for n in (*names, "token_embd.weight")]
    assert collections.Counter(kinds) == {"Q4_K": 38, "Q6_K": 5}
    assert tensor_type(recipe, "blk.2.ffn_down.weight", (256, 256), 6, True) == "Q6_K"
    assert tensor_type(recipe, "blk.2.ffn_down.weight", (48, 256), 6, True) == "F16"


def test_tiny_is_a_complete_model(tiny):
    with open_gguf(tiny) as file:
        config = ModelConfig.from_gguf(file)
        config.check_tensors(file)
        kinds = {t.type for t in file.tensors.values()}
    assert kinds == {"F32", "Q4_K", "Q6_K", "Q5_0", "Q8_0"}
    assert {layer.window for layer in config.layers} == {16, None}
    assert tiny.stat().st_size < 2 << 20


def test_tiny_agrees_with_the_gguf_package(tiny):
    theirs = gguf.GGUFReader(tiny)
    with open_gguf(tiny) as ours:
        for tensor in theirs.tensors:
            mine = ours.tensors[tensor.name]
            assert mine.type == tensor.tensor_type.name
            assert mine.data.tobytes() == tensor.data.tobytes()
        for name, value in ours.metadata.items():
            value = value.tolist() if isinstance(value, np.ndarray) else value
            assert theirs.fields[name].contents() == value


def test_tiny_computes_finite_logits_of_ordinary_size(tiny):
    model = reference.load_model(tiny)
    ids = [2, 300, 400, 500, 263, 700]
    for _ in range(12):
        logits = model.logits(ids)
        ids.append(int(logits[-1].argmax()))
    assert np.isfinite(logits).all() and 1 < logits[:, 262:].std() < 3
    assert len(set(ids[6:])) > 6, "the model repeats itself"


def test_same_seed_same_bytes(tiny, tmp_path):
    again, other = tmp_path / "again.gguf", tmp_path / "other.gguf"
    synthesize("gemma3-tiny", again)
    synthesize("gemma3-tiny", other, seed=1)
    assert again.read_bytes() == tiny.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("quantization", sorted(RECIPES))
def test_every_quantisation(tmp_path, quantization):
    path = tmp_path / "model.gguf"
    synthesize("gemma3-tiny", path, quantization=quantization)
    with open_gguf(path) as file:
        assert file.metadata["general.file_type"] == RECIPES[quantization].file_type
        ModelConfig.from_gguf(file).check_tensors(file)
    assert gguf.LlamaFileType(RECIPES[quantization].file_type).name.endswith(quantization)


KINDS = sorted({k for r in RECIPES.values() for k in (r.base, r.better, r.head)} | {"Q5_0"})


@pytest.mark.parametrize("kind", KINDS)
def test_random_blocks_decode_to_the_deviation_asked_for(kind):
    rng = np.random.default_rng(0)
    blocks = random_blocks(rng, kind, 4096, std=0.02)
    size = TYPE_BY_NAME[kind].block_size
    assert blocks.shape == (4096, TYPE_BY_NAME[kind].block_bytes) and blocks.dtype == np.uint8
    values = dequantize(blocks.reshape(-1), kind, (4096 * size,))
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert values.tobytes() == theirs.tobytes()
    assert values.std() == pytest.approx(0.02, rel=0.05)
    assert abs(values.mean()) < 0.02 * 4 / np.sqrt(4096)


def test_vocabulary_is_complete_and_distinct():
    keys = vocabulary(262144)
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert len(tokens) == len(set(tokens)) == len(types) == 262144
    assert collections.Counter(types.tolist()) == {1: 262144 - 262, 2: 1, 3: 5, 6: 256}
    assert [tokens[keys[f"tokenizer.ggml.{n}_token_id"]] for n in ("bos", "eos", "unknown")] == [
        "<bos>", "<eos>", "<unk>",
    ]  # fmt: skip
    assert all(tokens[i] == f"<0x{i - 6:02X}>" for i in range(6, 262))
    assert (np.diff(keys["tokenizer.ggml.scores"][262:]) == -1).all()


def test_every_word_is_reached_by_merging_two_pieces():
    tokens = vocabulary(60000)["tokenizer.ggml.tokens"][262:]
    known = set(tokens)
    for word in tokens:
        parts = ((word[:i], word[i:]) for i in range(1, len(word)))
        assert len(word) == 1 or any(a in known and b in known for a, b in parts), word


def test_unknown_names(tmp_path):
    with pytest.raises(InputError, match="gemma3-tiny"):
        synthesize("gpt-9", tmp_path / "x.gguf")
    with pytest.raises(InputError, match="Q4_K_M"):
        synthesize("gemma3-tiny", tmp_path / "x.gguf", quantization="Q9")
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        synthesize("gemma3-tiny", tmp_path / "absent" / "x.gguf")
    with pytest.raises(FileError, match="cannot be written"):
        synthesize("gemma3-tiny", tmp_path)


def test_nothing_half_written_is_left(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"before")

    def data(name, shape, kind):
        yield bytes(64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(path, {"a": 1}, {"t": ((32,), "F32")}, data)
    with pytest.raises(ValueError, match="t: 64 bytes for 128"):
        write_gguf(path, {"a": 1}, {"t": ((32,), "F32")}, lambda *_: [bytes(64)])
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_writer_values_are_read_back(tmp_path):
    path = tmp_path / "x.gguf"
    values = {
        "text": "größer", "yes": True, "count": 7, "ratio": 0.5, "wide": np.uint64(2**64 - 1),
        "strings": ["a", "", "▁b"], "empty": np.zeros(0, np.int32),
        **{t: np.array([1, 0, 1]).astype(t) for t in ("u1", "i2", "u4", "i8", "f4", "f8", "?")},
    }  # fmt: skip
    matrix = np.arange(64, dtype=np.float32).reshape(2, 32)
    write_gguf(path, values, {"m": ((32, 2), "F32")}, lambda *_: [matrix[:1], matrix[1:]])
    with open_gguf(path) as file:
        assert list(file.metadata) == list(values)
        for name, value in values.items():
            assert np.array_equal(file.metadata[name], value), name
            if isinstance(value, np.ndarray):
                assert file.metadata[name].dtype == value.dtype
        assert file.tensors["m"].shape == (32, 2)
        assert file.tensors["m"].data.tobytes() == matrix.tobytes()


@pytest.mark.slow
def test_gemma3_1b_in_full(tmp_path):
    path = tmp_path / "1b.gguf"
    synthesize("gemma3-1b", path)
    assert path.stat().st_size == pytest.approx(806e6, rel=0.002)
    with open_gguf(path) as file:
        config = ModelConfig.from_gguf(file)
        config.check_tensors(file)
        assert (config.L, config.V, config.context) == (26, 262144, 32768)
