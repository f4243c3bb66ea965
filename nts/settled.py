"""Objects that a person has decided about: proposals do not repeat them.

An accepted or corrected label is final, so no proposal may cover the same object, whatever its class. A rejected one
says that the object is not of its class; it may be of another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .proposal_masks import ProposalMasks

SAME_OBJECT = 0.5
"""IoU from which a proposal covers the same object as a label."""

INSIDE = 0.8
"""Part of a proposal inside an accepted label from which it is a part of that object."""


@dataclass(frozen=True)
class Settled:
    """The ``m`` decided labels of an image.

    Attributes:
        masks: bool ``[m, H, W]``.
        classes: bool ``[m, K]``: classes that a proposal on this object may not have. All of them for an accepted or a
            corrected label, one for a rejected one, none if its class is not among the ``K`` of the memory.
    """

    masks: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.masks)


def blocked_classes(masks: ProposalMasks, settled: Settled) -> Tensor:
    """Classes that proposals may not have: bool ``[n, K]``.

    A proposal is blocked by labels that have an IoU of :data:`SAME_OBJECT` with it, and by accepted labels that it
    mostly lies inside.

    Args:
        masks: of ``n`` proposals.
        settled: the decided labels, at the same image size.

    Raises:
        ValueError: if the sizes differ.
    """
    if tuple(settled.masks.shape[1:]) != tuple(masks.image_size):
        raise ValueError(f"decided masks are {tuple(settled.masks.shape[1:])}, the image {tuple(masks.image_size)}")
    proposals = (~masks.empty).nonzero()[:, 0]
    blocked = torch.zeros(len(masks.empty), settled.classes.shape[1], dtype=torch.bool, device=masks.empty.device)
    if len(proposals) == 0 or len(settled) == 0:
        return blocked
    crops, boxes = masks.crops(proposals)
    decided = settled.masks.to(blocked.device)
    shared = torch.stack(
        [
            (decided[:, y1:y2, x1:x2] & crop).flatten(1).sum(1)
            for crop, (x1, y1, x2, y2) in zip(crops, boxes.tolist(), strict=True)
        ]
    )
    areas = torch.stack([crop.sum() for crop in crops])[:, None]
    union = areas + decided.flatten(1).sum(1) - shared
    classes = settled.classes.to(blocked.device)
    is_final = classes.all(1)
    covers = (shared >= SAME_OBJECT * union) | ((shared >= INSIDE * areas) & is_final)
    covers &= areas > 0
    blocked[proposals] = (covers.float() @ classes.float()) > 0
    return blocked
