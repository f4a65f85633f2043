"""numba-cuda's own tests on the stand-in for the GPU, and how they are counted."""

import sys

import pytest

from bench.numba_suite import counts, run_all, summary, why_not
from bench.numba_suite_page import page


def record(outcome, launches, refused=False, test="cudapy.test_x.T.test_x"):
    return {
        "test": test, "outcome": outcome, "launches": launches, "refused": refused,
        "reason": "E: a | b <c>", "seconds": 0.1, "not_applicable": why_not(test),
    }  # fmt: skip


RECORDS = [
    record("passed", 1),
    record("passed", 0),
    record("failed", 2),
    record("error", 0, refused=True),
    record("error", 0),
    record("skipped", 0),
    record("timeout", None, refused=True),
    record("failed", 1, test="cudapy.test_ipc.TestIpc.test_x"),
]


def test_only_tests_that_launch_count():
    assert [counts(r) for r in RECORDS] == [True, False, True, True, False, False, True, False]
    found = summary(RECORDS)
    assert (found["applicable"], found["passed"], found["no launch"]) == (4, 1, 2)
    assert found["skipped by themselves"] == 1
    assert [r["not_applicable"] for r in found["not applicable"]] == ["IPC"]
    assert [r["outcome"] for r in found["failed"]] == ["failed", "error", "timeout"]


def test_what_does_not_apply_is_named_with_its_reason():
    assert why_not("cudapy.test_multigpu.TestMultiGPUContext.test_single_context") == "multi-GPU"
    assert why_not("cudapy.test_inspect.TestInspect.test_inspect_sass") == "assertions on SASS"
    assert why_not("cudapy.test_sm.TestSharedMemory.test_shared") is None
    assert why_not("doc_examples.test_ffi.TestFFI.test_ex_linking_cu") is None


def test_the_page_says_what_fails_and_why():
    text = "\n".join(page("0.30.4", {"emulator": summary(RECORDS), "cpu": summary(RECORDS[:1])}))
    assert "| pass | **1** (25.0 %) | **1** (100.0 %) |" in text
    assert "| `cudapy.test_ipc.TestIpc.test_x` | IPC |" in text
    assert "| `cudapy.test_x.T.test_x` | failed: E: a \\| b &lt;c> |" in text


@pytest.mark.slow
@pytest.mark.parametrize("device", ["emulator", "cpu"])
def test_some_of_numba_cuda_s_tests(device):
    if sys.platform != "linux":
        pytest.skip("the stand-in is for Linux")
    pytest.importorskip("filecheck", reason="needs the extra `suite`")

    def wanted(test):
        return ("doc_examples" in test and "random" not in test) or "test_array_args" in test

    records, missing = run_all(device, True, wanted, 300, lambda record: None)
    found = summary(records)
    assert set(missing) <= {"cudapy.test_cupy_bfloat16_interop"}  # which wants CuPy
    assert found["applicable"] > 20
    assert not found["failed"], found["failed"]
