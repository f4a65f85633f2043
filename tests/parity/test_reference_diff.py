"""`reference diff` finds the layer that was broken, and says nothing of one that was not."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import reference
import reference.__main__ as command
from reference.diff import (
    compare_logits,
    compare_models,
    compare_tap,
    cosine,
    heat_map,
    nmse,
    table,
)
from tests.parity.compare import assert_close
from tests.parity.tolerances import Tolerance

PATH = Path(__file__).parent / "golden" / "gemma3_default" / "model.gguf"
IDS = [1, 48, 59, 28, 40]


class Broken:
    """The reference with the output of one tap scaled, as a runtime with a wrong layer."""

    def __init__(self, tap, scale):
        self.model, self.tap, self.scale = reference.load_model(PATH), tap, scale
        self.config = self.model.config

    def taps(self, ids, inputs=None):
        inputs = dict(inputs or {})
        inputs[self.tap] = self.model.taps(ids, inputs=inputs)[self.tap] * np.float32(self.scale)
        with np.errstate(invalid="ignore"):
            return self.model.taps(ids, inputs=inputs)


@pytest.fixture(scope="module")
def truth():
    return reference.load_model(PATH)


def report_on(tap, scale, truth, fed=False):
    return compare_models(Broken(tap, scale), truth, IDS, device="test", path=PATH, fed=fed)


def test_a_sound_model_departs_nowhere(truth):
    report = report_on("embed", 1.0, truth)
    assert report.departure is None
    assert report.missing == []
    assert (report.top1_agreement, report.kl_max) == (1.0, 0.0)
    assert "agrees" in table(report)


@pytest.mark.parametrize("tap", ["embed", "blk.0.v", "blk.3.ffn_act", "result_norm"])
def test_the_first_broken_tap_is_named(truth, tap):
    report = report_on(tap, 1.3, truth)
    assert report.departure.name == tap
    assert report.departure.nmse == pytest.approx(0.09, rel=1e-5)  # (1.3 - 1)²
    assert f"departs first at {tap} " in table(report)
    assert report.kl_max > 0


def test_fed_layers_keep_an_error_to_themselves(truth):
    wrong = {tap.stage for tap in report_on("blk.2.k", 0.5, truth, fed=True).taps if tap.nmse > 0}
    assert wrong == {"blk.2"}
    free = {tap.stage for tap in report_on("blk.2.k", 0.5, truth).taps if tap.nmse > 0}
    assert {"blk.2", "blk.3", "blk.5", "result_output"} <= free


def test_an_array_that_is_not_finite_departs_and_stays_valid_json(truth):
    report = report_on("blk.1.q", math.inf, truth)
    assert report.departure.name == "blk.1.q"
    fields = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert fields["first_departure"] == "blk.1.q"
    row = next(tap for tap in fields["taps"] if tap["name"] == "blk.1.q")
    assert row["nmse"] is None


def test_a_tap_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"blk\.0\.q has shape"):
        compare_tap("blk.0.q", np.zeros((2, 3)), np.zeros((3, 2)))


def test_measures():
    a, b = np.array([1.0, 2.0, 2.0]), np.array([2.0, 4.0, 4.0])
    assert nmse(a, b) == pytest.approx(0.25)
    assert (nmse(a * 0, b * 0), nmse(a, b * 0)) == (0.0, math.inf)
    assert cosine(a, b) == pytest.approx(1.0)
    assert cosine(a, -b) == pytest.approx(-1.0)
    assert (cosine(a * 0, b * 0), cosine(a, b * 0)) == (1.0, 0.0)


def test_divergence_of_two_known_distributions():
    expected, actual = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    agreement, mean, largest = compare_logits(actual + 3.0, expected)
    assert agreement == 0.5  # 0.5 : 0.5 counts as the first id, 0.25 : 0.75 as the second
    assert largest == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert mean == pytest.approx(largest / 2)


def run(monkeypatch, capsys, tap, scale, *options):
    """`python -m reference diff` with a broken model in the runtime's place."""
    import zerfoo_numba

    def load_model(path, device, activation, cache_type):
        assert (device, activation, cache_type) == ("emulator", "float", "f32")
        return Broken(tap, scale)

    monkeypatch.setattr(zerfoo_numba, "load_model", load_model, raising=False)
    status = command.main(["diff", "-m", str(PATH), *options])
    return status, capsys.readouterr().out


