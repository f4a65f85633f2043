"""What in README.md comes from the code and from reports/: python -m bench.readme [--check]

Rewrites what stands between `<!-- bench.readme: NAME -->` and `<!-- end -->`: the tables of
architectures and block formats, the measured results, and the picture. --check writes nothing and
exits with 1 if the file is not what it would become.
"""

import argparse
import re
import sys
from pathlib import Path

from bench import report_sections, roofline_plot, store
from bench.report import Page
from zerfoo_numba.architectures import ARCHS
from zerfoo_numba.errors import ZerfooError
from zerfoo_numba.features import VOCABULARIES
from zerfoo_numba.projectors import PROJECTORS
from zerfoo_numba.quant import QUANTS, floats, fp4, fp8, iquants, kquants, legacy, ternary

ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- bench\.readme: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
FORMATS = {
    "floats": floats, "one scale a block": legacy, "K-quants": kquants, "I-quants": iquants,
    "ternary": ternary, "FP4": fp4, "FP8": fp8,
}  # fmt: skip


def architectures(_):
    """What `general.architecture` may say, and the parts around it."""
    rows = {
        "attention": [s for s in ARCHS.values() if s.mixer == "attention" and not _experts(s)],
        "attention, mixture of experts": [s for s in ARCHS.values() if _experts(s)],
        "recurrent": [s for s in ARCHS.values() if s.mixer != "attention"],
    }
    yield from ("| what | names in the file |", "|---|---|")
    for what, specs in rows.items():
        yield f"| {what} | {_names(spec.arch for spec in specs)} |"
    yield f"| image projector (`mmproj`) | {_names(PROJECTORS)} |"
    kinds = ", ".join(f"`{name}` ({what})" for name, what in VOCABULARIES.items())
    yield f"| vocabulary | {kinds} |"


def _experts(spec):
    return "expert_count" in spec.requires


def _names(names):
    return ", ".join(f"`{name}`" for name in names)


def formats(_):
    """Every block format by family, with its bits per weight."""
    yield from ("| family | formats, bits per weight |", "|---|---|")
    for family, module in FORMATS.items():
        found = [QUANTS[name] for name in module.LAYOUTS]
        cells = (f"`{q.name}` {8 * q.block_bytes / q.block_size:.4g}" for q in found)
        yield f"| {family} | {', '.join(cells)} |"


def results(reports):
    """What was measured beside other runtimes and alone, a row a file."""
    page = Page(reports.parent, store.read_all(reports))
    for kind, section in (("compare", report_sections.peers), ("tps", report_sections.decode)):
        if page.of(kind):
            section(page)
    for line in page.lines or ["Nothing is recorded yet.", ""]:
        yield re.sub("^## ", "### ", line)
    yield f"All results: [{reports.name}/README.md]({reports.name}/README.md)."


def picture(reports):
    """A measured roofline, else a predicted one, else what each block format costs."""
    rooflines = sorted(
        (not roofline_plot.measured(record), path.with_suffix(".png"))
        for path, kind, record in store.read_all(reports)
        if kind == "roofline"
    )
    path = reports / "quants.png"
    alternative = "What each block format costs in accuracy, instructions and time"
    if rooflines:
        predicted, path = rooflines[0]
        ceilings = "a GPU's published rates, predicted" if predicted else "measured ceilings"
        alternative = f"Every kernel of a decode step and a prefill under {ceilings}"
    if path.exists():
        yield f"![{alternative}]({path.relative_to(reports.parent).as_posix()})"


PARTS = {f.__name__: f for f in (architectures, formats, results, picture)}


def rendered(text, reports=ROOT / "reports"):
    """`text` with every marked part as it is now."""

    def part(found):
        lines = "\n".join(PARTS[found[2]](reports))
        return f"{found[1]}\n{lines.strip()}\n\n{found[3]}"

    return PART.sub(part, text)


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=first)
    parser.add_argument("--check", action="store_true", help="write nothing, say if it is current")
    options = parser.parse_args(argv)
    path = ROOT / "README.md"
    old = path.read_text()
    try:
        new = rendered(old)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        print(f"{path.name} is {'current' if new == old else 'not current: run bench.readme'}")
        return int(new != old)
    path.write_text(new)
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
