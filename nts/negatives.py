"""Negatives: what is of no class, so that a resemblance to it lowers the confidence.

Reference images hold them for free: SAM2's proposals off all labels. What has no label may still be of a class, so a
guard drops candidates that resemble the references as much as these resemble each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_ON_LABEL = 0.2
"""A proposal with at least this share of its area on labels is no negative."""
MOST_LABEL_IOU = 0.2
"""A proposal with at least this IoU with any label is no negative."""
CLUSTER_IOU = 0.6
"""Proposals that overlap a better one by more than this are the same thing."""
MOST_NEGATIVES = 2000
"""A memory of more negatives is thinned to as many that differ most."""


def off_labels(masks: Tensor, labelled: Tensor) -> Tensor:
    """Whether masks lie on no label: less than a fifth of their area on all labels, and little IoU with each.

    Args:
        masks: bool ``[n, H, W]``.
        labelled: bool ``[m, H, W]``, labels; ``m`` may be 0.

    Returns:
        bool ``[n]``; an empty mask lies on no label.
    """
    if len(labelled) == 0:
        return torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    flat, marked = masks.flatten(1).float(), labelled.flatten(1).float()
    areas, shared = flat.sum(1), flat @ marked.T
    iou = shared / (areas[:, None] + marked.sum(1) - shared).clamp(min=1)
    on_label = flat @ marked.amax(0) / areas.clamp(min=1)
    return (on_label < MOST_ON_LABEL) & (iou.amax(1) < MOST_LABEL_IOU)


def off_label_proposals(masks: Tensor, predicted_iou: Tensor, labelled: Tensor, marked: Tensor | None = None) -> Tensor:
    """Choose the proposals of an image that lie on no label, one for each thing.

    Args:
        masks: bool ``[n, H, W]``, proposals.
        predicted_iou: ``[n]``; the best proposal stands for its cluster.
        labelled: bool ``[m, H, W]``, everything with a label in the image; ``m`` may be 0.
        marked: bool ``[H, W]``, pixels marked by points and strokes, whose objects have an unknown extent: a proposal
            that holds any of these may be the object.

    Returns:
        int64 indices of proposals, by falling predicted IoU.
    """
    flat = masks.flatten(1).float()
    areas = flat.sum(1)
    usable = (areas > 0) & predicted_iou.isfinite() & off_labels(masks, labelled)
    if marked is not None:
        usable &= ~(masks & marked).flatten(1).any(1)
    candidates = usable.nonzero()[:, 0]
    order = candidates[predicted_iou[candidates].argsort(descending=True, stable=True)]
    shared = flat[order] @ flat[order].T
    iou = shared / (areas[order, None] + areas[order] - shared).clamp(min=1)
    chosen: list[int] = []
    for row, overlaps in enumerate(iou):
        if not (overlaps[chosen] > CLUSTER_IOU).any():
            chosen.append(row)
    return order[chosen]


def usable_negatives(similarity: Tensor, sure: Tensor, own: Tensor) -> Tensor:
    """Guard against unlabelled objects of the classes among negatives.

    A doubtful negative is dropped if its similarity to a class exceeds the mean less one standard deviation of the
    references' similarity to their own classes. Where no class has two references, that is unknown, and all doubtful
    negatives are dropped.

    Args:
        similarity: ``[N]``, greatest similarity of every negative to a class.
        sure: bool ``[N]``, negatives that are used in any case.
        own: ``[R]``, leave-one-out similarity of the references, see :func:`nts.exemplars.leave_one_out`; NaN where it
            is unknown.

    Returns:
        int64 rows of the negatives to use.
    """
    known = own[own.isfinite()]
    limit = known.mean() - known.std(unbiased=False) if len(known) else similarity.new_tensor(-torch.inf)
    return (sure | (similarity <= limit)).nonzero()[:, 0]


def thin(prototypes: Tensor, most: int = MOST_NEGATIVES) -> Tensor:
    """Choose the negatives that differ most, by farthest point sampling on cosines; the first one is always chosen.

    Args:
        prototypes: ``[N, C]``.
        most: number to choose.

    Returns:
        int64 rows, ascending; all if there are not more.
    """
    if len(prototypes) <= most:
        return torch.arange(len(prototypes))
    units = F.normalize(prototypes.float(), dim=1)
    chosen = [0]
    nearest = units @ units[0]
    while len(chosen) < most:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, units @ units[chosen[-1]])
    return torch.tensor(sorted(chosen))
