"""The document of bench/roofline.py as text, for the terminal."""

import math

COLUMNS = {  # of a step's table: heading, digits, by what it is divided
    "cost_bytes": ("cost MB", 3, 1e6), "sectors": ("sectors k", 1, 1e3),
    "thread_instructions": ("instr M", 2, 1e6), "memory_us": ("memory us", 2, 1),
    "issue_us": ("issue us", 2, 1), "arithmetic_us": ("arith us", 2, 1),
    "floor_us": ("floor us", 2, 1), "measured_us": ("measured us", 2, 1),
}  # fmt: skip


def table(record):
    """The lines of a step's table; all but the shapes are sums over the launches of the step."""
    sums = record["sums"]
    shown = {name: column for name, column in COLUMNS.items() if name in sums}
    titles = "".join(f"{title:>12}" for title, _, _ in shown.values())
    yield f"{'operation':<25}{'shape':<22}{'launches':>8}{'blocks':>7}{titles}  limit"
    for p in (*record["points"], {"operation": "sum", "shape": "", "limit": ""} | sums):
        n = p["launches"] if "grid" in p else 1
        blocks = math.prod(p["grid"]) if "grid" in p else ""
        cells = (f"{n * p[name] / by:>12.{digits}f}" for name, (_, digits, by) in shown.items())
        yield (
            f"{p['operation']:<24.24} {p['shape']:<21.21} {p['launches']:>8}{blocks:>7}"
            f"{''.join(cells)}  {p['limit']}"
        )


def report(document):
    """The document as text."""
    yield f"{document['model']} on {document['device']}: {document['origin']}"
    for name in ("decode", "prefill"):
        record = document[name]
        sums = record["sums"]
        yield f"\n{name}: {record['tokens']} token(s) after {record['cached']}"
        yield from table(record)
        yield conclusion(sums)


def conclusion(sums):
    if "step_us" in sums:
        return (
            f"measured {sums['step_us']:.0f} us, {sums['tokens_per_s']:.4g} tokens/s; floors "
            f"{sums['floor_us']:.0f} us, of which memory alone takes {sums['memory_us']:.0f} us"
        )
    return (
        f"{sums['memory_us']:.0f} us by memory, {sums['issue_us']:.0f} us by issue; launch by "
        f"launch {sums['floor_us']:.0f} us, which is {sums['tokens_per_s_at_most']:.0f} "
        f"tokens/s; {sums['launches']} launch boundaries come on top"
    )
