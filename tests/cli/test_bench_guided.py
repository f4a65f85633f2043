"""The guided kernel: each step is right, and better than the one before."""

import json

from bench import guided


def test_every_step_is_right_and_costs_less(tmp_path, capsys):
    assert guided.main(["-n", "32", "-k", "1024", "--out", str(tmp_path)]) == 0
    steps = json.loads((tmp_path / "q4_k_matvec.json").read_text())["steps"]
    costs = [s["instructions_per_weight"] for s in steps]
    assert costs == sorted(costs, reverse=True)
    assert costs[2] < costs[1] / 4
    asked = [s["bytes_requested_per_byte_of_weight"] for s in steps]
    assert asked == sorted(asked, reverse=True)
    assert asked[3] < 1.1
    assert all(s["nmse"] < 1e-11 for s in steps[:3])
    assert 1e-7 < steps[3]["nmse"] < 5e-4
    page = (tmp_path / "q4_k_matvec.md").read_text()
    assert "def part_per_lane(" in page
    assert f"{costs[0]:.3g}" in page
    assert "3. Sixteen bytes per lane" in capsys.readouterr().out
