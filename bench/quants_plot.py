"""The document of bench/quants.py as a picture: accuracy by size, instructions by format."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench import picture, store

# Okabe and Ito's colours, told apart by shape as well.
FLOAT, INT8, LIMIT = "#0072B2", "#D55E00", "#222222"
INK, GRID = "#222222", "#e6e6e6"
SHADES = ("#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#0072B2")
FONT = 12
LINE, CLUSTER = 26, 110  # pixels


def draw(document, path):
    """Write the picture as a PNG of 2400 x 1200 pixels."""
    figure = Figure(figsize=(16, 8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.86, bottom=0.11, wspace=0.2)
    figure.suptitle("Block formats: accuracy and work", x=0.06, ha="left", fontsize=FONT + 6,
                    weight="bold", color=INK)  # fmt: skip
    _accuracy(left, document)
    _instructions(right, document)
    picture.save(figure, path, [store.digest(document)])


def _frame(axes, title):
    axes.set_title(title, loc="left", fontsize=FONT + 1, color=INK, pad=10)
    axes.tick_params(labelsize=FONT)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _accuracy(axes, document):
    """Bits per weight against KL divergence, on both paths."""
    how = document["accuracy"]
    _frame(axes, f"KL divergence from float32 ({how['model']}, {how['tokens']} tokens)")
    points = [f for f in document["formats"] if f["errors"] and f["errors"]["float"]["mean_kl"] > 0]
    for f in points:
        x, errors = f["bits_per_weight"], f["errors"]
        axes.plot(x, errors["float"]["mean_kl"], "o", color=FLOAT, markersize=9, zorder=3)
        if errors["int8"] is not None:
            axes.plot(x, errors["int8"]["mean_kl"], "x", color=INT8, markersize=10, mew=2,
                      zorder=4)  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("bits per weight", fontsize=FONT)
    axes.set_ylabel("mean KL divergence, nats", fontsize=FONT)
    ticks = [2, 3, 4, 5, 6, 8, 12, 16]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(1.15, 22)
    axes.grid(True, color=GRID, linewidth=0.8)
    _labels(axes, points)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=FLOAT, markersize=9, label="float path"),
        Line2D([], [], marker="x", linestyle="", color=INT8, markersize=10, mew=2,
               label="8-bit activations"),
    ]  # fmt: skip
    axes.legend(handles=handles, loc="upper right", fontsize=FONT, frameon=False)


def _labels(axes, points):
    """Names right of the points; left of them, on lines, where the right is taken."""
    to_pixels = axes.transData
    places = [
        (*to_pixels.transform((f["bits_per_weight"], f["errors"]["float"]["mean_kl"])), f["name"])
        for f in points
    ]
    left = [p for p in places if any(_in_the_way(p, other) for other in places)]
    for x, y, name in places:
        if (x, y, name) not in left:
            _label(axes, name, (x, y), (x + 16, y), "left")
    taken = []
    for x, y, name in sorted(left, key=lambda p: (-p[1], -p[0])):
        column = min(a for a, b, _ in left if abs(b - y) < CLUSTER) - 30
        height = y
        while any(abs(column - a) < CLUSTER and abs(height - b) < LINE for a, b in taken):
            height -= 2
        taken.append((column, height))
        _label(axes, name, (x, y), (column, height), "right")


def _in_the_way(point, other):
    """Whether a name to the right of `point` would lie on `other`, both in pixels."""
    dx, dy = other[0] - point[0], other[1] - point[1]
    return other is not point and -10 < dx < 130 and abs(dy) < LINE


def _label(axes, name, point, at, align):
    to_data = axes.transData.inverted()
    axes.annotate(
        name, to_data.transform(point), to_data.transform(at), fontsize=FONT - 1, color=INK,
        va="center", ha=align,
        arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "relpos": (1, 0.5)}
        if align == "right" else None,
    )  # fmt: skip


def _instructions(axes, document):
    """A bar for each shape of each packed format; its limit as a line across the bars."""
    counts = document["counts"]
    packed = [f for f in document["formats"] if f["counts"]["int8"]]
    packed.sort(key=lambda f: max(c["instructions_per_weight"] for c in f["counts"]["int8"]))
    shapes = [tuple(s) for s in counts["int8_shapes"]]
    _frame(axes, "Thread-instructions per weight, 8-bit activations, one token")
    width = 0.8 / len(shapes)
    for i, f in enumerate(packed):
        at = {(c["rows"], c["K"]): c["instructions_per_weight"] for c in f["counts"]["int8"]}
        present = [s for s in shapes if s in at]
        start = i - width * (len(present) - 1) / 2
        for j, shape in enumerate(present):
            color = SHADES[shapes.index(shape)]
            axes.bar(start + j * width, at[shape], 0.9 * width, color=color)
        limit = counts["limits"].get(f["name"])
        if limit is not None:
            axes.plot([i - 0.44, i + 0.44], [limit, limit], color=LIMIT, linewidth=2.5)
    axes.set_xticks(np.arange(len(packed)), [f["name"] for f in packed])
    axes.set_ylim(0, 3.4)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    handles = [Line2D([], [], color=LIMIT, linewidth=2.5, label="limit")]
    handles += [Patch(color=color, label=f"{rows} x {K}")
                for color, (rows, K) in zip(SHADES, shapes, strict=True)]  # fmt: skip
    axes.legend(handles=handles, loc="upper left", ncol=3, fontsize=FONT, frameon=False)
