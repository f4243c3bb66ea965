"""Drawn scenes in natural sizes and light."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic import natural as nt
from synthetic.scenes import NOVEL_SPECIES, SIDE


@pytest.fixture(scope="module")
def drawn():
    return [nt.draw_natural_scene([4, i], NOVEL_SPECIES, camera=False) for i in range(40)]


def test_equal_seeds_give_equal_scenes():
    first, again, other = (nt.draw_natural_scene(seed, range(100, 106), featured=7) for seed in (5, 5, 6))
    for field in ("image", "masks", "species", "parts"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert (first.image != other.image).any()
    assert first.image.dtype == np.uint8
    assert first.species[0] == 7


def test_objects_measure_from_a_twentieth_to_most_of_the_image(drawn):
    extents = [
        max(np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (0, 1)) / SIDE
        for scene in drawn
        for mask in scene.masks
    ]
    assert min(extents) < 0.08
    assert max(extents) > 0.5
    assert 0.1 < np.median(extents) < 0.4


def test_masks_are_disjoint_and_have_parts(drawn):
    for scene in drawn:
        assert scene.masks.sum(0).max(initial=0) <= 1
        assert ((scene.parts > 0) == scene.masks.any(0)).all()


def test_shadows_fall_beside_objects_and_away_from_the_light():
    image = np.ones((64, 64, 3), np.float32)
    opacity = np.ones((16, 16), np.float32)
    sprite = nt.Sprite(
        slice(24, 40), slice(24, 40), np.ones((16, 16, 3)), opacity, opacity.astype(np.uint8), (32, 32), 16
    )
    nt._cast_shadow(image, sprite, np.array([0.8, 0.0, 0.6]), depth=0.5, softness=0.1)
    assert image[32, 22, 0] < 0.8 < image[32, 42, 0]
    assert image[2, 2, 0] == 1


def test_noise_has_the_asked_spectrum():
    noise = nt.spectral_noise(np.random.default_rng(0), 256, 1.0)
    assert noise.std() == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.rfft2(noise)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]) * 256
    low, high = (power[(frequency > a) & (frequency < 2 * a)].mean() for a in (4, 32))
    assert low / high == pytest.approx(8**2, rel=0.4)


def test_a_camera_of_no_strength_changes_nothing_but_the_type():
    image = np.random.default_rng(1).uniform(size=(20, 30, 3))
    taken = nt.photograph(np.random.default_rng(2), image, strength=0.0)
    np.testing.assert_allclose(taken / 255, image, atol=0.003)
