"""`python -m reference diff`: the runtime against the reference, layer by layer.

Both run the same ids; every array they name alike is compared. A layer fed with the reference's own
input (--fed) shows its own error alone; a free run (the default) shows how errors travel.
"""

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# The largest NMSE of a tap of a sound free run, over the goldens and a full shape of 16 layers and
# 2048 wide: 1.1e-11 in float32, 1.5e-3 with 8-bit activations. One rounding to float16 makes 4e-8.
DEPARTURE = {"float": 1e-8, "int8": 2e-2}


def nmse(actual, expected):
    """Normalised mean square error, sum (a - b)² / sum b², in float64; inf if a is not finite."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if not np.isfinite(actual).all():
        return math.inf
    error, power = np.sum((actual - expected) ** 2), np.sum(expected**2)
    if power == 0:
        return 0.0 if error == 0 else math.inf
    return float(error / power)


def cosine(actual, expected):
    """Cosine of the angle between two arrays taken as vectors; 1 if both are zero."""
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (actual, expected))
    lengths = math.sqrt(float(a @ a) * float(b @ b)) if np.isfinite(a).all() else math.nan
    return float(a @ b) / lengths if lengths else float(a @ a == b @ b)


@dataclass(frozen=True)
class Difference:
    """One tap of both walks, compared; `nmse` is inf where the runtime's array is not finite."""

    name: str
    shape: tuple[int, ...]
    nmse: float
    max_abs: float
    cosine: float

    @property
    def stage(self):
        """The line of the table this tap belongs to: "blk.3", or its own name outside layers."""
        layer = re.match(r"blk\.\d+", self.name)
        return layer.group() if layer else self.name


@dataclass(frozen=True)
class Report:
    """What a comparison found; taps that only one walk has stand in `missing`."""

    model: str
    arch: str
    layers: int
    device: str
    ids: list[int]
    fed: bool
    threshold: float
    taps: list[Difference]
    missing: list[str]
    top1_agreement: float
    kl_mean: float
    kl_max: float

    @property
    def departure(self):
        """The first tap, in the order of computation, that differs by more than the threshold."""
        return next((tap for tap in self.taps if tap.nmse > self.threshold), None)

    def to_json(self):
        """A JSON text of every figure; null stands for one that is not finite."""
        fields = asdict(self)
        fields["first_departure"] = self.departure and self.departure.name
        for row in [fields, *fields["taps"]]:
            for key, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[key] = None
        return json.dumps(fields, indent=1)


