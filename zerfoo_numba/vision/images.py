"""An image from wherever the caller has it, as an RGB picture in memory."""

import base64
import binascii
import io
import os
import re

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zerfoo_numba.errors import InputError

# What Pillow itself takes for the largest honest picture; it only warns, and here it is refused
# by the size that the file's header states, before a byte is decoded.
MAX_PIXELS = 1024**3 // 4 // 3
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def load_image(source):
    """The RGB `PIL.Image.Image` of a path, data URI, bytes, PIL image or uint8 array.

    Turned as its EXIF orientation says, transparency laid over white, grey made RGB; of several
    frames the first. An array is (H, W, 3), (H, W, 4) with alpha, or (H, W). Raises InputError for
    what is no image, of more than MAX_PIXELS pixels, or too damaged to decode.
    """
    name = _name(source)
    try:
        image = _opened(source)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{name} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} in all "
                "are decoded: scale it down first"
            )
        return _rgb(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is no image that can be read: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{name} cannot be decoded: {error}") from None


def _name(source):
    if isinstance(source, str) and source.startswith("data:"):
        return "the image in the data URI"
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return "the image"


def _opened(source):
    """A PIL image, nothing of it decoded yet."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, str) and source.startswith("data:"):
        source = _of_data_uri(source)
    elif isinstance(source, str) and source.startswith(("http://", "https://")):
        raise InputError(f"{source} is not fetched: save the image and give its path")
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        raise InputError(
            "an image is a path, a data URI, bytes, a PIL image or a uint8 array, not "
            f"{type(source).__name__}"
        )
    return Image.open(source, formats=FORMATS)


def _of_array(array):
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise InputError(
            f"an image array is uint8 (H, W, 3), not {array.dtype} {tuple(array.shape)}"
        )
    if array.size == 0:
        raise InputError(f"the image array {tuple(array.shape)} holds no pixels")
    if array.ndim == 3 and channels == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _of_data_uri(uri):
    head = DATA_URI.match(uri)
    if head is None:
        raise InputError("a data URI of an image begins with data:image/png;base64, or the like")
    try:
        return base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the image in the data URI is no base64: {error}") from None


def _rgb(image):
    """`image` without transparency, 8 bits for each of red, green and blue."""
    if image.mode.startswith("I"):  # 16 bits of grey, also where Pillow holds them in 32
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
