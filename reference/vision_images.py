"""An image as the pixels a tower is given, by each model's published preprocessor.

Written from transformers' image processors (CLIP, LLaVA, LLaVA-NeXT, Gemma 3, Qwen2-VL), without
the runtime's code. Channels first, (3, height, width).
"""

import io
import math

import numpy as np
from PIL import Image, ImageOps

from zerfoo_numba.errors import InputError


def open_image(source):
    """RGB of a path, bytes, PIL image or uint8 array (H, W, 3); transparency lies over white."""
    try:
        if isinstance(source, np.ndarray):
            image = Image.fromarray(source)
        elif isinstance(source, bytes):
            image = Image.open(io.BytesIO(source))
        else:
            image = source if isinstance(source, Image.Image) else Image.open(source)
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
    except (OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{str(source)[:80]} is no image: {error}") from None


def pictures(source, config):
    """([pixels of every picture the tower sees], the size (width, height) it was made from)."""
    image = open_image(source)
    size = config.image_size
    if config.resize == "tiles":
        seen = tiled(image, config)
    elif config.resize == "smart":
        seen = [image.resize(multiple_size(*image.size, config), Image.BICUBIC)]
    elif config.resize == "square":
        seen = [image.resize((size, size), Image.BILINEAR)]
    elif config.resize == "pad":
        colour = tuple(int(255 * m) for m in config.mean)
        longest = max(image.size)
        seen = [centred(image, (longest, longest), colour).resize((size, size), Image.BICUBIC)]
    else:
        short = min(image.size)
        new = [int(size * side / short) for side in image.size]
        left, top = ((side - size) // 2 for side in new)
        seen = [image.resize(new, Image.BICUBIC).crop((left, top, left + size, top + size))]
    return [normalised(picture, config) for picture in seen], image.size


def multiple_size(width, height, config):
    """Both sides to the nearest multiple of patch · merge; the area within the file's limits."""
    unit = config.patch * config.merge
    w, h = round(width / unit), round(height / unit)
    if w * h * unit * unit > config.max_pixels:
        shrink = math.sqrt(width * height / config.max_pixels)
        w, h = (max(1, math.floor(side / shrink / unit)) for side in (width, height))
    elif w * h * unit * unit < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (width * height))
        w, h = (math.ceil(side * grow / unit) for side in (width, height))
    return w * unit, h * unit


def centred(image, size, colour):
    """A picture of `size` and colour with `image` in the middle."""
    canvas = Image.new("RGB", size, colour)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def tiled(image, config):
    """The whole image as a square, and the squares of the resolution that fits it best."""
    side = config.image_size
    height, width = fitting(image.size, config)
    if width / image.width < height / image.height:
        inner = width, min(height, math.ceil(image.height * (width / image.width)))
    else:
        inner = min(width, math.ceil(image.width * (height / image.height))), height
    canvas = centred(image.resize(inner, Image.BICUBIC), (width, height), (0, 0, 0))
    squares = [image.resize((side, side), Image.BICUBIC)]
    for top in range(0, height, side):
        for left in range(0, width, side):
            squares.append(canvas.crop((left, top, left + side, top + side)))
    return squares


def fitting(size, config):
    """(height, width) of the pinpoints: most pixels kept, then fewest wasted, then the first."""
    best, best_kept, best_wasted = None, 0, math.inf
    for height, width in config.pinpoints:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        wasted = height * width - kept
        if kept > best_kept or (kept == best_kept and wasted < best_wasted):
            best, best_kept, best_wasted = (height, width), kept, wasted
    return best


def normalised(picture, config):
    """(value / 255 - mean) / std of each channel, float32 (3, height, width)."""
    channels = np.moveaxis(np.asarray(picture), -1, 0) / 255.0
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (config.mean, config.std))
    return ((channels - mean) / std).astype(np.float32)
