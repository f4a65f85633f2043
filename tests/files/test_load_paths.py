"""Every damaged file through everything that opens one, under the limits: one error, little time,
little memory. The names are those of llama.cpp's tests/test-gguf.cpp, and of test_damaged_files.
"""

import contextlib
import time
import tracemalloc

import pytest

import reference
import zerfoo_numba
from tests.files import builder
from tests.files.builder import assemble, key, save, string, tensor_info
from tests.files.fuzz import GOLDEN, MEBIBYTES, SECONDS
from tests.files.test_damaged_files import DAMAGED, NAMED, one_tensor, u32, u64
from zerfoo_numba.cli import main
from zerfoo_numba.devices.cpu import CpuDevice
from zerfoo_numba.errors import FileError, UnsupportedError, ZerfooError
from zerfoo_numba.gguf_file import open_gguf

WHOLE = GOLDEN / "vision_files" / "llava15" / "model.gguf"
DEVICE = CpuDevice(threads=1)
LARGE = 2**63 - 64  # a tensor of this many bytes, and another, wrap a sum of 64 bits
TWO_KEYS = [key("my_key_0", 5), key("my_key_1", ["a", "bc"])]
INFOS = [tensor_info("my_tensor_0", (8, 3)), tensor_info("my_tensor_1", (64,), 0, 96)]
DATA = bytes(96 + 256)


def two_tensors(second_offset=96, data=DATA, alignment=32, keys=(), **more):
    infos = [INFOS[0], tensor_info("my_tensor_1", (64,), 0, second_offset)]
    return assemble([*TWO_KEYS, *keys], infos, data, alignment=alignment, **more)


def aligned_to(n, kind=builder.U32):
    return [key("general.alignment", (kind, n))]


# case: (bytes, what the message must say or None for a file that opens)
UPSTREAM = {
    "HEADER_BAD_MAGIC": (assemble(magic=b"FUGG"), "not a GGUF file"),
    "HEADER_BAD_VERSION_0": (assemble(version=0), "version 0"),
    "HEADER_BAD_VERSION_1": (assemble(version=1), "version 1"),
    "HEADER_BAD_VERSION_FUTURE": (assemble(version=4), "version 4"),
    "HEADER_BAD_N_TENSORS": (assemble(counts=(2**64 - 1, 0)), "tensors announced"),
    "HEADER_BAD_N_KV": (assemble(counts=(0, 2**64 - 1)), "keys announced"),
    "HEADER_EMPTY": (assemble(), None),
    "KV_BAD_KEY_SIZE": (assemble([u64(2**64 - 1) + b"my_key_0"]), "the name of metadata key 0"),
    "KV_EMPTY_KEY": (assemble([key("", 1)]), "empty name"),
    "KV_BAD_TYPE": (assemble([NAMED + u32(13) + bytes(1)]), "unknown value type 13"),
    "KV_DUPLICATE_KEY": (assemble([key("my_key_0", 1), key("my_key_0", 2)]), "there twice"),
    "KV_BAD_ALIGN": (assemble(aligned_to(13)), "alignment is 13"),
    "KV_WRONG_TYPE_ALIGN": (assemble(aligned_to(13, builder.I32)), "must be a uint32"),
    "KV_RANDOM_KV": (assemble(TWO_KEYS), None),
    "TENSORS_BAD_NAME_SIZE": (one_tensor(name="my_tensor_0" + "x" * 80), "91 bytes"),
    "TENSORS_BAD_N_DIMS": (assemble([], [string("t") + u32(5) + bytes(64)]), "has 5 dimensions"),
    "TENSORS_BAD_SHAPE": (one_tensor((2**64 - 1,)), "impossible shape"),
    "TENSORS_ZERO_DIM": (one_tensor((32, 0)), "impossible shape"),  # upstream allows it
    "TENSORS_NE_TOO_BIG": (one_tensor((4 * (2**31 - 1),) * 2), "impossible shape"),
    "TENSORS_NBYTES_TOO_BIG": (one_tensor((1533916897, 1533916897), 27), "the data of tensor"),
    "TENSORS_NBYTES_PAD_WRAP": (one_tensor((2**63 - 1,), 24), "the data of tensor"),
    "TENSORS_BAD_TYPE": (one_tensor(kind=42), "type id 42"),
    "TENSORS_BAD_OFFSET": (one_tensor(offset=2**64 - 1), "offset 18446744073709551615"),
    "TENSORS_DUPLICATE_NAME": (assemble([], INFOS[:1] * 2, DATA), "there twice"),
    "TENSORS_BAD_ALIGN": (two_tensors(keys=aligned_to(13)), "alignment is 13"),
    "TENSORS_INCONSISTENT_ALIGN": (two_tensors(100), "offset 100, no multiple"),
    "TENSORS_SUCCESS": (two_tensors(data=b""), "the data of tensor"),  # upstream reads no data
    "TENSORS_CUSTOM_ALIGN": (two_tensors(128, b"", 64, aligned_to(64)), "the data of tensor"),
    "DATA_NOT_ENOUGH_DATA": (two_tensors(data=DATA[:-1]), "downloaded completely"),
    "DATA_BAD_ALIGN": (two_tensors(keys=aligned_to(13)), "alignment is 13"),
    "DATA_INCONSISTENT_ALIGN": (two_tensors(97), "offset 97, no multiple"),
    "DATA_MEM_SIZE_OVERFLOW": (
        assemble([], [tensor_info(n, (LARGE,), 24, o) for n, o in (("a", 0), ("b", LARGE))], DATA),
        "the data of tensor 'a'",
    ),
    "DATA_SUCCESS": (two_tensors(), None),
    "DATA_CUSTOM_ALIGN": (two_tensors(128, DATA + bytes(32), 64, aligned_to(64)), None),
}
CASES = DAMAGED | UPSTREAM


