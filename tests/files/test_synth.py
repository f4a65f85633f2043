"""Synthetic models: the tensor types of real files, complete metadata, never half a file."""

import collections
import dataclasses
import itertools
import math
import resource

import gguf
import numpy as np
import pytest

import reference
from reference.quant import dequantize
from zerfoo_numba import load_tokenizer
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.gguf_file import TYPE_BY_NAME, open_gguf
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.synth import SHAPES, shape_tensors, synthesize, table
from zerfoo_numba.synth_blocks import FALLBACK, RECIPES, random_blocks, tensor_type
from zerfoo_numba.synth_vocabulary import FAMILIES

TINY = [name for name in SHAPES if name.endswith("-tiny")]


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """{name: path} of every tiny model."""
    paths = {name: tmp_path_factory.mktemp("synth") / f"{name}.gguf" for name in TINY}
    for name, path in paths.items():
        synthesize(name, path)
    return paths


@pytest.fixture(scope="module")
def tiny(tiny_files):
    return tiny_files["gemma3-tiny"]


def test_gemma3_1b_has_the_types_of_the_published_q4_k_m_file():
    tensors = shape_tensors(SHAPES["gemma3-1b"], RECIPES["Q4_K_M"])
    kinds = {name: kind for name, (dims, kind) in tensors.items() if len(dims) == 2}
    assert kinds.pop("token_embd.weight") == "Q8_0"
    counts = collections.Counter(kinds.values())
    assert counts == {"Q5_0": 117, "Q4_K": 39, "Q6_K": 13, "Q8_0": 13}


COUNTS = [  # of llama-quantize on models with these layers, and rows that blocks of 256 divide
    ("deepseek-r1-1.5b", "Q4_K_M", {"Q4_K": 169, "Q6_K": 29}),
    ("llama-3.2-1b", "Q4_K_M", {"Q4_K": 96, "Q6_K": 17}),
    ("llama-3.2-3b", "Q4_K_M", {"Q4_K": 168, "Q6_K": 29}),
    ("llama-3.2-3b", "Q4_0", {"Q4_0": 196, "Q6_K": 1}),
    ("llama-3.2-3b", "Q8_0", {"Q8_0": 197}),
    ("mistral-7b", "Q4_K_M", {"Q4_K": 193, "Q6_K": 33}),
    ("mistral-7b", "Q5_K_M", {"Q5_K": 193, "Q6_K": 33}),
]


@pytest.mark.parametrize(("name", "quantization", "counts"), COUNTS)
def test_recipes_agree_with_llama_quantize(name, quantization, counts):
    tensors = shape_tensors(SHAPES[name], RECIPES[quantization])
    matrices = [kind for dims, kind in tensors.values() if len(dims) == 2]
    assert collections.Counter(matrices) == counts
    head = "token_embd.weight" if "output.weight" not in tensors else "output.weight"
    assert tensors[head][1] == ("Q8_0" if quantization == "Q8_0" else "Q6_K")


@pytest.mark.parametrize(("base", "fallback"), [("Q4_K", "Q5_0"), ("Q5_K", "Q5_1")])
def test_rows_that_no_block_divides_get_the_type_of_llama_quantize(base, fallback):
    shape = dataclasses.replace(SHAPES["gemma3-1b"], D=288, F=512, HD=32)
    tensors = shape_tensors(shape, RECIPES[f"{base}_M"]).values()
    counts = collections.Counter(kind for dims, kind in tensors if len(dims) == 2)
    assert counts == {base: 13, fallback: 143, "Q6_K": 13, "Q8_0": 14}


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


@pytest.mark.parametrize("name", TINY)
def test_tiny_agrees_with_the_gguf_package(tiny_files, name):
    theirs = gguf.GGUFReader(tiny_files[name])
    with open_gguf(tiny_files[name]) as ours:
        ModelConfig.from_gguf(ours).check_tensors(ours)
        for tensor in theirs.tensors:
            mine = ours.tensors[tensor.name]
            assert mine.type == tensor.tensor_type.name
            assert mine.data.tobytes() == tensor.data.tobytes()
        for name, value in ours.metadata.items():
            value = value.tolist() if isinstance(value, np.ndarray) else value
            assert theirs.fields[name].contents() == value


