"""A picture as the rows an image tower takes: resized, normalised, cut into patches.

Each model's published preprocessor, as transformers has it: CLIPImageProcessor and
LlavaImageProcessor (LLaVA 1.5), LlavaNextImageProcessor (1.6), Gemma3ImageProcessor (without pan
and scan, as by default), Qwen2VLImageProcessor. Pixels agree with those of them that use Pillow to
1e-5. Those that use torchvision agree where nothing is resized. Where something is, Pillow rounds
and clips to 8 bits after the horizontal pass and after the vertical one, torch after both: a fifth
of the values differ, by 1 or 2 of 255 in a smooth picture, and by up to 21 where bicubic filters of
noise overshoot.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zerfoo_numba.errors import InputError
from zerfoo_numba.vision.images import MAX_PIXELS, load_image

MAX_ASPECT = 200  # of Qwen2VLImageProcessor: a narrower strip is refused


@dataclass(frozen=True)
class Prepared:
    """One image, ready for a tower.

    `pixels` (N, 3, height, width) float32: what the tower sees, N = 1 but for tiles.
    `patches` (N, P, 3 · patch²) float32: each patch a row, channel by channel as in the file's
    kernel. The merge² patches that become one token follow one another, row by row of their square;
    squares go row by row of the image, or of one window after the other.
    `places` (P, 2) int32: row and column of every patch in its picture.
    `windows` (P, 2) int32: first and last patch of each patch's window; None without windows.
    `grid` (1, rows, columns) in patches, where positions of the text count them; else None.
    `order` (tokens,) int32: which of the tower's N · P / merge² outputs is each token of the
    image, -1 where `model.image_newline` stands.
    """

    pixels: np.ndarray
    patches: np.ndarray
    places: np.ndarray
    windows: np.ndarray | None
    grid: tuple[int, int, int] | None
    order: np.ndarray

    @property
    def tokens(self):
        return len(self.order)


def prepare(source, config):
    """`Prepared` of an image (whatever `load_image` takes) for the tower of a `VisionConfig`.

    Raises InputError for what is no image, or one of impossible proportions.
    """
    image = load_image(source)
    pictures, layout = _resized(image, config)
    pixels = np.stack([_normalised(picture, config) for picture in pictures])
    rows, columns = (side // config.patch for side in pixels.shape[2:])
    places = _merge_order(rows, columns, config.merge)
    order, windows = np.arange(len(pictures) * len(places) // config.merge**2), None
    if config.window is not None:
        squares, lengths = _window_order(rows, columns, config)
        places = places.reshape(-1, config.merge**2, 2)[squares].reshape(-1, 2)
        order, windows = np.argsort(squares), _spans(lengths * config.merge**2)
    elif layout is not None:
        order = _tile_order(layout, image.size, rows, columns, config.newline)
    grid = (1, rows, columns) if config.spec.image_positions == "grid" else None
    patches = _patches(pixels, places, config.patch)
    return Prepared(pixels, patches, places, windows, grid, order.astype(np.int32))


def _resized(image, config):
    """([pictures of the tower's size], (rows, columns) of the tiles behind the first or None)."""
    size = config.image_size
    if config.resize == "smart":
        return [image.resize(smart_size(image.size, config), Image.Resampling.BICUBIC)], None
    if config.resize == "square":
        return [image.resize((size, size), Image.Resampling.BILINEAR)], None
    if config.resize == "pad":
        image = _padded(image, config.mean)
        return [image.resize((size, size), Image.Resampling.BICUBIC)], None
    if config.resize == "tiles":
        return _tiles(image, config)
    return [_centre(image, size)], None


def smart_size(size, config):
    """(width, height) in multiples of patch · merge, their product within the pixel limits.

    transformers, smart_resize: the nearest multiples, or else both sides scaled alike to the
    limit and rounded down (up) to multiples.
    """
    width, height = size
    if max(size) / min(size) > MAX_ASPECT:
        raise InputError(
            f"the image has {width} x {height} pixels: one side may be {MAX_ASPECT} times the "
            "other, no more"
        )
    unit = config.patch * config.merge
    sides = [round(side / unit) * unit for side in size]
    if math.prod(sides) > config.max_pixels:
        scale = math.sqrt(width * height / config.max_pixels)
        sides = [max(unit, math.floor(side / scale / unit) * unit) for side in size]
    elif math.prod(sides) < config.min_pixels:
        scale = math.sqrt(config.min_pixels / (width * height))
        sides = [math.ceil(side * scale / unit) * unit for side in size]
    return tuple(sides)


def _centre(image, size):
    """The shorter side brought to `size`, and the middle of the longer one."""
    short = min(image.size)
    if max(image.size) / short > MAX_ASPECT:
        raise InputError(f"the image is a strip of {image.width} x {image.height} pixels")
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _padded(image, mean):
    """A square with the image in its middle, the rest of the mean colour."""
    side = max(image.size)
    if side * side > 2 * MAX_PIXELS:
        raise InputError(
            f"the image has {image.width} x {image.height} pixels: made square it is too large; "
            "scale it down first"
        )
    square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _tiles(image, config):
    """LLaVA 1.6: the whole image made square, then the tiles of its best resolution."""
    size = config.image_size
    height, width = best_resolution(image.size, config.pinpoints)
    scale_w, scale_h = width / image.width, height / image.height
    if scale_w < scale_h:
        inner = width, min(math.ceil(image.height * scale_w), height)
    else:
        inner = min(math.ceil(image.width * scale_h), width), height
    canvas = Image.new("RGB", (width, height))
    at = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), at)
    corners = [(x, y) for y in range(0, height, size) for x in range(0, width, size)]
    tiles = [canvas.crop((x, y, x + size, y + size)) for x, y in corners]
    whole = image.resize((size, size), Image.Resampling.BICUBIC)
    return [whole, *tiles], (height // size, width // size)


def best_resolution(size, pinpoints):
    """The (height, width) of `pinpoints` that keeps most of an image of `size` (width, height).

    Of those that keep as many pixels the smallest, of those the first (transformers,
    select_best_resolution).
    """

    def rank(pinpoint):
        scale = min(pinpoint[1] / size[0], pinpoint[0] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), math.prod(size))
        return -kept, math.prod(pinpoint) - kept

    return min(pinpoints, key=rank)


