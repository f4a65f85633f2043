"""The command line: zerfoo-numba generate | chat | info | tokenize | synth.

Flags carry llama.cpp's names. Results go to stdout and nothing else does; progress (only on a
terminal), timing and errors go to stderr. Exit codes: 0, 2 for anything the user can put right,
130 after Ctrl-C, 141 when the reader of stdout has gone.
"""

import _thread
import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import zerfoo_numba
from zerfoo_numba import commands
from zerfoo_numba.errors import ZerfooError

PROGRAM = "zerfoo-numba"
EXAMPLES = f"""examples:
  {PROGRAM} generate -p "The for statement"
  {PROGRAM} generate -m model.gguf -p "The capital of France is" -n 32
  {PROGRAM} generate -m model.gguf -f prompt.txt --temp 0.8 --top-p 0.9 -s 1 --json
  {PROGRAM} generate -m llm.gguf --mmproj mmproj.gguf --image cat.png -p "This is a picture of"
  {PROGRAM} chat -m model.gguf -sys "Answer in one sentence."
  {PROGRAM} info -m model.gguf -c 8192
  {PROGRAM} tokenize -m model.gguf -p "Hello, world" --ids
  {PROGRAM} synth gemma3-tiny tiny.gguf
  {PROGRAM} synth llama-3.2-1b llama.gguf --quantization Q8_0
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character the terminal lacks is no reason to stop
            stream.reconfigure(errors="replace")
    sys.unraisablehook = interrupt_again
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except ZerfooError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let that find an open file.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """A Ctrl-C that reached a finalizer is lost to the program: it comes again a moment later."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.02, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="GGUF language models decoded by Numba-CUDA kernels.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=zerfoo_numba.__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _generate_flags(_command(subparsers, commands.generate, "continue a text"))
    _chat_flags(_command(subparsers, commands.chat, "talk to a model that has a chat template"))
    _info_flags(_command(subparsers, commands.info, "show what is in a GGUF file"))
    _tokenize_flags(_command(subparsers, commands.tokenize, "text to token ids, or back"))
    _synth_flags(
        _command(subparsers, commands.synth, "write a synthetic model: real shapes, random weights")
    )
    return parser


def _command(
    subparsers: Any, function: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    name = function.__name__
    examples = [line for line in EXAMPLES.splitlines() if f"{PROGRAM} {name} " in line]
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="\n".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=function)
    return parser


def _generate_flags(parser: argparse.ArgumentParser) -> None:
    _model_flags(parser)
    _text_flags(parser.add_mutually_exclusive_group(required=True))
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the text")


def _chat_flags(parser: argparse.ArgumentParser) -> None:
    _model_flags(parser, predict=-1)
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="one message, one answer, no more")
    parser.add_argument("-sys", "--system", metavar="TEXT", help="the system message")


def _info_flags(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("file", nargs="?", metavar="FILE", help="the GGUF file")
    _file_flag(source)
    shown = "tokens of context for which memory is counted; 0: as generate has it (default 0)"
    parser.add_argument("-c", "--ctx-size", type=int, default=0, metavar="N", help=shown)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")


def _tokenize_flags(parser: argparse.ArgumentParser) -> None:
    _file_flag(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    _text_flags(source)
    source.add_argument("--decode", metavar="IDS", help='ids to text, as in "2, 45, 7"')
    parser.add_argument("--no-bos", action="store_true", help="leave out the BOS and EOS tokens")
    parser.add_argument(
        "--no-parse-special", action="store_true", help="control tokens in the text are text"
    )
    parser.add_argument("--ids", action="store_true", help="the ids alone, as a list")
    parser.add_argument("--json", action="store_true", help="one JSON object: ids and pieces")


def _synth_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="without it: the list of names")
    parser.add_argument("out", nargs="?", metavar="OUT", help="the GGUF file to write")
    parser.add_argument("--quantization", metavar="TYPE", help="as Q4_K_M; default: NAME's own")


def _text_flags(group: Any) -> None:
    group.add_argument("-p", "--prompt", metavar="TEXT")
    group.add_argument("-f", "--file", metavar="FILE", help="a UTF-8 text file, - for stdin")


def _file_flag(parser: Any) -> None:
    text = "the GGUF file; default: the small model of this package"
    parser.add_argument("-m", "--model", default=None, metavar="FILE", help=text)


def _model_flags(parser: argparse.ArgumentParser, predict: int = 64) -> None:
    _file_flag(parser)
    parser.add_argument("--mmproj", metavar="FILE", help="the GGUF file of its image tower")
    shown = "an image for the first prompt; may be repeated"
    parser.add_argument("--image", action="append", metavar="FILE", help=shown)
    for names, kind, default, text in (
        ("-n --predict --n-predict", int, predict, "tokens to generate; -1: until the text ends"),
        ("-c --ctx-size", int, 0, "tokens of context; 0: as trained, within reason"),
        ("-s --seed", int, -1, "seed of the draws; -1: another each time"),
        ("--temp", float, 0.0, "temperature; 0 always takes the likeliest token"),
        ("--top-k", int, 40, "draw from the k likeliest tokens; 0: from all"),
        ("--top-p", float, 0.95, "draw from the likeliest that add up to p"),
        ("--min-p", float, 0.05, "draw from those with p times the likeliest's probability"),
        ("--repeat-penalty", float, 1.0, "above 1 makes the last 64 tokens less likely"),
        ("-t --threads", int, None, "CPU threads"),
    ):
        *_, long = names.split()
        parser.add_argument(
            *names.split(),
            type=kind,
            default=default,
            metavar="N",
            dest=long[2:].replace("-", "_"),
            help=text + ("" if default is None else f" (default {default})"),
        )
    parser.add_argument(
        "--device", default="auto", help="auto, cuda, cpu or emulator (default auto)"
    )
    parser.add_argument("--activation", help="float (exact) or int8; default: the device's")
    parser.add_argument("--requantize", metavar="TYPE", help="Q4_0: coarser weights, with a loss")
    parser.add_argument("--cache-type", metavar="TYPE", help="KV cache: f32, f16 (default) or q8_0")
    for name in "kv":
        flags = (f"-ct{name}", f"--cache-type-{name}")
        parser.add_argument(*flags, metavar="TYPE", help=f"the same, of the {name.upper()} alone")
    shown = "look for NaN and infinity in every step, and name the layer of the first"
    parser.add_argument("--check-finite", action="store_true", help=shown)
    parser.add_argument("--no-graph", action="store_true", help="launch every kernel by itself")
