"""The document of bench/step.py as a waterfall: the operations of one token, one after another."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench import picture, store

# Okabe and Ito's colours; hatches tell them apart without colour.
PARTS = {
    "memory": ("#0072B2", "", "memory, at the GPU's bandwidth"),
    "rest": ("#E69F00", "//", "more by instruction issue or arithmetic"),
    "boundary": ("#999999", "..", "launch boundaries"),
}
MEASURED, INK = "#D55E00", "#222222"
FONT = 12


def spans(document):
    """[(operation, {part: microseconds}, measured or None)], all launches of each together."""
    found = []
    for o in document["operations"]:
        n = o["launches"]
        parts = {
            "memory": n * o["memory_us"],
            "rest": n * (o["floor_us"] - o["memory_us"]),
            "boundary": n * document["boundary_us"],
        }
        found.append((o, parts, n * o["measured_us"] if "measured_us" in o else None))
    return found


def draw(document, path):
    """Write the picture as a PNG, 1650 pixels wide."""
    rows = spans(document)
    height = 2.6 + 0.36 * len(rows)
    figure = Figure(figsize=(11, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.36, 0.75 / height, 0.61, 1 - 2.45 / height))
    start = end = 0.0
    for y, (_, parts, measured) in enumerate(rows):
        begin = start
        for name, width in parts.items():
            color, hatch, _ = PARTS[name]
            axes.barh(y, width, left=start, color=color, hatch=hatch, edgecolor="white", height=0.8)
            start += width
        if measured is not None:
            axes.plot([begin, begin + measured], [y + 0.3] * 2, color=MEASURED, linewidth=2.5)
        end = max(end, start, begin + (measured or 0.0))
        axes.text(start, y, f"  {start - begin:.3g} µs", va="center", fontsize=FONT - 2, color=INK)
    axes.set_yticks(range(len(rows)), [_label(o) for o, _, _ in rows], fontsize=FONT - 2)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.12 * end))
    axes.set_xlabel("microseconds since the token began", fontsize=FONT)
    axes.grid(True, axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _texts(figure, document, height, rows)
    picture.save(figure, path, [store.digest(document)])


def _label(o):
    times = f"{o['launches']} \N{MULTIPLICATION SIGN} " if o["launches"] > 1 else ""
    return f"{times}{o['operation']} {o['shape']}"[:52]


def _texts(figure, document, height, rows):
    title = f"One token of {document['model']} on one NVIDIA {document['gpu']}"
    figure.text(0.02, 1 - 0.2 / height, title, fontsize=FONT + 4, weight="bold", va="top")
    summary = (
        f"{document['origin']}; {document['launches_per_token']} launches, "
        f"{document['floor_us']:.0f} µs of floors and {document['boundaries_us']:.0f} µs of "
        f"boundaries: {document['tokens_per_s_at_most']:.0f} tokens/s at most"
    )
    if "measured_us" in document:
        summary += f"\nmeasured {document['measured_us']:.0f} µs on {document['device']}"
    figure.text(0.02, 1 - 0.55 / height, summary, fontsize=FONT - 1, va="top")
    handles = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=text)
        for color, hatch, text in PARTS.values()
    ]
    if any(measured is not None for _, _, measured in rows):
        handles.append(Patch(color=MEASURED, label="measured"))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.012, 1 - 1.05 / height), ncol=4,
        frameon=False, fontsize=FONT - 1,
    )  # fmt: skip
