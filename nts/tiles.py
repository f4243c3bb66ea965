"""Features of proposals from overlapping tiles of the image: the alternative to crops that depends on no memory.

Four tiles of five eighths of the image's sides, one in each corner, are encoded at the encoder's full input size, so an
object covers more patches than in the whole image. Every pixel takes its features from the tile of its own quarter.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import Encoder
from .images import normalise, stretch
from .matching import patch_weights
from .utils.devices import halving

TILE_SIDE = 5 / 8
"""Side of a tile in sides of the image: neighbours overlap by a quarter of the image."""


def encode_tiles(image: np.ndarray, encoder: Encoder) -> Tensor:
    """Encode the four tiles of an image, uint8 ``[H, W, 3]``.

    Returns:
        float ``[4, h, w, C]`` patch tokens: upper left, upper right, lower left, lower right.
    """
    (tops, bottoms), (lefts, rights) = _spans(image.shape[0]), _spans(image.shape[1])
    windows = [
        (left, top, right, bottom)
        for top, bottom in zip(tops, bottoms, strict=True)
        for left, right in zip(lefts, rights, strict=True)
    ]
    pixels = torch.stack([normalise(stretch(image, encoder.info.input_size, window)) for window in windows])
    return halving(encoder.encode, pixels)


def pool_tiles(tiles: Tensor, masks: Tensor) -> Tensor:
    """Average the tokens of tiles over masks and normalise.

    Args:
        tiles: ``[4, h, w, C]``, from :func:`encode_tiles`.
        masks: bool ``[n, S, S]`` of the whole image.

    Returns:
        float ``[n, C]``, L2-normalised; zeros for an empty mask.
    """
    _, height, width, channels = tiles.shape
    sums = tiles.new_zeros(len(masks), channels, dtype=torch.float32)
    totals = sums.new_zeros(len(masks), 1)
    (tops, bottoms), (lefts, rights) = _spans(masks.shape[1]), _spans(masks.shape[2])
    middle_y, middle_x = masks.shape[1] // 2, masks.shape[2] // 2
    for number, tokens in enumerate(tiles):
        row, column = divmod(number, 2)
        own = masks.clone()
        own[:, (slice(middle_y, None), slice(None, middle_y))[row]] = False
        own[:, :, (slice(middle_x, None), slice(None, middle_x))[column]] = False
        weights = patch_weights(own[:, tops[row] : bottoms[row], lefts[column] : rights[column]], (height, width))
        sums += weights.flatten(1) @ tokens.float().flatten(0, 1)
        totals += weights.flatten(1).sum(1, keepdim=True)
    return F.normalize(sums / totals.clamp(min=1e-12), dim=1)


def _spans(side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Begins and ends of the two tiles along a side."""
    length = max(1, round(TILE_SIDE * side))
    return (0, side - length), (length, side)
