"""A token's time as stacked bars, several models in one picture, a panel for each device.

Measured bars come from measured rooflines and from steps that a GPU measured, predicted ones from
bench.step: the floor of memory, the launch boundaries, and the rest.
"""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench import picture, store
from bench.step_plot import FONT, INK, PARTS

NAMES = {"memory": "memory floor", "boundary": "launch boundaries", "rest": "the rest"}
BAR, HEAD, TOP, BOTTOM = 0.62, 0.95, 1.15, 0.2  # inches: a bar, a panel's frame, the page's edges


def bar(kind, record):
    """(panel, label, {part: microseconds}) of a record, or None where it has no token's time."""
    settings = f"{record.get('activation', '')} activations"
    if kind == "roofline" and "step_us" in record["decode"]["sums"]:
        sums = record["decode"]["sums"]
        boundaries = sums["launches"] * record["ceilings"]["boundary_us"]
        parts = _parts(sums["memory_us"], boundaries, sums["step_us"])
        return f"Measured on {record['device']}", _label(record, settings), parts
    if kind == "step" and measured(record):
        parts = _parts(record["memory_us"], record["boundaries_us"], record["measured_us"])
        return f"Measured on {record['gpu']}", _label(record, settings), parts
    if kind == "step":
        whole = record["floor_us"] + record["boundaries_us"]
        parts = _parts(record["memory_us"], record["boundaries_us"], whole)
        return f"PREDICTED for one {record['gpu']}", _label(record, settings), parts
    return None


def measured(step):
    """Whether a step was measured on the very GPU that it predicts for."""
    gpu = step["environment"].get("gpu") or {}
    return "measured_us" in step and step["gpu"] in gpu.get("name", "")


def _parts(memory, boundaries, whole):
    """The whole in three: weights that a cache holds can take less than memory's floor."""
    shown = min(memory, whole)
    boundaries = min(boundaries, whole - shown)
    rest = whole - shown - boundaries
    return {
        "memory": shown, "boundary": boundaries, "rest": rest, "whole": whole,
        "cached": shown < memory,
    }  # fmt: skip


def _label(record, settings):
    cached = record.get("cached", record.get("decode", {}).get("cached"))
    return f"{record['model']}\nafter {cached} tokens, {settings}"


def panels(results):
    """{panel: [(label, parts)]}, measured panels first, from [(kind, record)]."""
    found = {}
    for kind, record in results:
        drawn = bar(kind, record)
        if drawn:
            found.setdefault(drawn[0], []).append(drawn[1:])
    return {name: sorted(found[name], key=lambda row: row[0]) for name in sorted(found)}


def draw(results, path):
    """Write the picture of [(kind, record)] as a PNG, 1650 pixels wide; -> whether there is one."""
    shown = panels(results)
    if not shown:
        return False
    bars = sum(len(rows) for rows in shown.values())
    height = TOP + BOTTOM + HEAD * len(shown) + BAR * bars
    figure = Figure(figsize=(11, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    y = height - TOP
    for name, rows in shown.items():
        y -= 0.35 + BAR * len(rows)
        axes = figure.add_axes((0.3, y / height, 0.67, BAR * len(rows) / height))
        _panel(axes, name, rows)
        y -= HEAD - 0.35
    _texts(figure, height)
    drawn = [store.digest(record) for kind, record in results if bar(kind, record)]
    picture.save(figure, path, drawn)
    return True


def _three(value):
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _panel(axes, name, rows):
    end = max(sum(parts[n] for n in NAMES) for _, parts in rows)
    scale, unit = (1e3, "ms") if end >= 1e4 else (1, "µs")
    for y, (_, parts) in enumerate(rows):
        start = 0.0
        for part in NAMES:
            color, hatch, _ = PARTS[part]
            width = parts[part] / scale
            axes.barh(y, width, left=start, color=color, hatch=hatch, edgecolor="white", height=0.7)
            start += width
        rate = 1e6 / parts["whole"]
        text = f"  {_three(parts['whole'] / scale)} {unit}, {_three(rate)} tokens/s"
        text += " at most" if name.startswith("PREDICTED") else ""
        text += ", from caches" if parts["cached"] else ""
        axes.text(start, y, text, va="center", fontsize=FONT - 1, color=INK)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=FONT - 1)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1.7 * end / scale))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{unit} for one token", fontsize=FONT - 1)
    axes.set_title(name, loc="left", fontsize=FONT, color=INK)
    axes.grid(True, axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _texts(figure, height):
    figure.text(
        0.02, 1 - 0.2 / height, "What a token's time is made of", fontsize=FONT + 4, weight="bold",
        va="top", color=INK,
    )  # fmt: skip
    handles = [
        Patch(facecolor=PARTS[n][0], hatch=PARTS[n][1], edgecolor="white", label=text)
        for n, text in NAMES.items()
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.012, 1 - 0.5 / height), ncol=3,
        frameon=False, fontsize=FONT - 1,
    )  # fmt: skip
