"""What bench.campaign measures: each part a command whose answer is JSON, with its own time limit.

The most telling come first, since the time as a whole is limited too.
"""

import os
import sys
from dataclasses import dataclass

from zerfoo_numba import synth

MODELS = {  # the quantisation of each
    "gemma3-1b": "Q4_K_M",
    "deepseek-r1-1.5b": "Q4_K_M",
    "llama-3.2-3b": "Q4_K_M",
    "mistral-7b": "Q5_K_M",
}
# Each switch alone against the default.
SWITCHES = {
    "no-graph": ("--no-graph",),
    "no-fuse": ("--no-fuse",),
    "float": ("--activation", "float"),
    "int8": ("--activation", "int8"),
}
ON_CUDA = {
    "programmatic": ("--programmatic",),
    "five-launches": ("--fuse", "all"),  # a layer
}


@dataclass(frozen=True)
class Part:
    """`name` is that of its file; `command` after the interpreter; `needs` another part's output.

    answer: "json" is on stdout; "pytest" is the last line of stdout, counted; "none" is nothing.
    """

    name: str
    command: tuple[str, ...]
    limit_s: int
    answer: str = "json"


def parts(options, folder):
    """Every part, in order. `folder` holds the models that the parts write and read."""
    python = ("-m",)
    device = ("--device", options.device)
    tps = ("-n", str(options.n), "--runs", str(options.runs), "--json", *device)
    yield Part(
        "ceilings",
        (*python, "bench.ceilings", "--json", "--largest", str(options.largest), *device),
        60,
    )
    for name in options.models:
        path = str(folder / f"{name}.gguf")
        yield Part(f"{name}.write", (*python, "bench.campaign_model", name, quant(name), path), 120)
        run = (*python, "bench.tps", "-m", path, *tps)
        yield Part(f"{name}.default", run, 60)
        if os.environ.get("LLAMA_BENCH"):
            depths = ",".join(map(str, (0, *options.depths)))
            arguments = ("-m", path, "-p", "512", "-n", str(options.n), "-d", depths)
            more = ("-r", str(options.runs), "-ngl", "99", "-o", "json")
            yield Part(
                f"{name}.llama-bench", (os.environ["LLAMA_BENCH"], *arguments, *more), 90, "program"
            )
        for switch, arguments in switches(options.device).items():
            yield Part(f"{name}.{switch}", (*run, *arguments), 60)
        for depth in options.depths:
            yield Part(f"{name}.depth-{depth}", (*run, "--depth", str(depth)), 60)
        prefill = ("--depth", str(options.prefill), "-n", "4")
        yield Part(f"{name}.prefill", (*run, *prefill), 60)
        steps = (*python, "bench.step", "-m", path, "--json", "--gpu", options.gpu, *device)
        # The settings of the default, which bench.tps takes by itself.
        more = ("--activation", "int8", "--cache-type", "f16", "--cached", str(options.cached))
        yield Part(f"{name}.step", (*steps, *more), 90)
    suite = (*python, "pytest", "-p", "no:cacheprovider", *options.parity, *device)
    yield Part("parity", suite, options.parity_limit, "pytest")


def switches(device):
    """{name: arguments of bench.tps} of the switches that a device has."""
    return SWITCHES | (ON_CUDA if device in ("auto", "cuda") else {})


def quant(name):
    return MODELS.get(name) or synth.SHAPES[name].quantization


def interpreter(part):
    """The whole command line of a part."""
    return [*part.command] if part.answer == "program" else [sys.executable, *part.command]
