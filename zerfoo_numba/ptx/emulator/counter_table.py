"""Counters as a table a person can read."""


def _number(n):
    return f"{n:,.0f}" if n == int(n) else f"{n:,.2f}"


def _bytes(n):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return ""


def columns(rows, header):
    """Rows of strings as aligned text; the first column to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def table(counters):
    """The text of `print(counters)`."""
    total = counters.total
    shape = f"grid {counters.grid}, block {counters.block}"
    lines = [f"{counters.kernel}: {shape}"]
    lines += [
        f"  thread instructions {_number(total.thread_instructions)}, warp instructions "
        f"{_number(total.warp_instructions)}, divergence efficiency "
        f"{100 * total.divergence_efficiency:.1f} %, flops {_number(total.flops)}"
    ]
    shares = sorted(total.classes.items(), key=lambda c: -c[1])
    everything = max(total.thread_instructions, 1)
    lines += ["  " + ", ".join(f"{name} {100 * n / everything:.1f} %" for name, n in shares)]
    lines += _traffic("global loads", total.loads) + _traffic("global stores", total.stores)
    lines += [
        f"  unique sectors {_number(counters.unique_sectors)} "
        f"({_bytes(32 * counters.unique_sectors)}), shared requests "
        f"{_number(total.shared_requests)}, bank conflicts {_number(total.bank_conflicts)}, "
        f"local requests {_number(total.local_requests)}, atomics {_number(total.atomics)}, "
        f"block barriers {_number(counters.block_barriers)}"
    ]
    return "\n".join([*lines, *_arrays(counters), *_lines(counters)])


def _traffic(name, traffic):
    if not traffic.requests:
        return []
    return [
        f"  {name}: {_bytes(traffic.bytes)} requested in {_number(traffic.requests)} requests, "
        f"{_number(traffic.sectors)} sectors ({traffic.sectors_per_request:.1f} per request, "
        f"{100 * traffic.efficiency:.0f} % of their bytes)"
    ]


def _arrays(counters):
    if not counters.arrays:
        return []
    header = [
        "array",
        "bytes",
        "loaded",
        "sectors",
        "unique",
        "stored",
        "sectors",
        "unique",
        "atomics",
    ]
    rows = [
        [
            name, _bytes(a.nbytes), _bytes(a.loads.bytes), _number(a.loads.sectors),
            _number(a.unique_load_sectors), _bytes(a.stores.bytes), _number(a.stores.sectors),
            _number(a.unique_store_sectors), _number(a.atomics),
        ]
        for name, a in counters.arrays.items()
    ]  # fmt: skip
    return ["", *columns(rows, header)]


def _lines(counters):
    header = [
        "line",
        "threads",
        "warps",
        "efficiency",
        "ld sectors",
        "st sectors",
        "conflicts",
        "atomics",
    ]
    rows = [
        [
            f"{file}:{line}", _number(c.thread_instructions), _number(c.warp_instructions),
            f"{100 * c.divergence_efficiency:.1f} %", _number(c.loads.sectors),
            _number(c.stores.sectors), _number(c.bank_conflicts), _number(c.atomics),
        ]
        for (file, line), c in sorted(counters.lines.items())
    ]  # fmt: skip
    return ["", *columns(rows, header)] if rows else []
