"""Every GGUF block format, its accuracy, its instructions and its speed: python -m bench.quants

  [--out reports] [-m MODEL] [--text FILE] [--tokens N] [--formats Q4_0,Q4_K] [--json]

For each format: bits per weight; the error of weights and of a model's logits against float32, on
the float path and with 8-bit activations; thread-instructions and memory sectors of its matvec by
the emulator, at the shapes of Gemma 3 1B and Mistral 7B; GB/s on the CPU and on a GPU, where they
are. MODEL is a synthetic shape or a GGUF file; with a file and a text, perplexity too. By default
it is the model of this package, on text that it was not trained on. Writes quants.md, quants.json
and quants.png.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import zerfoo_numba
from bench import quants_counts, quants_error, quants_speed
from bench.environment import environment
from bench.quants_table import markdown
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import FileError, InputError, ZerfooError
from zerfoo_numba.quant import QUANTS
from zerfoo_numba.quant.packed import LAYOUTS

CC = (9, 0)


def measure(names, model, text, tokens, progress):
    """The whole document for the formats of those names, ready for JSON."""
    found = quants_speed.devices()
    counts = quants_counts.measure(names, quants_counts.Counter(CC), progress)
    runtime = found.get("cuda") or found.get("cpu") or open_device("emulator")
    with tempfile.TemporaryDirectory() as folder:
        floats = quants_error.FloatModel(model, folder, text, tokens)
        errors = quants_error.measure(names, floats, runtime, progress)
    accuracy = {
        "model": floats.name,
        "synthetic": floats.synthetic,
        "tokens": floats.tokens,
        "text": floats.text,
        "int8_device": runtime.description,
    }
    speeds = quants_speed.measure(names, found, progress)
    return {
        "environment": environment(),
        "accuracy": accuracy,
        "counts": {
            "cc": list(CC),
            "int8_shapes": quants_counts.SHAPES,
            "float_shape": quants_counts.FLOAT_SHAPE,
            "limits": quants_counts.LIMITS,
            "weight_bytes_limit": quants_counts.SECTOR_LIMIT,
        },
        "speed": {
            "shape": quants_speed.SHAPE,
            "devices": {name: device.description for name, device in found.items()},
        },
        "formats": [_format(name, counts[name], errors.get(name), speeds[name]) for name in names],
    }


def _format(name, counts, errors, speeds):
    quant = QUANTS[name]
    packed = None
    if name in LAYOUTS:
        rows, K = quants_counts.FLOAT_SHAPE
        size = quants_counts.file_bytes(name, rows, K)
        packed = LAYOUTS[name].packed_bytes(rows, K) / size
    return {
        "name": name,
        "bits_per_weight": 8 * quant.block_bytes / quant.block_size,
        "block_size": quant.block_size,
        "packed_over_file_bytes": packed,
        "errors": errors,
        "counts": counts,
        "gb_per_s": speeds,
    }


def parser():
    result = argparse.ArgumentParser(
        prog="python -m bench.quants", description="Every GGUF block format, measured."
    )
    result.add_argument("--out", type=Path, default=Path("reports"))
    result.add_argument("-m", "--model", default=str(zerfoo_numba.sample_model()),
                        help="a synthetic shape or a GGUF file, else the package's")  # fmt: skip
    result.add_argument("--text", help="a text file for the perplexity of a model from a file")
    result.add_argument("--tokens", type=int, default=quants_error.TOKENS)
    result.add_argument("--formats", help=f"some of {','.join(QUANTS)}; by default all")
    result.add_argument("--json", action="store_true", help="the document on stdout as well")
    return result


def main(arguments=None):
    options = parser().parse_args(arguments)

    def progress(line):
        print(line, file=sys.stderr)

    try:
        if options.tokens < 2:
            raise InputError("--tokens takes a number of at least 2")
        names = options.formats.split(",") if options.formats else list(QUANTS)
        if unknown := [name for name in names if name not in QUANTS]:
            raise InputError(f"--formats {','.join(unknown)}: choose some of {','.join(QUANTS)}")
        document = measure(names, options.model, options.text, options.tokens, progress)
        paths = write(document, options.out)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=1) if options.json else markdown(document), end="")
    for path in paths:
        print(f"wrote {path}", file=sys.stderr)
    return 0


def write(document, folder):
    """quants.json, quants.md and quants.png in `folder`; -> their paths."""
    from bench.quants_plot import draw

    paths = [folder / f"quants.{kind}" for kind in ("json", "md", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(document, indent=1) + "\n")
        paths[1].write_text(markdown(document))
        draw(document, paths[2])
    except OSError as error:
        raise FileError(f"{folder} cannot be written ({error.strerror}); try --out") from error
    return paths


if __name__ == "__main__":
    sys.exit(main())
