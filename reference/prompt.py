"""Token ids with images among them, as the walk needs them: rows, positions, who sees whom."""

import os
from dataclasses import dataclass

import numpy as np

from zerfoo_numba.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """T tokens, those of the images included.

    `ids` (T,), 0 where an image stands. `images`: (first position, tokens (n, D)) of each.
    `positions` (3, T): time, row and column; one and the same where positions are one number.
    `image` (T,): which image a token belongs to, if its tokens see one another whichever comes
    first (Gemma 3), otherwise -1.
    """

    ids: np.ndarray
    images: list
    positions: np.ndarray
    image: np.ndarray


def read_prompt(items, V, tower=None):
    """The Prompt of a flat list of token ids below V and images.

    An image of a grid of tokens (M-RoPE, Qwen2-VL, arXiv:2409.12191) stands at one time s, its rows
    and columns at s, s + 1, ...; what follows goes on behind the largest of all three. Errors:
    InputError for no ids, one that is no token of the model, or an image without `tower`.
    """
    if not isinstance(items, (list, tuple)) or not any(is_image(item) for item in items):
        ids = checked(items, V)
        positions = np.tile(np.arange(len(ids)), (3, 1))
        return Prompt(ids, [], positions, np.full(len(ids), -1))
    ids, images, positions, image = [], [], [], []
    position = 0  # of the next token
    for item in items:
        if is_image(item):
            if tower is None:
                raise InputError("an image needs a model loaded with mmproj, its projector's file")
            tokens, rows, columns = tower.embed(item)
            images.append((len(ids), tokens))
            n = len(tokens)
            if tower.config.spec.image_positions == "grid":
                row, column = np.divmod(np.arange(n), columns)
                places = np.stack([np.zeros_like(row), row, column])
                after = max(rows, columns)
            else:
                places, after = np.tile(np.arange(n), (3, 1)), n
            ids += [0] * n
            image += [len(images) if tower.config.spec.bidirectional else -1] * n
        else:
            ids.append(int(checked([item], V)[0]))
            image.append(-1)
            places, after = np.zeros((3, 1), int), 1
        positions.append(places + position)
        position += after
    return Prompt(np.array(ids), images, np.hstack(positions), np.array(image))


def is_image(item):
    """Whether an item among token ids is meant as an image: a path, bytes, picture or pixels."""
    if isinstance(item, np.ndarray):
        return item.ndim >= 2
    return isinstance(item, (str, os.PathLike, bytes)) or hasattr(item, "getpixel")


def checked(ids, V):
    """ids (T,) as indices of rows."""
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0:
        raise InputError("the token ids must be a flat list of at least one integer")
    if array.dtype.kind not in "iu":
        raise InputError(f"the token ids must be integers, not {array.dtype}")
    wrong = array[(array < 0) | (array >= V)]
    if wrong.size:
        raise InputError(f"token id {wrong[0]} is outside the vocabulary, 0 to {V - 1}")
    return array.astype(np.intp)
