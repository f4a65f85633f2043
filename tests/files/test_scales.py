"""A NaN or an infinity in a weight is found at load, in every format, and its row is named."""

import numpy as np
import pytest

import zerfoo_numba
from reference.quant import dequantize
from tests.parity.conftest import GOLDEN
from tests.parity.random_blocks import random_blocks
from zerfoo_numba.errors import FileError
from zerfoo_numba.gguf_file import TYPE_BY_NAME, open_gguf
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.scales import PIECE, require_finite

FORMATS = sorted(TYPE_BY_NAME.keys() & QUANTS.keys())
# Of these a code that the format calls NaN, or too large, is some number to ggml's decoders.
LENIENT = ("MXFP4", "NVFP4")


def refused(type_name, data, columns):
    """The row that `require_finite` names, or None."""
    try:
        require_finite("f.gguf", "blk.1.w", type_name, data, columns)
    except FileError as error:
        words = str(error).split()
        assert "'blk.1.w'" in words
        return int(words[words.index("row") + 1])
    return None


@pytest.mark.parametrize("type_name", FORMATS)
def test_what_is_refused_is_what_decodes_to_no_number(type_name):
    """Random bytes, whose scales hold every pattern: block by block as the reference decodes it."""
    kind, rng = TYPE_BY_NAME[type_name], np.random.default_rng(3)
    blocks = rng.integers(0, 256, (3000, kind.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        values = dequantize(blocks.reshape(-1), type_name, (kind.block_size, len(blocks)))
    wrong = ~np.isfinite(np.asarray(values, np.float32)).all(axis=1)
    found = np.array([refused(type_name, b, kind.block_size) is not None for b in blocks])
    assert not (wrong & ~found).any()
    assert (found == wrong).all() or type_name in LENIENT
    assert 0 < found.sum() < len(blocks)


@pytest.mark.parametrize("type_name", FORMATS)
def test_the_row_is_named_wherever_it_is(type_name):
    kind, rng = TYPE_BY_NAME[type_name], np.random.default_rng(4)
    columns = 2 * kind.block_size
    rows = 2 * PIECE // (2 * kind.block_bytes)  # in a piece of its own
    data = np.tile(random_blocks(rng, type_name, 1, columns), rows)
    assert refused(type_name, data, columns) is None
    for row in (0, rows // 3, rows - 1):
        bad = data.copy()
        at = (2 * row + 1) * kind.block_bytes
        bad[at : at + kind.block_bytes] = 0xFF
        assert refused(type_name, bad, columns) == row


def with_bytes(source, path, name, at, data):
    """A copy of a GGUF file with other bytes in a tensor, from its byte `at` on."""
    raw = bytearray(source.read_bytes())
    with open_gguf(source) as gguf:
        start = raw.index(gguf.tensors[name].data.tobytes()) + at
    raw[start : start + len(data)] = data
    path.write_bytes(raw)
    return path


NAN, INFINITE, NEGATIVE = (np.array([v], "<f4").tobytes() for v in (np.nan, np.inf, -np.inf))
# golden, tensor, first byte, bytes, what the message says
CASES = {
    "a norm": ("llama", "output_norm.weight", 8, NAN, "element in row 0"),
    "an infinity in a matrix": ("llama", "blk.1.ffn_down.weight", 192 * 5, INFINITE, "row 5"),
    "minus infinity": ("llama", "token_embd.weight", 128 * 63 + 4, NEGATIVE, "row 63"),
    "a block scale": ("gemma3_Q4_K_M", "blk.1.ffn_gate.weight", 144 * 7, b"\0\x7c", "row 7"),
    "a block minimum": ("gemma3_Q4_K_M", "blk.1.attn_q.weight", 146, b"\x01\xfe", "row 1"),
    "one of experts": ("mixtral", "blk.1.ffn_down_exps.weight", 4, NAN, "row 0"),
    "rows of q, k and v": ("falcon", "blk.1.attn_qkv.weight", 4, NAN, "row 0"),
    "a rope factor of zero": ("phi3_longrope", "rope_factors_short.weight", 4, bytes(4), "1 of"),
    "a rope factor of NaN": ("phi3_longrope", "rope_factors_short.weight", 8, NAN, "2 of"),
    "a recurrent model": ("rwkv7", "blk.1.attn_norm.weight", 0, NAN, "row 0"),
}


@pytest.mark.parametrize("device", ["cpu", "emulator"])
@pytest.mark.parametrize("case", CASES)
def test_a_model_with_one_bad_number_is_refused_at_load(tmp_path, case, device):
    golden, name, at, data, says = CASES[case]
    path = with_bytes(GOLDEN / golden / "model.gguf", tmp_path / "bad.gguf", name, at, data)
    with pytest.raises(FileError) as caught:
        zerfoo_numba.load_model(path, device=device, context=8)
    assert says in str(caught.value) and f"tensor '{name}'" in str(caught.value)
    assert "bad.gguf" in str(caught.value)


def test_a_tower_with_one_bad_number_is_refused_at_load(tmp_path):
    folder = GOLDEN / "vision_files" / "qwen2vl"
    name = "v.blk.0.ln1.weight"
    bad = with_bytes(folder / "mmproj.gguf", tmp_path / "bad.gguf", name, 4, NAN)
    with pytest.raises(FileError, match=f"bad.gguf: an element in row 0 of the tensor '{name}'"):
        zerfoo_numba.load_model(folder / "model.gguf", device="cpu", context=8, mmproj=bad)
