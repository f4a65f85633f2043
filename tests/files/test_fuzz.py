"""Mutated files end in a model or in one error; `python -m tests.files.fuzz` runs more of them."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.files import fuzz
from tests.files.mutate import file_bytes, mutated
from zerfoo_numba.gguf_file import open_gguf


def test_mutated_files_are_read_or_refused():
    assert fuzz.campaign(1000, seed=11, loading=False) == []


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused():
    assert fuzz.campaign(20000, seed=12, loading=False) == []


@pytest.mark.slow
def test_mutated_models_load_or_are_refused():
    assert fuzz.campaign(150, seed=13, loading=True) == []


def test_what_the_campaign_would_report(tmp_path):
    def crash(_):
        raise KeyError("x")

    def long_winded(_):
        raise fuzz.ZerfooError("x" * 2000)

    assert "KeyError" in fuzz.judged(tmp_path, crash)
    assert "2000 characters" in fuzz.judged(tmp_path, long_winded)


def test_mutations_change_most_files_and_keep_some_readable(tmp_path):
    parts, readable, changed = fuzz.small_files()[0], 0, 0
    whole, path = file_bytes(parts), tmp_path / "file.gguf"
    for seed in range(200):
        raw = mutated(parts, random.Random(seed))
        path.write_bytes(raw)
        changed += raw != whole
        try:
            open_gguf(path).close()
            readable += 1
        except fuzz.ZerfooError:
            pass
    assert changed > 170
    assert 20 < readable < 180


def test_the_limits_are_enforced(tmp_path, monkeypatch):
    """By memory that is touched, by memory that is only asked for, and by time."""

    def touched(_):
        np.ones(9 << 20).sum()

    for _ in range(2):  # an earlier peak hides nothing
        assert "MiB" in fuzz.judged(tmp_path, counted_as_read(monkeypatch, touched))
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    busy = counted_as_read(monkeypatch, lambda _: sum(range(5_000_000)))
    assert fuzz.judged(tmp_path, busy).endswith(" s")


def counted_as_read(monkeypatch, use):
    monkeypatch.setattr(fuzz, "read", use)
    return use


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
def test_no_more_than_the_limit_can_be_allocated():
    code = "from tests.files import fuzz; fuzz._limit_memory(); bytearray({} << 20)"
    for mebibytes, fails in ((40, False), (100, True)):
        command = [sys.executable, "-c", code.format(mebibytes)]
        done = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2])
        assert (b"MemoryError" in done.stderr) == fails, done.stderr
