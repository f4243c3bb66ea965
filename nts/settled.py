"""Objects that a person has decided about: proposals do not repeat them.

An accepted or corrected label is final, so no proposal may cover the same object, whatever its class. A rejected one
says that the object is not of its class; it may be of another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import boxes_of_masks
from .proposal_masks import DrawnMasks, ProposalMasks

SAME_OBJECT = 0.5
"""IoU from which a proposal covers the same object as a label."""

INSIDE = 0.8
"""Part of a proposal inside an accepted label from which it is a part of that object."""


@dataclass(frozen=True)
class Settled:
    """The ``m`` decided labels of an image.

    Attributes:
        masks: of the labels, none of them empty.
        classes: bool ``[m, K]``: classes that a proposal on this object may not have. All of them for an accepted or a
            corrected label, one for a rejected one, none if its class is not among the ``K`` of the memory.
        image_size: ``(H, W)`` in pixels.
    """

    masks: DrawnMasks
    classes: Tensor
    image_size: tuple[int, int]

    @classmethod
    def of_masks(cls, masks: Iterable[Tensor], classes: Tensor, image_size: tuple[int, int]) -> Settled:
        """Labels with masks of the whole image, bool ``[H, W]`` each; taken one at a time, they need little memory."""
        crops, boxes, rows = [], [], []
        for row, mask in enumerate(masks):
            (x1, y1, x2, y2), there = boxes_of_masks(mask[None])[0].tolist(), bool(mask.any())
            if there:
                crops.append(mask[y1 : y2 + 1, x1 : x2 + 1])
                boxes.append((x1, y1, x2 + 1, y2 + 1))
                rows.append(row)
        return cls(DrawnMasks.of_crops(crops, boxes), classes[rows], image_size)

    def __len__(self) -> int:
        return len(self.classes)


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
    if tuple(settled.image_size) != tuple(masks.image_size):
        raise ValueError(f"decided masks are {tuple(settled.image_size)}, the image {tuple(masks.image_size)}")
    device = masks.empty.device
    proposals = (~masks.empty).nonzero()[:, 0]
    blocked = torch.zeros(len(masks.empty), settled.classes.shape[1], dtype=torch.bool, device=device)
    if len(proposals) == 0 or len(settled) == 0:
        return blocked
    crops, boxes = masks.crops(proposals)
    areas = [int(crop.sum()) for crop in crops]
    left, top, right, bottom = boxes.cpu().T
    decided, windows = settled.masks.crops(torch.arange(len(settled)))
    is_final = settled.classes.all(1).tolist()
    for label, (x1, y1, x2, y2), final, classes in zip(
        decided, windows.tolist(), is_final, settled.classes, strict=True
    ):
        area, classes = int(label.sum()), classes.to(device)
        for k in ((left < x2) & (right > x1) & (top < y2) & (bottom > y1)).nonzero()[:, 0].tolist():
            a, b, c, d = max(x1, int(left[k])), max(y1, int(top[k])), min(x2, int(right[k])), min(y2, int(bottom[k]))
            own = crops[k].cpu()[b - int(top[k]) : d - int(top[k]), a - int(left[k]) : c - int(left[k])]
            shared = int((label[b - y1 : d - y1, a - x1 : c - x1] & own).sum())
            covers = shared >= SAME_OBJECT * (area + areas[k] - shared) or (final and shared >= INSIDE * areas[k])
            if areas[k] and covers:
                blocked[proposals[k]] |= classes
    return blocked
