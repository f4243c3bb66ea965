"""Prompts led by the prototypes: where no class can be, no mask need be proposed.

Every second point of the grid, in both directions, is a prompt whatever the prototypes say: a coarse floor, so that a
wrong guess cannot blind the method. Of the other points those become prompts that look most like some class. How many
is fixed, so that the work for an image is known beforehand, whatever it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How many prompts are spent, and where.

    Attributes:
        floor_stride: every so-manieth point of the grid, in both directions, is always a prompt.
        guided_fraction: so many more of the grid's points are, in ``[0, 1]``: those of the highest response.
    """

    floor_stride: int = 2
    guided_fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.floor_stride < 1:
            raise ValueError(f"floor_stride must be at least 1, got {self.floor_stride}")
        if not 0 <= self.guided_fraction <= 1:
            raise ValueError(f"guided_fraction must lie in [0, 1], got {self.guided_fraction}")


def response(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """How alike every patch, or one beside it, is to the most alike class.

    The neighbours are looked at because a patch on a small object's border is half background, and a prompt beside an
    object's middle gives the object as well.

    Args:
        tokens: ``[h, w, C]`` patch tokens.
        prototypes: ``[K, C]``.

    Returns:
        ``[h, w]`` cosines.
    """
    cosine = F.normalize(tokens.float(), dim=2) @ F.normalize(prototypes.float(), dim=1).T
    return F.max_pool2d(cosine.amax(2)[None], kernel_size=3, stride=1, padding=1)[0]


def guided_points(tokens: Tensor, prototypes: Tensor, points_per_side: int, guidance: Guidance) -> Tensor:
    """Which points of the grid become prompts.

    Args:
        tokens: ``[h, w, C]`` patch tokens of the target.
        prototypes: ``[K, C]``.
        points_per_side: of the grid, see :func:`nts.segmenter.point_grid`.
        guidance: how many.

    Returns:
        int64 indices of grid points, rising; as many for every image.
    """
    grid = (points_per_side, points_per_side)
    # The grid touches the image's borders.
    at_points = F.interpolate(response(tokens, prototypes)[None, None], size=grid, mode="bilinear", align_corners=True)[
        0, 0
    ]
    # The grid's slow axis is x.
    responses = at_points.T.flatten()
    on_floor = torch.zeros(points_per_side, points_per_side, dtype=torch.bool, device=tokens.device)
    on_floor[:: guidance.floor_stride, :: guidance.floor_stride] = True
    on_floor = on_floor.flatten()
    count = min(round(guidance.guided_fraction * len(responses)), len(responses) - int(on_floor.sum()))
    led = responses.masked_fill(on_floor, -2.0).topk(count).indices
    return torch.cat([on_floor.nonzero()[:, 0], led]).sort().values
