"""What a command shows while it works: text on stdout, everything else on stderr.

Progress is one line that the next replaces, and only where stderr is a terminal.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

_writing = False  # a text is on the terminal: a note would wipe out the line where it stands


def note(text: str) -> None:
    """Progress: one line of the terminal, replaced by the next; "" clears it."""
    if sys.stderr.isatty() and not _writing:
        print(f"\r\x1b[K{text}{' ...' if text else ''}", end="", file=sys.stderr, flush=True)


def progress(what: str, pieces: Iterator[str]) -> Iterator[str]:
    """`pieces`, with notes on the terminal until the first one."""
    global _writing
    note(what)
    try:
        for piece in pieces:
            if not _writing:
                note("")
                _writing = True
            yield piece
    finally:
        if not _writing:
            note("")
        _writing = False


def write(pieces: Iterator[str], keep: Callable[[str], object] = lambda piece: None) -> None:
    """Each piece to stdout as it comes, and a newline in the end."""
    for piece in pieces:
        keep(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)


def read_line(prompt: str) -> str | None:
    """A line of stdin without its end, None at the end of input."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with contextlib.suppress(ImportError):  # line editing and history, where there is one
            import readline  # noqa: F401
        try:
            return input(prompt)
        except EOFError:
            print()
            return None
    if sys.stdin.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def stats(model: Any) -> dict[str, Any]:
    """What the last generation took, as --json has it."""
    last = model.stats
    return {
        "model": model.config.name,
        "device": model.device.name,
        "prompt_tokens": last.prompt_tokens,
        "prompt_seconds": last.prompt_seconds,
        "images": last.images,
        "image_seconds": last.image_seconds,
        "generated_tokens": last.generated_tokens,
        "decode_steps": last.decode_steps,
        "generated_seconds": last.generated_seconds,
        "graph_share": last.graph_share,
    }


def print_timing(model: Any) -> None:
    """The same as one line on stderr."""
    last = stats(model)
    # The first token comes from the prompt's last logits: no decode step, and none of its time.
    counts = (
        ("prompt", last["prompt_tokens"], last["prompt_tokens"], last["prompt_seconds"]),
        ("generated", last["generated_tokens"], last["decode_steps"], last["generated_seconds"]),
    )
    parts = [
        f"{what} {count} tokens in {seconds:.2f} s" + (f" ({n / seconds:.1f}/s)" if n else "")
        for what, count, n, seconds in counts
    ]
    if last["images"]:
        parts.insert(0, f"images {last['images']} in {last['image_seconds']:.2f} s")
    graph = f"{last['graph_share']:.0%} of launches from the graph"
    print("; ".join([*parts, last["device"], graph]), file=sys.stderr)
