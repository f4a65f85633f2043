"""The shape of the repository: who may import whom, how long a file may be, what it may name."""

import ast
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("zerfoo_numba", "reference", "bench", "tests")
FILE_LINES, FUNCTION_LINES, LONG_FUNCTION = 300, 80, 40
TESTS_BYTES, SMALL_MODEL_BYTES = 5 * 10**6, 4 * 10**6

# The runtime, from the bottom up: a part, its modules, and the parts or modules it may import.
FILE = {"errors", "file"}
_CONFIG = ("metadata", "architectures", "tensors", "config")
_RECURRENT = ("recurrent_config", "recurrent_tensors")
_VISION = ("vision_config", "vision_tensors", "projectors")
PARTS = {
    "errors": ({"errors"}, set()),
    "file": (
        {
            *("gguf_header", "gguf_file", "gguf_writer", "experts_config"),
            *("footprint", "gpu_memory"),
            *(*_CONFIG, *_RECURRENT, *_VISION),
        },
        {"errors"},
    ),
    "text": ({"text", "tokenizer", "chat", "sampling"}, {"errors"}),
    "ptx": ({"ptx"}, {"errors"}),
    "devices": ({"devices"}, {"errors", "ptx"}),
    "quant": ({"quant"}, {"errors", "ptx.instructions"}),
    "kernels": ({"kernels"}, {"errors", "ptx", "quant"}),
    "ops": ({"ops", "expert_ops", "recurrent_ops"}, {"errors", "kernels", "quant"}),
    "walk": (
        {
            "arena",
            "model",
            "feed_forward",
            "fusion",
            "mixers",
            "mixers_rwkv",
            "workspace",
            "vision",
            "cache",
            "weights",
            "rope_tables",
            "scales",
        },
        {*FILE, "ptx", "devices", "quant", "kernels", "ops"},
    ),
    "generate": (
        {
            *("generate", "session", "state", "draws", "stats", "steps"),
            *("finite", "one_at_a_time", "options"),
        },
        {*FILE, "text", "devices", "kernels", "ops", "walk"},
    ),
    "synth": (
        {"synth", "synth_blocks", "synth_recurrent", "synth_shapes", "synth_vocabulary"},
        {*FILE, "text", "quant"},
    ),
    "cli": (
        {
            *("cli", "commands", "conversation", "terminal", "__main__"),
            *("info", "features"),
        },
        {*FILE, "text", "devices", "generate", "synth", "walk"},
    ),
    "package": ({""}, {*FILE, "text", "generate"}),
}
RUNTIME_PACKAGES = {
    *("numpy", "numba", "llvmlite", "cuda", "sentencepiece", "tokenizers", "jinja2", "PIL"),
}
REFERENCE_MAY_IMPORT = {"errors", "file"}
NOT_FOR_FREE = {"numba", "llvmlite", "cuda", "sentencepiece", "tokenizers", "jinja2"}

# Written so that this file does not match itself.
FORBIDDEN_TEXT = {
    "a path of a build machine": r"/(?:work|root|tmp|farm)/[\w.]|\.\./share[d]",
    "a package registry's host": r"\b(?:pypi|pythonhosted|npmjs)\.(?:or[g]|com)|\bdebian\.or[g]",
}