def test_the_command_exits_1_on_a_departure(monkeypatch, capsys):
    status, out = run(monkeypatch, capsys, "blk.4.attn_out", 1.01, "--ids", "1,2", "3", "--json")
    assert status == 1
    fields = json.loads(out)
    assert fields["ids"] == [1, 2, 3]
    assert fields["first_departure"] == "blk.4.attn_out"


def test_the_command_exits_0_when_both_agree_and_draws_a_heat_map(monkeypatch, capsys, tmp_path):
    png = tmp_path / "map.png"
    status, out = run(monkeypatch, capsys, "embed", 1.0, "--png", str(png))
    assert status == 0
    assert "blk.5" in out
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_table_says_what_ran_and_marks_the_lines_that_depart(truth):
    lines = table(report_on("blk.2.attn_out", 2.0, truth)).splitlines()
    assert (
        lines[0] == "model.gguf: gemma3, 6 layers, 5 tokens; test against the reference, free run"
    )
    marks = {line.split()[0]: line.split()[-1] for line in lines if line.endswith("<")}
    assert marks["blk.2"] == "<<"
    assert marks == {f"blk.{i}": "<" if i > 2 else "<<" for i in range(2, 6)} | {
        "result_norm": "<",
        "result_output": "<",
    }
    assert any("--fed" in line for line in lines)
    fed = table(report_on("blk.2.attn_out", 2.0, truth, fed=True))
    assert "each layer fed by the reference" in fed
    assert "--fed" not in fed


def test_heat_maps_of_exact_broken_and_infinite_taps_differ(truth, tmp_path):
    pictures = set()
    for tap, scale in (("embed", 1.0), ("blk.2.k", 1.3), ("blk.4.k", 1.3), ("blk.2.k", math.inf)):
        path = tmp_path / "map.png"
        heat_map(report_on(tap, scale, truth), path)
        pictures.add(path.read_bytes())
    assert len(pictures) == 4


@pytest.mark.parametrize(
    ("activation", "least", "most"), [("float", 0, 1e-11), ("int8", 1e-6, 1e-2)]
)
def test_the_runtime_agrees_within_the_default_threshold(
    activation, least, most, device_name, capsys
):
    path = PATH.parent.parent / "gemma3_Q4_K_M" / "model.gguf"
    arguments = ["diff", "-m", str(path), "--against", device_name, "--activation", activation]
    assert command.main([*arguments, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert least < max(tap["nmse"] for tap in fields["taps"]) < most
    assert fields["missing"] == []
    assert command.main([*arguments, "--threshold", "1e-16"]) == 1
    assert "departs first at blk.0." in capsys.readouterr().out


def test_top_logits_are_printed(truth, capsys):
    assert command.main([str(PATH), "1", "48,59", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    best = np.argsort(-truth.logits([1, 48, 59])[-1])[:3]
    assert [int(line.split()[0]) for line in lines[1:]] == best.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.gguf", "1"], "nowhere.gguf"),
        ([str(PATH), "64"], "token id 64"),
        (["diff", "-m", "nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, message):
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_failed_comparison_says_what_and_where():
    tolerance = Tolerance(1e-6, 1e-3, "of this test")
    expected = np.arange(6.0).reshape(2, 3)
    assert_close("x", expected + 1e-4, expected, tolerance)
    actual = expected.copy()
    actual[1, 2] = 5.5
    with pytest.raises(AssertionError) as failure:
        assert_close("blk.3.q", actual, expected, tolerance)
    message = str(failure.value)
    for part in ("blk.3.q", "shape (2, 3)", "max abs 5.000e-01", "max rel 1.000e-01", "(1, 2)"):
        assert part in message
    for wrong in (np.full((2, 3), np.nan), expected.T, np.where(expected == 3, np.inf, expected)):
        with pytest.raises(AssertionError, match="x"):
            assert_close("x", wrong, expected, tolerance)