@pytest.mark.parametrize("name", TINY)
def test_tiny_computes_finite_logits_of_ordinary_size_and_readable_text(tiny_files, name):
    model = reference.load_model(tiny_files[name])
    tokenizer = load_tokenizer(tiny_files[name])
    prompt = tokenizer.encode("baba caba du")
    ids = list(prompt)
    for _ in range(12):
        logits = model.logits(ids)
        ids.append(int(logits[-1].argmax()))
    quiet = len(FAMILIES[SHAPES[name].vocabulary].first)
    assert np.isfinite(logits).all() and 1 < logits[:, quiet:].std() < 3
    answer = ids[len(prompt) :]
    assert len(set(answer)) > 6, "the model repeats itself"
    assert np.mean([c.isalpha() or c == " " for c in tokenizer.decode(answer)]) > 0.9


def test_llama_3_has_the_factors_of_its_configuration():
    """By wavelength, as transformers has it: kept below 8192 / 4, divided by 32 above 8192."""
    factors = SHAPES["llama-3.2-1b"].rope.factors("rope_freqs.weight", 64, 500000.0)
    for i, factor in enumerate(factors):
        wavelength = 2 * math.pi * 500000.0 ** (2 * i / 64)
        smooth = (8192 / wavelength - 1) / 3
        between = 1 / ((1 - smooth) / 32 + smooth)
        expected = 1 if wavelength < 2048 else 32 if wavelength > 8192 else between
        assert factor == pytest.approx(expected, rel=1e-6)
    assert len({*factors.tolist()}) == 5


def test_mistral_and_deepseek_have_what_their_files_have(tiny_files):
    with open_gguf(tiny_files["deepseek-r1-tiny"]) as file:
        assert {"output.weight", "blk.2.attn_k.bias"} <= file.tensors.keys()
        bias = np.concatenate(
            [file.tensors[f"blk.{i}.attn_q.bias"].data.view("<f4") for i in range(3)]
        )
        assert abs(bias.mean()) < 0.02 < bias.std()
    with open_gguf(tiny_files["mistral-tiny"]) as file:
        assert "rope_freqs.weight" not in file.tensors
        assert file.metadata["tokenizer.ggml.add_space_prefix"] is True
    with open_gguf(tiny_files["llama-3.2-tiny"]) as file:
        assert "output.weight" not in file.tensors
        assert file.tensors["rope_freqs.weight"].shape == (32,)


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


KINDS = {k for r in RECIPES.values() for k in (r.base, r.better, r.head)}


@pytest.mark.parametrize("kind", sorted(KINDS | set(FALLBACK.values())))
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


def test_unknown_names(tmp_path):
    with pytest.raises(InputError, match="gemma3-tiny"):
        synthesize("gpt-9", tmp_path / "x.gguf")
    with pytest.raises(InputError, match="Q4_K_M"):
        synthesize("gemma3-tiny", tmp_path / "x.gguf", quantization="Q9")
    assert not list(tmp_path.iterdir())


def test_the_table_has_every_name():
    lines = table().splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(SHAPES)
    assert "4,368 (Q4_K_M)" in lines[1 + list(SHAPES).index("mistral-7b")]
    assert lines[-1].split(": ")[1].split(", ") == list(RECIPES)


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


FULL = [
    ("llama-3.2-1b", "Q4_K_M", 808),
    ("llama-3.2-3b", "Q4_0", 1917),
    ("deepseek-r1-1.5b", "Q4_K_M", 1117),
]


@pytest.mark.slow
def test_gemma3_1b_in_full(tmp_path):
    path = tmp_path / "1b.gguf"
    synthesize("gemma3-1b", path)
    assert path.stat().st_size == pytest.approx(806e6, rel=0.002)
    with open_gguf(path) as file:
        config = ModelConfig.from_gguf(file)
        config.check_tensors(file)
        assert (config.L, config.V, config.context) == (26, 262144, 32768)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantization", "megabytes"), FULL)
def test_full_shapes_take_their_size_and_little_memory(tmp_path, name, quantization, megabytes):
    """0.81 GB is the published Llama 3.2 1B too; the others follow from their tensor types."""
    path = tmp_path / "model.gguf"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    synthesize(name, path, quantization=quantization)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200e3
    assert path.stat().st_size / 1e6 == pytest.approx(megabytes, rel=0.01)
    with open_gguf(path) as file:
        ModelConfig.from_gguf(file).check_tensors(file)
    path.unlink()  # gigabytes, which pytest would keep
