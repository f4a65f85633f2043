"""Messages to prompt text, by the Jinja templates that a GGUF file carries.

tokenizer.chat_template is the file's template; tokenizer.chat_template.NAME are further ones for
special purposes ("tool_use", "rag"). Templates are untrusted: see `template_sandbox`.
"""

import jinja2
from jinja2.sandbox import SecurityError

from zerfoo_numba.errors import FileError, InputError, shown
from zerfoo_numba.text import placeholders, template_sandbox
from zerfoo_numba.text.template_limits import TIME_LIMIT_S, TimeUp

_KEY = "tokenizer.chat_template"
# Files name a template of llama.cpp's instead of carrying one (llama-chat.cpp); RWKV's do.
NAMED = {
    "rwkv-world": (
        "{% for message in messages %}"
        "{{ message['role']|capitalize }}: {{ message['content']|trim }}\n\n"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}


def templates(metadata: dict) -> dict[str, str]:
    """Name -> template of a GGUF file; the one without a name is "default". Errors: FileError for
    a template that is no text."""
    found = {"default": metadata[_KEY]} if _KEY in metadata else {}
    for key, value in metadata.items():
        if key.startswith(f"{_KEY}."):
            found.setdefault(key.removeprefix(f"{_KEY}."), value)
    for name, value in found.items():
        if not isinstance(value, str):
            raise FileError(f"{_KEY}: the template {shown(name)} is {shown(value)}, not a text")
    return found


def render_for(
    metadata: dict, tokenizer, messages: list[dict], template: str | None = None, **options
) -> str:
    """`render` with a template and the BOS and EOS texts of a GGUF file.

    template: the name of one; None is the default. Errors: as `render`, FileError for a file
    without a template, InputError for a name that the file does not have.
    """
    known = templates(metadata)
    if not known:
        raise FileError(
            f"the file has no key {_KEY}, so it is no chat model; "
            "`generate` continues plain text with it"
        )
    if (template or "default") not in known:
        raise InputError(
            f"the file has no chat template {template or 'default'!r}; it has {', '.join(known)}"
        )
    text = known[template or "default"]
    bos, eos = (
        "" if i is None else tokenizer.pieces[i] for i in (tokenizer.bos_id, tokenizer.eos_id)
    )
    return render(NAMED.get(text, text), messages, bos_token=bos, eos_token=eos, **options)


def prompt_ids(metadata: dict, tokenizer, messages: list[dict], **options) -> list[int]:
    """The token ids of `render_for`, ready for an answer.

    They begin with the BOS token if the file asks for one, whether the template writes it or not,
    as in llama.cpp. Errors: as `render_for`.
    """
    text = render_for(metadata, tokenizer, messages, **options)
    return _begun(tokenizer, tokenizer.encode(text, add_special=False, parse_special=True))


def prompt_items(metadata: dict, tokenizer, messages: list[dict], **options) -> list:
    """`prompt_ids` with images among the ids, where messages have image parts.

    A template that knows images says where they stand; in any other they stand where their parts
    do. Errors: as `render_for`, and InputError for a part without its image.
    """
    _check_messages(messages)
    images = placeholders.images_of(messages)
    if not images:
        return prompt_ids(metadata, tokenizer, messages, **options)
    kind = placeholders.placeholder(tokenizer)
    try:
        seen = placeholders.without_images(messages, kind)
        text = render_for(metadata, tokenizer, seen, **options)
    except (FileError, InputError):  # it takes contents for texts, or says which it refuses
        text = ""
    if text.count(kind.text) == len(images) and placeholders.MARK not in text:
        text = placeholders.found(text, kind)
    else:
        seen = placeholders.marked(messages, kind)
        text = render_for(metadata, tokenizer, seen, **options)
    if text.count(placeholders.MARK) != len(images):
        raise InputError(f"the chat template leaves out images: {len(images)} were given")
    return _begun(tokenizer, placeholders.items(tokenizer, text, images))


def _begun(tokenizer, ids: list) -> list:
    """`ids` after the BOS token, if the file asks for one that they lack."""
    begun = ids and isinstance(ids[0], int) and ids[0] == tokenizer.bos_id
    return [tokenizer.bos_id, *ids] if tokenizer.add_bos and not begun else ids


def render(
    template: str,
    messages: list[dict],
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    time_limit_s: float = TIME_LIMIT_S,
    **values,
) -> str:
    """The prompt text for `messages` ([{"role": ..., "content": ...}, ...]).

    values: more of what a template may ask for: tools, documents, enable_thinking, ... The text
    holds control tokens spelled out, so it is encoded with parse_special.
    Errors: InputError for malformed messages and for those that the template itself refuses;
    FileError for a template that is broken, or that the sandbox or a limit stops.
    """
    _check_messages(messages)
    values = {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
        **values,
    }
    try:
        return template_sandbox.run(template, values, time_limit_s)
    except template_sandbox.Refusal as error:
        raise InputError(f"the chat template refuses these messages: {_short(error)}") from None
    except (SecurityError, TimeUp) as error:
        raise FileError(f"the chat template was stopped: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        raise FileError(f"line {error.lineno} of the chat template: {error.message}") from None
    except Exception as error:  # whatever an untrusted template provokes in the code it calls
        what = f"{type(error).__name__}: {_short(error)}"
        raise FileError(f"the chat template fails: {what}") from None


def _short(error: Exception) -> str:
    """What an untrusted template may put into an error message."""
    return " ".join(str(error).split())[:400]


def _check_messages(messages: list[dict]) -> None:
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError("messages must be a list of at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f'message {i} must be a dict with a "role" and a "content"')
        if "tool_calls" not in message and not isinstance(message.get("content"), str | list):
            raise InputError(f'the "content" of message {i} must be a str or a list of parts')
