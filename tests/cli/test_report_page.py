"""The page of results: pictures and tables by kind, and that every figure is traced to its file."""

import json
from pathlib import Path

import pytest

from bench import picture, report, report_plot, store
from bench.environment import environment
from bench.report_documents import DOCUMENTS, Document
from zerfoo_numba.errors import FileError

ROOT = Path(__file__).parent.parent.parent
# What llama-bench -o json prints for one test, with the fields of its README in the llama.cpp
# repository (tools/llama-bench) and figures of our own.
LLAMA_BENCH = """[
  {
    "build_commit": "8cf427ff", "build_number": 5163, "cpu_info": "Some CPU 16-Core Processor",
    "gpu_info": "NVIDIA GeForce RTX 4080", "backends": "CUDA",
    "model_filename": "models/Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    "model_type": "qwen2 7B Q4_K - Medium", "model_size": 4677120000, "model_n_params": 7615616512,
    "n_batch": 2048, "n_ubatch": 512, "n_threads": 8, "cpu_mask": "0x0", "cpu_strict": false,
    "poll": 50, "type_k": "f16", "type_v": "f16", "n_gpu_layers": 99, "split_mode": "layer",
    "main_gpu": 0, "no_kv_offload": false, "flash_attn": false, "tensor_split": "0.00",
    "use_mmap": true, "embeddings": false, "n_prompt": 0, "n_gen": 128, "n_depth": 0,
    "test_time": "2025-04-24T11:58:50Z", "avg_ns": 1280000000, "stddev_ns": 20000000,
    "avg_ts": 100.01563, "stddev_ts": 1.5627,
    "samples_ns": [1264000000, 1280000000, 1296000000],
    "samples_ts": [101.26582, 100.0, 98.765432]
  }
]"""


def vision():
    samples = {"prepare": [0.004, 0.002], "tower": [0.05, 0.07], "prefill": [0.3], "decode": [0.5]}
    return {
        "kind": "vision", "model": "synthetic llava", "arch": "llama", "projector": "mlp",
        "device": "CPU (x)", "backend": "cpu", "activation": "int8", "runs": 2,
        "image_width_px": 224, "image_height_px": 168, "image_tokens": 49, "prepare_ms": 3.0,
        "tower_ms": 60.0, "tower_gflop": 1.5, "tower_over_floor": 2.5, "images_per_s": 1 / 0.063,
        "prompt_tokens": 60, "prompt_tokens_per_s": 200.0, "decoded_tokens": 32,
        "decode_tokens_per_s": 64.0, "samples_s": samples, "environment": environment(),
    }  # fmt: skip


def quants():
    errors = {"weights_nmse": 1.8e-3, "float": {"mean_kl": 0.078, "top1_agreement": 0.64},
              "int8": {"mean_kl": 0.081}}  # fmt: skip
    counts = {"int8": [{"instructions_per_weight": 1.64}, {"instructions_per_weight": 1.35}]}
    bare = {"errors": None, "counts": {"int8": []}, "gb_per_s": {}}
    return {
        "accuracy": {"model": "llama-3.2-tiny", "tokens": 128}, "counts": {},
        "speed": {"devices": {"cpu": "CPU (x)"}}, "environment": environment(),
        "formats": [
            {"name": "Q5_0", "bits_per_weight": 5.5, "errors": errors, "counts": counts,
             "gb_per_s": {"cpu": {"int8": 25.9, "float": 3.0}}},
            {"name": "Q8_0", "bits_per_weight": 8.5, **bare},
        ],
    }  # fmt: skip


def step(gpu, measured=None):
    """The figures of a bench.step record that the picture shows."""
    found = {"model": "m", "gpu": gpu, "activation": "int8", "cached": 9, "memory_us": 100.0,
             "floor_us": 150.0, "boundaries_us": 50.0, "environment": {}}  # fmt: skip
    if measured is not None:
        found |= {"measured_us": measured, "environment": {"gpu": {"name": f"NVIDIA {gpu}"}}}
    return found


def contributed(folder, record, option="--file"):
    from bench import contribute

    path = folder / "printed.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    assert contribute.main([option, str(path), "--reports", str(folder / "reports")]) == 0
    assert report.main(["--reports", str(folder / "reports")]) == 0
    return (folder / "reports" / "README.md").read_text()


