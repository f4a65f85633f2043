"""bench.campaign: every part on a tiny model without a GPU; failures are recorded; it resumes."""

import json
import tarfile

import pytest

from bench import campaign
from bench.campaign_parts import MODELS, ON_CUDA, SWITCHES, Part, parts

OPTIONS = (
    *("--device", "cpu", "--models", "gemma3-tiny", "-n", "2", "--runs", "1", "--depths", "20"),
    *("--cached", "20", "--prefill", "30", "--largest", "1", "--gpu", "A100"),
)
PARITY = ["--parity", "tests/parity/test_ops.py -k test_advance -p no:xdist"]
PARTS = [
    "ceilings",
    *(f"gemma3-tiny.{p}" for p in ("write", "default", "llama-bench", *SWITCHES)),
    *(f"gemma3-tiny.{p}" for p in ("depth-20", "prefill", "step")),
    "parity",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of one whole campaign, with a stand-in for llama-bench."""
    place = tmp_path_factory.mktemp("campaign")
    program = place / "llama-bench"
    program.write_text('#!/bin/sh\necho \'[{"n_gen": 2, "avg_ts": 50.0}]\'\n')
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_BENCH", str(program))
        patch.setenv("OMP_NUM_THREADS", "1")
        assert campaign.main([*OPTIONS, *PARITY, "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.mark.parametrize("device, more", [("cpu", ()), ("cuda", ON_CUDA)])
def test_a_gpu_is_asked_for_switches_of_its_own(tmp_path, monkeypatch, device, more):
    monkeypatch.setenv("LLAMA_BENCH", "llama-bench")
    options = campaign.arguments([*OPTIONS, "--device", device, "--out", str(tmp_path)])
    names = {f"gemma3-tiny.{name}" for name in more}
    assert {part.name for part in parts(options, tmp_path)} == {*PARTS, *names}


def record(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_every_part_was_measured(folder):
    assert {p.stem for p in folder.glob("*.json")} == {*PARTS, "environment"}
    for name in PARTS:
        part = record(folder, name)
        assert part["status"] == "done" and part["seconds"] >= 0, part
    default = record(folder, "gemma3-tiny.default")["result"]
    assert len(default["samples_ts"]) == 1 and default["x_graph_share"] == 1.0
    assert record(folder, "gemma3-tiny.no-graph")["result"]["x_graph_share"] == 0.0
    assert record(folder, "gemma3-tiny.float")["result"]["x_activation"] == "float"
    assert record(folder, "gemma3-tiny.depth-20")["result"]["x_prefill_tokens"] == 20
    assert record(folder, "gemma3-tiny.step")["result"]["measured_us"] > 0
    assert record(folder, "gemma3-tiny.llama-bench")["result"][0]["avg_ts"] == 50.0
    assert record(folder, "ceilings")["result"]["read"][0]["gb_per_s"] > 0
    assert record(folder, "parity")["result"] == {"passed": 1}


def test_the_archive_holds_every_file_and_no_name_of_the_machine(folder):
    with tarfile.open(folder.with_name("run.tar.gz")) as tar:
        assert {m.name for m in tar} == {f"run/{p.name}" for p in folder.glob("*.json")}
        assert {m.uname for m in tar} == {""}
    for path in folder.glob("*.json"):
        assert str(folder.parent) not in path.read_text(), path.name


def test_what_is_done_is_skipped_and_what_is_not_is_measured(folder, monkeypatch):
    measured = []

    def run(part, limit_s):
        measured.append(part.name)
        return {"part": part.name, "status": "failed", "seconds": 0.0}

    (folder / "parity.json").write_text('{"status": "do')  # cut off
    monkeypatch.setattr(campaign, "run", run)
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    assert campaign.main([*OPTIONS, "--out", str(folder)]) == 1
    assert measured == ["parity"]
    assert campaign.main([*OPTIONS, "--out", str(folder), "--limit", "0"]) == 1
    assert measured == ["parity"]  # no time is left for it


def test_failures_are_recorded_as_such(monkeypatch):
    def outcome(code, limit_s=30, answer="json"):
        return campaign.run(Part("x", ("-c", code), limit_s, answer), limit_s)

    failed = outcome("import sys; sys.exit('no GPU here')")
    assert failed["status"] == "failed" and "no GPU here" in failed["error"]
    assert outcome("print('{')")["error"] == "its answer is no JSON"
    assert outcome("import time; time.sleep(60)", 1)["status"] == "timeout"
    tests = outcome("print('2 failed, 5 passed in 3s'); raise SystemExit(1)", answer="pytest")
    assert tests["status"] == "done" and tests["result"] == {"failed": 2, "passed": 5}
    none = campaign.run(Part("x", ("/no/such/program",), 5, "program"), 5)
    assert none["status"] == "failed" and "started" in none["error"]


def test_the_models_are_those_that_are_compared():
    options = campaign.arguments(["--out", "x"])
    assert options.models == list(MODELS)
    assert options.depths == [4096, 16384]


def test_refusals_are_one_sentence(tmp_path, capsys):
    for wrong in (["--models", "gemma9"], ["--gpu", "Voodoo"]):
        assert campaign.main(["--out", str(tmp_path / "x"), *wrong]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()
