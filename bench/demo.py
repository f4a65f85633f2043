"""The demonstration: python -m bench.demo [-m FILE] [-p TEXT] [-n N] [--device D] [--out DIR]

Decodes a model on the device at hand and again on the PTX emulator, which must choose the same
tokens; compares every tap of every layer with the NumPy reference; measures each kernel for the
roofline, which it writes to DIR. Without -m it takes the small model of the package.
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path

import reference
import zerfoo_numba
from bench import roofline
from reference.diff import nmse
from zerfoo_numba.errors import ZerfooError

PROMPT = "The for statement"
COMPARED = 12  # tokens that the emulator decodes as well
CONTEXT = 256
EXACT = {"context": CONTEXT, "activation": "float", "cache_type": "f32"}
SHOWN = ("attn_norm", "q", "attn_out", "ffn_act", "ffn_out", "output")


def decode(path, prompt, count, device):
    """The text on stdout as it comes, and what it took; -> the model."""
    model = zerfoo_numba.load_model(path, device=device, context=CONTEXT)
    print(f"{model.config.name} ({model.config.arch}) on {model.device.description}\n\n{prompt}",
          end="", flush=True)  # fmt: skip
    for piece in model.stream(prompt, max_tokens=count):
        print(piece, end="", flush=True)
    stats = model.stats
    print(f"\n\n{stats.prompt_tokens} prompt tokens in {stats.prompt_seconds:.2f} s, "
          f"{stats.decode_steps / max(stats.generated_seconds, 1e-9):.3g} tokens/s decoded, "
          f"{100 * stats.graph_share:.1f} % of launches from the captured step")  # fmt: skip
    return model


def same_tokens(exact, path, ids, count):
    """Decode by the same kernels, instruction by instruction, and compare; -> whether all agree."""
    print(f"\nthe PTX of the same kernels on the emulator, {count} tokens, float32", flush=True)
    ours = exact.greedy_ids(ids, count)
    theirs = zerfoo_numba.load_model(path, device="emulator", **EXACT).greedy_ids(ids, count)
    for device, tokens in ((exact.device.name, ours), ("emulator", theirs)):
        print(f"{device:10}{' '.join(map(str, tokens))}")
    agree = ours == theirs
    print("the tokens agree" if agree else "THE TOKENS DIFFER")
    return agree


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


def draw_roofline(path, device, folder):
    """Every kernel of a decode step under the ceilings of the device; prints where it is.

    Without a device that has a speed, it is predicted for a GPU from what the emulator counts.
    """
    where = ["--gpu", "H200"] if device == "emulator" else ["--device", device]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = roofline.main(["--model", str(path), *where, "--cached", "64", "--tokens", "16",
                              "--largest", "64", "--out", str(folder)])  # fmt: skip
    print(f"\nroofline: {err.getvalue().strip()}")
    if code == 0:
        page = folder / "roofline.txt"
        page.write_text(out.getvalue())
        print(f"wrote {page}")
    return code


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument("-m", "--model", default=zerfoo_numba.sample_model())
    parser.add_argument("-p", "--prompt", default=PROMPT)
    parser.add_argument("-n", type=int, default=48)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("build") / "demo")
    options = parser.parse_args(argv)
    try:
        model = decode(options.model, options.prompt, options.n, options.device)
        ids = model.tokenizer.encode(options.prompt)
        exact = zerfoo_numba.load_model(options.model, device=options.device, **EXACT)
        agree = same_tokens(exact, options.model, ids, min(COMPARED, options.n))
        show_parity(parity(exact, options.model, ids), model.config.L)
        code = draw_roofline(options.model, model.device.name, options.out)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code if agree else 1


if __name__ == "__main__":
    sys.exit(main())
