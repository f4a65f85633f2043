"""The demonstration: python -m bench.demo [-m FILE] [-p TEXT] [-n N] [--device D]

Decodes a model on the device at hand and compares every tap of every layer with the NumPy
reference. Without -m it makes gemma3-tiny, whose weights are random: its text means nothing, its
arithmetic is that of Gemma 3.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import reference
import zerfoo_numba
from reference.diff import nmse
from zerfoo_numba.errors import ZerfooError

PROMPT = "Hello"
SHOWN = ("attn_norm", "q", "attn_out", "ffn_act", "ffn_out", "output")


def parity(model, path, ids):
    """{tap: NMSE} with each layer fed with the reference's own input."""
    expected = reference.load_model(path).taps(ids)
    inputs = {n: a for n, a in expected.items() if n.endswith(".input")}
    actual = model.taps(ids, inputs=inputs)
    return {name: nmse(actual[name], want) for name, want in expected.items()}


def show_parity(errors, layers):
    print(f"\nparity with the NumPy reference, NMSE = sum (a-b)^2 / sum b^2\n{'':8}", end="")
    print("".join(f"{name:>10}" for name in SHOWN))
    for i in range(layers):
        row = "".join(f"{errors[f'blk.{i}.{name}']:10.1e}" for name in SHOWN)
        print(f"blk.{i:<4}{row}")
    worst = max(errors, key=errors.get)
    print(f"logits {errors['result_output']:.1e}; the worst of {len(errors)} taps is "
          f"{worst} with {errors[worst]:.1e}")  # fmt: skip


def demonstrate(path, prompt, count, device):
    model = zerfoo_numba.load_model(path, device=device, context=256)
    print(f"{model.config.name} ({model.config.arch}) on {model.device.description}")
    print(f"{prompt}", end="", flush=True)
    for piece in model.stream(prompt, max_tokens=count):
        print(piece, end="", flush=True)
    stats = model.stats
    steps = stats.decode_steps
    print(f"\n\n{stats.prompt_tokens} prompt tokens in {stats.prompt_seconds:.2f} s, "
          f"{steps / stats.generated_seconds:.3g} tokens/s decoded, "
          f"{100 * stats.graph_share:.1f} % of launches from the captured step")  # fmt: skip
    ids = model.tokenizer.encode(prompt)
    exact = zerfoo_numba.load_model(
        path, device=device, context=256, activation="float", cache_type="f32"
    )
    show_parity(parity(exact, path, ids), model.config.L)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument("-m", "--model")
    parser.add_argument("-p", "--prompt", default=PROMPT)
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = options.model
            if path is None:
                from zerfoo_numba.synth import synthesize

                path = str(Path(folder) / "gemma3-tiny.gguf")
                synthesize("gemma3-tiny", path)
            demonstrate(path, options.prompt, options.n, options.device)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
