"""Ceilings and the measured roofline: kernels compute what they are counted for; figures agree."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from bench import ceilings, contribute, picture, rates, report, roofline, roofline_measured, store
from bench.launches import Counts
from bench.roofline_table import report as lines
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.ptx.compile import Pointer, compile_ptx
from zerfoo_numba.synth import synthesize

TINY, CACHED, TOKENS = "gemma3-tiny", 20, 9


def expected(kind, lane, steps):
    """What a thread's chains come to after `steps` steps, in float64 or in integers of 32 bits."""
    if kind.startswith("tensor"):
        return 4 * 4 * (16 if kind == "tensor" else 32) * steps
    total = 0
    for s in range(lane, lane + 4):
        for _ in range(steps):
            s = s / 2 + 1 if kind == "float32" else (s + (s & 0xFF)) % 2**32
        total += s
    return total if kind == "float32" else total % 2**32


@pytest.mark.parametrize("kind", rates.KINDS)
def test_rates_count_what_the_emulator_counts(kind):
    device = open_device("emulator", count=True)
    found = rates.run(device, kind, 2, 32, 1)
    wanted = [expected(kind, lane, rates.UNROLL) for lane in range(32)]
    np.testing.assert_allclose(found, wanted * 2, rtol=1e-6)
    counters = device.counters.pop()
    least = rates.operations(kind, 64, 1)
    if kind == "int8":
        assert 8 * counters.classes["dot"] == least
    else:
        assert least <= counters.flops < 1.05 * least
    ptx = compile_ptx(rates.KINDS[kind][0], (Pointer(found.dtype), np.uint32(1)), (9, 0))
    assert "ld.global" not in ptx.text and ".local" not in ptx.text


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_rates_compute_the_same_on_the_cpu(kind):
    found = rates.run(open_device("cpu", threads=1), kind, 1, 64, 3)
    wanted = [expected(kind, lane, 3 * rates.UNROLL) for lane in range(32)]
    np.testing.assert_allclose(found, wanted * 2, rtol=1e-6)


def test_read_takes_every_byte_once_a_pass():
    device = open_device("emulator", count=True)
    words = np.arange(4 * 32 * 6, dtype=np.uint32)  # two warps, three pieces each
    for strides in ((3 * 512, 512), (512, 2 * 512)):
        x, out = device.upload(words, "x"), device.empty(64, np.uint32, "out")
        args = (out, x, *(np.uint32(n) for n in (2, 3, *strides)))
        device.launch(ceilings.read_kernel, 2, 32, args)
        loads = device.counters.pop().arrays["x"]
        assert loads.loads.bytes == 2 * words.nbytes
        assert loads.unique_load_sectors == words.nbytes // 32


def test_sizes_go_from_the_nearest_cache_to_the_largest():
    found = list(ceilings.sizes(2, 3))
    assert found[0] == 2 * ceilings.SMALLEST and found[-1] == 3 << 20
    assert all(b == 4 * a for a, b in pairwise(found[:-1]))


class Uncounted:
    """In place of the emulator: the least bytes as sectors; the rest is not looked at here."""

    def __init__(self, cc):
        pass

    def count(self, group, position):
        sectors = math.ceil(group.call.cost.bytes / 32) + 1
        dots = int(group.call.name in ("matvec_int8", "matmul_int8"))
        return Counts(64, 2, sectors, sectors, 0, sectors, dots, 0, "not counted")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / f"{TINY}.gguf"
    synthesize(TINY, path)
    return str(path)


@pytest.fixture(scope="module")
def measured(model_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline_measured, "LaunchCounter", Uncounted)
        patch.setattr(rates, "LEAST_SECONDS", 1e-4)
        settings = ("cpu", CACHED, TOKENS, "f16", "int8", 1)
        document = roofline_measured.measure(model_path, TINY, *settings)
    return json.loads(json.dumps(document))


