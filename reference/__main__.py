"""`python -m reference MODEL IDS|TEXT...` and `python -m reference diff -m MODEL ...`."""

import argparse
import sys

import numpy as np

from reference.diff import DEPARTURE, compare_models, heat_map, table
from reference.model import load_model
from zerfoo_numba.errors import ZerfooError


def main(arguments=None):
    """Runs the command line; returns its exit status: 0, 1 for a departure, 2 for bad input."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["diff"]:
            return diff(_diff_parser().parse_args(arguments[1:]))
        return top_logits(_logits_parser().parse_args(arguments))
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def top_logits(options):
    """Prints the tokens the reference thinks most likely to come next."""
    ids = token_ids(options.model, options.prompt)
    model = load_model(options.model, dtype=options.dtype)
    logits = model.logits(ids)[-1].astype(np.float64)
    pieces = model.gguf.metadata.get("tokenizer.ggml.tokens", [])
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    print(f"{'id':>8}{'logit':>12}{'probability':>13}  piece")
    for i in np.argsort(-logits, kind="stable")[: options.top]:
        piece = repr(pieces[i]) if i < len(pieces) else ""
        print(f"{i:>8}{logits[i]:>12.5f}{probabilities[i]:>13.6f}  {piece}")
    return 0


def diff(options):
    """Compares the runtime with the reference; 1 if a tap departs."""
    import zerfoo_numba

    reference = load_model(options.model)
    ids = token_ids(options.model, options.ids or options.text) or default_ids(reference.config.V)
    cache_type = "f32" if options.activation == "float" else None
    model = zerfoo_numba.load_model(
        options.model,
        device=options.against,
        activation=options.activation,
        cache_type=cache_type,
    )
    threshold = DEPARTURE[options.activation]
    if options.threshold is not None:
        threshold = options.threshold
    report = compare_models(
        model,
        reference,
        ids,
        device=options.against,
        path=options.model,
        fed=options.fed,
        threshold=threshold,
    )
    print(report.to_json() if options.json else table(report))
    if options.png:
        heat_map(report, options.png)
    return 0 if report.departure is None else 1


def default_ids(vocabulary, count=8):
    """Ids for a comparison without a prompt: any will do, as long as they are always the same."""
    return np.random.default_rng(0).integers(0, vocabulary, count).tolist()


def token_ids(path, words):
    """Words of the command line as ids: integers (commas allowed) as they are, else as a text."""
    numbers = [number for word in words or [] for number in word.split(",") if number]
    if all(number.isdecimal() for number in numbers):
        return [int(number) for number in numbers]
    import zerfoo_numba

    return zerfoo_numba.load_tokenizer(path).encode(" ".join(words))


def _logits_parser():
    parser = argparse.ArgumentParser(
        prog="python -m reference",
        description="The most likely next tokens, by the NumPy reference.",
        epilog="See also: python -m reference diff --help",
    )
    parser.add_argument("model", metavar="MODEL", help="a GGUF file")
    parser.add_argument("prompt", nargs="+", metavar="IDS|TEXT", help="token ids, or a text")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--top", type=int, default=10, help="how many tokens to print")
    return parser


def _diff_parser():
    parser = argparse.ArgumentParser(
        prog="python -m reference diff",
        description="The runtime against the NumPy reference, layer by layer.",
    )
    parser.add_argument("-m", "--model", required=True, help="a GGUF file")
    parser.add_argument("--against", default="emulator", choices=("emulator", "cuda", "cpu"))
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--ids", nargs="+", help="token ids to run")
    prompt.add_argument("--text", nargs="+", help="a text to run")
    parser.add_argument(
        "--activation",
        default="float",
        choices=tuple(DEPARTURE),
        help="float: exact mode with an f32 cache; int8: the fast mode",
    )
    parser.add_argument("--fed", action="store_true", help="feed each layer the reference's input")
    parser.add_argument("--threshold", type=float, help="NMSE at which a tap departs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--png", metavar="FILE", help="write a heat map, layers x taps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
