"""Where the tokens of images stand in a sequence: their rows, what they see, how they turn."""

import os
from typing import NamedTuple

import numpy as np


class Picture(NamedTuple):
    """An image as `rows` (n, D) float32 of the residual stream, from position `start` on.

    `grid` (rows, columns) of its tokens, where they turn by row and column (M-RoPE), else None.
    `mutual`: whether its tokens attend to one another in both directions.
    """

    start: int
    rows: np.ndarray
    grid: tuple[int, int] | None
    mutual: bool

    @property
    def end(self):
        return self.start + len(self.rows)

    def at(self, start):
        """The same image `start` positions further on."""
        return self._replace(start=self.start + start)


class Tokens(NamedTuple):
    """T tokens: `ids` (T,), with a placeholder where an image stands, and the `pictures` there."""

    ids: np.ndarray
    pictures: list[Picture]


def is_image(item):
    """Whether an item among token ids is meant as an image: a path or data URI, bytes, a PIL image
    or an array of pixels."""
    if isinstance(item, np.ndarray):
        return item.ndim > 0
    kinds = (str, bytes, bytearray, memoryview, os.PathLike)
    return isinstance(item, kinds) or hasattr(item, "getpixel")


def parts(start, count, chunk, pictures):
    """(first, last + 1) of the parts in which `count` positions from `start` on pass through a
    model: at most `chunk` at a time, and never a mutual image in two."""
    end, ending = start + count, 0
    while start < end:
        ending = min(start + chunk, end)
        for picture in pictures:
            if picture.mutual and start < picture.start < ending < picture.end:
                ending = picture.start
        yield start, ending
        start = ending


def splice(device, x, pictures, start):
    """Put the rows of images in the place of theirs in x (T, D), which begins at `start`.

    Returns spans (T, 2) uint32 on the device, as attention takes them, or None where every token
    sees what is before it alone.
    """
    T, D = x.shape
    positions = np.arange(start, start + T, dtype=np.uint32)
    spans, mutual = np.stack([np.zeros_like(positions), positions], axis=1), False
    for picture in pictures:
        first, last = max(picture.start, start), min(picture.end, start + T)
        if first >= last:
            continue
        rows = picture.rows[first - picture.start : last - picture.start]
        device.write(x.view(rows.shape, (first - start) * D), rows)
        if picture.mutual:
            mutual = True
            spans[first - start : last - start, 1] = picture.end - 1
    return device.upload(spans, "spans") if mutual else None


def turns(pictures, context):
    """(context, 3) uint32: the time, row and column by which each position turns.

    An image of a grid that begins at s stands at the time s, its rows at s, s + 1, ..., and its
    columns likewise; the text goes on behind the largest of them (Qwen2-VL, arXiv:2409.12191).
    """
    found = np.arange(context)[:, None].repeat(3, axis=1)
    for picture in sorted(pictures, key=lambda picture: picture.start):
        if picture.grid is None:
            continue
        rows, columns = picture.grid
        s = found[picture.start, 0]
        row, column = np.divmod(np.arange(rows * columns), columns)
        found[picture.start : picture.end] = s
        found[picture.start : picture.end, 1] += row
        found[picture.start : picture.end, 2] += column
        found[picture.end :] += max(rows, columns) - rows * columns
    return found.astype(np.uint32)
