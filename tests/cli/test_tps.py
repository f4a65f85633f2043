"""bench.tps: the record it prints, on a small synthetic model."""

import json

import numpy as np
import pytest

import zerfoo_numba
from bench import tps
from bench.environment import environment
from bench.interval import median_interval
from zerfoo_numba.devices import Device
from zerfoo_numba.fusion import FUSIONS
from zerfoo_numba.synth import synthesize

# llama-bench's JSON names that tools such as its comparison script read.
LLAMA_BENCH = {
    "build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type",
    "model_size", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts",
    "stddev_ts", "samples_ns", "samples_ts", "type_k", "type_v",
}  # fmt: skip


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    synthesize("gemma3-tiny", path)
    return str(path)


def measured(model_path, capsys, *more):
    arguments = ["-m", model_path, "-n", "3", "-r", "2", "--device", "cpu", "--json", *more]
    assert tps.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "run 2 of 2" in err
    return json.loads(out)


def test_the_record_has_every_sample_and_agrees_with_itself(model_path, capsys):
    record = measured(model_path, capsys)
    assert record.keys() >= LLAMA_BENCH
    assert len(record["samples_ns"]) == len(record["x_prefill_samples_ns"]) == 2
    rates = [3e9 / ns for ns in record["samples_ns"]]
    assert record["samples_ts"] == pytest.approx(rates)
    assert min(rates) <= record["x_median_ts"] <= max(rates)
    low, high = record["x_interval_ts"]
    assert min(rates) <= low <= record["x_median_ts"] <= high <= max(rates)
    assert record["x_ids_equal_without_graph"] is True
    assert record["x_ids_sha256"] == [record["x_parity_ids_sha256"]]
    assert record["x_load_s"] > 0 and record["x_memory_bytes"] > record["model_size"]
    assert record["x_graph_share"] == 1.0
    assert len(record["x_ids_sha256"]) == 1  # every run produced the same tokens
    assert record["model_size"] == sum(record["x_weight_bytes_by_type"].values())
    assert model_path not in json.dumps(record)


def test_without_the_graph_the_same_tokens_and_no_share(model_path, capsys):
    record = measured(model_path, capsys)
    eager = measured(model_path, capsys, "--no-graph")
    assert eager["x_graph_share"] == 0.0
    assert eager["x_ids_sha256"] == record["x_ids_sha256"]
    assert eager["x_launches_per_token"] == record["x_launches_per_token"]


def test_a_bad_file_is_one_sentence_and_exit_2(tmp_path, capsys):
    assert tps.main(["-m", str(tmp_path / "none.gguf")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_depth_is_the_length_of_the_prompt(model_path, capsys):
    record = measured(model_path, capsys, "--depth", "21")
    assert record["x_prefill_tokens"] == 21
    assert record["n_depth"] == 21 + tps.WARM_UP


def test_ids_that_differ_from_the_walk_are_seen(model_path):
    model = zerfoo_numba.load_model(model_path, device="cpu", context=32)
    right = model.greedy_ids([5, 6], 4)
    assert tps.walked(model, [5, 6], 4) == right and model.graph
    samples = tps.measure(model, [5, 6], 4, 2, warm_up=3)
    assert tps.result(model, "m.gguf", [5, 6], 4, samples)["x_ids_equal_without_graph"]
    samples[1]["ids_sha256"] = tps.hashed([*samples[1]["ids"][:-1], 0])
    assert not tps.result(model, "m.gguf", [5, 6], 4, samples)["x_ids_equal_without_graph"]


def test_the_interval_of_a_median():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        low, high = median_interval(rng.normal(7.0, 1.0, 40))
        inside += low <= 7.0 <= high
    # of 200 intervals of 95 % for 40 values: 190 expected, 180 is three standard deviations below
    assert inside >= 180
    assert median_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_the_gpu_is_recorded_where_there_is_one(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in *compute-apps*) echo 100; echo 200;; '
        "-q) echo 'CUDA Version                  : 12.8';; "
        "*) echo 'NVIDIA H200, 570.1, 143771, 4000, 1980, 1980, 3201, 3201, 120.5, 700, P0, 35';;"
        " esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    gpu = environment()["gpu"]
    assert gpu["name"] == "NVIDIA H200" and gpu["clocks.max.sm"] == "1980"
    assert gpu["cuda_version"] == "12.8"
    assert gpu["processes"] == 2 and "2 processes" in gpu["warnings"][0]
    monkeypatch.setenv("PATH", "")
    assert "gpu" not in environment()


def test_fusions_by_their_names(model_path, capsys):
    usual = measured(model_path, capsys)
    names = ",".join(sorted(Device.fusions))
    record = measured(model_path, capsys, "--fuse", names)
    assert (usual["x_fuse"], record["x_fuse"]) == (True, names)
    assert record["x_launches_per_token"] == usual["x_launches_per_token"]
    assert tps.fusions("all") == set(FUSIONS)
    assert tps.main(["-m", model_path, "--device", "cpu", "--fuse", "everything"]) == 2
    assert "everything" in capsys.readouterr().err
