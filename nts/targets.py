"""What an image gives whatever the memory: encode it once, and match it with any classes for next to nothing.

Neither encoder nor decoder depends on a class, and nor do the pooled features of the proposals, their masks and the
pixels that these share. Everything that does (similarity, suppression, merging) is a few small products on what is kept
here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from .masks import boxes_of_masks, each_crop, overlaps_of_masks
from .merging import Overlaps
from .segmenter import Proposals


@dataclass(frozen=True)
class Target:
    """An image, encoded: ``n`` proposals with all that their matching needs.

    Attributes:
        features: float32 ``[n, C]``, L2-normalised means of the patch tokens over the masks. Half precision would take
            half as much and move scores by up to 4e-4.
        predicted_iou: float32 ``[n]``.
        boxes: int16 ``[n, 4]`` inclusive boxes of the masks at the size of their logits, by which they are suppressed.
        empty: bool ``[n]``, of the same masks.
        image_size: ``(H, W)`` in pixels.
        full_boxes: int32 ``[n, 4]`` half-open boxes at the image's size.
        areas: int32 ``[n]`` in pixels of the image.
        pairs: int16 ``[2, p]`` proposals ``i < j`` that share pixels at the image's size; int32 where ``n`` demands it.
        shared: int32 ``[p]`` how many.
        runs: uint8, COCO's run lengths of all masks, each cut to its box and transposed, one after the other. COCO
            goes down the columns, so that what is decoded is a mask row by row, as everybody else wants it.
        runs_end: int32 ``[n]`` where those of each mask end.
    """

    features: Tensor
    predicted_iou: Tensor
    boxes: Tensor
    empty: Tensor
    image_size: tuple[int, int]
    full_boxes: Tensor
    areas: Tensor
    pairs: Tensor
    shared: Tensor
    runs: Tensor
    runs_end: Tensor

    def __len__(self) -> int:
        return len(self.predicted_iou)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All but the image's size, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def cpu(self) -> Target:
        """The same, on the CPU."""
        on_cpu: dict[str, Any] = {name: value.cpu() for name, value in self.tensors.items()}
        return replace(self, **on_cpu)

    def overlaps(self, which: Tensor, labels: Tensor) -> Overlaps:
        """As :meth:`nts.matching.ProposalMasks.overlaps`."""
        ranks, classes = torch.zeros((2, len(self)), dtype=torch.int64)
        ranks[which] = torch.arange(len(which))
        classes[which] = labels + 1  # 0 is what is not asked for
        first_class, second_class = classes[self.pairs.long()]
        matter = ((first_class == second_class) & (first_class > 0)).nonzero()[:, 0]
        first, second = ranks[self.pairs[:, matter].long()]
        return Overlaps(
            areas=self.areas[which].long(),
            worse=torch.maximum(first, second),
            better=torch.minimum(first, second),
            shared=self.shared[matter].long(),
        )

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """As :meth:`nts.matching.ProposalMasks.crops`."""
        boxes = self.full_boxes[which].long()
        ends, runs = self.runs_end.tolist(), self.runs.numpy()
        crops = []
        for k, (x1, y1, x2, y2) in zip(which.tolist(), boxes.tolist(), strict=True):
            counts = runs[ends[k - 1] if k else 0 : ends[k]].tobytes()
            columns = coco_mask.decode({"size": [x2 - x1, y2 - y1], "counts": counts})
            crops.append(torch.from_numpy(columns.T.view(bool)))
        return crops, boxes


def make_target(features: Tensor, proposals: Proposals, image_size: tuple[int, int]) -> Target:
    """All that the matching will need of an image; on the CPU.

    Args:
        features: ``[n, C]`` of the proposals, by :func:`nts.matching.pool_tokens`.
        proposals: ``n`` of them.
        image_size: ``(H, W)`` in pixels.
    """
    logits = proposals.mask_logits
    inside = logits > 0
    overlaps = overlaps_of_masks(logits, image_size)
    first, second = overlaps.triu(1).nonzero(as_tuple=True)
    runs, full_boxes = [], []
    for crop, box in each_crop(logits, image_size):
        runs.append(_run_lengths(crop))
        full_boxes.append(box)
    lengths = torch.tensor([len(of_mask) for of_mask in runs], dtype=torch.int64)
    target = Target(
        features=features.float(),
        predicted_iou=proposals.predicted_iou.float(),
        boxes=boxes_of_masks(inside).to(torch.int16),
        empty=~inside.flatten(1).any(1),
        image_size=image_size,
        full_boxes=torch.tensor(full_boxes, dtype=torch.int32).reshape(-1, 4),
        areas=overlaps.diagonal().int(),
        pairs=torch.stack([first, second]).to(torch.int16 if len(logits) <= 1 << 15 else torch.int32),
        shared=overlaps[first, second].int(),
        runs=torch.from_numpy(np.frombuffer(b"".join(runs), np.uint8).copy()),
        runs_end=lengths.cumsum(0).int(),
    )
    return target.cpu()


def _run_lengths(crop: Tensor) -> bytes:
    # An empty array has no run lengths in pycocotools.
    return coco_mask.encode(crop.cpu().contiguous().numpy().view(np.uint8).T)["counts"] if crop.numel() else b""
