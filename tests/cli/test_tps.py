"""bench.tps: the record it prints, on a small synthetic model."""

import json

import pytest

from bench import tps
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
    arguments = ["-m", model_path, "-n", "3", "-r", "2", "--device", "emulator", "--json", *more]
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
