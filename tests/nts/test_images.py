"""Reading images of every kind, and preparing them for the models."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from nts.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageError,
    image_size,
    normalise,
    prepare_target,
    read_image,
    stretch,
)
from nts.references import InvalidReference, Reference, crop_window, prepare_reference

GRADIENT = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)
COLOUR = np.stack([GRADIENT, GRADIENT[::-1], GRADIENT[:, ::-1]], -1)


def save(path, array, mode=None, **options) -> str:
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path):
    assert np.array_equal(read_image(save(tmp_path / "a.png", COLOUR)), COLOUR)


def test_grey_becomes_rgb(tmp_path):
    assert np.array_equal(read_image(save(tmp_path / "a.png", GRADIENT)), np.stack([GRADIENT] * 3, -1))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = GRADIENT.astype(np.uint16) * 257
    assert np.array_equal(read_image(save(tmp_path / "a.png", deep)), np.stack([GRADIENT] * 3, -1))
    assert np.array_equal(read_image(save(tmp_path / "a.tif", deep)), np.stack([GRADIENT] * 3, -1))


def test_alpha_is_dropped(tmp_path):
    alpha = np.concatenate([COLOUR, np.full((30, 40, 1), 7, np.uint8)], -1)
    assert np.array_equal(read_image(save(tmp_path / "a.png", alpha)), COLOUR)


def test_palette_and_cmyk_become_rgb(tmp_path):
    image = Image.fromarray(COLOUR)
    image.quantize(64).save(tmp_path / "a.png")
    image.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    for name in ("a.png", "a.jpg"):
        read = read_image(tmp_path / name)
        assert read.shape == (30, 40, 3)
        assert np.abs(read.astype(int) - COLOUR).mean() < 12


def test_exif_orientation_is_followed_unless_switched_off(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(COLOUR, -1))
    assert np.array_equal(read_image(tmp_path / "a.png", exif=False), COLOUR)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is not an image"),
        (b"plain text", "is not an image"),
        ("half", "cannot be decoded"),
    ],
)
def test_unreadable_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.png"
    if content == "half":
        noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)
        save(tmp_path / "whole.png", noise)
        content = (tmp_path / "whole.png").read_bytes()[:2000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"broken.png.*{message}"):
        read_image(path)


def test_image_too_large_to_decode_safely_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"a.png cannot be decoded: .*exceeds limit"):
        read_image(save(tmp_path / "a.png", COLOUR))


def save_deep(path, array):
    """Write with OpenCV, which supports colours of more than 8 bits; alpha is the last channel."""
    order = {2: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[2 if array.ndim == 2 else array.shape[2]]
    assert cv2.imwrite(str(path), array if array.ndim == 2 else np.ascontiguousarray(array[:, :, order]))
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    """Chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(values: np.ndarray, *, photometric: int = 1, orientation: int = 1, order: str = "<") -> bytes:
    """Uncompressed TIFF file of one strip, with values of any type: ``[H, W]`` or ``[H, W, C]``."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width,
        257: height,
        258: 8 * values.dtype.itemsize,
        259: 1,
        262: 2 if channels == 3 else photometric,
        273: 8,
        274: orientation,
        277: channels,
        278: height,
        279: len(pixels),
        339: {"u": 1, "i": 2, "f": 3}[values.dtype.kind],
    }
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels)) + pixels
    content += struct.pack(order + "H", len(tags))
    for tag, value in tags.items():
        if tag == 258 and channels == 3:  # one number per channel does not fit into the entry
            where = len(content) - 2 - 12 * list(tags).index(tag) + 2 + 12 * len(tags) + 4
            content += struct.pack(order + "HHII", tag, 3, channels, where)
        else:
            content += struct.pack(order + "HHII", tag, 4, 1, value)
    return content + bytes(4) + struct.pack(order + "3H", *[tags[258]] * 3)


@pytest.mark.parametrize(("greatest", "bits"), [(4095, 12), (4000, 12), (300, 10), (1023, 10), (60000, 16), (200, 8)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_bit_depth_is_that_of_the_greatest_value(tmp_path, greatest, bits, channels, suffix):
    colours = (COLOUR.astype(np.uint32) * greatest // 255).astype(np.uint16)
    deep = {1: colours[:, :, 0], 3: colours, 4: np.dstack([colours, np.full((30, 40), 65535, np.uint16)])}[channels]
    read = read_image(save_deep(tmp_path / f"a.{suffix}", deep))
    expected = np.rint((colours[:, :, :1] if channels == 1 else colours) * (255 / (2**bits - 1)))
    assert np.abs(read - expected).max() <= 1
    assert read.max() > 60


def test_sixteen_bit_grey_with_alpha_is_scaled(tmp_path):
    grey = GRADIENT.astype(np.uint16) * 16
    rows = np.dstack([grey, np.full((30, 40), 65535, np.uint16)]).astype(">u2").tobytes()
    rows = b"".join(b"\0" + rows[n : n + 160] for n in range(0, len(rows), 160))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 40, 30, 16, 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - GRADIENT[:, :, None]).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("array", [GRADIENT, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("scale", "kind", "tolerance"),
    [
        (1 / 255, np.float32, 0),
        (1 / 255, np.float64, 0),
        (1.0, np.float32, 0),
        (4095 / 255, np.float32, 1),
        (65535 / 255, np.float64, 1),
        (1, np.int32, 0),
        (16, np.int32, 1),
        (257, np.int32, 0),
        (16, np.int16, 1),
    ],
)
def test_values_of_wide_types_are_scaled_by_what_they_are(tmp_path, array, scale, kind, tolerance, order):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff((array * np.float64(scale)).astype(kind), order=order))
    expected = array if array.ndim == 3 else np.stack([array] * 3, -1)
    assert np.abs(read_image(path).astype(int) - expected).max() <= tolerance
    assert image_size(path) == (30, 40)


def test_unsigned_values_beyond_the_signed_ones_are_not_negative(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(GRADIENT.astype(np.uint32) * 16843009))
    assert np.array_equal(read_image(tmp_path / "a.tif")[:, :, 0], GRADIENT)


def test_rounding_beyond_the_range_of_floats_is_clipped(tmp_path):
    values = (GRADIENT / np.float32(255)) * np.float32(1.0004) - np.float32(0.0002)
    (tmp_path / "a.tif").write_bytes(tiff(values))
    assert np.abs(read_image(tmp_path / "a.tif")[:, :, 0].astype(int) - GRADIENT).max() <= 1


def test_white_is_zero_is_followed_in_deep_images_too(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff((255 - GRADIENT).astype(np.uint16) * 257, photometric=0))
    assert np.array_equal(read_image(tmp_path / "a.tif")[:, :, 0], GRADIENT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GRADIENT.astype(np.int32) - 1, "has values from -1 to 254: negative values"),
        (GRADIENT.astype(np.int16) - 1, "has values from -1 to 254: negative values"),
        (GRADIENT.astype(np.int8), "has values from -128 to 127: negative values"),
        (GRADIENT / np.float32(127.5) - 1, "has values from -1 to 1: negative values .* Scale it to values of 0 to 1"),
        (GRADIENT * np.float32(1000), "has values from 0 to 255000: the value of white is not known"),
        (GRADIENT / np.float32(100), "has values from 0 to 2.55: white may be 1 or 255"),
        (np.where(GRADIENT > 9, GRADIENT, np.nan).astype(np.float32), "values that are not finite"),
        (np.where(GRADIENT > 9, COLOUR[:, :, 0], np.inf).astype(np.float64), "values that are not finite"),
        (COLOUR / np.float32(-1), "has values from -255 to"),
        (COLOUR.astype(np.float16), "cannot be decoded|of a kind that is not read"),
        (COLOUR[:, :, :2].astype(np.uint16), "2 channels of 16 bits.*save it as 8-bit RGB"),
    ],
)
def test_values_that_are_no_brightness_are_refused(tmp_path, values, message):
    (tmp_path / "a.tif").write_bytes(tiff(values))
    with pytest.raises(ImageError, match=rf"a\.tif.*({message})"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "kind", ["rgb8.tif", "rgba8.tif", "rgb16.tif", "float.tif", "grey16.tif", "rgb16.png", "a.jpg"]
)
def test_every_kind_of_image_is_turned_as_viewers_do(tmp_path, kind, orientation):
    path, name = tmp_path / kind, kind.partition(".")[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(COLOUR[:, :, :1].repeat(3, 2))
    if kind == "rgb16.png":
        save_deep(path, np.asarray(image).astype(np.uint16) * 257)
        # Metadata may follow the pixels.
        exif_chunk = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        content = path.read_bytes()
        path.write_bytes(content[:-12] + exif_chunk + content[-12:])
    elif kind in ("rgb8.tif", "rgba8.tif", "a.jpg"):
        image.convert("RGBA" if name == "rgba8" else "RGB").save(path, exif=exif)
    else:
        values = {"rgb16": np.asarray(image).astype(np.uint16) * 257, "float": np.asarray(image) / np.float32(255)}
        values["grey16"] = GRADIENT.astype(np.uint16) * 257
        path.write_bytes(tiff(values[name], orientation=orientation))
    upright = io.BytesIO()
    image.save(upright, "PNG", exif=exif)
    expected = read_image("upright.png", content=upright.getvalue())
    read = read_image(path)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() < 2
    assert image_size(path) == read.shape[:2]
    assert image_size(path, exif=False) == read_image(path, exif=False).shape[:2]


def test_first_of_several_pages_is_read(tmp_path):
    pages = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    for name in ("a.tif", "a.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], lossless=True)
        assert np.array_equal(read_image(tmp_path / name), COLOUR)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "bmp", "webp"])
def test_size_is_read_without_the_pixels(tmp_path, suffix):
    whole = save(tmp_path / f"whole.{suffix}", np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))
    if suffix not in ("tif", "webp"):  # their headers need the end of the file, or its length
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: 3 * whole.stat().st_size // 4])
        assert image_size(cut) == (50, 70)
    assert image_size(whole) == (50, 70)


def test_size_of_what_is_no_image_or_too_large_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        image_size(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ImageError, match=r"text\.png is not an image"):
        image_size(tmp_path / "text.png")
    with pytest.raises(ImageError, match="cannot be decoded"):
        image_size(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"a\.png cannot be decoded: it is too large to decode safely .*1200 pixels"):
        image_size(save(tmp_path / "a.png", COLOUR))
    (tmp_path / "b.tif").write_bytes(tiff(COLOUR.astype(np.float32)))
    for read in (image_size, read_image):
        with pytest.raises(ImageError, match=r"b\.tif .* too large to decode safely .*40 x 30"):
            read(tmp_path / "b.tif")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_of_all_formats_are_named_and_nothing_else_is_raised(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(COLOUR)
    files = {name: tmp_path / name for name in ("a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tif", "p.png")}
    for name, path in files.items():
        (image.quantize(16) if name == "p.png" else image).save(path)
    files["deep.png"] = save_deep(tmp_path / "deep.png", COLOUR.astype(np.uint16) * 16)
    (tmp_path / "float.tif").write_bytes(tiff(COLOUR / np.float32(255)))
    files["float.tif"] = tmp_path / "float.tif"
    for name, path in files.items():
        whole, damaged = path.read_bytes(), tmp_path / f"damaged-{name}"
        for n in range(40):
            content = bytearray(whole)
            for at in rng.integers(0, min(len(content), 200 if n % 2 else len(content)), 3):
                content[at] = rng.integers(256)
            damaged.write_bytes(content[: rng.integers(1, len(content))] if n % 3 else content)
            for read in (read_image, image_size):
                try:
                    read(damaged)
                except ImageError as error:
                    assert damaged.name in str(error)  # noqa: PT017 - reading some damaged files is right


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (7, 3)])
@pytest.mark.parametrize("antialias", [True, False])
def test_images_of_any_shape_become_finite_squares(shape, antialias):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    encoder_input, segmenter_input = prepare_target(image, 28, 64, antialias=antialias)
    assert encoder_input.shape == (3, 28, 28)
    assert segmenter_input.shape == (3, 64, 64)
    assert encoder_input.isfinite().all()
    mask = np.ones(shape, bool)
    pixels, weights = prepare_reference(Reference(image, "a", mask), 28, (2, 2), antialias=antialias)
    assert pixels.isfinite().all()
    assert weights.min() > 0.99


def test_normalisation_is_imagenet_s():
    image = torch.tensor(IMAGENET_MEAN)[:, None, None].expand(3, 2, 2) + torch.tensor(IMAGENET_STD)[:, None, None]
    assert torch.allclose(normalise(image), torch.ones(3, 2, 2), atol=1e-6)


def test_antialiasing_keeps_the_mean_of_fine_texture():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.stack([checks] * 3, -1)
    assert stretch(image, 30).std() < 0.01
    assert prepare_target(image, 30, 512, antialias=False)[0].std() > 0.5


def test_area_weights_are_the_share_of_each_patch_that_the_mask_covers():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:25] = True
    reference = Reference(np.zeros((40, 40, 3), np.uint8), "a", mask, (4, 4, 32, 32))
    assert crop_window(reference.box, (40, 40)) == (0, 0, 39, 39)
    weights = prepare_reference(reference, 39, (3, 3))[1]
    expected = mask[:39, :39].reshape(3, 13, 3, 13).mean((1, 3))
    assert np.allclose(weights.numpy(), expected, atol=1e-6)


def test_box_of_the_mask_is_taken_where_none_is_given():
    mask = np.zeros((60, 80), bool)
    mask[20:30, 40:60] = True
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    without = prepare_reference(Reference(image, "a", mask), 28, (2, 2))
    given = prepare_reference(Reference(image, "a", mask, (40, 20, 20, 10)), 28, (2, 2))
    assert torch.equal(without[0], given[0])
    assert torch.equal(without[1], given[1])


@pytest.mark.parametrize(
    ("mask", "box", "message"),
    [
        (np.ones((5, 6), bool), None, r"the mask has size 6 x 5, but its image has 40 x 30"),
        (np.zeros((30, 40), bool), None, "the mask is empty"),
        (np.ones((30, 40), bool), (0, float("nan"), 5, 5), "is not finite"),
    ],
)
def test_invalid_references_are_refused(mask, box, message):
    with pytest.raises(InvalidReference, match=message):
        Reference(COLOUR, "a", mask, box)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "bmp", "webp"])
def test_bytes_after_the_end_of_an_image_are_not_looked_at(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    expected = read_image(path)
    for trailing in (b"\0", b"\n", bytes(range(16)), b"\0\0\0\x04IDATabcd" + bytes(4), bytes(5000)):
        path.write_bytes(path.read_bytes() + trailing)
        assert np.array_equal(read_image(path), expected)
        assert image_size(path) == (20, 30)
