"""Prototype-guided selection of point prompts: fewer prompts where no class is likely.

Every second point of the grid, in both directions, is always sampled, so that objects with a low response are still
proposed. Of the other points, those with the highest similarity to a class prototype are added. Their number is fixed,
so the cost of an image does not depend on its content.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.devices import to_device


@dataclass(frozen=True)
class Guidance:
    """Number and placement of the prompts.

    Attributes:
        floor_stride: stride of the grid points that are always sampled, in both directions.
        guided_fraction: fraction of the grid's points, in ``[0, 1]``, that are added by highest response.
    """

    floor_stride: int = 2
    guided_fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.floor_stride < 1:
            raise ValueError(f"floor_stride must be at least 1, got {self.floor_stride}")
        if not 0 <= self.guided_fraction <= 1:
            raise ValueError(f"guided_fraction must lie in [0, 1], got {self.guided_fraction}")


def response(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Maximal similarity to any class prototype, over each patch and its eight neighbours.

    Neighbours are included because a patch on a small object's border is half background, and a prompt off the object's
    centre yields the object as well.

    Args:
        tokens: ``[h, w, C]`` patch tokens.
        prototypes: ``[K, C]`` class prototypes.

    Returns:
        cosine similarity, float ``[h, w]``.
    """
    cosine = F.normalize(tokens.float(), dim=2) @ F.normalize(prototypes.float(), dim=1).T
    return F.max_pool2d(cosine.amax(2)[None], kernel_size=3, stride=1, padding=1)[0]


def guided_points(tokens: Tensor, prototypes: Tensor, points_per_side: int, guidance: Guidance) -> Tensor:
    """Indices of the grid points to prompt.

    Args:
        tokens: ``[h, w, C]`` patch tokens of the target.
        prototypes: ``[K, C]`` class prototypes.
        points_per_side: side of the grid, see :func:`nts.segmenter.point_grid`.
        guidance: number of prompts.

    Returns:
        int64 indices of grid points in ascending order; the same number for every image.
    """
    grid = (points_per_side, points_per_side)
    # Corners are aligned because the grid touches the image's borders.
    at_points = F.interpolate(response(tokens, prototypes)[None, None], size=grid, mode="bilinear", align_corners=True)[
        0, 0
    ]
    # The grid's slow axis is x.
    responses = at_points.T.flatten()
    # The floor is counted on the host, which does not wait for a GPU then.
    on_floor = torch.zeros(points_per_side, points_per_side, dtype=torch.bool)
    on_floor[:: guidance.floor_stride, :: guidance.floor_stride] = True
    floor = on_floor.flatten().nonzero()[:, 0]
    count = min(round(guidance.guided_fraction * len(responses)), len(responses) - len(floor))
    floor = to_device(floor, tokens.device)
    guided = responses.index_fill(0, floor, -2.0).topk(count).indices
    return torch.cat([floor, guided]).sort().values
