"""Documents with a page of their own: NAME.json beside the page of results, and how it is shown."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import guided, kernels_report, native, numba_suite, quants_plot, quants_table


@dataclass(frozen=True)
class Document:
    """`page(document)` is NAME.md; `draw(document, path)` writes NAME.png, if there is one."""

    page: Callable
    draw: Callable | None = None


def _kernels(document):
    rows = [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]
    return kernels_report.markdown(rows, document["environment"])


DOCUMENTS = {
    "quants": Document(quants_table.markdown, quants_plot.draw),
    "kernels": Document(_kernels),
    "native": Document(native.markdown),
    "q4_k_matvec": Document(guided.page),
    "numba_suite": Document(numba_suite.markdown),
}
