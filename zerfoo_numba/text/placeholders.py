"""Where images stand in a prompt: the text that marks them, and ids with images among them."""

from typing import NamedTuple

from zerfoo_numba.errors import InputError

# Private use: no template writes it, and no text that means something. A place for an image; and
# what a user wrote that only looks like one.
MARK, OWN = "\ue000image\ue001", "\ue000text\ue001"


class Placeholder(NamedTuple):
    """How a family of models marks an image in its text.

    text: what its chat templates write for one. expanded: what stands before and after the image's
    tokens instead of it, as the model's published processor has it. alone: the same where the
    text itself marks nothing.
    """

    text: str
    expanded: tuple[str, str]
    alone: tuple[str, str]


_GEMMA = ("\n\n<start_of_image>", "<end_of_image>\n\n")
# The first whose text is a token of the vocabulary; the last needs none: LLaVA's.
PLACEHOLDERS = (
    Placeholder("<|image_pad|>", ("", ""), ("<|vision_start|>", "<|vision_end|>")),
    Placeholder("<start_of_image>", _GEMMA, _GEMMA),
    Placeholder("<image>", ("", ""), ("", "\n")),
)


def placeholder(tokenizer):
    """The Placeholder of the models that have this vocabulary."""
    pieces = set(tokenizer.pieces)
    return next((p for p in PLACEHOLDERS if p.text in pieces), PLACEHOLDERS[-1])


def prompt_items(tokenizer, prompt, images):
    """Token ids and images of a plain prompt: images in the places it marks, or else before it.

    Errors: InputError where it marks another number of places than there are images.
    """
    kind = placeholder(tokenizer)
    marked = prompt.count(kind.text)
    if marked not in (0, len(images)) or MARK in prompt:
        raise InputError(
            f"the prompt has {marked} times {kind.text} for {len(images)} images: mark all or none"
        )
    if marked:
        text = prompt.replace(kind.text, MARK.join(kind.expanded))
    else:
        text = MARK.join(kind.alone) * len(images) + prompt
    first = [tokenizer.bos_id] if tokenizer.add_bos else []
    return [*first, *items(tokenizer, text, images)]


def items(tokenizer, text, images):
    """The token ids of `text`, with `images` in the places of its marks."""
    first, *rest = text.split(MARK)
    found = tokenizer.encode(first, add_special=False, parse_special=True)
    for image, piece in zip(images, rest, strict=True):
        found += [image, *tokenizer.encode(piece, add_special=False, parse_special=True)]
    return found


def images_of(messages):
    """The images in the content parts of `messages`, in their order.

    A part is {"type": "image", "image": ...} or {"type": "image_url", "image_url": {"url": ...}}.
    Errors: InputError for a part that says image and has none.
    """
    return [_image(part) for message in messages for part in _parts(message) if _is_image(part)]


def without_images(messages, kind):
    """`messages` as a template may see them: nothing but the type in image parts, and OWN where a
    text has the placeholder itself."""
    return [
        {key: _seen(v, kind) if key == "content" else v for key, v in message.items()}
        for message in messages
    ]


def _seen(content, kind):
    if isinstance(content, list):
        return [_seen(part, kind) for part in content]
    if _is_image(content):
        return {"type": "image"}
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return {**content, "text": _seen(content["text"], kind)}
    return content.replace(kind.text, OWN) if isinstance(content, str) else content


def found(text, kind):
    """A rendered `text` with MARK for every placeholder, and a user's own as it was."""
    return text.replace(kind.text, MARK.join(kind.expanded)).replace(OWN, kind.text)


def marked(messages, kind):
    """`messages` with text for content and the image parts as marks in it, for a template that
    knows no images."""
    mark = MARK.join(kind.alone)
    return [
        {**message, "content": "".join(_text(part, mark) for part in _parts(message))}
        if _parts(message)
        else message
        for message in messages
    ]


def _parts(message):
    """The content parts of a message; none where its content is a text."""
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _is_image(part):
    return isinstance(part, dict) and part.get("type") in ("image", "image_url")


def _image(part):
    found = part.get("image")
    if part["type"] == "image_url":
        url = part.get("image_url")
        found = url.get("url") if isinstance(url, dict) else url
    if found is None:
        raise InputError(f'an image part needs its image: {{"type": "{part["type"]}", ...}}')
    return found


def _text(part, mark):
    if _is_image(part):
        return mark
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return part["text"]
    raise InputError('a part of a message is {"type": "text", "text": ...} or an image')
