"""The document of bench/roofline.py as a picture: one panel for decode, one for prefill."""

import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colours, told apart by shape as well.
LIMITS = {
    "memory": ("#0072B2", "o", "memory bandwidth"),
    "issue": ("#D55E00", "^", "instruction issue"),
    "arithmetic": ("#009E73", "s", "float32 arithmetic"),
}
INK, GREY, LIGHT = "#222222", "#777777", "#c8c8c8"
FONT = 11
LABEL_SPACING = 0.058  # of the panel's height


def draw(document, path):
    """Write the picture as a PNG of 1650 x 1800 pixels."""
    figure = Figure(figsize=(11, 12), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    gpu = document["gpu"]
    title = f"Predicted roofline: {document['model']} on one NVIDIA {gpu['name']}"
    figure.text(0.03, 0.975, title, fontsize=FONT + 5, weight="bold", color=INK, va="top")
    figure.text(0.03, 0.948, document["predicted"], fontsize=FONT, color=INK, va="top")
    panels = ((0.56, document["decode"]), (0.135, document["prefill"]))
    limits = _limits(gpu, [p for _, step in panels for p in drawn(step)])
    for bottom, step in panels:
        axes = figure.add_axes((0.085, bottom, 0.5, 0.34))
        _frame(axes, step, limits)
        _ceilings(axes, gpu, limits)
        _points(axes, gpu, step)
    _legend(figure)
    figure.savefig(path)


def drawn(step):
    """The points that have a place: an operation without flops has none."""
    return [p for p in step["points"] if p["cost_flops"]]


def _limits(gpu, points):
    """((lowest, highest) intensity, (lowest, highest) rate), with room for the roofs' names."""
    x = [p["intensity"] for p in points]
    y = [p["tflops"] for p in points]
    ridge = 1e3 * gpu["dp4a_tops"] / gpu["gb_per_s"]
    return (min(x) / 2, max(1.5 * max(x), 20 * ridge)), (min(y) / 2.5, 2.2 * gpu["dp4a_tops"])


def _frame(axes, step, limits):
    sums = step["sums"]
    tokens = f"{step['tokens']} tokens" if step["tokens"] > 1 else "1 token"
    name = "Prefill" if step["tokens"] > 1 else "Decode"
    axes.set_title(
        f"{name}, {tokens} after {step['cached']}: {sums['launches']} launches, floors "
        f"{_time(sums['memory_us'])} by memory, {_time(sums['issue_us'])} by issue",
        loc="left", fontsize=FONT + 1, color=INK, pad=8,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
    axes.set_xlabel("arithmetic intensity, flop per byte of memory traffic", fontsize=FONT)
    axes.set_ylabel("attainable rate, TFLOP/s", fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.grid(True, which="major", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ceilings(axes, gpu, limits):
    """Bandwidth, then the float32 roof to its right and, dashed, the roof of 8-bit dot products."""
    (low, high), _ = limits
    slope = gpu["gb_per_s"] / 1e3  # TFLOP/s for each flop per byte
    bandwidth = f"memory {gpu['gb_per_s'] / 1e3:.3g} TB/s"
    roofs = (
        (gpu["fma_tflops"], "-", f"FMA {gpu['fma_tflops']:.3g} TFLOP/s"),
        (gpu["dp4a_tops"], "--", f"dp4a at most {gpu['dp4a_tops']:.3g} Top/s"),
    )
    for rate, style, text in roofs:
        axes.plot([rate / slope, high], [rate, rate], style, color=INK, linewidth=1.5)
        axes.text(high, 1.08 * rate, text, ha="right", va="bottom", fontsize=FONT - 1, color=INK)
    ridge = gpu["dp4a_tops"] / slope
    axes.plot([low, ridge], [low * slope, ridge * slope], "-", color=INK, linewidth=1.5)
    axes.annotate(
        bandwidth, (1.2 * low, 1.2 * low * slope), (-3, 6), textcoords="offset points",
        fontsize=FONT - 1, color=INK, rotation=_angle(axes, limits), rotation_mode="anchor",
    )  # fmt: skip


def _angle(axes, limits):
    """Of a line of slope one in the log-log panel, in degrees on the page."""
    box = axes.get_window_extent()
    decades = [np.log10(high / low) for low, high in limits]
    return np.degrees(np.arctan2(box.height / decades[1], box.width / decades[0]))


def _points(axes, gpu, step):
    """Markers, a thin line up to what memory would allow, and labels in the right margin."""
    points = sorted(drawn(step), key=lambda p: (-p["tflops"], p["intensity"]))
    total = step["sums"]["floor_us"]
    for p in points:
        color, marker, _ = LIMITS[p["limit"]]
        roof = min(gpu["fma_tflops"], p["intensity"] * gpu["gb_per_s"] / 1e3)
        axes.plot([p["intensity"]] * 2, [p["tflops"], roof], ":", color=color, linewidth=1)
        size = 40 + 400 * p["launches"] * p["floor_us"] / total
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
    heights = []
    for y in own:  # from the top down
        heights.append(min(y, heights[-1] - LABEL_SPACING) if heights else min(y, 0.98))
    shift = max(0.0, 0.01 - heights[-1])
    for i in range(len(heights) - 1, -1, -1):  # pushed up again from below, as far as needed
        floor = heights[i + 1] + LABEL_SPACING if i + 1 < len(heights) else heights[i] + shift
        heights[i] = max(heights[i], floor)
    return heights


def _margin_label(axes, p, y, total):
    time = p["launches"] * p["floor_us"]
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


def _legend(figure):
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, markersize=9, label=text)
        for color, marker, text in LIMITS.values()
    ]
    handles.append(Line2D([], [], linestyle=":", color=GREY, label="gap to the roof"))
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.02, 0.028), ncol=4, frameon=False,
        fontsize=FONT, title="What binds (larger: more of the step's time; bold: over a tenth)",
        title_fontsize=FONT, alignment="left", handletextpad=0.4, columnspacing=1.6,
    )  # fmt: skip
    figure.text(
        0.03, 0.014, "Floors only: latency, caches and launch boundaries are left out. Times: all "
        "launches of the step.", fontsize=FONT - 1, color=GREY,
    )  # fmt: skip