def compare_tap(name, actual, expected):
    """The Difference of two arrays of one shape; ValueError names the tap otherwise."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise ValueError(f"{name} has shape {actual.shape}, in the reference {expected.shape}")
    max_abs = float(np.max(np.abs(actual.astype(np.float64) - expected))) if actual.size else 0.0
    return Difference(name, actual.shape, nmse(actual, expected), max_abs, cosine(actual, expected))


def compare_logits(actual, expected):
    """Top-1 agreement, and mean and largest Kullback-Leibler divergence in nats over positions.

    actual, expected (T, V); the divergence is of the runtime's distribution from the reference's.
    """
    p, q = (_log_softmax(np.asarray(x, np.float64)) for x in (expected, actual))
    divergence = np.sum(np.exp(p) * (p - q), axis=-1)
    agreement = np.mean(np.argmax(actual, axis=-1) == np.argmax(expected, axis=-1))
    return float(agreement), float(np.mean(divergence)), float(np.max(divergence))


def _log_softmax(x):
    x = x - np.max(x, axis=-1, keepdims=True)
    return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def compare_models(model, reference, ids, *, device, path, fed=False,
                   threshold=DEPARTURE["float"]):  # fmt: skip
    """Report on a runtime model against the reference model of the same file."""
    expected = reference.taps(ids)
    inputs = {name: x for name, x in expected.items() if name.endswith(".input")} if fed else None
    actual = model.taps(ids, inputs=inputs)
    with np.errstate(invalid="ignore"):  # a broken runtime may well return inf and nan
        shared = [name for name in expected if name in actual]
        taps = [compare_tap(name, actual[name], expected[name]) for name in shared]
        logits = compare_logits(actual["result_output"], expected["result_output"])
    missing = sorted(set(expected) ^ set(actual))
    ids = [int(i) for i in ids]
    arch, layers = reference.config.arch, reference.config.L
    return Report(str(path), arch, layers, device, ids, fed, threshold, taps, missing, *logits)


def table(report):
    """The report as lines of text: one line a layer, with its output and its worst tap.

    A line with `<` has a tap beyond the threshold, `<<` marks the line of the first such tap.
    """
    title = f"{'stage':<14}{'nmse':>9}{'max abs':>10}{'cosine':>12}  worst tap (nmse)"
    lines = [_headline(report), "", title, "-" * len(title)]
    for stage in dict.fromkeys(tap.stage for tap in report.taps):
        taps = [tap for tap in report.taps if tap.stage == stage]
        end, worst = taps[-1], max(taps, key=lambda tap: tap.nmse)
        mark = " <<" if report.departure in taps else " <" if worst.nmse > report.threshold else ""
        short = worst.name.removeprefix(stage + ".")
        lines.append(
            f"{stage:<14}{end.nmse:>9.1e}{end.max_abs:>10.1e}{end.cosine:>12.8f}"
            f"  {short} ({worst.nmse:.1e}){mark}"
        )
    lines += [f"{name}: only one of the two computes it" for name in report.missing]
    lines += ["", verdict(report)]
    if report.departure and not report.fed:
        lines.append("Later layers inherit the error: --fed gives each the reference's own input.")
    lines.append(
        f"logits: top-1 agreement {report.top1_agreement:.1%} of {len(report.ids)} positions,"
        f" KL mean {report.kl_mean:.1e}, max {report.kl_max:.1e} nats"
    )
    return "\n".join(lines)


def _headline(report):
    how = "each layer fed by the reference" if report.fed else "free run"
    return (
        f"{Path(report.model).name}: {report.arch}, {report.layers} layers, {len(report.ids)}"
        f" tokens; {report.device} against the reference, {how}"
    )


def verdict(report):
    """One sentence: agreement, or the first tap that departs."""
    tap = report.departure
    if tap is None:
        return f"{report.device} agrees: every tap has nmse <= {report.threshold:.0e}"
    return (
        f"{report.device} departs first at {tap.name} {tap.shape}: nmse {tap.nmse:.1e},"
        f" max abs {tap.max_abs:.1e} (threshold {report.threshold:.0e})"
    )


def heat_map(report, path):
    """PNG of log10 nmse, one row a layer and one column a tap. Needs matplotlib.

    Blue agrees and red departs, with the change at the threshold; the first tap to depart has a
    frame. A cell shows the exponent of its nmse, or `=` where not one bit differs.
    """
    from matplotlib import colormaps
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    taps = [tap for tap in report.taps if tap.name.startswith("blk.")]
    stages = list(dict.fromkeys(tap.stage for tap in taps))
    names = list(dict.fromkeys(tap.name.removeprefix(tap.stage + ".") for tap in taps))
    grid = np.full((len(stages), len(names)), np.nan)  # grey where a layer lacks the tap
    figure = Figure(figsize=(3 + 0.5 * len(names), 2.4 + 0.28 * len(stages)), layout="constrained")
    axes = figure.subplots()
    middle = min(max(math.log10(max(report.threshold, 1e-16)), -15.9), -0.1)
    scale, colours = TwoSlopeNorm(middle, vmin=-16, vmax=0), colormaps["RdYlBu_r"]
    for tap in taps:
        at = names.index(tap.name.removeprefix(tap.stage + ".")), stages.index(tap.stage)
        value = math.log10(min(max(tap.nmse, 1e-16), 1.0))
        text = f"{value:.0f}" if 0 < tap.nmse <= 1 else "=" if tap.nmse == 0 else f"{tap.nmse:.0g}"
        grid[at[1], at[0]] = value
        shade = np.dot(colours(scale(value))[:3], [0.3, 0.6, 0.1])
        colour = "white" if shade < 0.5 else "black"
        axes.text(*at, text, ha="center", va="center", fontsize=7, color=colour)
        if tap is report.departure:
            corner = at[0] - 0.5, at[1] - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=2.5, clip_on=False))
    axes.set_facecolor("lightgrey")
    image = axes.imshow(grid, norm=scale, cmap=colours, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(stages)), stages)
    figure.suptitle(f"{_headline(report)}\n{verdict(report)}", fontsize=9)
    figure.colorbar(
        image, label="log10 nmse", ticks=[-16, middle / 2 - 8, middle, 0], format="%.0f"
    )
    figure.savefig(path, dpi=120)
