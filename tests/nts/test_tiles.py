"""Features from tiles, against tiles cut, enlarged and averaged plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nts.images import normalise, stretch
from nts.tiles import encode_tiles, pool_tiles


@pytest.mark.parametrize("shape", [(256, 256), (90, 200), (3, 5)])
def test_tiles_are_the_corners_of_the_image(small_encoder, shape):
    height, width = shape
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    high, wide = round(5 / 8 * height), round(5 / 8 * width)
    # Upper left, upper right, lower left, lower right, as x1, y1, x2, y2.
    windows = [
        (0, 0, wide, high),
        (width - wide, 0, width, high),
        (0, height - high, wide, height),
        (width - wide, height - high, width, height),
    ]
    pixels = [normalise(stretch(image, small_encoder.info.input_size, window)) for window in windows]
    expected = small_encoder.encode(torch.stack(pixels))
    assert torch.allclose(encode_tiles(image, small_encoder), expected, atol=1e-3)


def slow_pool(tiles: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the pixels of a mask of the features that each takes from the tile of its quarter."""
    height, width = mask.shape
    high, wide = round(5 / 8 * height), round(5 / 8 * width)
    enlarged = F.interpolate(tiles.permute(0, 3, 1, 2), size=(high, wide), mode="bilinear", align_corners=False)
    total = torch.zeros(tiles.shape[-1])
    for y, x in mask.nonzero().tolist():
        lower, right = y >= height // 2, x >= width // 2
        total += enlarged[2 * lower + right, :, y - lower * (height - high), x - right * (width - wide)]
    return total / total.norm() if mask.any() else total


def test_pooling_equals_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(4, 5, 5, 7, generator=generator)
    masks = torch.rand(6, 32, 32, generator=generator) < 0.2
    masks[0] = False
    masks[1] = False
    masks[1, 3:9, 20:30] = True
    masks[2] = True
    expected = torch.stack([slow_pool(tiles, mask) for mask in masks])
    assert torch.allclose(pool_tiles(tiles, masks), expected, atol=1e-4)
    assert pool_tiles(tiles, masks[:0]).shape == (0, 7)


def test_a_pixel_takes_the_tile_of_its_quarter():
    tiles = torch.eye(4)[:, None, None, :].expand(4, 3, 3, 4)
    masks = torch.zeros(4, 16, 16, dtype=torch.bool)
    for number in range(4):
        row, column = divmod(number, 2)
        masks[number, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
    assert torch.allclose(pool_tiles(tiles, masks), torch.eye(4), atol=1e-6)
