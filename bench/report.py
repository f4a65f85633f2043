"""The page of results: python -m bench.report [--reports reports]

Renders README.md and tokens.png in that folder from the files of the store (bench/store.py) alone:
no number on the page is typed by hand, and each row links to the file that it comes from. Measured
and predicted figures stand in different tables. A file that is cut off or edited ends the command
with the reason.
"""

import argparse
import statistics
import sys
from itertools import pairwise
from pathlib import Path

from bench import store
from bench.report_plot import draw
from zerfoo_numba.errors import ZerfooError

REGRESSION = 0.05
CONTRIBUTING = """\
## Contributing a result

```
python -m bench.contribute -m model.gguf            # on the GPU, or --device cpu
python -m bench.contribute --campaign DIR           # what bench.campaign --out DIR measured
```

It measures decoding with and without the graph, each peer that is there (`LLAMA_BENCH`,
`OLLAMA_HOST`), and writes one file for each to `reports/MACHINE/`, with every sample, versions,
commit and settings; no host name, user name or path. `bench/store.py` describes the fields; a file
that was edited or cut off is refused. Then `python -m bench.report` renders this page.
"""


class Page:
    """Lines of Markdown, from results [(path, kind, record)] in `folder`."""

    def __init__(self, folder, results):
        self.folder, self.lines = folder, []
        self.by_kind = {}
        for path, kind, record in results:
            self.by_kind.setdefault(kind, []).append((path, record))

    def of(self, kind):
        return self.by_kind.get(kind, [])

    def link(self, path):
        return f"[file]({path.relative_to(self.folder).as_posix()})"

    def table(self, title, headings, rows, note=""):
        """A section, if there are rows."""
        if not rows:
            return
        self.lines += [f"## {title}", ""]
        if note:
            self.lines += [note, ""]
        self.lines += ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
        self.lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        self.lines.append("")


def _cell(value):
    return str(value).replace("|", "\\|")


def _name(record):
    return Path(record["model_filename"]).stem


def _commit(record):
    return record["build_commit"] + ("+changes" if record.get("tree_dirty") else "")


def decode(page):
    """Measured tokens/s of every model and machine."""
    rows = []
    for path, r in sorted(page.of("tps"), key=lambda pr: (_name(pr[1]), pr[1]["x_device"])):
        low, high = r["x_interval_ts"]
        rows.append((
            _name(r), r["x_device"], r["x_activation"], r["type_k"], r["n_depth"],
            f"{r['x_median_ts']:.1f} ({low:.1f} to {high:.1f})",
            f"{len(r['samples_ts'])} x {r['n_gen']}", f"{r['x_launches_per_token']:.0f}",
            f"{100 * r['x_graph_share']:.0f} %",
            _prefill(r), "yes" if r["x_ids_equal_without_graph"] else "NO", _commit(r),
            page.link(path),
        ))  # fmt: skip
    headings = ("model", "device", "activations", "KV", "depth", "decode tokens/s", "runs x tokens",
                "launches a token", "in the graph", "prefill tokens/s", "same ids as the walk",
                "commit", "")  # fmt: skip
    note = "Median of the runs; in brackets the 95 % bootstrap interval of it. Measured."
    page.table("Decode", headings, rows, note)


def _prefill(record):
    seconds = statistics.median(record["x_prefill_samples_ns"]) / 1e9
    tokens = record["x_prefill_tokens"]
    return f"{tokens / seconds:.0f} ({tokens})" if seconds else ""


def setting(record):
    """What must be the same for two results to be compared, but for the commit."""
    names = (
        "model_filename",
        "model_size",
        "x_device",
        "x_activation",
        "type_k",
        "n_gen",
        "n_depth",
    )
    return tuple(record[name] for name in names)


def graph(page):
    """The same settings with and without the graph."""
    pairs = {}
    for path, record in page.of("tps"):
        pairs.setdefault(setting(record), {})[record["x_graph_share"] > 0] = path, record
    rows = []
    for found in pairs.values():
        if len(found) == 2:
            (on_path, on), (off_path, off) = found[True], found[False]
            rows.append((
                _name(on), on["x_device"], on["x_activation"], f"{on['x_median_ts']:.1f}",
                f"{off['x_median_ts']:.1f}", f"{on['x_median_ts'] / off['x_median_ts']:.2f}",
                f"{page.link(on_path)} {page.link(off_path)}",
            ))  # fmt: skip
    headings = ("model", "device", "activations", "graph tokens/s", "walk tokens/s", "ratio", "")
    page.table("With and without the graph", headings, rows)


