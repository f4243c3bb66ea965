"""What travels from the matching to everything after it: the instances found in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .masks import boxes_of_masks


@dataclass(frozen=True)
class Instances:
    """``m`` instances of one image, by falling score.

    Masks are kept cut to their boxes: a hundred of them at the size of a 12-megapixel image would take 1.2 GB.

    Attributes:
        crops: ``m`` masks, bool, each of the size of its box.
        image_size: ``(H, W)`` of the image in pixels.
        boxes: float ``[m, 4]``, ``x1, y1, x2, y2`` in pixels, half-open: ``x2 - x1`` is the width of the mask.
        labels: int64 ``[m]``, row of the class prototype that each instance is most alike.
        scores: float ``[m]`` in ``[0, 1]``: cosine similarity after soft merging.
        similarities: float ``[m]`` in ``[0, 1]``: cosine similarity before soft merging, or the score in its place
            where a reference prompt judges.
        margins: float ``[m]`` in ``[0, 1]``: how much ``similarities`` is above the similarity to the second best
            class, which is 0 where there is but one class. A small margin is a label that could as well be another.
        predicted_iou: float ``[m]``: SAM2's own estimate of the quality of the mask.
        features: float ``[m, C]``: the pooled, L2-normalised feature of each mask (``g`` in the paper).
        proposals: int64 ``[m]``: which of the image's proposals each instance was.
        references: int64 ``[m]``: the entry of the memory bank most alike among those of the instance's class, or
            ``-1`` where only class prototypes were given.
    """

    crops: tuple[Tensor, ...]
    image_size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    similarities: Tensor
    margins: Tensor
    predicted_iou: Tensor
    features: Tensor
    proposals: Tensor
    references: Tensor

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in self.__dataclass_fields__ if name != "image_size"}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all arrays of Instances need the same length, got {lengths}")
        for crop, (x1, y1, x2, y2) in zip(self.crops, self.boxes.long().tolist(), strict=True):
            if crop.dtype != torch.bool or crop.shape != (y2 - y1, x2 - x1):
                raise ValueError(f"a crop must be bool {(y2 - y1, x2 - x1)}, got {crop.dtype} {tuple(crop.shape)}")

    @classmethod
    def of_masks(cls, masks: Tensor, **columns: Tensor) -> Instances:
        """Instances of masks bool ``[m, H, W]`` on the whole image; boxes are theirs."""
        if masks.dtype != torch.bool or masks.ndim != 3:
            raise ValueError(f"masks must be bool [m, H, W], got {masks.dtype} {tuple(masks.shape)}")
        height, width = masks.shape[1:]
        boxes = boxes_of_masks(masks)
        boxes[:, 2:] += masks.flatten(1).any(1)[:, None]
        crops = [mask[y1:y2, x1:x2] for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True)]
        return cls(crops=tuple(crops), image_size=(height, width), boxes=boxes.float(), **columns)

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, which: Sequence[int]) -> Instances:
        """Some of the instances."""
        index = torch.tensor(which, dtype=torch.int64, device=self.scores.device)
        columns: dict[str, Any] = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name not in ("crops", "image_size")
        }
        return Instances(crops=tuple(self.crops[k] for k in which), image_size=self.image_size, **columns)

    def mask(self, k: int) -> Tensor:
        """The mask of one instance on the whole image: bool ``[H, W]``."""
        x1, y1, x2, y2 = self.boxes[k].long().tolist()
        mask = torch.zeros(self.image_size, dtype=torch.bool, device=self.boxes.device)
        mask[y1:y2, x1:x2] = self.crops[k]
        return mask

    @property
    def masks(self) -> Tensor:
        """All masks on the whole image, bool ``[m, H, W]``; drawn anew whenever it is asked for."""
        masks = torch.zeros(len(self), *self.image_size, dtype=torch.bool, device=self.boxes.device)
        for mask, crop, (x1, y1, x2, y2) in zip(masks, self.crops, self.boxes.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = crop
        return masks
