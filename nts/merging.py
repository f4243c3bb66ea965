"""Which of the overlapping proposals stay, and with what score.

Two steps, in this order: class-aware non-maximum suppression on boxes, ranked by SAM2's predicted IoU, then
semantic-aware soft merging on the masks that are left (paper, Sec. 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

_PAIRS_TO_CELLS = 40
"""So much longer does a product of two features take by itself than in the product of all."""


@dataclass(frozen=True)
class Overlaps:
    """Pixels that masks share; of masks by falling rank, those that matter to a ranking.

    Attributes:
        areas: int64 ``[n]`` pixels of each mask.
        worse, better: int64 ``[p]``: pairs of masks of one class that share pixels, ``better < worse``.
        shared: int64 ``[p]`` how many.
    """

    areas: Tensor
    worse: Tensor
    better: Tensor
    shared: Tensor

    @classmethod
    def of_matrix(cls, matrix: Tensor, labels: Tensor) -> Overlaps:
        """Of all pixels shared ``[n, n]``, areas on the diagonal, and the classes ``[n]``."""
        same_class = (labels[:, None] == labels[None, :]) & (matrix > 0)
        worse, better = same_class.tril(-1).nonzero(as_tuple=True)
        return cls(matrix.diagonal().long(), worse, better, matrix[worse, better].long())


def suppress(boxes: Tensor, predicted_iou: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
    """Class-aware box NMS ordered by predicted IoU.

    Args:
        boxes: ``[n, 4]`` inclusive low-resolution boxes; areas are ``(x2 - x1) * (y2 - y1)``, without the +1, as in the
            publication, so a mask of one pixel's width never suppresses another.
        predicted_iou: ``[n]``.
        labels: int64 ``[n]``; only boxes of one label meet.
        nms_iou: a box is suppressed where its IoU with a better one is *above* this.

    Returns:
        int64 indices of what is kept, by falling predicted IoU; equal values keep their order.
    """
    order = predicted_iou.argsort(descending=True, stable=True)
    # Ranks instead of the values themselves make the order total, whatever NMS does with equal scores.
    ranks = -torch.arange(len(order), dtype=torch.float32, device=boxes.device)
    kept = batched_nms(boxes[order].float(), ranks, labels[order], nms_iou)
    return order[kept.sort().values]


def soft_merging_decay(overlaps: Overlaps, features: Tensor, exponent: float = 0.5) -> Tensor:
    """Decay of the scores by semantic-aware soft merging (paper, Eq. 4 and 5).

    For mask ``i`` and all better-ranked masks ``j < i`` of the same class::

        IoS_i = max_j  |M_i and M_j| / |M_i| * max(0, g_i . g_j)
        decay_i = (1 - IoS_i) ** exponent

    A mask that lies inside a better one, and looks like it, fades; one that looks different, or merely touches, stays.

    Args:
        overlaps: of ``n`` masks by falling rank.
        features: ``[n, C]`` L2-normalised mask features.
        exponent: 0.5 in the publication; 0 switches soft merging off.

    Returns:
        float ``[n]`` in ``[0, 1]``. Rounding that lifts a cosine above 1 does not give NaN (the publication does), and
        an empty mask decays to 0.
    """
    areas, worse, better = overlaps.areas, overlaps.worse, overlaps.better
    covered = (overlaps.shared.double() / areas[worse].clamp(min=1)).to(features.dtype)
    if len(worse) * _PAIRS_TO_CELLS < len(features) ** 2:
        alike = (features[worse] * features[better]).sum(1)
    else:
        alike = (features @ features.T)[worse, better]
    intersection_over_self = features.new_zeros(len(features))
    intersection_over_self.scatter_reduce_(0, worse, covered * alike.clamp(min=0), "amax")
    decay = (1 - intersection_over_self).clamp(min=0, max=1) ** exponent
    return torch.where(areas > 0, decay, torch.zeros_like(decay))
