"""What travels from the matching to everything after it: the instances found in one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Instances:
    """``m`` instances of one image, by falling score.

    Attributes:
        masks: bool ``[m, H, W]`` at the image's own size.
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

    masks: Tensor
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
        lengths = {name: len(getattr(self, name)) for name in self.__dataclass_fields__}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all arrays of Instances need the same length, got {lengths}")
        if self.masks.dtype != torch.bool or self.masks.ndim != 3:
            raise ValueError(f"masks must be bool [m, H, W], got {self.masks.dtype} {tuple(self.masks.shape)}")

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` of the image."""
        return self.masks.shape[1], self.masks.shape[2]
