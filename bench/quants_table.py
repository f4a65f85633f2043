"""The document of bench/quants.py as Markdown."""

NONE = "-"


def markdown(document):
    record = document["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    dirty = ", tree not clean" if record["tree_dirty"] else ""
    lines = [
        "# Block formats, measured",
        "",
        f"By `python -m bench.quants` at commit {record['build_commit']}{dirty}, with {packages}, "
        f"on {record['cpu_info']} ({record['cores']} cores).",
        *_accuracy(document),
        *_instructions(document),
        *_in_flight(document),
        *_float_path(document),
    ]
    return "\n".join(lines) + "\n"


def _table(head, rows):
    yield f"| {' | '.join(head)} |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _number(value, form):
    return NONE if value is None else format(value, form)


def _accuracy(document):
    how = document["accuracy"]
    model = f"`{how['model']}`"
    about = (
        f"{model} of random weights, {how['tokens']} random tokens"
        if how["synthetic"] and how["text"] is None
        else f"{model}, {how['tokens']} tokens of {how['text'] or 'no text: random ids'}"
    )
    trained = not how["synthetic"]
    yield from (
        "",
        "## Accuracy",
        "",
        f"Against float32 weights: {about}, all matrices in the format. NMSE = sum (a - b)² / "
        "sum b² of the weights; KL is the mean Kullback-Leibler divergence of the next-token "
        "distributions, in nats; top-1 the share of positions with the same most likely token. "
        "Float path: the reference on the dequantised weights. Integer path: 8-bit activations, "
        f"on {how['int8_device']}; last column: its KL from the float path, which is all that "
        "it adds.",
        "",
    )
    if how["synthetic"]:
        yield from (
            "Random weights are the worst case of their bit width: nothing that a format loses is "
            "redundant, and every layer adds as much again. The order of the formats holds, the "
            "size does not carry over to a trained model.",
            "",
        )
    if any(f["errors"] and f["errors"]["weights_nmse"] == 0 for f in document["formats"]):
        yield from ("A row without an error is of what the file's own weights were written in, or "
                    "of more bits.", "")  # fmt: skip
    head = ["format", "bits per weight", "written by", "NMSE", "KL", "top-1"]
    head += ["KL int8", "top-1 int8", "KL int8 from float"]
    head += ["perplexity", "perplexity int8"] * trained
    formats = sorted(document["formats"], key=lambda f: (-f["bits_per_weight"], f["name"]))
    yield from _table(head, [_accuracy_row(f, trained, len(head)) for f in formats])
    yield from ("", "No writer is known here for the rows without numbers.")


def _accuracy_row(f, trained, width):
    e = f["errors"]
    cells = [f["name"], f"{f['bits_per_weight']:.4g}"]
    if e is None:
        return cells + [NONE] * (width - len(cells))
    of, integer = e["float"], e["int8"] or {}
    cells += [e["writer"], f"{e['weights_nmse']:.2e}", f"{of['mean_kl']:.2e}"]
    cells += [f"{of['top1_agreement']:.3f}", _number(integer.get("mean_kl"), ".2e")]
    cells.append(_number(integer.get("top1_agreement"), ".3f"))
    cells.append(_number(integer.get("mean_kl_to_float"), ".1e"))
    if trained:
        cells += [f"{of['perplexity']:.3f}", _number(integer.get("perplexity"), ".3f")]
    return cells


def _packed(document):
    return [f for f in document["formats"] if f["counts"]["int8"]]


def _shape_cells(document, f, records, cell):
    at = {(r["rows"], r["K"]): r for r in records}
    return [cell(at[tuple(s)]) if tuple(s) in at else NONE
            for s in document["counts"]["int8_shapes"]]  # fmt: skip


def _shape_names(document):
    return [f"{rows} x {K}" for rows, K in document["counts"]["int8_shapes"]]


def _instructions(document):
    counts = document["counts"]
    devices = list(document["speed"]["devices"])
    shape = " x ".join(str(n) for n in document["speed"]["shape"])
    yield from (
        "",
        "## Integer path",
        "",
        "Thread-instructions per weight of the whole matvec of one token, counted by the emulator "
        f"on the PTX for sm_{counts['cc'][0]}{counts['cc'][1]} (rows x K: feed-forward and head of "
        "Gemma 3 1B, feed-forward of Mistral 7B). Requested: 32-byte sectors summed over the "
        "requests of all warps, over the bytes of the weight in the file, the most of the shapes "
        f"(limit {counts['weight_bytes_limit']}); beside it those of the activations, which caches "
        "answer. Shared-memory bank conflicts are the sum over the shapes. GB/s: bytes of the file "
        f"over the time of a {shape} matvec.",
        "",
    )
    head = ["format", "limit", *_shape_names(document), "requested", "of activations", "conflicts"]
    head += [f"GB/s {name}" for name in devices]
    rows = []
    for f in _packed(document):
        of = f["counts"]["int8"]
        cells = [f["name"], _number(counts["limits"].get(f["name"]), ".1f")]
        cells += _shape_cells(document, f, of, lambda r: f"{r['instructions_per_weight']:.2f}")
        cells.append(f"{max(r['weight_bytes_requested'] for r in of):.3f}")
        cells.append(f"{max(r['activation_bytes_requested'] for r in of):.2f}")
        cells.append(str(sum(r["bank_conflicts"] for r in of)))
        cells += [_number(f["gb_per_s"][d]["int8"], ".1f") for d in devices]
        rows.append(cells)
    yield from _table(head, rows)
    if not devices:
        yield from ("", "GB/s: not measured, there is neither a `cpu` device nor a GPU.")


def _in_flight(document):
    packed = [f for f in _packed(document) if f["counts"]["in_flight"]]
    if not packed:
        yield from ("", "Bytes in flight: not computed, the CUDA libraries are missing.")
        return
    yield from (
        "",
        "## Bytes in flight on an H200",
        "",
        "KB of weights that one multiprocessor has asked for and not yet received, about 20 KB of "
        "which latency times bandwidth takes: warps resident per multiprocessor (registers of the "
        "sm_90 machine code, shared memory, 132 multiprocessors sharing the grid) x chunks that a "
        "warp asks for before it uses the first, as the loads stand in the PTX before the warp's "
        "barrier, x bytes of a chunk. In brackets: the warps.",
        "",
    )
    head = ["format", "registers", "chunks ahead", "bytes of a chunk", *_shape_names(document)]
    rows = []
    for f in packed:
        of = f["counts"]["in_flight"]
        cells = [f["name"], str(max(r["registers"] for r in of))]
        cells += [str(max(r["chunks_ahead"] for r in of)), str(of[0]["chunk_bytes"])]
        cells += _shape_cells(document, f, of, _flight)
        rows.append(cells)
    yield from _table(head, rows)
    spilled = sum(r["spill_bytes"] for f in packed for r in f["counts"]["in_flight"])
    yield from ("", f"Register spills: {spilled or 'none'}.")


def _flight(record):
    return f"{record['bytes_in_flight'] / 1e3:.0f} ({record['warps_per_multiprocessor']:.1f})"


def _float_path(document):
    devices = list(document["speed"]["devices"])
    rows, K = document["counts"]["float_shape"]
    yield from (
        "",
        "## Float path",
        "",
        f"The exact path, at {rows} x {K}: one warp to a row of the file's own bytes.",
        "",
    )
    head = ["format", "instructions per weight", "requested", "of activations"]
    head += [f"GB/s {name}" for name in devices]
    table = []
    for f in document["formats"]:
        of = f["counts"]["float"]
        cells = [f["name"], f"{of['instructions_per_weight']:.1f}"]
        cells.append(f"{of['weight_bytes_requested']:.2f}")
        cells.append(f"{of['activation_bytes_requested']:.2f}")
        cells += [_number(f["gb_per_s"][d]["float"], ".2f") for d in devices]
        table.append(cells)
    yield from _table(head, table)