def row(page, title, first):
    """The cells of the row that begins with `first` in that section."""
    section = page[page.index(f"## {title}") :]
    line = next(line for line in section.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_vision_has_its_table(tmp_path):
    cells = row(contributed(tmp_path, vision()), "Vision", "synthetic llava")
    assert cells[3:11] == ["224 x 168, 49", "3", "60", "1.5", "2.50", "15.9", "200 (60)", "64"]


def test_formats_have_their_table(tmp_path):
    page = contributed(tmp_path, quants())
    section = page[page.index("## Block formats") :]
    assert section.index("| Q8_0") < section.index("| Q5_0")
    wanted = ["Q5_0", "5.5", "1.80e-03", "7.80e-02", "8.10e-02", "1.64", "cpu 25.9"]
    assert row(page, "Block formats", "Q5_0") == wanted
    assert "[file](" in section[: section.index("| format")]


def test_llama_bench_is_read_in_its_own_form(tmp_path):
    page = contributed(tmp_path, LLAMA_BENCH, "--llama-bench")
    cells = row(page, "llama-bench", "Qwen2.5-7B-Instruct-Q4_K_M")
    assert cells[1:6] == ["NVIDIA GeForce RTX 4080", "0", "128", "100.0", "8cf427ff"]
    assert "models/" not in page


@pytest.mark.parametrize(
    ("what", "change"),
    [
        (vision, {"tower_ms": 6.0}), (vision, {"images_per_s": 99.0}),
        (vision, {"decode_tokens_per_s": 640.0}), (vision, {"environment": {}}),
        (quants, {"formats": [{"name": "Q5_0", "bits_per_weight": 4.5, "errors": None}]}),
        (quants, {"formats": [7]}),
    ],
)  # fmt: skip
def test_contradictions_of_vision_and_formats_are_refused(tmp_path, what, change, capsys):
    from bench import contribute

    path = tmp_path / "printed.json"
    path.write_text(json.dumps(what() | change))
    given = ["--file", str(path), "--reports", str(tmp_path / "reports")]
    assert contribute.main(given) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "reports").exists()


def test_bars_keep_measured_and_predicted_apart():
    other = step("H200") | {"measured_us": 9e4}  # on a cpu, beside a prediction
    results = [("step", r) for r in (step("H200"), step("H100", 260.0), other, step("A100", 90.0))]
    panels = report_plot.panels(results)
    assert list(panels) == ["Measured on A100", "Measured on H100", "PREDICTED for one H200"]
    ((_, cached),), ((_, measured),) = panels["Measured on A100"], panels["Measured on H100"]
    assert measured["rest"] == 110.0 and not measured["cached"]
    assert cached["cached"] and cached["memory"] == 90.0 and cached["rest"] == 0.0
    for _, parts in panels["PREDICTED for one H200"]:
        assert parts["rest"] == 50.0 and parts["whole"] == 200.0


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """A folder in which every figure has its file: a record, and a document with a picture."""
    from matplotlib.figure import Figure

    def draw(document, path):
        picture.save(Figure((1, 1)), path, [store.digest(document)])

    monkeypatch.setitem(DOCUMENTS, "notes", Document(lambda d: f"{d['figure']}\n", draw))
    (tmp_path / "notes.json").write_text(json.dumps({"figure": 7} | environment()))
    store.write("vision", vision(), tmp_path)
    assert report.main(["--reports", str(tmp_path)]) == 0
    assert report.violations(tmp_path) == []
    return tmp_path


def test_a_number_typed_by_hand_is_seen(traced, capsys):
    for name, before, after in (("README.md", "| 60 |", "| 61 |"), ("notes.md", "7", "8")):
        page = traced / name
        page.write_text(page.read_text().replace(before, after))
    assert report.main(["--reports", str(traced), "--check"]) == 1
    out = capsys.readouterr().out
    assert out.count("is not what its files render to") == 2
    assert report.main(["--reports", str(traced)]) == 0
    assert report.main(["--reports", str(traced), "--check"]) == 0


def test_figures_without_a_file_are_seen(traced):
    (traced / "more.png").write_bytes((traced / "notes.png").read_bytes())
    (traced / "more.md").write_text("fast")
    (traced / "other.json").write_text(json.dumps({"figure": 1}))
    document = json.loads((traced / "notes.json").read_text())
    (traced / "notes.json").write_text(json.dumps(document | {"build_commit": "unknown"}))
    found = "\n".join(report.violations(traced))
    assert "more.png comes from no file" in found and "more.md comes from no file" in found
    assert "other.json names no commit" in found and "notes.json names no commit" in found
    assert "notes.png was not drawn from the files beside it" in found
    (traced / "notes.json").write_text("{")
    with pytest.raises(FileError, match="cut off"):
        report.violations(traced)


def test_every_figure_in_reports_has_its_file():
    assert report.violations(ROOT / "reports") == []
