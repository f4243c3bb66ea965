"""Instances: the result of matching for one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .masks import boxes_of_masks


@dataclass(frozen=True)
class Instances:
    """``m`` instances of an image, in descending order of their scores.

    Masks are cropped to their boxes: a hundred masks of a 12-megapixel image would take 1.2 GB.

    Attributes:
        crops: ``m`` bool masks, each of the size of its box; on the CPU.
        image_size: ``(H, W)`` of the image in pixels.
        boxes: float ``[m, 4]``, ``x1, y1, x2, y2`` in pixels, half-open: ``x2 - x1`` is the width of the mask.
        labels: int64 ``[m]``, class index.
        scores: float ``[m]`` in ``[0, 1]``, class score after soft merging (paper, Eq. 5).
        similarities: float ``[m]`` in ``[0, 1]``, class score before soft merging: the cosine similarity to the class
            prototype, or the score of a reference prompt.
        margins: float ``[m]`` in ``[0, 1]``, ``similarities`` minus the similarity to the second best class, or minus 0
            for a single class. A small margin means an ambiguous label.
        predicted_iou: float ``[m]``, SAM2's estimate of the mask's IoU.
        features: float ``[m, C]``, pooled and L2-normalised features of the masks (``g`` in the paper).
        proposals: int64 ``[m]``, index of each instance among the image's proposals.
        references: int64 ``[m]``, index of the most similar memory entry of the instance's class; -1 if only class
            prototypes were given.
        compared: float ``[m, C]``, the features that were compared with the references: of crops, if the method uses
            them, else ``features``; L2-normalised.

    Raises:
        ValueError: if the lengths differ, or a crop does not have the size of its box.
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
    compared: Tensor = None  # type: ignore[assignment]  # the features by default

    def __post_init__(self) -> None:
        if self.compared is None:
            object.__setattr__(self, "compared", self.features)
        lengths = {name: len(getattr(self, name)) for name in self.__dataclass_fields__ if name != "image_size"}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all arrays of Instances need the same length, got {lengths}")
        for crop, (x1, y1, x2, y2) in zip(self.crops, self.boxes.long().tolist(), strict=True):
            if crop.dtype != torch.bool or crop.shape != (y2 - y1, x2 - x1):
                raise ValueError(f"a crop must be bool {(y2 - y1, x2 - x1)}, got {crop.dtype} {tuple(crop.shape)}")

    @classmethod
    def of_masks(cls, masks: Tensor, **columns: Tensor) -> Instances:
        """Instances from masks of the whole image, bool ``[m, H, W]``; boxes are computed from the masks."""
        if masks.dtype != torch.bool or masks.ndim != 3:
            raise ValueError(f"masks must be bool [m, H, W], got {masks.dtype} {tuple(masks.shape)}")
        height, width = masks.shape[1:]
        boxes = boxes_of_masks(masks)
        boxes[:, 2:] += masks.flatten(1).any(1)[:, None]
        crops = [mask[y1:y2, x1:x2] for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True)]
        return cls(crops=tuple(crops), image_size=(height, width), boxes=boxes.float(), **columns)

    def __len__(self) -> int:
        return len(self.scores)

    def cpu(self) -> Instances:
        """The instances with all tensors on the CPU."""
        if self.scores.device.type == "cpu":  # as the crops are, always
            return self
        columns: dict[str, Any] = {name: v.cpu() for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **columns)

    def rows(self, which: Sequence[int]) -> Instances:
        """The instances at the given indices."""
        index = torch.tensor(which, dtype=torch.int64, device=self.scores.device)
        columns: dict[str, Any] = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name not in ("crops", "image_size")
        }
        return Instances(crops=tuple(self.crops[k] for k in which), image_size=self.image_size, **columns)

    def mask(self, k: int) -> Tensor:
        """Mask of an instance at the image's size, bool ``[H, W]``."""
        x1, y1, x2, y2 = self.boxes[k].long().tolist()
        mask = torch.zeros(self.image_size, dtype=torch.bool, device=self.boxes.device)
        mask[y1:y2, x1:x2] = self.crops[k]
        return mask

    @property
    def masks(self) -> Tensor:
        """Masks of all instances at the image's size, bool ``[m, H, W]``; computed on every access."""
        masks = torch.zeros(len(self), *self.image_size, dtype=torch.bool, device=self.boxes.device)
        for mask, crop, (x1, y1, x2, y2) in zip(masks, self.crops, self.boxes.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = crop
        return masks
