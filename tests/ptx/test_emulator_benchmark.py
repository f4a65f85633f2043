"""The emulator's benchmark: that it runs and says what it must."""

import json

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