def test_every_kernel_has_a_time_and_a_place(measured):
    roofs = measured["roofs"]
    memory, tops = roofs["read"][-1][1], [rate for _, rate in roofs["compute"]]
    assert memory == measured["ceilings"]["read"][-1]["gb_per_s"]
    assert [kind.split()[0] for kind, _ in roofs["compute"]] == ["float32", "8-bit"]
    for step in (measured["decode"], measured["prefill"]):
        for p in step["points"]:
            assert p["measured_us"] > 0
            assert p["tflops"] == pytest.approx(p["cost_flops"] / p["measured_us"] / 1e6)
            assert (p["pipeline"] == "dot") == p["operation"].startswith(("matvec_i", "matmul_i"))
            roof = tops[p["pipeline"] == "dot"]
            assert p["roof_tflops"] == min(roof, p["intensity"] * memory / 1e3)
            assert p["floor_us"] == max(p["memory_us"], p["arithmetic_us"])
        assert step["sums"]["tokens_per_s"] == 1e6 * step["tokens"] / step["sums"]["step_us"]
    text = "\n".join(lines(measured))
    assert "measured us" in text and "PREDICTED" not in text


def test_a_measured_roofline_is_stored_drawn_and_shown(measured, tmp_path):
    path, drawn = roofline.write(measured, tmp_path)
    assert store.read(path) == ("roofline", measured)
    assert picture.sources(drawn) == [store.digest(measured)]
    assert report.main(["--reports", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_text()
    shown = page[page.index("## Rooflines, measured") : page.index("## Rooflines, PREDICTED")]
    assert f"{measured['decode']['sums']['step_us']:.0f}" in shown
    assert f"({path.parent.name}/{drawn.name})" in shown
    assert "No run is recorded" in page[page.index("## Rooflines, PREDICTED") :]
    pixels = imread(drawn)[..., :3]
    ink = (pixels < 0.9).any(axis=-1)
    assert ink[:20].sum() == ink[-10:].sum() == ink[:, -10:].sum() == 0
    assert picture.sources(tmp_path / "tokens.png") == [store.digest(measured)]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (("decode", "points", 0, "measured_us"), "rate in tflops"),
        (("decode", "points", 0, "launches"), "the sum of"),
        (("prefill", "sums", "floor_us"), "the sum of floor_us"),
        (("prefill", "sums", "step_us"), "tokens_per_s"),
        (("roofs", "read", -1, 1), "memory_us"),
    ],
)
def test_a_roofline_that_contradicts_itself_is_refused(measured, where, reason):
    changed = json.loads(json.dumps(measured))
    inner = changed
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] *= 3
    with pytest.raises(InputError, match=reason):
        store.check("roofline", changed)


def test_a_prefill_longer_than_a_chunk_is_refused(model_path):
    with pytest.raises(InputError, match="at most 256 on cpu"):
        roofline_measured.measure(model_path, TINY, "cpu", CACHED, 257, "f16", "int8", 1)


def test_ceilings_are_contributed(measured, tmp_path):
    record = {"kind": "ceilings", "environment": measured["environment"], **measured["ceilings"]}
    (tmp_path / "c.json").write_text(json.dumps(record))
    given = ["--file", str(tmp_path / "c.json"), "--reports", str(tmp_path / "r")]
    assert contribute.main(given) == 0
    assert report.main(["--reports", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r" / "README.md").read_text()
    assert f"{record['rates']['int8']['tops']:.3g}" in page[page.index("## Ceilings") :]
    record["rates"]["int8"]["tops"] *= 2
    with pytest.raises(InputError, match="the rate of int8"):
        store.check("ceilings", record)


def test_a_damaged_picture_is_seen(tmp_path):
    drawn = tmp_path / "small.png"
    picture.save(Figure((1, 1)), drawn, ["b2", "a1"])
    assert picture.sources(drawn) == ["a1", "b2"]
    Figure((1, 1)).savefig(drawn.with_stem("other"))
    assert picture.sources(drawn.with_stem("other")) == []
    data = drawn.read_bytes()
    drawn.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    with pytest.raises(FileError, match="damaged"):
        picture.sources(drawn)
    drawn.write_bytes(b"no picture")
    with pytest.raises(FileError, match="no PNG"):
        picture.sources(drawn)


@pytest.mark.slow
def test_the_traffic_of_a_measured_roofline_is_counted(model_path):
    settings = ("cpu", CACHED, TOKENS, "f16", "int8", 1)
    document = roofline_measured.measure(model_path, TINY, *settings)
    for step in (document["decode"], document["prefill"]):
        for p in step["points"]:
            assert p["sectors"] >= p["unique_sectors"]
            assert 32 * p["launches"] * p["weight_sectors"] >= p["weight_bytes"]