def _normalised(picture, config):
    """float32 (3, height, width): (value / 255 - mean) / std of each channel."""
    values = np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (config.mean, config.std))
    return (values - mean) / std


def _merge_order(rows, columns, merge):
    """int32 (P, 2): the places of all patches, those of one merge x merge square together."""
    row, column = np.mgrid[:rows, :columns].astype(np.int32)
    both = np.stack([row, column], axis=-1)
    both = both.reshape(rows // merge, merge, columns // merge, merge, 2)
    return both.transpose(0, 2, 1, 3, 4).reshape(-1, 2)


def _window_order(rows, columns, config):
    """(the squares, window by window; how many each window has) for an image of rows x columns.

    A window is `window` pixels a side, fewer at the right and lower edge (Qwen2.5-VL,
    get_window_index, which pads there and drops what is padded).
    """
    side = config.window // config.patch // config.merge
    row, column = np.mgrid[: rows // config.merge, : columns // config.merge]
    across = -(-(columns // config.merge) // side)
    window = (row // side * across + column // side).reshape(-1)
    return np.argsort(window, kind="stable"), np.bincount(window)


def _spans(lengths):
    """int32 (sum of lengths, 2): for each member of consecutive groups, the first and the last."""
    last = np.cumsum(lengths)
    spans = np.stack([last - lengths, last - 1], axis=1)
    return np.repeat(spans, lengths, axis=0).astype(np.int32)


def _tile_order(layout, size, rows, columns, newline):
    """Tokens of the whole, then of the tiles' picture row by row, without what was padded.

    A newline ends each row of the picture, if the model has one (transformers, LlavaNextModel,
    pack_image_features and unpad_image; without a newline: llama.cpp, flat).
    """
    per_tile, (down, across) = rows * columns, layout
    whole = np.arange(per_tile)
    tiles = np.arange(per_tile, (1 + down * across) * per_tile)
    if not newline:
        return np.concatenate([whole, tiles])
    tiles = tiles.reshape(down, across, rows, columns).transpose(0, 2, 1, 3)
    picture = _unpadded(tiles.reshape(down * rows, across * columns), size)
    ends = np.full((len(picture), 1), -1)
    return np.concatenate([whole, np.hstack([picture, ends]).reshape(-1)])


def _unpadded(picture, size):
    """The rows or columns of `picture` that an image of `size` (width, height) fills."""
    width, height = size
    rows, columns = picture.shape
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return picture[padding : rows - padding]
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return picture[:, padding : columns - padding]


def _patches(pixels, places, patch):
    """(N, P, 3 · patch²): the patch of `pixels` (N, 3, height, width) at every place."""
    rows, columns = (side // patch for side in pixels.shape[2:])
    whole = pixels[:, :, : rows * patch, : columns * patch]  # a strip narrower than a patch is left
    cut = whole.reshape(len(pixels), 3, rows, patch, columns, patch)
    cut = cut.transpose(0, 2, 4, 1, 3, 5)  # (N, rows, columns, 3, patch, patch)
    return cut[:, places[:, 0], places[:, 1]].reshape(len(pixels), len(places), -1)
