"""The result store and the page: what was tampered with is refused; every number has its file."""

import json
import re

import pytest
from matplotlib.image import imread

from bench import contribute, report, step, store
from bench.environment import environment
from bench.gpus import find_gpu
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.synth import synthesize


def tps(rate=100.0, when="2026-01-02", **more):
    """A record as bench.tps prints it, of three runs around `rate` tokens/s."""
    rates = [0.99 * rate, rate, 1.02 * rate]
    return environment() | {
        "model_filename": "m.gguf", "model_type": "llama x", "model_size": 10, "n_gen": 256,
        "n_prompt": 0, "n_depth": 26, "backends": "cuda", "type_k": "f16", "type_v": "f16",
        "test_time": f"{when}T00:00:00+00:00", "samples_ts": rates,
        "samples_ns": [256e9 / r for r in rates], "avg_ts": sum(rates) / 3, "avg_ns": 2.5e9,
        "x_device": "NVIDIA H200", "x_median_ts": rate, "x_interval_ts": [rates[0], rates[2]],
        "x_graph_share": 1.0, "x_launches_per_token": 120.0, "x_activation": "int8",
        "x_prefill_tokens": 10, "x_prefill_samples_ns": [2e7], "x_ids_sha256": ["ab"],
        "x_parity_ids_sha256": "ab", "x_memory_bytes": 2**30,
        "x_ids_equal_without_graph": True, "build_commit": "c0ffee1", "tree_dirty": False,
    } | more  # fmt: skip


def compare():
    rates = {
        "tokens": 64, "ours_tokens_per_s": [30.0, 33.0], "theirs_tokens_per_s": [20.0, 22.0],
        "ratio": {"median": 1.5, "low": 1.5, "high": 1.5, "samples": [1.5, 1.5]},
    }  # fmt: skip
    return environment() | {
        "model_filename": "m.gguf", "model_size": 10, "test_time": "2026-01-02T00:00:00+00:00",
        "missing": {"ollama": "no server is named (OLLAMA_HOST)"},
        "peers": {"llama.cpp": {"decode": rates, "prefill": rates}},
        "sides": {"zerfoo-numba": {"device": "NVIDIA H200"}, "llama.cpp": {}},
    }  # fmt: skip


def llama_bench():
    kept = {k: v for k, v in tps(80.0).items() if not k.startswith("x_")}
    return kept | {"model_filename": "/home/someone/models/m.gguf", "cpu_info": "Some CPU"}


@pytest.fixture(scope="module")
def predicted():
    """What bench.step says of a tiny model."""
    return json.loads(json.dumps(step.step("gemma3-tiny", find_gpu("H200"), 40)))


def test_what_is_written_is_read_again(tmp_path, predicted):
    records = {"tps": tps(), "compare": compare(), "step": predicted}
    for kind, record in records.items():
        path = store.write(kind, record, tmp_path)
        assert store.read(path) == (kind, record)
    assert len(store.read_all(tmp_path)) == 3


def test_files_lie_by_machine(tmp_path):
    record = tps(gpu={"name": "NVIDIA H200"})
    assert store.write("tps", record, tmp_path).parent.name == "nvidia-h200"
    record = tps(cpu_info="Intel(R) Xeon(R) @ 2.1GHz")
    assert store.write("tps", record, tmp_path).parent.name == "intel-xeon-2-1ghz"


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path, cut):
    path = store.write("tps", tps(), tmp_path)
    text = path.read_text()
    path.write_text(text[: int(cut * len(text))])
    with pytest.raises(FileError, match="cut off"):
        store.read(path)


