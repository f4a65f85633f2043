"""The GGUF reader against the gguf package's own writer and reader."""

import os
import resource
import struct
import time

import gguf
import numpy as np
import pytest

from tests.files.builder import (
    ARRAY,
    BOOL,
    F32,
    F64,
    FORMS,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    assemble,
    f32_file,
    gemma3_metadata,
    gemma3_shapes,
    key,
    save,
    tensor_info,
    value,
    vocabulary,
)
from zerfoo_numba.errors import FileError
from zerfoo_numba.gguf_file import GGML_TYPES, TYPE_BY_NAME, open_gguf

LAST = {U8: 255, I8: -128, U16: 65535, I16: -32768, U32: 2**32 - 1, I32: -(2**31)}
LAST |= {U64: 2**64 - 1, I64: -(2**63), F32: 0.1, F64: 0.1, BOOL: True, STRING: "größer \0 日本"}


def test_type_table_is_that_of_the_gguf_package():
    theirs = {int(t): (t.name, *sizes) for t, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {i: tuple(t) for i, t in GGML_TYPES.items()} == theirs
    assert TYPE_BY_NAME["Q4_K"] == ("Q4_K", 256, 144)


def write_with_gguf_package(path, alignment=None):
    """All value types, arrays of each, and a tensor of every type."""
    writer = gguf.GGUFWriter(path, "test")
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, item in LAST.items():
        writer.add_key_value(f"scalar.{kind}", item, gguf.GGUFValueType(kind))
        array = gguf.GGUFValueType.ARRAY
        writer.add_key_value(f"array.{kind}", [item] * 3, array, gguf.GGUFValueType(kind))
    rng = np.random.default_rng(0)
    for kind in gguf.GGMLQuantizationType:
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = rng.integers(0, 256, (2, 3, size * 2), dtype=np.uint8)
        writer.add_tensor(f"t.{kind.name}", data, raw_dtype=kind)
    writer.add_tensor("vector", np.arange(7, dtype=np.float32))
    writer.add_tensor("four", np.ones((2, 3, 4, 5), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("alignment", [None, 8, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_agrees_with_the_gguf_package(tmp_path, version, alignment):
    path = tmp_path / "all.gguf"
    write_with_gguf_package(path, alignment)
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", version))
    theirs = gguf.GGUFReader(path)
    with open_gguf(path) as ours:
        assert ours.version == version
        fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
        assert list(ours.metadata) == list(fields)
        for name, field in fields.items():
            mine = ours.metadata[name]
            mine = mine.tolist() if isinstance(mine, np.ndarray) else mine
            assert mine == field.contents(), name
        assert list(ours.tensors) == [t.name for t in theirs.tensors]
        for other in theirs.tensors:
            mine = ours.tensors[other.name]
            assert mine.shape == tuple(other.shape.tolist())
            assert mine.type == other.tensor_type.name
            assert mine.data.tobytes() == other.data.tobytes()
            assert mine.data.dtype == np.uint8 and not mine.data.flags.writeable


@pytest.mark.parametrize("kind", sorted(set(FORMS) - {F32, F64}))
def test_scalars_and_arrays_of_every_width(tmp_path, kind):
    items = {"a": (kind, 1), "b": (ARRAY, kind, [1, 0]), "c": (ARRAY, kind, [])}
    raw = assemble([key(name, item) for name, item in items.items()])
    metadata = open_gguf(save(tmp_path, raw)).metadata
    assert metadata["a"] == 1 and isinstance(metadata["a"], bool if kind == BOOL else int)
    assert metadata["b"].tolist() == [1, 0] and metadata["b"].dtype == np.dtype(
        bool if kind == BOOL else FORMS[kind]
    )
    assert metadata["c"].size == 0 and metadata["c"].dtype == metadata["b"].dtype


def test_views_outlive_the_file(tmp_path):
    path = save(tmp_path, f32_file({"a": 1}, {"x": (8,), "y": (3, 2)}, b"\7"))
    with open_gguf(path) as file:
        x, y = file.tensors["x"].data, file.tensors["y"]
    assert not file.tensors
    assert x.tobytes() == b"\7" * 32 and y.data.tobytes() == b"\7" * 24 and y.shape == (3, 2)


def test_a_file_may_hold_no_tensors(tmp_path):
    assert open_gguf(save(tmp_path, assemble([key("a", 1)]))).tensors == {}


def test_gaps_and_any_order_of_tensors_are_accepted(tmp_path):
    infos = [tensor_info("late", (8,), 0, 96), tensor_info("early", (8,), 0, 0)]
    file = open_gguf(save(tmp_path, assemble([], infos, bytes(range(128)))))
    assert file.tensors["late"].data[0] == 96 and file.tensors["early"].data[31] == 31


def test_a_large_vocabulary_opens_fast(tmp_path):
    tokens = [f"▁token{i}" for i in range(262144)]
    path = save(tmp_path, assemble([key("tokenizer.ggml.tokens", tokens)]))
    start = time.perf_counter()
    file = open_gguf(path)
    assert time.perf_counter() - start < 1
    assert file.metadata["tokenizer.ggml.tokens"] == tokens


def test_tensor_data_is_not_touched(tmp_path):
    size = 4 << 30
    path = save(tmp_path, assemble([], [tensor_info("big", (1 << 15, 1 << 15))], bytes(32)))
    os.truncate(path, os.path.getsize(path) + size)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF)
    file = open_gguf(path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert file.tensors["big"].data.nbytes == size
    faults = after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt
    assert faults < size // 4096 // 100


def test_a_file_that_shrinks_is_an_error(tmp_path):
    path = save(tmp_path, f32_file(gemma3_metadata(), gemma3_shapes()))
    file = open_gguf(path)
    file.check_size()
    os.truncate(path, os.path.getsize(path) - 1)
    with pytest.raises(FileError, match="has shrunk from"):
        file.check_size()


def test_paths_that_are_no_file(tmp_path):
    for path, says in (
        (tmp_path / "absent.gguf", "there is no file"),
        (tmp_path, "is a directory"),
        ("/dev/null", "not a regular file"),
        (tmp_path / "x" / "y\0z", "cannot be opened"),
    ):
        with pytest.raises(FileError, match=says):
            open_gguf(path)


def test_builder_values_are_read_back(tmp_path):
    """The builder itself against the gguf package's reader."""
    path = save(tmp_path, f32_file(gemma3_metadata(), gemma3_shapes()))
    theirs = gguf.GGUFReader(path)
    assert theirs.fields["tokenizer.ggml.tokens"].contents() == vocabulary(20)
    assert [t.name for t in theirs.tensors] == list(gemma3_shapes())
    assert value(True) == b"\7\0\0\0\1"
