"""Every damaged or hostile file ends in one error that names what is wrong."""

import contextlib
import struct
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.files.builder import (
    ARRAY,
    BOOL,
    STRING,
    U8,
    U16,
    U64,
    assemble,
    f32_file,
    gemma3_metadata,
    gemma3_shapes,
    key,
    save,
    string,
    tensor_info,
)  # fmt: skip
from zerfoo_numba.config import ModelConfig
from zerfoo_numba.errors import FileError, UnsupportedError, ZerfooError
from zerfoo_numba.gguf_file import TYPE_BY_NAME, open_gguf

SHARED_PATH = HealthCheck.function_scoped_fixture

BIG = (2**31 - 1, 2**63, 2**64 - 1)
NAMED = string("a")


def one_tensor(shape=(32,), kind=0, offset=0, name="t", data=bytes(4096)):
    return assemble([], [tensor_info(name, shape, kind, offset)], data)


def u64(n):
    return struct.pack("<Q", n)


def u32(n):
    return struct.pack("<I", n)


def strings_array(count, *items):
    return NAMED + u32(ARRAY) + u32(STRING) + u64(count) + b"".join(items)


# case: (bytes, what the message must say); UnsupportedError where the file is well formed
DAMAGED = {
    "empty": (b"", "is empty"),
    "magic": (assemble(magic=b"GGML"), "not a GGUF file"),
    "three bytes": (b"GGU", "not a GGUF file"),
    "header only magic": (b"GGUF", "the version"),
    "header cut": (assemble()[:20], "the key count"),
    "version 0": (assemble(version=0), "version 0"),
    "version 1": (assemble(version=1), "version 1"),
    "version 99": (assemble(version=99), "version 99"),
    "big-endian": (assemble(version=3 << 24), "big-endian"),
    **{f"{n} tensors": (assemble(counts=(n, 0)), f"{n} tensors") for n in BIG},
    **{f"{n} keys": (assemble(counts=(0, n)), f"{n} metadata keys") for n in BIG},
    "tensors missing": (assemble(counts=(5, 0)), "tensor 0"),
    "keys missing": (assemble(counts=(0, 5)), "key 0"),
    **{
        f"key of {n} bytes": (assemble([u64(n) + b"abc"]), "the name of metadata key 0")
        for n in (2**31, *BIG)
    },
    "long key": (assemble([key("k" * 65536, 1)]), "65536 bytes"),
    "empty key": (assemble([key("", 1)]), "empty name"),
    "twice the same key": (assemble([key("a", 1), key("a", 2)]), "'a' stands there twice"),
    "value type 13": (assemble([NAMED + u32(13)]), "value type 13"),
    "value type 2^32-1": (assemble([NAMED + u32(2**32 - 1)]), "value type 4294967295"),
    "value missing": (assemble([NAMED + u32(U64) + b"1234"]), "the value of 'a'"),
    "string too long": (assemble([NAMED + u32(STRING) + u64(9) + b"12345678"]), "value of 'a'"),
    "string of 2^64-1": (assemble([NAMED + u32(STRING) + u64(2**64 - 1)]), "the value of 'a'"),
    "string not UTF-8": (assemble([key("a", b"\xff\xfe")]), "not valid UTF-8"),
    "key not UTF-8": (assemble([key(b"\xc3", 1)]), "not valid UTF-8"),
    "array of 2^64-1 bytes": (assemble([NAMED + u32(ARRAY) + u32(U8) + u64(2**64 - 1)]), "'a' has"),
    "array of 2^61 u64": (assemble([NAMED + u32(ARRAY) + u32(U64) + u64(2**61)]), "'a' has"),
    "array cut": (assemble([NAMED + u32(ARRAY) + u32(U64) + u64(3) + bytes(16)]), "array 'a'"),
    "strings of 2^64-1": (assemble([strings_array(2**64 - 1)]), "'a' has"),
    "too many strings": (assemble([strings_array(2**23)]), "'a' has 8388608 strings"),
    "strings cut": (assemble([strings_array(4, string("x"))]), "array 'a'"),
    "string element too long": (
        assemble([strings_array(2, string("x"), u64(2**64 - 1))]),
        "element 1 of the array 'a'",
    ),
    "string element not UTF-8": (assemble([strings_array(1, string(b"\xff"))]), "element 0"),
    "arrays in arrays": (
        assemble([NAMED + u32(ARRAY) + u32(ARRAY) + u64(1) + u32(U8) + u64(0)]),
        "array of arrays",
    ),
    "arrays 1000 deep": (
        assemble([NAMED + u32(ARRAY) + (u32(ARRAY) + u64(1)) * 1000]),
        "array of arrays",
    ),
    "array of type 13": (assemble([NAMED + u32(ARRAY) + u32(13) + u64(1)]), "type 13"),
    "bool of 2": (assemble([key("a", (BOOL, 2))]), "boolean 'a' has the value 2"),
    "bool array of 2": (assemble([key("a", (ARRAY, BOOL, [1, 2]))]), "array 'a' has the value 2"),
    **{
        f"alignment {n}": (assemble([key("general.alignment", n)]), f"alignment is {n}")
        for n in (0, 3, 4, 48, 2**31)
    },
    "alignment string": (assemble([key("general.alignment", "32")]), "must be a uint32"),
    "alignment u64": (assemble([key("general.alignment", (U64, 32))]), "must be a uint32"),
    "split": (assemble([key("split.count", (U16, 3))]), "llama-gguf-split --merge"),
    "tensor name of 2^63": (assemble([], [u64(2**63) + b"t"]), "the name of tensor 0"),
    "tensor name of 64": (one_tensor(name="t" * 64), "64 bytes"),
    "tensor name empty": (one_tensor(name=""), "empty name"),
    "twice the same tensor": (
        assemble([], [tensor_info("t", (8,)), tensor_info("t", (8,), 0, 32)], bytes(64)),
        "'t' stands there twice",
    ),
    **{
        f"{n} dimensions": (assemble([], [string("t") + u32(n) + bytes(64)]), f"has {n} dim")
        for n in (0, 5, 10**6, 2**32 - 1)
    },
    "dimension 0": (one_tensor((0,)), r"shape \[0\]"),
    "dimension 0 of two": (one_tensor((32, 0)), r"shape \[32, 0\]"),
    "dimension 2^64-1": (one_tensor((2**64 - 1,)), "impossible shape"),
    "product wraps to 4": (one_tensor((4194305, 4194305, 211106198978564)), "impossible shape"),
    "product 2^64": (one_tensor((2**63 - 1, 2)), "impossible shape"),
    "exabyte": (one_tensor((2**31, 2**31)), "the data of tensor 't'"),
    "row no multiple of the block": (one_tensor((48,), 2), "no multiple of the 32 elements"),
    "row no multiple of 256": (one_tensor((128, 2), 12), "256 elements of a Q4_K"),
    **{
        f"type {n}": (one_tensor((32,), n), f"tensor 't' has the type id {n}")
        for n in (4, 5, 36, 2**32 - 1)
    },
    "offset unaligned": (one_tensor(offset=16), "offset 16"),
    "offset 2^64-256": (one_tensor(offset=2**64 - 256), "the data of tensor 't'"),
    "offset past the end": (one_tensor(offset=4096), "the data of tensor 't'"),
    "one byte missing": (one_tensor(data=bytes(127)), "downloaded completely"),
    "no data": (one_tensor(data=b""), "the data of tensor 't'"),
    "overlap": (
        assemble([], [tensor_info("t", (16,)), tensor_info("u", (8,), 0, 32)], bytes(64)),
        "'t' and 'u' overlap",
    ),
    "same place": (
        assemble([], [tensor_info("t", (8,)), tensor_info("u", (8,))], bytes(64)),
        "overlap",
    ),
    "tensor info cut": (assemble([], [tensor_info("t", (8,))[:-4]]), "the offset of tensor 't'"),
}
WELL_FORMED = {"version 0", "version 1", "version 99", "big-endian", "split"}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file(tmp_path, case):
    raw, says = DAMAGED[case]
    start = time.perf_counter()
    kind = UnsupportedError if case in WELL_FORMED else FileError
    with pytest.raises(kind, match=says) as caught:
        open_gguf(save(tmp_path, raw))
    assert time.perf_counter() - start < 1
    assert "file.gguf" in str(caught.value)


def test_truncation_at_every_byte(tmp_path):
    keys = {"a": "text", "b": [1, 2], "c": ["x", "yz"], "d": True}
    raw = f32_file(keys, {"t": (3, 5), "u": (8,)})
    path = save(tmp_path, raw)
    assert set(open_gguf(path).tensors) == {"t", "u"}
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(FileError):
            open_gguf(path)


MODEL = f32_file(gemma3_metadata(L=1), gemma3_shapes(L=1))
HEAD = MODEL.index(b"output_norm.weight") + 64


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, HEAD), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, len(MODEL)),
)
def test_mutated_file_opens_or_is_refused(tmp_path, changes, length):
    raw = bytearray(MODEL)
    for at, byte in changes:
        raw[at] = byte
    path = save(tmp_path, bytes(raw[:length] if length % 3 == 0 else raw))
    file = None
    with contextlib.suppress(ZerfooError):
        file = open_gguf(path)
        ModelConfig.from_gguf(file).check_tensors(file)
    for tensor in file.tensors.values() if file else ():
        kind = TYPE_BY_NAME[tensor.type]
        assert tensor.data.size == np.prod(tensor.shape) // kind.block_size * kind.block_bytes
