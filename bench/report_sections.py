"""The sections of the page of results, each from the records of some kinds; see bench/report.py."""

import statistics
from itertools import pairwise

from bench import report_plot, roofline_plot
from bench.ceilings import size
from bench.store import model_name

REGRESSION = 0.05
LEAST_TOKENS, LEAST_RUNS = 256, 3  # of a measurement; one of fewer is marked
CONTRIBUTE = "python -m bench.contribute"


def commit_of(record):
    """The commit, and what spoils the figure."""
    about = record.get("environment", record)
    warnings = (about.get("gpu") or {}).get("warnings", [])
    commit = about["build_commit"] + ("+changes" if about.get("tree_dirty") else "")
    return "; ".join([commit, *warnings])


def decode(page):
    """Measured tokens/s of every model and machine."""
    rows = []
    for path, r in sorted(page.of("tps"), key=lambda pr: (model_name(pr[1]), pr[1]["x_device"])):
        low, high = r["x_interval_ts"]
        count, runs = r["n_gen"], len(r["samples_ts"])
        short = " (short)" if count < LEAST_TOKENS or runs < LEAST_RUNS else ""
        memory = f"{r['x_memory_bytes'] / 2**20:.0f}" if "x_memory_bytes" in r else ""
        rows.append((
            model_name(r), r["x_device"], r["x_activation"], r["type_k"], r["n_depth"],
            f"{r['x_median_ts']:.1f} ({low:.1f} to {high:.1f})", f"{runs} x {count}{short}",
            f"{r['x_launches_per_token']:.0f}", _share(r), _prefill(r),
            memory, "yes" if r["x_ids_equal_without_graph"] else "NO", commit_of(r),
            page.link(path),
        ))  # fmt: skip
    headings = ("model", "device", "activations", "KV", "depth", "decode tokens/s", "runs x tokens",
                "launches a token", "in the graph", "prefill tokens/s", "memory MiB",
                "same ids as the walk", "commit", "")  # fmt: skip
    note = "Median of the runs; in brackets the 95 % bootstrap interval of it. Measured."
    page.table("Decode", headings, rows, note, f"{CONTRIBUTE} -m model.gguf")


def _prefill(record):
    seconds = statistics.median(record["x_prefill_samples_ns"]) / 1e9
    tokens = record["x_prefill_tokens"]
    return f"{tokens / seconds:.0f} ({tokens})" if seconds else ""


def _share(record):
    return f"{100 * record['x_graph_share']:.0f} %"


def setting(path, record):
    """What must be the same for two results to be compared, but for the commit."""
    names = ("model_filename", "model_size", "x_device", "x_activation", "type_k", "n_gen",
             "n_depth", "x_fuse")  # fmt: skip
    return path.parent.name, *(record.get(name) for name in names)


