"""The page of `bench.numba_suite`: what passes, what does not and why, what does not apply."""


def page(package, runs):
    """Markdown lines; `runs` holds a summary per device."""
    lines = [
        "# numba-cuda's own tests, without a GPU",
        "",
        f"numba-cuda {package}: `numba.cuda.tests.cudapy` and `.doc_examples`, unmodified, on the "
        "PTX emulator with its checks and on the CPU. Only tests that launch a kernel count. Made "
        "by `python -m bench.numba_suite --device emulator`, and `--device cpu`.",
        "",
        "| | " + " | ".join(runs) + " |",
        "|---|" + "---|" * len(runs),
    ]
    for name in ("tests", "skipped by themselves", "no launch"):
        lines.append(f"| {name} | " + " | ".join(f"{r[name]:,}" for r in runs.values()) + " |")
    totals = [len(r["not applicable"]) for r in runs.values()]
    lines.append("| not applicable | " + " | ".join(str(n) for n in totals) + " |")
    lines.append("| applicable | " + " | ".join(str(r["applicable"]) for r in runs.values()) + " |")
    shares = [f"**{r['passed']}** ({_percent(r)})" for r in runs.values()]
    lines.append("| pass | " + " | ".join(shares) + " |")
    lines += ["", "## Not applicable", "", "| test | because it is about |", "|---|---|"]
    reasons = {r["test"]: r["not_applicable"] for u in runs.values() for r in u["not applicable"]}
    lines += [f"| `{test}` | {reason} |" for test, reason in reasons.items()]
    for device, run in runs.items():
        lines += ["", f"## What fails on {device}", ""]
        if any("KernelFault" in r["reason"] for r in run["failed"]):
            lines += ["A KernelFault is what the checks find in the kernel of the test itself.", ""]
        lines += ["| test | why |", "|---|---|"]
        lines += [f"| `{r['test']}` | {_cell(r)} |" for r in run["failed"]]
    return lines


def _percent(run):
    return f"{100 * run['passed'] / max(run['applicable'], 1):.1f} %"


def _cell(record):
    reason = record["reason"].replace("|", "\\|").replace("<", "&lt;")[:200]
    return f"{record['outcome']}: {reason}"
