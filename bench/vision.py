"""Images: python -m bench.vision [--model llava|qwenvl] [-m FILE --mmproj FILE] [--json]

Without -m it makes a small synthetic model; with it, --mmproj names the file of the image tower.
Of one drawn image, the median of the runs: what decoding and resizing take, what tower and
projector take, beside the least time that their floating-point operations need; then a prompt of
that image and some text, and the tokens decoded after it, greedy.

The floor is the operations of every product and attention by the rate of the machine: the published
float32 rate of a known GPU, otherwise what NumPy's matrix product reaches here in the same run.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time

import numpy as np

import zerfoo_numba
from bench import gpus, vision_models
from bench.environment import environment
from zerfoo_numba.errors import InputError, ZerfooError

SIZE = (224, 168)  # width and height of the image
WARM_UP = 4
PRODUCTS = ("matmul", "matvec", "vision_attention")


def timed(device, function):
    """(seconds, what `function` returns)."""
    with device.timer() as timing:
        result = function()
    return timing.seconds, result


def tower_flops(model, prepared):
    """Floating-point operations of the products and attentions of tower and projector."""
    ops = model.tower.ops
    ops.calls = []
    try:
        model.tower.embed(prepared)
        return sum(call.cost.flops for call in ops.calls if call.name in PRODUCTS)
    finally:
        ops.calls = None


def flops_per_s(device):
    """(float32 operations a second, where the figure comes from)."""
    if device.name == "cuda":
        known = [gpu for gpu in gpus.GPUS.values() if gpu.name in device.description]
        if known:
            return 1e12 * known[0].fma_tflops, f"{known[0].name}, published"
        return None, "the GPU is in no table"
    n = 768
    a, b = (np.random.default_rng(i).standard_normal((n, n), np.float32) for i in range(2))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds), f"NumPy's float32 product of {n} x {n}, the best of 5"


def measure(model, image, text, count, runs):
    """One record of medians over `runs`; `text` are token ids before and after the image."""
    from zerfoo_numba.vision.preprocess import prepare

    device, tower = model.device, model.tower
    prepared = prepare(image, tower.config)
    flops = tower_flops(model, prepared)  # kernels are compiled by now
    rate, source = flops_per_s(device)
    tokens = model.read([*text, image, *text])
    samples = {"prepare": [], "tower": [], "prefill": [], "decode": []}
    for _ in range(runs):
        seconds, prepared = timed(device, lambda: prepare(image, tower.config))
        samples["prepare"].append(seconds)
        samples["tower"].append(timed(device, lambda p=prepared: tower.embed(p))[0])
        samples["prefill"].append(timed(device, lambda: model.prefill(tokens))[0])
        model.greedy_start()
        model.continue_greedy(WARM_UP)
        samples["decode"].append(timed(device, lambda: model.continue_greedy(count))[0])
    median = {name: statistics.median(values) for name, values in samples.items()}
    floor = None if rate is None else flops / rate
    return {
        "image_width_px": image.width,
        "image_height_px": image.height,
        "image_tokens": prepared.tokens,
        "prepare_ms": 1e3 * median["prepare"],
        "tower_ms": 1e3 * median["tower"],
        "images_per_s": 1 / (median["prepare"] + median["tower"]),
        "tower_gflop": flops / 1e9,
        "flop_rate_gflop_per_s": None if rate is None else rate / 1e9,
        "flop_rate_source": source,
        "tower_floor_ms": None if floor is None else 1e3 * floor,
        "tower_over_floor": None if floor is None else median["tower"] / floor,
        "prompt_tokens": len(tokens.ids),
        "prompt_tokens_per_s": len(tokens.ids) / median["prefill"],
        "decoded_tokens": count,
        "decode_tokens_per_s": count / median["decode"],
        "samples_s": samples,
    }


def load(options, folder):
    """(model, a name for it) of the files named, or of synthetic ones in `folder`."""
    if (options.m is None) != (options.mmproj is None):
        raise InputError("-m names the text model and --mmproj its image tower: give both or none")
    name, pair = options.m and options.m.rsplit("/", 1)[-1], (options.m, options.mmproj)
    if options.m is None:
        name, pair = f"synthetic {options.model}", vision_models.write(options.model, folder)
    model = zerfoo_numba.load_model(
        pair[0], mmproj=pair[1], device=options.device, activation=options.activation
    )
    return model, name


def run(options):
    with tempfile.TemporaryDirectory() as folder:
        model, name = load(options, folder)
        text = model.tokenizer.encode("What does the picture show, and in which colours?")
        image = vision_models.drawing(*SIZE)
        figures = measure(model, image, text, options.n, options.runs)
    return {
        "kind": "vision",
        "model": name,
        "arch": model.config.arch,
        "projector": model.tower.config.projector,
        "device": model.device.description,
        "backend": model.device.name,
        "activation": model.activation,
        "runs": options.runs,
        **figures,
        "environment": environment(),
    }


def table(record):
    """The record as lines of text."""
    floor = "unknown"
    if record["tower_floor_ms"] is not None:
        floor = f"{record['tower_floor_ms']:.3g} ms ({record['flop_rate_source']})"
    rows = (
        ("image", f"{record['image_width_px']} x {record['image_height_px']}, "
                  f"{record['image_tokens']} tokens"),
        ("prepare", f"{record['prepare_ms']:.3g} ms"),
        ("tower", f"{record['tower_ms']:.3g} ms, {record['tower_gflop']:.3g} GFLOP"),
        ("tower's floor", floor),
        ("images", f"{record['images_per_s']:.3g} a second"),
        ("prompt", f"{record['prompt_tokens_per_s']:.4g} tokens/s of {record['prompt_tokens']}"),
        ("decode", f"{record['decode_tokens_per_s']:.4g} tokens/s over {record['decoded_tokens']}"),
    )  # fmt: skip
    head = f"{record['model']} ({record['arch']}, {record['projector']}) on {record['device']}"
    return "\n".join([head, *(f"{name:<14}{value}" for name, value in rows)])


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.vision", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", choices=sorted(vision_models.TOWERS), default="llava")
    parser.add_argument("-m", help="a GGUF file of a text model")
    parser.add_argument("--mmproj", help="the GGUF file of its image tower")
    parser.add_argument("-n", type=int, default=32, help="decoded tokens per run (default 32)")
    parser.add_argument("-r", "--runs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--activation", choices=("float", "int8"))
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of lines")
    options = parser.parse_args(argv)
    if options.n < 1 or options.runs < 1:
        parser.error("-n and --runs take a number of at least 1")
    try:
        record = run(options)
    except ZerfooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(record, indent=2) if options.json else table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