def test_an_edited_file_is_refused_even_with_a_new_hash(tmp_path):
    path = store.write("tps", tps(), tmp_path)
    stored = json.loads(path.read_text())
    stored["record"]["x_median_ts"] *= 2
    path.write_text(json.dumps(stored))
    with pytest.raises(FileError, match="hash"):
        store.read(path)
    stored["sha256"] = store.digest(stored["record"])
    path.write_text(json.dumps(stored))
    with pytest.raises(FileError, match=r"x_median_ts is 200.* but follows to be 100"):
        store.read(path)
    for wrong in ([], {"schema": 0}, {"schema": 1}, {"schema": 1, "kind": "poem", "record": {}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(FileError):
            store.read(path)


def edited(change):
    """A file's text after `change` of what is stored."""

    def edit(text):
        stored = json.loads(text)
        change(stored)
        return json.dumps(stored)

    return edit


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda text: text.replace('"n_gen": 256', '"n_gen": 257'), "does not have the hash"),
        (lambda text: text.replace("H200", "H100"), "does not have the hash"),
        (lambda text: text[: len(text) // 2], "cut off"),
        (lambda text: "", "cut off"),
        (lambda text: text + "{}", "no whole JSON"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "no result of schema 1"),
        (edited(lambda stored: stored.pop("schema")), "no result of schema 1"),
        (edited(lambda stored: stored.update(sha256="0" * 64)), "does not have the hash"),
        (edited(lambda stored: stored.pop("record")), "does not have the hash"),
        (edited(lambda stored: stored.update(kind="compare")), "refused: field missing is missing"),
        (edited(lambda stored: stored.update(kind="poem")), "no kind 'poem'"),
    ],
)
def test_tampered_files_end_the_report_with_the_reason(tmp_path, capsys, tamper, reason):
    path = store.write("tps", tps(), tmp_path)
    path.write_text(tamper(path.read_text()))
    assert report.main(["--reports", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert path.name in err and reason in err and err.count("\n") == 1
    assert not (tmp_path / "README.md").exists()


def test_the_same_record_twice_is_refused(tmp_path, capsys):
    path = store.write("tps", tps(), tmp_path)
    other = tmp_path / "another-machine" / "tps-copy.json"
    other.parent.mkdir()
    other.write_text(path.read_text())
    assert report.main(["--reports", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert path.name in err and other.name in err and "same record" in err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x_interval_ts": [99.5, 102.0]}, "x_interval_ts"),
        ({"x_interval_ts": 7.0}, "x_interval_ts"),
        ({"x_ids_equal_without_graph": False}, "hashes"),
        ({"x_parity_ids_sha256": "cd"}, "hashes"),
        ({"samples_ns": ["a", "b", "c"]}, "other fields than its kind"),
        ({"samples_ns": [1.0, 2.0, 3.0]}, "a sample of samples_ts"),
        ({"samples_ns": []}, "samples"),
        ({"avg_ts": 7.0}, "avg_ts"),
        ({"x_launches_per_token": "many"}, "x_launches_per_token"),
        ({"model_size": True}, "model_size"),
        ({"x_device": "at /home/someone/models/m.gguf"}, "path"),
        ({"x_device": "on buildbox42 here"}, "host"),
    ],
)
def test_records_that_cannot_be_are_not_written(tmp_path, monkeypatch, change, reason):
    monkeypatch.setattr(store.platform, "node", lambda: "buildbox42")
    with pytest.raises(InputError, match=reason):
        store.write("tps", tps(**change), tmp_path)
    assert not list(tmp_path.iterdir())
    missing = tps()
    del missing["build_commit"]
    with pytest.raises(InputError, match="build_commit"):
        store.check("tps", missing)


def test_sums_of_a_step_and_ratios_are_checked(predicted):
    with pytest.raises(InputError, match="launches_per_token"):
        store.check("step", predicted | {"launches_per_token": 1})
    record = compare()
    record["peers"]["llama.cpp"]["decode"]["ratio"]["median"] = 2.0
    with pytest.raises(InputError, match=r"ratio to llama\.cpp is 2"):
        store.check("compare", record)


def test_the_page_has_every_number_from_a_file(tmp_path, predicted):
    paths = [
        store.write("tps", tps(200.0), tmp_path),
        store.write("tps", tps(150.0, x_graph_share=0.0), tmp_path),
        store.write("tps", tps(180.0, "2026-01-03", build_commit="badc0de"), tmp_path),
        store.write("tps", tps(179.0, "2026-01-04", tree_dirty=True), tmp_path),
        store.write("compare", compare(), tmp_path),
        store.write("step", predicted, tmp_path),
        store.write("llama-bench", store.llama_bench(llama_bench()), tmp_path),
    ]
    assert report.main(["--reports", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_text()
    for path in paths:
        assert f"[file]({path.parent.name}/{path.name})" in page
    assert "200.0 (198.0 to 204.0)" in page
    assert "30.0 / 20.0" not in page and "31.5 / 21.0 = 1.50 (1.50 to 1.50)" in page
    assert "missing: no server is named" in page
    time = page[page.index("## Over time") : page.index("## Environments")]
    assert "-10.0 % **REGRESSION**" in time
    assert "-0.6 %" in time and time.count("REGRESSION") == 1
    assert "c0ffee1+changes" in time
    # measured and predicted stand apart
    sections = re.split(r"^## ", page, flags=re.M)
    expected = next(s for s in sections if s.startswith("Expected by GPU"))
    assert "PREDICTED" in expected and f"{predicted['tokens_per_s_at_most']:.0f}" in expected
    assert not any("PREDICTED" in s for s in sections if s.startswith("Decode"))
    assert "python -m bench.contribute" in page
    missing = {"Block formats": "bench.quants", "Vision": "bench.vision", "Rooflines": "roofline"}
    for title, command in missing.items():
        section = next(s for s in sections if s.startswith(title))
        assert "No run is recorded" in section and command in section
    pixels = imread(tmp_path / "tokens.png")[..., :3]
    ink = (pixels < 0.9).any(axis=-1)
    assert pixels.shape[1] == 1650 and 0.005 < ink.mean() < 0.4
    assert ink[:8].sum() == ink[-4:].sum() == ink[:, -8:].sum() == 0


def test_a_refused_file_ends_the_report_with_the_reason(tmp_path, capsys):
    path = store.write("tps", tps(), tmp_path)
    path.write_text(path.read_text()[:-50])
    assert report.main(["--reports", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert path.name in err and err.count("\n") == 1


def test_one_command_contributes_a_model(tmp_path, monkeypatch, capsys):
    for name in ("LLAMA_BENCH", "LLAMA_CPP_PYTHON", "OLLAMA_HOST", "VLLM_HOST"):
        monkeypatch.delenv(name, raising=False)
    model = tmp_path / "tiny.gguf"
    synthesize("gemma3-tiny", model)
    few = ["-n", "2", "-p", "4", "--runs", "1", "--device", "cpu", "--largest", "1"]
    reports = tmp_path / "reports"
    assert contribute.main(["-m", str(model), "--reports", str(reports), *few]) == 0
    kinds = [kind for _, kind, _ in store.read_all(reports)]
    assert sorted(kinds) == ["ceilings", "compare", "tps", "tps"]
    assert str(tmp_path) not in "".join(p.read_text() for p in reports.glob("*/*.json"))
    assert contribute.main([]) == 2
    nowhere = ["--reports", str(tmp_path / "none")]
    assert contribute.main(["-m", str(tmp_path / "none.gguf"), *nowhere]) == 2
    assert not (tmp_path / "none").exists()
    assert capsys.readouterr().err.count("error: ") == 2


def test_campaigns_and_llama_bench_are_taken_in(tmp_path):
    parts = tmp_path / "campaign"
    parts.mkdir()
    done = {"m.default": tps(), "m.llama-bench": [llama_bench()], "parity": {"passed": 3}}
    for name, result in done.items():
        (parts / f"{name}.json").write_text(json.dumps({"status": "done", "result": result}))
    (parts / "m.int8.json").write_text(json.dumps({"status": "timeout"}))
    assert contribute.main(["--campaign", str(parts), "--reports", str(tmp_path / "r")]) == 0
    kinds = {kind for _, kind, _ in store.read_all(tmp_path / "r")}
    assert kinds == {"tps", "llama-bench"}
    (tmp_path / "lb.json").write_text(json.dumps([llama_bench()]))
    file = ["--llama-bench", str(tmp_path / "lb.json")]
    assert contribute.main([*file, "--reports", str(tmp_path / "s")]) == 0
    ((_, kind, record),) = store.read_all(tmp_path / "s")
    assert kind == "llama-bench" and record["model_filename"] == "m.gguf"


def test_what_a_command_printed_is_taken_in(tmp_path, predicted):
    for kind, record in {"tps": tps(), "compare": compare(), "step": predicted}.items():
        (tmp_path / "printed.json").write_text(json.dumps(record))
        file, folder = ["--file", str(tmp_path / "printed.json")], tmp_path / kind
        assert contribute.main([*file, "--reports", str(folder)]) == 0
        assert [(k, r) for _, k, r in store.read_all(folder)] == [(kind, record)]
    (tmp_path / "printed.json").write_text("{}")
    assert contribute.main(["--file", str(tmp_path / "printed.json")]) == 2
