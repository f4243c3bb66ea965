"""Resolution of overlapping proposals (paper, Sec. 3.3).

Class-aware non-maximum suppression on boxes, ranked by SAM2's predicted IoU, then semantic-aware soft merging of the
remaining masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

_PAIRS_TO_CELLS = 40
"""Cost of a single dot product of two features, relative to one in the full matrix product."""


@dataclass(frozen=True)
class Overlaps:
    """Overlapping pairs of masks of one class, with masks in descending rank.

    Attributes:
        areas: int64 ``[n]``, pixels of each mask.
        worse, better: int64 ``[p]``, indices of the masks of each pair, ``better < worse``.
        shared: int64 ``[p]``, pixels that the pair shares.
    """

    areas: Tensor
    worse: Tensor
    better: Tensor
    shared: Tensor

    @classmethod
    def of_matrix(cls, matrix: Tensor, labels: Tensor) -> Overlaps:
        """Overlaps from shared pixels ``[n, n]``, with areas on the diagonal, and class labels ``[n]``."""
        same_class = (labels[:, None] == labels[None, :]) & (matrix > 0)
        worse, better = same_class.tril(-1).nonzero(as_tuple=True)
        return cls(matrix.diagonal().long(), worse, better, matrix[worse, better].long())


def suppress(boxes: Tensor, predicted_iou: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
    """Class-aware box NMS in descending order of predicted IoU (paper, Sec. 3.3).

    Args:
        boxes: ``[n, 4]`` inclusive low-resolution boxes. Areas are ``(x2 - x1) * (y2 - y1)``, without the +1, as in the
            published code, so a mask one pixel wide never suppresses another.
        predicted_iou: ``[n]``.
        labels: int64 ``[n]``; boxes of different labels do not suppress each other.
        nms_iou: a box is suppressed if its IoU with a better one is *above* this.

    Returns:
        int64 indices of the remaining boxes, in descending order of predicted IoU; the sort is stable.
    """
    order = predicted_iou.argsort(descending=True, stable=True)
    # Ranks instead of values: the order is then defined for equal scores as well.
    ranks = -torch.arange(len(order), dtype=torch.float32, device=boxes.device)
    remaining = batched_nms(boxes[order].float(), ranks, labels[order], nms_iou)
    return order[remaining.sort().values]


def soft_merging_decay(overlaps: Overlaps, features: Tensor, exponent: float = 0.5) -> Tensor:
    """Decay of the scores by semantic-aware soft merging (paper, Eq. 4 and 5).

    For mask ``i`` and all better-ranked masks ``j < i`` of the same class::

        IoS_i = max_j  |M_i and M_j| / |M_i| * max(0, g_i . g_j)
        decay_i = (1 - IoS_i) ** exponent

    A mask inside a better one of similar appearance loses score; one that differs in appearance, or barely overlaps,
    does not.

    Args:
        overlaps: overlaps of ``n`` masks in descending rank.
        features: ``[n, C]`` L2-normalised mask features.
        exponent: 0.5 in the published code; 0 disables soft merging.

    Returns:
        float ``[n]`` in ``[0, 1]``, 0 for an empty mask. A cosine above 1 by rounding does not produce NaN, unlike in
        the published code.
    """
    areas, worse, better = overlaps.areas, overlaps.worse, overlaps.better
    covered = _covered(overlaps, worse).to(features.dtype)
    if len(worse) * _PAIRS_TO_CELLS < len(features) ** 2:
        cosine = (features[worse] * features[better]).sum(1)
    else:
        cosine = (features @ features.T)[worse, better]
    intersection_over_self = features.new_zeros(len(features))
    intersection_over_self.scatter_reduce_(0, worse, covered * cosine.clamp(min=0), "amax")
    decay = (1 - intersection_over_self).clamp(min=0, max=1) ** exponent
    return torch.where(areas > 0, decay, torch.zeros_like(decay))


DIFFUSION_STEPS = 30
DIFFUSION_ALPHA = 0.3


def diffusion_decay(overlaps: Overlaps, exponent: float = 0.5) -> Tensor:
    """Decay of the scores by diffusion over the graph of overlaps, an alternative to soft merging (FSOD-VFM).

    Every mask starts with the share of it that a better mask of its class covers most, and takes over from the masks
    that it overlaps, with ``T`` the covered shares, normalised by row::

        w_i = max_{j<i} |M_i and M_j| / |M_i|
        pi <- alpha T pi + (1 - alpha) w
        decay_i = (1 - pi_i) ** exponent

    Args:
        overlaps: overlaps of ``n`` masks in descending rank.
        exponent: 0 disables the decay.

    Returns:
        float ``[n]`` in ``[0, 1]``, 0 for an empty mask.
    """
    areas, worse, better = overlaps.areas, overlaps.worse, overlaps.better
    covered = _covered(overlaps, worse).float()
    start = covered.new_zeros(len(areas)).scatter_reduce_(0, worse, covered, "amax")
    transition = covered.new_zeros(len(areas), len(areas))
    transition[worse, better] = covered
    transition[better, worse] = _covered(overlaps, better).float()
    transition = transition / transition.sum(1, keepdim=True).clamp(min=1e-12)
    spread = start
    for _ in range(DIFFUSION_STEPS):
        spread = DIFFUSION_ALPHA * transition @ spread + (1 - DIFFUSION_ALPHA) * start
    decay = (1 - spread).clamp(min=0, max=1) ** exponent
    return torch.where(areas > 0, decay, torch.zeros_like(decay))


def _covered(overlaps: Overlaps, which: Tensor) -> Tensor:
    """Shared pixels of every pair over the area of one of its masks, in double precision."""
    return overlaps.shared.double() / overlaps.areas[which].clamp(min=1)
