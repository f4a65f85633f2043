"""Images as patches: against transformers' processors, against the reference's own, and refused.

What transformers computed stands in the goldens, made by its processors that use Pillow.
"""

import base64
import contextlib
import io
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reference import vision_images
from reference.vision import unpadded
from tests.parity.compare import assert_close
from tests.parity.tolerances import EXACT, PIXELS
from tests.parity.vision_goldens import NAMES, golden, other_pixels, vision_config
from zerfoo_numba.errors import InputError
from zerfoo_numba.vision import images, preprocess
from zerfoo_numba.vision.images import load_image
from zerfoo_numba.vision.preprocess import prepare

RED = (200, 10, 20)


def rows_of(pixels, places, patch):
    """The patches of one picture (3, height, width) at these places, one at a time."""
    return np.stack(
        [
            pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(-1)
            for y, x in places
        ]
    )


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_transformers(name):
    config, expected = vision_config(name), golden(name)
    for path, pixels in zip(expected.images, expected.pixels, strict=True):
        prepared = prepare(path, config)
        if config.resize != "smart":
            pixels = pixels.reshape(prepared.pixels.shape)
            assert_close(f"{name} {path.name}", prepared.pixels, pixels, PIXELS)
            continue
        # Rows of patches, two frames each, the squares of tokens in the order of the picture
        rows = pixels.reshape(len(pixels), 3, 2, -1)
        places = preprocess._merge_order(*prepared.grid[1:], config.merge)
        found = rows_of(prepared.pixels[0], places, config.patch).reshape(len(pixels), 3, -1)
        for frame in range(2):
            assert_close(f"{name} {path.name}", found, rows[:, :, frame], PIXELS)


def test_padded_pixels_are_those_of_transformers():
    config = replace(vision_config("llava15"), resize="pad")
    prepared = prepare(golden("llava15").images[0], config)
    assert_close("padded", prepared.pixels, other_pixels("llava15", "pad"), PIXELS)


@pytest.mark.parametrize("name", NAMES)
def test_every_patch_is_the_one_at_its_place(name):
    config = vision_config(name)
    for path in golden(name).images:
        prepared = prepare(path, config)
        for pixels, patches in zip(prepared.pixels, prepared.patches, strict=True):
            expected = rows_of(pixels, prepared.places, config.patch)
            assert_close(path.name, patches, expected, EXACT)
        assert len(np.unique(prepared.places, axis=0)) == len(prepared.places)


SIDES = st.integers(1, 70)


