"""Tokens that hold the colours of their patch, against a slow obvious version."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nts.encoder.colour import ColourDinov2Config, ColourDinov2Model, ColourHistogram
from nts.images import normalise

PATCH, INTENSITIES, OPPONENTS = 14, 8, 9
SHAPE = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": PATCH}


@pytest.fixture(scope="module")
def config() -> ColourDinov2Config:
    return ColourDinov2Config(**SHAPE, colour_size=16)


def weights_of_cells(value: float, low: float, high: float, cells: int) -> np.ndarray:
    """A value shared between the two nearest of `cells` evenly spaced centres."""
    weights = np.zeros(cells)
    at = (np.clip(value, low, high) - low) / (high - low) * (cells - 1)
    below = min(int(at), cells - 2)
    weights[below], weights[below + 1] = 1 - (at - below), at - below
    return weights


def slow_histogram(patch: np.ndarray) -> np.ndarray:
    """Histogram of every second pixel of a patch, RGB in [0, 1]."""
    counts = np.zeros((INTENSITIES, OPPONENTS, OPPONENTS))
    for red, green, blue in patch[::2, ::2].reshape(-1, 3):
        intensity = weights_of_cells((red + green + blue) / 3, 0, 1, INTENSITIES)
        warm = weights_of_cells(red - blue, -0.5, 0.5, OPPONENTS)
        leaf = weights_of_cells(green - (red + blue) / 2, -0.5, 0.5, OPPONENTS)
        counts += intensity[:, None, None] * warm[:, None] * leaf
    return counts.reshape(-1) / counts.sum()


def test_histograms_equal_the_slow_ones(config):
    image = np.random.default_rng(0).uniform(size=(2 * PATCH, 2 * PATCH, 3)) ** 2
    pixels = normalise(torch.from_numpy(image).permute(2, 0, 1).float())
    found = ColourHistogram(config).histograms(pixels[None])[0]
    assert found.shape == (4, INTENSITIES * OPPONENTS**2)
    for k, (row, column) in enumerate(np.ndindex(2, 2)):
        patch = image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        np.testing.assert_allclose(found[k].square().numpy(), slow_histogram(patch), atol=2e-5)


def test_histograms_are_the_same_under_autocast(config):
    pixels = torch.randn(1, 3, 56, 56)
    colours = ColourHistogram(config)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(colours.histograms(pixels), colours.histograms(pixels.clone()))
        found = colours.histograms(pixels)
    assert torch.equal(found, colours.histograms(pixels))


def test_colours_follow_the_tokens_of_dinov2(config):
    torch.manual_seed(0)
    model = ColourDinov2Model(config).eval()
    pixels = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        tokens = model(pixel_values=pixels).last_hidden_state
        plain = super(ColourDinov2Model, model).forward(pixels).last_hidden_state
        colours = model.colours(pixels)
    assert tokens.shape == (2, 17, 24 + 16)
    torch.testing.assert_close(tokens[..., :24], plain)
    torch.testing.assert_close(tokens[:, 1:, 24:], colours)
    assert (tokens[:, 0, 24:] == 0).all()
