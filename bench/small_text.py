"""The text that the shipped model reads: the documentation inside Python's standard library.

The topics of help(), the docstrings and the longer comments of Lib/*.py of one or more versions of
Python (PSF licence): prose alone, a paragraph a line, each paragraph once. Some documents are kept
back, and with them every paragraph that says much the same in another place.
"""

import ast
import hashlib
import lzma
import random
import re
import runpy
import warnings
from pathlib import Path

HELD_OUT = Path(__file__).with_name("held_out.txt.xz")
PAGE = "\f"  # between two texts
# Topics of help() kept back: to stop training by, and to report the perplexity on.
STOP_TOPICS = ("with", "exceptions", "numbers", "typesmodules")
TEST_TOPICS = ("naming", "typesmapping", "class", "context-managers", "dynamic-features")
EVERY = 60  # of docstrings and comments, one in so many is kept back for each of the two
RUN = 6  # words; a paragraph half of whose runs of words stand in a held-out one is not read


def documents(stdlibs):
    """{key: text}: the prose of each topic, docstring and comment.

    `stdlibs`: folders such as lib/python3.11; a document that several have holds the paragraphs of
    all, the first folder's first. A key is ("topic", name), ("doc", path, name) or ("comment",
    path, first words).
    """
    found = {}
    for stdlib in map(Path, stdlibs):
        topics = runpy.run_path(str(stdlib / "pydoc_data" / "topics.py"))["topics"]
        # The shortest first: what a longer topic repeats of it stays with its heading.
        for name, text in sorted(topics.items(), key=lambda item: (len(item[1]), item[0])):
            found.setdefault(("topic", name), []).append(text)
        for path in sorted(stdlib.rglob("*.py")):
            place = path.relative_to(stdlib)
            if not {"site-packages", "test", "tests", "idle_test"} & set(place.parts):
                _read_module(path, place.as_posix(), found)
    seen, texts = set(), {}
    for key, versions in found.items():
        paragraphs = [p for text in versions for p in prose(text, seen)]
        if sum(map(len, paragraphs)) >= 80:
            texts[key] = "\n\n".join(paragraphs)
    return texts


def _read_module(path, place, found):
    try:
        source = path.read_text("utf-8")
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError):
        return  # files that lib2to3 and the like keep for tests
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = getattr(node, "name", "")
            found.setdefault(("doc", place, name), []).append(ast.get_docstring(node) or "")
    for block in re.findall(r"(?:^[ \t]*#.*\n){2,}", source, re.MULTILINE):
        text = re.sub(r"^[ \t]*# ?", "", block, flags=re.MULTILINE)
        found.setdefault(("comment", place, text[:40]), []).append(text)


def prose(text, seen):
    """The paragraphs of `text` that are sentences and not in `seen`, with the headings before them.

    Marks of code (quotes, backquotes, roles, stars) go; what they mark stays.
    """
    kept, heading = [], ""
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.split("\n")]
        line = " ".join(part for part in lines if not re.fullmatch(r"\W*", part))
        line = re.sub(r":[a-z:]+:`([^`<>]*)`", r"\1", line)
        line = re.sub(r'(["*`]{1,2})(\S|\S[^"*`]{0,40}\S)\1', r"\2", line)
        line = re.sub(r"\s+", " ", line).replace("::", ":").strip()
        if re.fullmatch(r"[A-Z][\w ()/,-]{4,60}", line) and (not kept or len(lines) == 2):
            heading = line
        plain = sum(c.isalpha() or c in " ,." for c in line) / max(len(line), 1)
        mark = re.sub(r"\W+", " ", line).lower()
        if len(line.split()) >= 6 and line[-1] in ".:;!?)" and plain > 0.9 and ">>>" not in line:
            if mark not in seen:
                kept += [heading, line] if heading else [line]
                heading = ""
            seen.add(mark)
    return kept


def split(texts):
    """(texts to read, texts to stop by, texts to report on), each a list.

    From the first go all paragraphs half of whose runs of RUN words stand in the other two.
    """
    stop, test, read = [], [], []
    for key, text in texts.items():
        draw = int(hashlib.sha256(repr(key).encode()).hexdigest(), 16) % EVERY
        if key[0] == "topic":
            draw = 0 if key[1] in STOP_TOPICS else 1 if key[1] in TEST_TOPICS else 2
        (stop if draw == 0 else test if draw == 1 else read).append(text)
    # What is reported on has no near copy in what training is stopped by, either.
    stop = _without(stop, _runs(test))
    return _without(read, _runs(test) | _runs(stop)), stop, test


def _runs(texts):
    return {run for text in texts for p in text.split("\n\n") for run in _words(p)}


def _words(paragraph):
    words = re.findall(r"\w+", paragraph.lower())
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def _without(texts, runs):
    result = []
    for text in texts:
        kept = [p for p in text.split("\n\n") if len((w := _words(p)) & runs) <= len(w) / 2]
        if any(_words(p) for p in kept):
            result.append("\n\n".join(kept))
    return result


def order(texts, read, times):
    """`read` in the order of reading, which has help()'s topics so many times."""
    topics = {text[:200] for key, text in texts.items() if key[0] == "topic"}
    stream = read + (times - 1) * [text for text in read if text[:200] in topics]
    random.Random(0).shuffle(stream)
    return stream


def digest(texts):
    """SHA-256 of texts, a form feed between two."""
    return hashlib.sha256(PAGE.join(texts).encode()).hexdigest()


def held_out():
    """The texts that the shipped model is reported on, as they were when it was trained."""
    return lzma.decompress(HELD_OUT.read_bytes()).decode().split(PAGE)
