"""The document of bench/roofline.py as a picture: one panel for decode, one for prefill."""

import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import picture, store

# Okabe and Ito's colours, told apart by shape as well.
LIMITS = {
    "memory": ("#0072B2", "o", "memory bandwidth"),
    "issue": ("#D55E00", "^", "instruction issue"),
    "arithmetic": ("#009E73", "s", "arithmetic"),
}
STYLES = ("-", "--", "-.")  # of the roofs of arithmetic
INK, GREY, LIGHT = "#222222", "#777777", "#c8c8c8"
FONT = 11
LABEL_SPACING = 0.058  # of the panel's height, or less where many labels share it


def draw(document, path):
    """Write the picture as a PNG of 1650 x 1800 pixels."""
    figure = Figure(figsize=(11, 12), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    word = "Measured" if measured(document) else "Predicted"
    title = f"{word} roofline: {document['model']} on {document['device']}"
    figure.text(0.03, 0.975, title, fontsize=FONT + 5, weight="bold", color=INK, va="top")
    settings = f"{document['activation']} activations, {document['cache_type']} KV cache"
    about = document["environment"]
    origin = f"Commit {about['build_commit']}{'+changes' * about.get('tree_dirty', False)}"
    origin = origin if measured(document) else document["origin"]
    figure.text(0.03, 0.948, f"{origin}; {settings}", fontsize=FONT, color=INK, va="top")
    panels = ((0.56, document["decode"]), (0.135, document["prefill"]))
    roofs = document["roofs"]
    limits = _limits(roofs, [p for _, step in panels for p in drawn(step)])
    for bottom, step in panels:
        axes = figure.add_axes((0.085, bottom, 0.47, 0.34))
        _frame(axes, step, limits)
        _ceilings(axes, roofs, limits)
        _points(axes, step)
    _legend(figure, document)
    picture.save(figure, path, [store.digest(document)])


def measured(document):
    return "step_us" in document["decode"]["sums"]


def time_of(p):
    """Microseconds of one launch: measured, or the predicted floor."""
    return p.get("measured_us", p["floor_us"])


def drawn(step):
    """The points that have a place: an operation without flops has none."""
    return [p for p in step["points"] if p["cost_flops"]]


def _limits(roofs, points):
    """((lowest, highest) intensity, (lowest, highest) rate), with room for the roofs' names
    left and right of the points."""
    x = [p["intensity"] for p in points]
    y = [p["tflops"] for p in points]
    top = max(rate for _, rate in roofs["compute"])
    ridge = 1e3 * top / roofs["read"][-1][1]
    right = max(25 * max(x), 20 * ridge)
    left = min(x) / 8
    bottom = min(min(y) / 2.5, left * roofs["read"][-1][1] / 1e3)
    return (left, right), (bottom, 2.5 * max(top, *y))


def _frame(axes, step, limits):
    sums = step["sums"]
    tokens = f"{step['tokens']} tokens" if step["tokens"] > 1 else "1 token"
    name = "Prefill" if step["tokens"] > 1 else "Decode"
    times = f"floors {_time(sums['memory_us'])} by memory"
    if "step_us" in sums:
        times = f"{_time(sums['step_us'])}; memory alone {_time(sums['memory_us'])}"
    elif sums.get("issue_us"):
        times += f", {_time(sums['issue_us'])} by issue"
    axes.set_title(
        f"{name}, {tokens} after {step['cached']}: {sums['launches']} launches, {times}",
        loc="left", fontsize=FONT + 1, color=INK, pad=8,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
    axes.set_xlabel("arithmetic intensity, flop per byte of memory traffic", fontsize=FONT)
    axes.set_ylabel(
        f"{'measured' if 'step_us' in sums else 'attainable'} rate, TFLOP/s", fontsize=FONT
    )
    axes.tick_params(labelsize=FONT - 1)
    axes.grid(True, which="major", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ceilings(axes, roofs, limits):
    """The bandwidth of memory, those of caches above it, and the rates of arithmetic."""
    (low, high), (bottom, _) = limits
    top = max(rate for _, rate in roofs["compute"])
    memory = roofs["read"][-1][1] / 1e3  # TFLOP/s for each flop per byte
    for (text, rate), style in zip(roofs["compute"], STYLES, strict=False):
        axes.plot([rate / memory, high], [rate, rate], style, color=INK, linewidth=1.5)
        axes.text(
            high, 1.1 * rate, text, ha="right", va="bottom", fontsize=FONT - 1, color=INK, zorder=4,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    for text, gb_per_s in roofs["read"]:
        slope, last = gb_per_s / 1e3, gb_per_s / 1e3 == memory
        color, width = (INK, 1.5) if last else (GREY, 1.0)
        ridge, start = top / slope, max(1.5 * low, 1.5 * bottom / slope)
        axes.plot([low, ridge], [low * slope, top], "-", color=color, linewidth=width)
        axes.annotate(
            text, (start, start * slope), (-3, 6 if last else 4),
            textcoords="offset points", fontsize=FONT - 1, color=color,
            rotation=_angle(axes, limits), rotation_mode="anchor",
        )  # fmt: skip


def _angle(axes, limits):
    """Of a line of slope one in the log-log panel, in degrees on the page."""
    box = axes.get_window_extent()
    decades = [np.log10(high / low) for low, high in limits]
    return np.degrees(np.arctan2(box.height / decades[1], box.width / decades[0]))


def _points(axes, step):
    """Markers, a thin line up to the roof over them, and labels in the right margin."""
    points = sorted(drawn(step), key=lambda p: (-p["tflops"], p["intensity"]))
    total = sum(p["launches"] * time_of(p) for p in step["points"])
    for p in points:
        color, marker, _ = LIMITS[p["limit"]]
        ends = [p["tflops"], p["roof_tflops"]]
        axes.plot([p["intensity"]] * 2, ends, ":", color=color, linewidth=1)
        size = 40 + 400 * p["launches"] * time_of(p) / total
        axes.scatter(
            p["intensity"], p["tflops"], s=size, marker=marker, color=color,
            edgecolor="white", linewidth=0.8, zorder=3,
        )  # fmt: skip
    for p, y in zip(points, _heights(axes, points), strict=True):
        _margin_label(axes, p, y, total)


def _heights(axes, points):
    """Heights of the labels in the panel, near their points' own and never closer than a line."""
    own = [axes.transAxes.inverted().transform(axes.transData.transform((1, p["tflops"])))[1]
           for p in points]  # fmt: skip
    spacing = min(LABEL_SPACING, 0.99 / max(1, len(points) - 1))
    heights = []
    for y in own:  # from the top down
        heights.append(min(y, heights[-1] - spacing) if heights else min(y, 1.0))
    least = 0.0
    for i in reversed(range(len(heights))):  # pushed up again from below, as far as needed
        heights[i] = max(heights[i], least)
        least = heights[i] + spacing
    return heights


def _margin_label(axes, p, y, total):
    time = p["launches"] * time_of(p)
    shape = re.sub(r"(?<=\d)x(?=\d)", "\N{MULTIPLICATION SIGN}", p["shape"])
    text = f"{p['operation']} {shape}  {_time(time)}"
    axes.annotate(
        text, (p["intensity"], p["tflops"]), (1.04, y), textcoords="axes fraction",
        fontsize=FONT - 1, color=LIMITS[p["limit"]][0], va="center", annotation_clip=False,
        weight="bold" if time > 0.1 * total else "normal",
        arrowprops={"arrowstyle": "-", "color": LIGHT, "linewidth": 0.8, "relpos": (0, 0.5)},
    )  # fmt: skip


def _time(us):
    return f"{us / 1e3:.3g} ms" if us >= 1e3 else f"{us:.3g} µs"


def _legend(figure, document):
    steps = (document["decode"], document["prefill"])
    bounds = {p["limit"] for step in steps for p in step["points"]}
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, markersize=9, label=text)
        for name, (color, marker, text) in LIMITS.items()
        if name in bounds
    ]
    handles.append(Line2D([], [], linestyle=":", color=GREY, label="gap to the roof"))
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.02, 0.028), ncol=4, frameon=False,
        fontsize=FONT, title="What binds (larger: more of the step's time; bold: over a tenth)",
        title_fontsize=FONT, alignment="left", handletextpad=0.4, columnspacing=1.6,
    )  # fmt: skip
    note = (
        "Times: all launches of the step, boundaries included. Traffic: counted by the emulator. "
        "Above the memory line: read from a cache."
        if measured(document)
        else "Floors only: latency, caches and launch boundaries are left out. Times: all "
        "launches of the step."
    )
    figure.text(0.03, 0.014, note, fontsize=FONT - 1, color=GREY)
