"""Several PTX texts as one: what a linker does, on the level of the text."""

import re

from zerfoo_numba.errors import UnsupportedError

_HEADER = re.compile(r"^\s*\.(version|target|address_size)\b.*\n?", re.M)
_FILE = re.compile(r"(\.(?:loc|file)\s+)(\d+)")
_SYMBOL = re.compile(
    r"^[ \t]*(?P<linkage>\.(?:visible|extern|weak|common)\s+)?"
    r"(?:\.(?P<space>global|const|shared)\b[^;={]*?(?P<variable>[\w$]+)\s*(?:\[[^;={]*)?(?=[;=])"
    r"|\.func\b\s*(?:\([^)]*\)\s*)?(?P<function>[\w$]+))",
    re.M,
)
_TOP = re.compile(
    r"^[ \t]*(?:\.(?:visible|weak|common|extern)\s+)?\.(?:global|const|shared)\b[^;]*;", re.M
)


def merge(texts):
    """One PTX text of several. Names that only one text may see are kept apart, declarations give
    way to definitions, source files are numbered on."""
    texts = [t.replace("\0", "") for t in texts]
    if not texts:
        raise UnsupportedError("there is no PTX to link")
    head, taken, defined, files = "", set(), set(), 0
    parts = []
    for number, text in enumerate(texts):
        if number:
            text = _HEADER.sub("", text)
        else:
            head = "".join(m[0] for m in _HEADER.finditer(text))
            text = _HEADER.sub("", text)
        local, public = _names(text)
        for name in local & (taken | defined):
            text = _renamed(text, name, f"{name}_in{number}")
        taken |= local
        defined |= public
        text = _FILE.sub(lambda m, first=files: f"{m[1]}{int(m[2]) + first}", text)
        files += max((int(m[2]) for m in re.finditer(r"(\.file\s+)(\d+)", text)), default=0)
        parts.append(text)
    return head + _once("\n".join(parts))


def _names(text):
    """-> names that this text keeps to itself, names that it defines for all."""
    local, public = set(), set()
    for match in _SYMBOL.finditer(_outside_functions(text)):
        name, linkage = match["variable"] or match["function"], (match["linkage"] or "").strip()
        if not linkage:
            local.add(name)
        elif linkage != ".extern":
            public.add(name)
    return local, public


def _outside_functions(text):
    """The text without function bodies and debug sections."""
    result, depth, start = [], 0, 0
    for match in re.finditer(r"\)\s*(?:\.\w+[^{;]*)?\{|[{}]", text):
        if match[0] == "}":
            depth -= 1
            if depth == 0:
                start = match.end()
        else:
            if depth == 0:
                result.append(text[start : match.end()])
            depth += 1
    return "".join([*result, text[start:]])


def _renamed(text, name, new):
    return re.sub(rf"(?<![\w$]){re.escape(name)}(?![\w$])", new, text)


def _once(text):
    """Every variable of the module once: a definition where there is one."""
    seen = {}
    for match in _TOP.finditer(text):
        found = _SYMBOL.match(match[0].replace("\n", " "))
        if found is None or found["variable"] is None:
            continue
        rank = 0 if (found["linkage"] or "").strip() == ".extern" else 1
        best = seen.get(found["variable"])
        if best is None or rank > best[0]:
            seen[found["variable"]] = (rank, match.start())
    kept = {start for _, start in seen.values()}

    def keep(match):
        found = _SYMBOL.match(match[0].replace("\n", " "))
        unknown = found is None or found["variable"] is None
        return match[0] if unknown or match.start() in kept else ""

    return _TOP.sub(keep, text)