def peers(page):
    """Ratios to other runtimes, taken in one run; who was missing, and why."""
    rows = []
    for path, r in page.of("compare"):
        for name, found in r["peers"].items():
            cells = [_name(r), r["sides"]["zerfoo-numba"]["device"], name]
            for what in ("decode", "prefill"):
                rates, ratio = found[what], found[what]["ratio"]
                ours, theirs = (
                    statistics.median(rates[f"{side}_tokens_per_s"]) for side in ("ours", "theirs")
                )
                cells.append(f"{ours:.1f} / {theirs:.1f} = {ratio['median']:.2f} "
                             f"({ratio['low']:.2f} to {ratio['high']:.2f})")  # fmt: skip
            rows.append((*cells, _commit(r), page.link(path)))
        for name, reason in r["missing"].items():
            rows.append((_name(r), r["cpu_info"], name, f"missing: {reason}", "", _commit(r),
                         page.link(path)))  # fmt: skip
    headings = ("model", "device", "peer", "decode: ours / theirs", "prefill: ours / theirs",
                "commit", "")  # fmt: skip
    page.table(
        "Beside other runtimes", headings, rows, "Tokens/s, interleaved in one run. Measured."
    )


def predicted(page):
    """What emulator counts and published rates allow, apart from what was measured."""
    rows = []
    for path, r in sorted(page.of("step"), key=lambda pr: (pr[1]["model"], pr[1]["gpu"])):
        rows.append((
            r["model"], r["gpu"], r.get("activation", ""), r["launches_per_token"],
            f"{r['requested_over_stored']:.3f}", f"{r['floor_us']:.0f}",
            f"{r['boundaries_us']:.0f}", f"{r['tokens_per_s_at_most']:.0f}", page.link(path),
        ))  # fmt: skip
    headings = ("model", "GPU", "activations", "launches a token", "bytes asked / stored",
                "floors us", "boundaries us", "tokens/s at most", "")  # fmt: skip
    note = "PREDICTED: counted by the emulator, at published rates. No GPU was run for this table."
    page.table("Expected by GPU", headings, rows, note)
    measured = [(p, r) for p, r in page.of("step") if "measured_us" in r]
    rows = [(r["model"], r["device"], f"{r['measured_us']:.0f}", page.link(p)) for p, r in measured]
    page.table("One step, measured", ("model", "device", "us", ""), rows)
    if page.of("step"):
        page.lines += ["![a token's time by model](tokens.png)", ""]


def ceilings(page):
    rows = [
        (r["device"], f"{max(x['gb_per_s'] for x in r['read']):.0f}",
         f"{r['read'][-1]['gb_per_s']:.0f} ({r['read'][-1]['bytes'] / 2**20:.0f} MiB)",
         f"{r['boundary_us']:.2f}", f"{r['barrier_us']:.2f}", page.link(path))
        for path, r in page.of("ceilings")
    ]  # fmt: skip
    headings = ("device", "best read GB/s", "largest read GB/s", "boundary us", "barrier us", "")
    page.table("Ceilings", headings, rows, "Measured.")


def llama_bench(page):
    rows = [
        (_name(r), r.get("gpu_info") or r["cpu_info"], r["n_prompt"], r["n_gen"],
         f"{r['avg_ts']:.1f}", r["build_commit"], page.link(path))
        for path, r in page.of("llama-bench")
    ]  # fmt: skip
    headings = ("model", "device", "prompt", "tokens", "tokens/s", "llama.cpp", "")
    page.table("llama-bench", headings, rows, "Read from llama-bench's own JSON.")


def over_time(page):
    """Results of one setting in the order of their times; a loss of more than 5 % is flagged."""
    series = {}
    for path, record in page.of("tps"):
        key = (*setting(record), record["x_graph_share"] > 0)
        series.setdefault(key, []).append((record["test_time"], path, record))
    rows = []
    for found in series.values():
        found.sort(key=lambda item: item[0])
        for (_, _, before), (when, path, now) in pairwise(found):
            change = now["x_median_ts"] / before["x_median_ts"] - 1
            flag = " **REGRESSION**" if change < -REGRESSION else ""
            rows.append((when[:10], _name(now), now["x_device"], _commit(before), _commit(now),
                         f"{before['x_median_ts']:.1f}", f"{now['x_median_ts']:.1f}",
                         f"{100 * change:+.1f} %{flag}", page.link(path)))  # fmt: skip
    headings = ("date", "model", "device", "from", "to", "before", "after", "change", "")
    note = f"tokens/s of the same settings; a loss of more than {REGRESSION:.0%} is flagged."
    page.table("Over time", headings, rows, note)


def render(folder):
    """Write README.md, and tokens.png if there is a step; -> the number of results."""
    results = store.read_all(folder)
    page = Page(folder, results)
    page.lines += ["# Results", "", f"Rendered by `python -m bench.report` from {len(results)} "
                   "files of this folder; no number is typed by hand.", ""]  # fmt: skip
    for section in (decode, graph, peers, predicted, ceilings, llama_bench, over_time):
        section(page)
    others = [name for name in ("quants.md", "kernels.md") if (folder / name).exists()]
    if others:
        links = ", ".join(f"[{name}]({name})" for name in others)
        page.lines += ["## Block formats and kernels", "", f"See {links}.", ""]
    page.lines.append(CONTRIBUTING)
    (folder / "README.md").write_text("\n".join(page.lines))
    if page.of("step"):
        draw([record for _, record in page.of("step")], folder / "tokens.png")
    return len(results)


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=first)
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="FOLDER")
    options = parser.parse_args(argv)
    try:
        count = render(options.reports)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.reports / 'README.md'}: {count} results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
