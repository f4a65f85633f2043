"""The emulator's benchmark: that it runs, and (slow) that it reaches the rate it must."""

import json

import pytest

from bench import emulator


def test_the_benchmark_reports_every_workload(capsys):
    emulator.main(["--lanes", "512", "--repeats", "1", "--json"])
    results = json.loads(capsys.readouterr().out)["results"]
    names = [r["workload"] for r in results]
    assert names[:3] == ["arithmetic", "divergent", "shared_sum"]
    assert all(r["per_second_1_threads"] > 0 < r["thread_instructions"] for r in results)
    emulator.main(["--lanes", "512", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.slow
def test_arithmetic_at_300_million_thread_instructions_a_second():
    """One core, 64k lanes; an undisturbed core of 2024 reaches some 2,000 million."""
    record = emulator.measure(65536, 5, threads=(1,))[0]
    assert record["workload"] == "arithmetic"
    assert record["per_second_1_threads"] >= 300e6
