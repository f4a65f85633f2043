"""What the commands of the command line do, by the package's public interface alone.

Heavy modules are imported by the command that needs them: `info` and `tokenize` start at once.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import zerfoo_numba
from zerfoo_numba import terminal
from zerfoo_numba.errors import FileError, InputError


def generate(arguments: Namespace) -> None:
    prompt = _text(arguments)
    if arguments.file and prompt.endswith("\n"):  # the end of the file, not of the prompt
        prompt = prompt[:-1]
    model = _load(arguments)
    images = {"images": arguments.image} if arguments.image else {}
    pieces = model.stream(prompt, **images, **_sampling(arguments))
    pieces = terminal.progress("reading the prompt", pieces)
    if arguments.json:
        record = {"prompt": prompt, "text": "".join(pieces), **terminal.stats(model)}
        print(json.dumps(record, ensure_ascii=False))
    else:
        terminal.write(pieces)
    terminal.print_timing(model)


def chat(arguments: Namespace) -> None:
    from zerfoo_numba.conversation import Conversation

    model = _load(arguments)
    talk = Conversation(model, _sampling(arguments), arguments.system, arguments.image or ())
    if arguments.prompt is None:
        talk.run()
    else:
        talk.say(arguments.prompt)


def info(arguments: Namespace) -> None:
    from zerfoo_numba import info as contents

    gguf = zerfoo_numba.open_gguf(arguments.file or _file(arguments))
    context = arguments.ctx_size or None
    if arguments.json:
        print(json.dumps(contents.record(gguf, context), ensure_ascii=False))
    else:
        print(contents.table(gguf, context))


def tokenize(arguments: Namespace) -> None:
    tokenizer = zerfoo_numba.load_tokenizer(_file(arguments))
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


def synth(arguments: Namespace) -> None:
    from zerfoo_numba import synth as models

    if arguments.name is None:
        print(models.table())
        return
    if arguments.out is None:
        raise InputError(f"synth {arguments.name} needs the name of the GGUF file to write")
    terminal.note(f"writing {arguments.out}")
    models.synthesize(arguments.name, arguments.out, quantization=arguments.quantization)
    terminal.note("")
    print(f"{arguments.out}: {Path(arguments.out).stat().st_size:,} bytes", file=sys.stderr)


# Parts of the commands ----------------------------------------------------------------------


def _file(arguments: Namespace) -> str:
    return arguments.model or str(zerfoo_numba.sample_model())


def _load(arguments: Namespace) -> Any:
    terminal.note(f"loading {_file(arguments)}")
    try:
        model = zerfoo_numba.load_model(
            _file(arguments),
            device=arguments.device,
            context=arguments.ctx_size or None,
            mmproj=arguments.mmproj,
            activation=arguments.activation,
            cache_type=_cache_type(arguments),
            graph=not arguments.no_graph,
            threads=arguments.threads,
            requantize=arguments.requantize,
            progress=terminal.note,
            check_finite=arguments.check_finite,
        )
    finally:
        terminal.note("")
    if sys.stderr.isatty():
        print(f"{model.config.name} on {model.device.description}", file=sys.stderr)
    return model


def _cache_type(arguments: Namespace) -> str | tuple[str, ...] | None:
    """One name, a (K, V) pair, or None for the default, f16, as of what one flag leaves open."""
    both = arguments.cache_type
    pair = (arguments.cache_type_k or both, arguments.cache_type_v or both)
    if pair == (both, both):
        return both
    return tuple(name or "f16" for name in pair)


def _sampling(arguments: Namespace) -> dict[str, Any]:
    return {
        "max_tokens": arguments.n_predict if arguments.n_predict >= 0 else sys.maxsize,
        "temperature": arguments.temp,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "min_p": arguments.min_p,
        "repeat_penalty": arguments.repeat_penalty,
        "seed": arguments.seed if arguments.seed >= 0 else None,
    }


def _text(arguments: Namespace) -> str:
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