@cache
def tracked():
    """Every file that is, or would be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    paths = (ROOT / line for line in listing.stdout.splitlines())
    return [path for path in paths if path.is_file()]


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Absolute names of the modules that `path` imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if is_module(name) else node.module


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def part_of(name):
    """The part of a module of the runtime: `zerfoo_numba.ptx.compile` is in `ptx`."""
    top = f"{name}.".split(".")[1]
    for part, (modules, _) in PARTS.items():
        if top in modules:
            return part
    raise AssertionError(f"{name} belongs to no part: add it to PARTS in {Path(__file__).name}")


@pytest.mark.parametrize("path", sources("zerfoo_numba"), ids=module_name)
def test_import_directions(path):
    part = part_of(module_name(path))
    allowed = PARTS[part][1]
    for name in imports(path):
        top = name.split(".")[0]
        if top != "zerfoo_numba":
            plugin = {"pytest"} if path.stem == "pytest_plugin" else set()
            known = top in sys.stdlib_module_names or top in RUNTIME_PACKAGES | plugin
            assert known, f"the runtime does not depend on {top}"
            continue
        if name == "zerfoo_numba":  # its version and its folder; nothing of other parts
            continue
        inner = name.removeprefix("zerfoo_numba.")
        fits = part_of(name) in {part, *allowed} or inner in allowed
        assert fits, f"{part} must not import {name}"


@pytest.mark.parametrize("path", sources("reference"), ids=module_name)
def test_the_reference_stands_alone(path):
    if path.stem in ("__main__", "diff"):  # these two compare it with the runtime
        return
    for name in imports(path):
        top = name.split(".")[0]
        if top == "zerfoo_numba":
            assert part_of(name) in REFERENCE_MAY_IMPORT, name
        else:
            pillow = {"PIL"} if path.stem == "vision_images" else set()
            assert top in sys.stdlib_module_names or top in {"numpy", "reference", *pillow}, name


def test_one_contact_with_the_compiler_and_two_with_the_driver():
    places = {"numba.cuda.compiler": set(), "numba.cuda.cudadrv": set(), "cuda": set()}
    for path in sources("zerfoo_numba"):
        for name in imports(path):
            for contact, found in places.items():
                if name == contact or name.startswith(f"{contact}."):
                    found.add(module_name(path))
    compiler = places["numba.cuda.compiler"] | places["numba.cuda.cudadrv"]
    stand_in = "zerfoo_numba.ptx.stand_in.numba_side"  # which makes them believe in a GPU
    assert compiler <= {"zerfoo_numba.ptx.compile", stand_in}
    assert places["cuda"] == {"zerfoo_numba.ptx.link", "zerfoo_numba.devices.cuda", stand_in}


def _loaded_by(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["zerfoo_numba", "reference"])
def test_importing_the_package_stays_cheap(package):
    loaded = _loaded_by(f"import {package}")
    assert package in loaded
    assert not {name.split(".")[0] for name in loaded} & NOT_FOR_FREE


def test_the_reference_loads_nothing_of_the_runtime_but_the_file():
    loaded = _loaded_by("import reference")
    ours = {name for name in loaded if name.startswith("zerfoo_numba.")}
    assert {part_of(name) for name in ours} <= REFERENCE_MAY_IMPORT


@pytest.mark.parametrize("path", sources(*CODE), ids=module_name)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    count = text.count("\n")
    assert count <= FILE_LINES, f"{module_name(path)} has {count} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            where = f"{module_name(path)}.{node.name} has {lines} lines"
            assert lines <= FUNCTION_LINES, where
            if lines > LONG_FUNCTION:
                warnings.warn(f"long function: {where}", stacklevel=1)


def test_no_file_names_a_machine_or_a_registry():
    found = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for what, pattern in FORBIDDEN_TEXT.items():
                if re.search(pattern, line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {what}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_the_repository_stays_small():
    tests = [p for p in tracked() if p.is_relative_to(ROOT / "tests")]
    assert sum(p.stat().st_size for p in tests) < TESTS_BYTES
    models = [
        p for p in tracked() if p.is_relative_to(ROOT / "zerfoo_numba") and p.suffix == ".gguf"
    ]
    assert sum(p.stat().st_size for p in models) < SMALL_MODEL_BYTES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see " + "/wor" + "k/main/x.py", True),
        ("cd " + "/tm" + "p/build", True),
        ("https://" + "pypi." + "org/simple", True),
        ("../share" + "d/notes", True),
        ("a /workload of /tmpfs files in shared/ memory", False),
    ],
)
def test_the_patterns_find_what_they_are_for(text, found):
    assert any(re.search(p, text) for p in FORBIDDEN_TEXT.values()) == found
