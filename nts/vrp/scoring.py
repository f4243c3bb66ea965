"""From maps of classes to scores of proposals: how a prompt that knows no instances judges those that SAM2 proposes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import boxes_of_masks

SURROUNDINGS = 0.15
"""A proposal is compared with what lies around its box, by so much of the longer side on every side."""


def score_proposals(probabilities: Tensor, masks: Tensor) -> Tensor:
    """How much each proposal is the object of each class that lies there.

    The mean probability inside the mask says whether it is of the class; the *coverage*, whether it is all of it: the
    share of the class's probability in and around the mask's box that lies in the mask. A part of an object has the one
    and lacks the other. Their product is the score::

        s_ic = mean_{u in M_i} P_c(u)  *  sum_{u in M_i} P_c(u) / sum_{u in box_i} P_c(u)

    Args:
        probabilities: ``[K, S, S]`` in ``[0, 1]``.
        masks: bool ``[n, S, S]``.

    Returns:
        float ``[n, K]`` in ``[0, 1]``; zeros for an empty mask.
    """
    inside = masks.flatten(1).to(probabilities.dtype) @ probabilities.flatten(1).T
    around = _box_sums(probabilities, _surroundings(masks))
    areas = masks.flatten(1).sum(1)[:, None].clamp(min=1)
    coverage = inside / torch.maximum(around, inside).clamp(min=1e-6)
    return (inside / areas * coverage).clamp(0, 1)


def _surroundings(masks: Tensor) -> Tensor:
    """The boxes of masks with what is around them: int64 ``[n, 4]``, ``x1, y1, x2, y2``, half-open, inside the map."""
    boxes = boxes_of_masks(masks)
    boxes[:, 2:] += 1
    margin = (SURROUNDINGS * (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)).ceil().long()
    height, width = masks.shape[1:]
    limit = boxes.new_tensor([width, height])
    return torch.cat([(boxes[:, :2] - margin).clamp(min=0), torch.minimum(boxes[:, 2:] + margin, limit)], 1)


def _box_sums(maps: Tensor, boxes: Tensor) -> Tensor:
    """The sum of each map ``[K, S, S]`` over each box ``[n, 4]``, from one table of sums: ``[n, K]``."""
    table = F.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    x1, y1, x2, y2 = boxes.T
    return (table[:, y2, x2] - table[:, y1, x2] - table[:, y2, x1] + table[:, y1, x1]).T.to(maps.dtype)
