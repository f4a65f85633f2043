"""What the commands of the command line do, by the package's public interface alone.

Heavy modules are imported by the command that needs them: `info` and `tokenize` start at once.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import zerfoo_numba
from zerfoo_numba.errors import ContextError, FileError, InputError

CHAT_HELP = "/reset forgets the conversation, /exit leaves; a line that ends in \\ continues"


def generate(arguments) -> None:
    prompt = _text(arguments)
    if arguments.file and prompt.endswith("\n"):  # the end of the file, not of the prompt
        prompt = prompt[:-1]
    model = _load(arguments)
    pieces = _progress("reading the prompt", model.stream(prompt, **_sampling(arguments)))
    if arguments.json:
        record = {"prompt": prompt, "text": "".join(pieces), **_stats(model)}
        print(json.dumps(record, ensure_ascii=False))
    else:
        _write(pieces)
    _print_timing(model)


def chat(arguments) -> None:
    model = _load(arguments)
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    history = list(system)
    if arguments.prompt is not None:
        _answer(model, arguments, history, arguments.prompt)
        return
    if sys.stdin.isatty():
        print(CHAT_HELP, file=sys.stderr)
    while (text := _read_turn()) is not None:
        if text == "/exit":
            return
        if text == "/reset":
            history = list(system)
        elif text == "/help":
            print(CHAT_HELP, file=sys.stderr)
        elif text:
            try:
                _answer(model, arguments, history, text)
            except ContextError as error:
                if not sys.stdin.isatty():
                    raise
                print(f"{error}; /reset starts again", file=sys.stderr)


def _answer(model, arguments, history: list[dict], text: str) -> None:
    """One turn; `history` grows only if it is answered. Ctrl-C at a terminal ends the answer."""
    turns = [*history, {"role": "user", "content": text}]
    kept: list[str] = []
    pieces = _progress(
        "reading the conversation", model.stream(model.chat_ids(turns), **_sampling(arguments))
    )
    try:
        _write(pieces, kept.append)
    except KeyboardInterrupt:
        if not sys.stdin.isatty() or arguments.prompt is not None:
            raise
        print()
    if kept:
        history[:] = [*turns, {"role": "assistant", "content": "".join(kept)}]
    _print_timing(model)


def _read_turn() -> str | None:
    """One turn of the user, None at the end of input."""
    lines: list[str] = []
    while True:
        line = _read_line(". " if lines else "> ")
        if line is None:
            return "\n".join(lines) if lines else None
        if not line.endswith("\\"):
            return "\n".join([*lines, line]).strip()
        lines.append(line[:-1])


def _read_line(prompt: str) -> str | None:
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


def info(arguments) -> None:
    from zerfoo_numba import info as contents

    gguf = zerfoo_numba.open_gguf(arguments.file or arguments.model)
    if arguments.json:
        print(json.dumps(contents.record(gguf), ensure_ascii=False))
    else:
        print(contents.table(gguf))


def tokenize(arguments) -> None:
    tokenizer = zerfoo_numba.load_tokenizer(arguments.model)
    if arguments.decode is not None:
        try:
            ids = [int(word) for word in arguments.decode.replace(",", " ").strip("[] ").split()]
        except ValueError:
            raise InputError(f"--decode needs token ids, not {arguments.decode!r}") from None
        print(tokenizer.decode(ids, special=True))
        return
    ids = tokenizer.encode(
        _text(arguments),
        add_special=not arguments.no_bos,
        parse_special=not arguments.no_parse_special,
    )
    if arguments.json:
        pieces = [tokenizer.pieces[i] for i in ids]
        print(json.dumps({"ids": ids, "pieces": pieces}, ensure_ascii=False))
    elif arguments.ids:
        print(ids)
    else:
        for i in ids:
            print(f"{i:6} -> {tokenizer.pieces[i]!r}")


def synth(arguments) -> None:
    from zerfoo_numba import synth as models

    if arguments.name is None:
        print(models.table())
        return
    if arguments.out is None:
        raise InputError(f"synth {arguments.name} needs the name of the GGUF file to write")
    _note(f"writing {arguments.out}")
    models.synthesize(arguments.name, arguments.out, quantization=arguments.quantization)
    _note("")
    print(f"{arguments.out}: {Path(arguments.out).stat().st_size:,} bytes", file=sys.stderr)


# Parts of the commands ----------------------------------------------------------------------


def _load(arguments):
    _note(f"loading {arguments.model}")
    try:
        model = zerfoo_numba.load_model(
            arguments.model,
            device=arguments.device,
            context=arguments.ctx_size or None,
            activation=arguments.activation,
            cache_type=arguments.cache_type,
            graph=not arguments.no_graph,
            threads=arguments.threads,
            requantize=arguments.requantize,
        )
    finally:
        _note("")
    if sys.stderr.isatty():
        print(f"{model.config.name} on {model.device.description}", file=sys.stderr)
    return model


def _sampling(arguments) -> dict:
    return {
        "max_tokens": arguments.n_predict if arguments.n_predict >= 0 else sys.maxsize,
        "temperature": arguments.temp,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "min_p": arguments.min_p,
        "repeat_penalty": arguments.repeat_penalty,
        "seed": arguments.seed if arguments.seed >= 0 else None,
    }


def _text(arguments) -> str:
    if arguments.prompt is not None:
        return arguments.prompt
    try:
        if arguments.file == "-":
            data = sys.stdin.buffer.read()
        else:
            data = Path(arguments.file).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise FileError(f"{arguments.file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{arguments.file} is no UTF-8 text at byte {error.start}") from None


def _write(pieces: Iterator[str], keep: Callable[[str], object] = lambda piece: None) -> None:
    """Each piece to stdout as it comes, and a newline in the end."""
    for piece in pieces:
        keep(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)


def _progress(what: str, pieces: Iterator[str]) -> Iterator[str]:
    """`pieces`, with a note on the terminal until the first one."""
    _note(what)
    waiting = True
    try:
        for piece in pieces:
            if waiting:
                _note("")
                waiting = False
            yield piece
    finally:
        if waiting:
            _note("")


def _note(text: str) -> None:
    """Progress: one line of the terminal, replaced by the next; "" clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}{' ...' if text else ''}", end="", file=sys.stderr, flush=True)


def _stats(model) -> dict:
    stats = model.stats
    return {
        "model": model.config.name,
        "device": model.device.name,
        "prompt_tokens": stats.prompt_tokens,
        "prompt_seconds": stats.prompt_seconds,
        "generated_tokens": stats.generated_tokens,
        "decode_steps": stats.decode_steps,
        "generated_seconds": stats.generated_seconds,
        "graph_share": stats.graph_share,
    }


def _print_timing(model) -> None:
    stats = _stats(model)
    # The first token comes from the prompt's last logits: no decode step, and none of its time.
    steps = stats["decode_steps"]
    parts = [
        f"{what} {count} tokens in {seconds:.2f} s" + (f" ({n / seconds:.1f}/s)" if n else "")
        for what, count, n, seconds in (
            ("prompt", stats["prompt_tokens"], stats["prompt_tokens"], stats["prompt_seconds"]),
            ("generated", stats["generated_tokens"], steps, stats["generated_seconds"]),
        )
    ]
    graph = f"{stats['graph_share']:.0%} of launches from the graph"
    print("; ".join([*parts, stats["device"], graph]), file=sys.stderr)
