"""A token's time as stacked bars, one for each model and GPU: records of bench.step."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.step_plot import FONT, INK, MEASURED, PARTS


def bars(records):
    """[(label, {part: microseconds}, tokens/s at most, measured us or None)], by label."""
    found = []
    for r in records:
        parts = {
            "memory": r["memory_us"],
            "rest": r["floor_us"] - r["memory_us"],
            "boundary": r["boundaries_us"],
        }
        label = f"{r['model']}\n{r['gpu']}, {r['activation']}"
        found.append((label, parts, r["tokens_per_s_at_most"], r.get("measured_us")))
    return sorted(found, key=lambda bar: bar[0])


def draw(records, path):
    """Write the picture as a PNG, 1650 pixels wide."""
    rows = bars(records)
    height = 2.2 + 0.62 * len(rows)
    figure = Figure(figsize=(11, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, 0.75 / height, 0.76, 1 - 2.0 / height))
    end = max(sum(parts.values()) for _, parts, _, _ in rows)
    for y, (_, parts, rate, measured) in enumerate(rows):
        start = 0.0
        for name, width in parts.items():
            color, hatch, text = PARTS[name]
            axes.barh(
                y, width, left=start, color=color, hatch=hatch, edgecolor="white", height=0.7,
                label=None if y else text,
            )  # fmt: skip
            start += width
        at = max(start, measured or 0) if (measured or 0) <= 1.1 * end else start
        axes.text(at, y, f"  at most {rate:.0f} tokens/s", va="center", fontsize=FONT - 1)
        if measured is not None and measured <= 1.1 * end:
            axes.plot([measured] * 2, [y - 0.4, y + 0.4], color=MEASURED, linewidth=3)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=FONT - 1)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.35 * end))
    axes.set_xlabel("microseconds for one token", fontsize=FONT)
    axes.grid(True, axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.text(
        0.02, 1 - 0.2 / height, "What a token's time is made of", fontsize=FONT + 4, weight="bold",
        va="top", color=INK,
    )  # fmt: skip
    figure.text(
        0.02, 1 - 0.55 / height, "PREDICTED from emulator counts and published rates; a red line "
        "is measured", fontsize=FONT - 1, va="top", color=INK,
    )  # fmt: skip
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.012, 1 - 0.75 / height), ncol=3, frameon=False,
        fontsize=FONT - 1,
    )  # fmt: skip
    figure.savefig(path)