def at_the_command_line(*arguments):
    """`main`, as an error where it prints one."""

    def use(path, capsys):
        code = main([str(path) if a is None else str(a) for a in arguments])
        out, err = capsys.readouterr()
        if code == 2:
            assert out == "" and err.count("\n") == 1
            raise FileError(err.removeprefix("zerfoo-numba: ").strip())
        assert code == 0

    return use


PATHS = {
    "open_gguf": lambda path, _: open_gguf(path),
    "tokenizer": lambda path, _: zerfoo_numba.load_tokenizer(path),
    "model": lambda path, _: zerfoo_numba.load_model(path, device=DEVICE),
    "tower": lambda path, _: zerfoo_numba.load_model(WHOLE, device=DEVICE, mmproj=path),
    "reference": lambda path, _: reference.load_model(path),
    "info": at_the_command_line("info", None),
    "generate": at_the_command_line("generate", "-p", "x", "--device", "cpu", "-m", None),
    "mmproj": at_the_command_line("generate", "-m", WHOLE, "-p", "x", "--mmproj", None),
    "tokenize": at_the_command_line("tokenize", "-p", "x", "-m", None),
}
COMMANDS = ("info", "generate", "mmproj", "tokenize")  # of which the 34 names are enough
OPENS = ("open_gguf", "info")  # what is content with an open file, whatever it holds


def test_the_names_are_those_of_llama_cpp():
    assert len(UPSTREAM) == 34 and not UPSTREAM.keys() & DAMAGED.keys()


@pytest.mark.parametrize("path_name", PATHS)
def test_every_case_through_every_path(tmp_path, capsys, path_name):
    use = PATHS[path_name]
    with contextlib.suppress(ZerfooError):  # imports are no part of what is measured
        use(tmp_path / "none.gguf", capsys)
    for case, (raw, says) in (UPSTREAM if path_name in COMMANDS else CASES).items():
        path = save(tmp_path, raw)
        if says is None and path_name in OPENS:
            use(path, capsys)
            continue
        start = time.process_time()
        tracemalloc.start()
        try:
            with pytest.raises((FileError, UnsupportedError)) as caught:
                use(path, capsys)
            grown = tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()
        assert grown < MEBIBYTES and time.process_time() - start < SECONDS, case
        message = str(caught.value)
        assert "file.gguf" in message and "\n" not in message, case
        assert says is None or says.replace("\\", "") in message, case