def graph(page):
    """The same settings with and without the graph, the latest of each."""
    pairs = {}
    for path, record in sorted(page.of("tps"), key=lambda pr: pr[1]["test_time"]):
        pairs.setdefault(setting(path, record), {})[record["x_graph_share"] > 0] = path, record
    rows = []
    for found in pairs.values():
        if len(found) == 2:
            (on_path, on), (off_path, off) = found[True], found[False]
            rows.append((
                model_name(on), on["x_device"], on["x_activation"], f"{on['x_median_ts']:.1f}",
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
            cells = [model_name(r), r["sides"]["zerfoo-numba"]["device"], name]
            for what in ("decode", "prefill"):
                rates, ratio = found[what], found[what]["ratio"]
                ours, theirs = (
                    statistics.median(rates[f"{side}_tokens_per_s"]) for side in ("ours", "theirs")
                )
                cells.append(f"{ours:.1f} / {theirs:.1f} = {ratio['median']:.2f} "
                             f"({ratio['low']:.2f} to {ratio['high']:.2f})")  # fmt: skip
            about = r["sides"].get(name, {})
            version = about.get("version") or about.get("build_commit") or ""
            rows.append((*cells, version, commit_of(r), page.link(path)))
        for name, reason in r["missing"].items():
            rows.append((model_name(r), r["cpu_info"], name, f"missing: {reason}", "", "",
                         commit_of(r), page.link(path)))  # fmt: skip
    headings = ("model", "device", "peer", "decode: ours / theirs", "prefill: ours / theirs",
                "peer's version", "commit", "")  # fmt: skip
    note = (
        "Tokens/s, interleaved in one run; the ratio is the median of the rounds', with the 95 % "
    )
    note += "bootstrap interval of it. Measured."
    page.table("Beside other runtimes", headings, rows, note, f"{CONTRIBUTE} -m model.gguf")


def predicted(page):
    """What emulator counts and published rates allow, apart from what was measured."""
    rows = []
    for path, r in sorted(page.of("step"), key=lambda pr: (pr[1]["gpu"], pr[1]["model"])):
        rows.append((
            r["gpu"], r["model"], r.get("activation", ""), r["launches_per_token"],
            f"{r['requested_over_stored']:.3f}", f"{r['floor_us']:.0f}",
            f"{r['boundaries_us']:.0f}", f"{r['tokens_per_s_at_most']:.0f}", page.link(path),
        ))  # fmt: skip
    headings = ("GPU", "model", "activations", "launches a token", "bytes asked / stored",
                "floors us", "boundaries us", "tokens/s at most", "")  # fmt: skip
    note = "PREDICTED: counted by the emulator, at published rates. No GPU was run for this table."
    command = f"python -m bench.step --json > step.json; {CONTRIBUTE} --file step.json"
    page.table("Expected by GPU", headings, rows, note, command)
    rows = [
        (r["device"], r["model"], f"{r['measured_us']:.0f}", f"{1e6 / r['measured_us']:.1f}",
         commit_of(r), page.link(path))
        for path, r in page.of("step") if "measured_us" in r
    ]  # fmt: skip
    headings = ("device", "model", "us", "tokens/s", "commit", "")
    page.table("One step, measured", headings, rows, "Measured.")


def tokens(page):
    """The picture of a token's time."""
    if any(report_plot.bar(kind, r) for kind in page.by_kind for _, r in page.of(kind)):
        page.lines += ["## What a token's time is made of", ""]
        page.picture("a token's time by model and device, as stacked bars", "tokens.png")


def rooflines(page):
    """Pictures, measured and predicted apart."""
    for title, is_measured in (("Rooflines, measured", True), ("Rooflines, PREDICTED", False)):
        found = [(p, r) for p, r in page.of("roofline") if roofline_plot.measured(r) == is_measured]
        what = "step_us" if is_measured else "floor_us"
        rows = [
            (r["device"], r["model"], r["activation"], r["cache_type"],
             *(f"{r[name]['sums'][what]:.0f}" for name in ("decode", "prefill")),
             commit_of(r), page.link(path))
            for path, r in found
        ]  # fmt: skip
        word = "measured" if is_measured else "floor"
        headings = ("device", "model", "activations", "KV", f"decode {word} us",
                    f"prefill {word} us", "commit", "")  # fmt: skip
        option = "--device auto" if is_measured else "--gpu H200"
        page.table(title, headings, rows, command=f"python -m bench.roofline {option}")
        for path, r in found:
            name = f"{title.lower()}: {r['model']} on {r['device']}"
            page.picture(name, page.place(path.with_suffix(".png")))


def ceilings(page):
    rows = []
    for path, r in page.of("ceilings"):
        best = max(r["read"], key=lambda x: x["gb_per_s"])
        rates = [r["rates"].get(kind) for kind in ("float32", "int8", "tensor", "tensor_int8")]
        rows.append((
            r["device"], _read(best), _read(r["read"][-1]),
            *("" if rate is None else f"{rate['tops']:.3g}" for rate in rates),
            f"{r['boundary_us']:.2f}", f"{r['barrier_us']:.2f} ({r['barrier_blocks']})",
            commit_of(r), page.link(path),
        ))  # fmt: skip
    headings = ("device", "best read GB/s", "memory GB/s", "float32 Top/s", "8-bit dot Top/s",
                "f16 mma Top/s", "8-bit mma Top/s", "boundary us", "barrier us (blocks)", "commit",
                "")  # fmt: skip
    page.table("Ceilings", headings, rows, "Measured.")


def _read(row):
    return f"{row['gb_per_s']:.3g} ({size(row['bytes'])})"


def formats(page):
    """Every block format: what it loses and what it costs."""
    command = f"python -m bench.quants; {CONTRIBUTE} --file reports/quants.json"
    headings = ("format", "bits per weight", "NMSE", "KL", "KL, 8-bit activations",
                "instructions per weight", "GB/s")  # fmt: skip
    if not page.of("quants"):
        page.table("Block formats", headings, [], command=command)
    for path, r in page.of("quants"):
        of, devices = r["accuracy"], ", ".join(r["speed"]["devices"].values())
        note = (
            f"Errors against float32 weights of {of['model']}, {of['tokens']} tokens; KL in nats, "
            "of next-token distributions. Instructions: of the matvec with 8-bit activations, "
            f"counted by the emulator. GB/s: measured{' on ' * bool(devices)}{devices}. "
            f"Commit {commit_of(r)}, {page.link(path)}."
        )
        ordered = sorted(r["formats"], key=lambda f: (-f["bits_per_weight"], f["name"]))
        page.table("Block formats", headings, [_format(f) for f in ordered], note)


def _format(f):
    errors = f["errors"] or {}
    most = max((c["instructions_per_weight"] for c in f["counts"]["int8"] or ()), default=None)
    speeds = {d: s.get("int8") for d, s in f["gb_per_s"].items()}
    return (
        f["name"], f"{f['bits_per_weight']:.4g}", _number(errors.get("weights_nmse"), ".2e"),
        _number(errors.get("float", {}).get("mean_kl"), ".2e"),
        _number((errors.get("int8") or {}).get("mean_kl"), ".2e"), _number(most, ".2f"),
        ", ".join(f"{d} {rate:.1f}" for d, rate in speeds.items() if rate is not None),
    )  # fmt: skip


def _number(value, form):
    return "" if value is None else format(value, form)


def vision(page):
    rows = [
        (r["model"], r["device"], r["activation"],
         f"{r['image_width_px']} x {r['image_height_px']}, {r['image_tokens']}",
         f"{r['prepare_ms']:.3g}", f"{r['tower_ms']:.4g}", f"{r['tower_gflop']:.3g}",
         _number(r.get("tower_over_floor"), ".2f"), f"{r['images_per_s']:.3g}",
         f"{r['prompt_tokens_per_s']:.4g} ({r['prompt_tokens']})",
         f"{r['decode_tokens_per_s']:.4g}", commit_of(r), page.link(path))
        for path, r in page.of("vision")
    ]  # fmt: skip
    headings = ("model", "device", "activations", "image, tokens", "prepare ms", "tower ms",
                "GFLOP", "x its floor", "images/s", "prompt tokens/s", "decode tokens/s", "commit",
                "")  # fmt: skip
    note = "Medians of the runs; the floor is the tower's operations by a rate that the file names."
    command = f"python -m bench.vision --json > vision.json; {CONTRIBUTE} --file vision.json"
    page.table("Vision", headings, rows, f"{note} Measured.", command)


def llama_bench(page):
    rows = [
        (model_name(r), r.get("gpu_info") or r["cpu_info"], r["n_prompt"], r["n_gen"],
         f"{r['avg_ts']:.1f}", r["build_commit"], page.link(path))
        for path, r in page.of("llama-bench")
    ]  # fmt: skip
    headings = ("model", "device", "prompt", "tokens", "tokens/s", "llama.cpp", "")
    page.table("llama-bench", headings, rows, "Read from llama-bench's own JSON.")


def over_time(page):
    """Results of one setting in the order of their times; a loss of more than 5 % is flagged."""
    series = {}
    for path, record in page.of("tps"):
        key = (*setting(path, record), record["x_graph_share"] > 0)
        series.setdefault(key, []).append((record["test_time"], path, record))
    rows = []
    for found in series.values():
        found.sort(key=lambda item: item[0])
        when, path, first = found[0]
        rows.append((when, model_name(first), first["x_device"], _share(first), commit_of(first),
                     f"{first['x_median_ts']:.1f}", "", page.link(path)))  # fmt: skip
        for (_, _, before), (when, path, now) in pairwise(found):
            change = now["x_median_ts"] / before["x_median_ts"] - 1
            flag = " **REGRESSION**" if change < -REGRESSION else ""
            rows.append((when, model_name(now), now["x_device"], _share(now), commit_of(now),
                         f"{now['x_median_ts']:.1f}", f"{100 * change:+.1f} %{flag}",
                         page.link(path)))  # fmt: skip
    rows = [(row[0][:10], *row[1:]) for row in rows]
    headings = ("date", "model", "device", "in the graph", "commit", "tokens/s", "change", "")
    note = (
        f"Milestones: decoding with the same settings, from run to run; a loss of more than "
        f"{REGRESSION:.0%} is flagged."
    )
    page.table("Over time", headings, rows, note)


def environments(page):
    """What the results were measured on, each only once."""
    found = {}
    for kind in page.by_kind:
        for path, record in page.of(kind):
            about = record.get("environment", record)
            gpu = about.get("gpu") or {}
            packages = about.get("packages", {})
            key = (
                path.parent.name, about["cpu_info"], about.get("cores", ""),
                about.get("memory_gib", ""), about.get("system", ""),
                " ".join(filter(None, (gpu.get("name"), gpu.get("driver_version")))),
                about.get("python", ""),
                ", ".join(f"{n} {packages[n]}" for n in ("numpy", "numba-cuda") if n in packages),
            )  # fmt: skip
            found[key] = found.get(key, 0) + 1
    rows = [(*key, count) for key, count in sorted(found.items(), key=lambda item: str(item[0]))]
    headings = ("folder", "CPU", "cores", "RAM GiB", "system", "GPU, driver", "Python", "packages",
                "files")  # fmt: skip
    page.table("Environments", headings, rows, "Every file has the whole record.")


SECTIONS = (
    decode, graph, peers, predicted, tokens, rooflines, ceilings, formats, vision, llama_bench,
    over_time, environments,
)  # fmt: skip
