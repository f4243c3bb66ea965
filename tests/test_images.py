"""Images of every kind are read, and brought to the models' inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nts.images import IMAGENET_MEAN, IMAGENET_STD, ImageError, normalise, prepare_target, read_image, stretch
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
def test_references_that_cannot_be_are_refused(mask, box, message):
    with pytest.raises(InvalidReference, match=message):
        Reference(COLOUR, "a", mask, box)