@pytest.mark.parametrize("resize", ["as it is", "pad"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(width=SIDES, height=SIDES, seed=st.integers(0, 9))
def test_the_reference_prepares_the_same(name, resize, width, height, seed):
    config = vision_config(name)
    config = config if resize == "as it is" else replace(config, resize=resize)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    prepared = prepare(picture, config)
    expected, size = vision_images.pictures(picture, config)
    assert size == (width, height)
    assert_close("pixels", prepared.pixels, np.stack(expected), PIXELS)
    per_picture = len(prepared.places) // config.merge**2
    tokens = prepared.order[prepared.order >= 0]
    assert len(set(tokens)) == len(tokens) and tokens.max() < len(expected) * per_picture


@settings(max_examples=50, deadline=None)
@given(width=SIDES, height=SIDES, down=st.integers(1, 5), across=st.integers(1, 5))
def test_what_was_padded_is_cut_off_as_the_reference_does(width, height, down, across):
    picture = np.arange(down * 4 * across * 4).reshape(down * 4, across * 4)
    expected = unpadded(picture[..., None], width, height)[..., 0]
    assert np.array_equal(preprocess._unpadded(picture, (width, height)), expected)


def test_tiles_are_the_whole_then_rows_each_with_a_newline():
    # 2 x 1 tiles of 2 x 2 patches; the image is half as wide as they, so a column goes each side
    order = preprocess._tile_order((2, 1), (10, 40), 2, 2, newline=True)
    assert order.tolist() == [0, 1, 2, 3, 4, 5, -1, 6, 7, -1, 8, 9, -1, 10, 11, -1]
    flat = preprocess._tile_order((2, 1), (10, 40), 2, 2, newline=False)
    assert flat.tolist() == list(range(12))
    narrow = preprocess._tile_order((2, 2), (10, 20), 2, 2, newline=True)
    assert narrow.tolist()[4:] == [5, 8, -1, 7, 10, -1, 13, 16, -1, 15, 18, -1]


def test_windows_hold_what_lies_together():
    config = vision_config("qwen25vl")  # 16 pixels: windows of 2 x 2 tokens of 2 x 2 patches
    prepared = prepare(np.zeros((24, 40, 3), np.uint8), config)
    assert prepared.grid == (1, 6, 10)
    window = prepared.places // 4
    for i, (first, last) in enumerate(prepared.windows):
        inside = (window == window[i]).all(axis=1)
        assert np.array_equal(np.flatnonzero(inside), np.arange(first, last + 1))
    # Of the last token of the picture come the four patches in its corner.
    corner = prepared.order[-1] * 4
    places = prepared.places[corner : corner + 4]
    assert places.tolist() == [[4, 8], [4, 9], [5, 8], [5, 9]]


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [  # computed by transformers' smart_resize(height, width, factor=8, ...)
        ((43, 26), (64, 10**6), (40, 24)),
        ((4, 4), (64, 10**6), (8, 8)),
        ((12, 20), (64, 10**6), (16, 16)),
        ((100, 3), (64, 10**6), (48, 8)),
        ((500, 300), (64, 4096), (80, 48)),
    ],
)
def test_smart_sizes(size, limits, expected):
    config = vision_config("qwen2vl")
    config = replace(config, min_pixels=limits[0], max_pixels=limits[1])
    assert preprocess.smart_size(size, config) == expected


@pytest.mark.parametrize("size", [(2010, 10), (10, 2010)])
@pytest.mark.parametrize("name", ["qwen2vl", "llava15"])
def test_a_strip_is_refused(name, size):
    with pytest.raises(InputError, match="2010"):
        prepare(Image.new("RGB", size), vision_config(name))


def test_a_strip_that_no_memory_holds_as_a_square_is_refused():
    config = replace(vision_config("llava15"), resize="pad")
    with pytest.raises(InputError, match="20000 x 1 pixels: made square"):
        prepare(Image.new("RGB", (20000, 1)), config)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colours(image):
    return sorted({pixel for _, pixel in image.getcolors()})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_are_told_by_their_bytes(tmp_path, kind):
    raw = encoded(
        Image.new("RGB", (5, 4), RED), kind, **({"quality": 100} if kind != "GIF" else {})
    )
    path = tmp_path / "image.xyz"
    path.write_bytes(raw)
    uri = "data:image/png;base64," + base64.b64encode(raw).decode()
    for source in (raw, bytearray(raw), path, str(path), uri, Image.open(path)):
        image = load_image(source)
        assert image.size == (5, 4) and image.mode == "RGB"
        assert np.abs(np.asarray(image, int) - RED).max() <= 3


@pytest.mark.parametrize("shape", [(3, 5, 3), (3, 5), (3, 5, 1), (3, 5, 4)])
def test_arrays_are_pixels(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if shape[2:] == (4,):
        array[..., 3] = 255
    image = np.asarray(load_image(array))
    expected = array if array.ndim == 3 else array[..., None]
    assert np.array_equal(image, np.broadcast_to(expected[..., :3], (3, 5, 3)))
    assert np.array_equal(image, load_image(array[:, ::-1]).transpose(Image.FLIP_LEFT_RIGHT))


def test_an_image_is_turned_as_its_exif_says():
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter, clockwise
    turned = load_image(encoded(image, "PNG", exif=exif))
    assert turned.size == (4, 5)
    assert np.array_equal(turned, image.transpose(Image.ROTATE_270))


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (2, 2), (*RED, 0))
    assert colours(load_image(clear)) == [(255, 255, 255)]
    half = load_image(Image.new("LA", (2, 2), (100, 128)))
    assert colours(half) == [(177, 177, 177)]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, *RED])
    assert colours(load_image(palette)) == [RED]
    assert colours(load_image(encoded(palette, "PNG", transparency=1))) == [(255, 255, 255)]


def test_sixteen_bits_of_grey_become_eight():
    grey = Image.fromarray(np.full((2, 3), 0x7F01, np.uint16))
    for source in (grey, encoded(grey, "PNG"), grey.convert("I")):
        assert colours(load_image(source)) == [(0x7F, 0x7F, 0x7F)]


def test_the_first_frame_is_taken():
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, (0, 0, 0))]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert colours(load_image(raw)) == [RED]


def test_more_pixels_than_are_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    assert load_image(Image.new("RGB", (9, 11))).size == (9, 11)
    with pytest.raises(InputError, match=r"10 x 10 pixels; at most 99"):
        load_image(encoded(Image.new("RGB", (10, 10)), "PNG"))


def test_a_bomb_is_refused_before_it_is_decoded():
    raw = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    raw[16:24] = (1 << 20).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    with pytest.raises(InputError):
        load_image(bytes(raw))


WHOLE = encoded(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), "PNG")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "cannot|no image"),
        (b"no image at all", "is no image"),
        (WHOLE[:50], "cannot be decoded"),
        ("nowhere.png", "nowhere.png"),
        ("http://localhost/cat.png", "is not fetched"),
        ("data:text/plain;base64,AAAA", "begins with data:image"),
        ("data:image/png;base64,????", "no base64"),
        (7, "not int"),
        (None, "not NoneType"),
        (np.zeros((2, 2, 3), np.float32), "uint8"),
        (np.zeros((2, 2, 2), np.uint8), "uint8"),
        (np.zeros((2, 0, 3), np.uint8), "no pixels"),
    ],
)
def test_what_is_no_image_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_image(source)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), end=st.integers(1, len(WHOLE)))
def test_a_damaged_file_is_an_image_or_an_error(at, byte, end):
    raw = bytearray(WHOLE)
    raw[at] = byte
    with contextlib.suppress(InputError):
        assert load_image(bytes(raw[:end])).mode == "RGB"
