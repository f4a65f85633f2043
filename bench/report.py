"""The page of results: python -m bench.report [--reports reports] [--check]

Renders README.md and its pictures in that folder from the files of the store (bench/store.py), and
beside them the pages of single documents, such as quants.md from quants.json: no number is typed by
hand, and each row links to the file that it comes from. Measured and predicted figures stand in
different tables. A file that is cut off or edited ends the command with the reason.

--check writes nothing: it says which page is not what its file renders to, which picture was drawn
from another record and which figure has no file with its environment; if there are any it exits 1.
"""

import argparse
import json
import sys
from pathlib import Path

from bench import picture, report_plot, roofline_plot, store
from bench.report_documents import DOCUMENTS
from bench.report_sections import SECTIONS
from zerfoo_numba.errors import FileError, ZerfooError

PAGE, TOKENS = "README.md", "tokens.png"
CONTRIBUTING = """\
## Contributing a result

```
python -m bench.contribute -m model.gguf            # on the GPU, or --device cpu
python -m bench.contribute --campaign DIR           # what bench.campaign --out DIR measured
```

It measures the machine's ceilings, decoding with and without the graph, and each peer that is there
(`LLAMA_BENCH`, `OLLAMA_HOST`, `VLLM_HOST`), and writes one file for each to `reports/MACHINE/`,
with every sample, versions, commit and settings; no host name, user name or path. `bench/store.py`
describes the fields; a file that was edited or cut off is refused. Then `python -m bench.report`
renders this page, and `python -m bench.report --check` says whether page and files agree.
"""


class Page:
    """Lines of Markdown, from results [(path, kind, record)] in `folder`."""

    def __init__(self, folder, results):
        self.folder, self.lines = folder, []
        self.by_kind = {}
        for path, kind, record in results:
            self.by_kind.setdefault(kind, []).append((path, record))

    def of(self, kind):
        return self.by_kind.get(kind, [])

    def place(self, path):
        return path.relative_to(self.folder).as_posix()

    def link(self, path):
        return f"[file]({self.place(path)})"

    def table(self, title, headings, rows, note="", command=None):
        """A section of rows; without any, one that names the `command` that measures them."""
        if not rows and command is None:
            return
        self.lines += [f"## {title}", ""]
        if not rows:
            self.lines += [f"No run is recorded: `{command}`.", ""]
            return
        if note:
            self.lines += [note, ""]
        self.lines += ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
        self.lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        self.lines.append("")

    def picture(self, alternative, place):
        self.lines += [f"![{alternative}]({place})", ""]


def _cell(value):
    return str(value).replace("|", "\\|")


def text(folder, results):
    """The page as Markdown."""
    page = Page(folder, results)
    page.lines += ["# Results", "", f"Rendered by `python -m bench.report` from {len(results)} "
                   "files of this folder; no number is typed by hand.", ""]  # fmt: skip
    for section in SECTIONS:
        section(page)
    names = sorted(path.stem for path in folder.glob("*.json"))
    others = [f"{n}.md" for n in names if n in DOCUMENTS or (folder / f"{n}.md").exists()]
    if others:
        links = ", ".join(f"[{name}]({name})" for name in others)
        page.lines += ["## Pages of their own", "", f"{links}.", ""]
    page.lines.append(CONTRIBUTING)
    return "\n".join(page.lines)


def pictures(folder, results):
    """{path of a picture of the store: (function that draws it there, digests that it names)}."""
    found = {}
    for path, kind, record in results:
        if kind == "roofline":

            def draw(target, record=record):
                roofline_plot.draw(record, target)

            found[path.with_suffix(".png")] = draw, [store.digest(record)]
    bars = [(kind, record) for _, kind, record in results if report_plot.bar(kind, record)]
    if bars:
        digests = [store.digest(record) for _, record in bars]
        found[folder / TOKENS] = (lambda target: report_plot.draw(bars, target)), digests
    return found


def documents(folder):
    """{name: (document, its Document)} of the JSON files beside the page; FileError if broken."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text())
        except ValueError as error:
            raise FileError(f"{path} is no whole JSON file ({error}); it may be cut off") from None
        found[path.stem] = document, DOCUMENTS.get(path.stem)
    return found


def render(folder):
    """Write the page, the pages of documents and every picture; -> the number of results."""
    results = store.read_all(folder)
    (folder / PAGE).write_text(text(folder, results))
    for path, (draw, _) in pictures(folder, results).items():
        draw(path)
    for name, (document, known) in documents(folder).items():
        if known is None:
            continue
        (folder / f"{name}.md").write_text(known.page(document))
        if known.draw is not None:
            known.draw(document, folder / f"{name}.png")
    return len(results)


def _commits(document):
    """The commit of each run that a document tells of, or None."""
    runs = document["runs"].values() if isinstance(document.get("runs"), dict) else [document]
    for run in runs:
        commit = run.get("environment", run).get("build_commit", "unknown")
        yield None if commit == "unknown" else commit


def violations(folder):
    """What in `folder` cannot be traced to a file: sentences."""
    results, found, own = store.read_all(folder), [], set()
    pages = {folder / PAGE: text(folder, results)}
    drawn = {path: digests for path, (_, digests) in pictures(folder, results).items()}
    for name, (document, known) in documents(folder).items():
        if not all(_commits(document)):
            found.append(f"{name}.json names no commit")
        if known is None:  # its own command writes its page
            own |= {folder / f"{name}.md", folder / f"{name}.png"}
            continue
        pages[folder / f"{name}.md"] = known.page(document)
        if known.draw is not None:
            drawn[folder / f"{name}.png"] = [store.digest(document)]
    for path, wanted in pages.items():
        if not path.exists() or path.read_text() != wanted:
            found.append(f"{path.name} is not what its files render to; run bench.report")
    for path, digests in drawn.items():
        if not path.exists() or picture.sources(path) != sorted(digests):
            found.append(f"{path.name} was not drawn from the files beside it; run bench.report")
    for path in sorted([*folder.rglob("*.md"), *folder.rglob("*.png")]):
        if path not in own and path not in pages and path not in drawn:
            found.append(f"{path.relative_to(folder)} comes from no file that is here")
    return found


def main(argv=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=first)
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="write nothing; say what disagrees")
    options = parser.parse_args(argv)
    try:
        if options.check:
            found = violations(options.reports)
            print("\n".join(found) or f"{options.reports}: every figure has its file")
            return 1 if found else 0
        count = render(options.reports)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.reports / PAGE}: {count} results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
