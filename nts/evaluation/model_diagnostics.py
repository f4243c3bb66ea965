"""Share of the two models in the errors: coverage of the objects by proposals, and classes of true masks.

:class:`ModelDiagnostics` collects, image by image, the coverage of the objects by the proposals (:func:`proposal_hits`)
and the accuracy of the encoder alone on true masks (:func:`nearest_classes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import boxes_of_masks, draw_masks
from ..matching import pool_tokens
from ..metrics.coco import without_nan
from ..metrics.matches import AREA_RANGES
from ..proposal_masks import ProposalMasks

_PIXELS_AT_ONCE = 1 << 26


def proposal_hits(true_masks: Tensor, mask_logits: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Best IoU of any proposal with each object.

    Args:
        true_masks: bool ``[m, H, W]``.
        mask_logits: ``[n, S, S]`` low-resolution logits of the proposals.
        image_size: ``(H, W)``.

    Returns:
        float64 ``[m]`` on the device of the proposals; 0 for an empty mask, and without proposals.

    Raises:
        ValueError: if the masks are not of the image's size.
    """
    if tuple(true_masks.shape[1:]) != tuple(image_size):
        raise ValueError(f"true masks are {tuple(true_masks.shape[1:])}, the image {tuple(image_size)}")
    true_masks = true_masks.to(mask_logits.device)
    best = torch.zeros(len(true_masks), dtype=torch.float64, device=mask_logits.device)
    areas = true_masks.flatten(1).sum(1)
    windows = boxes_of_masks(true_masks).tolist()
    # Few proposals at a time, and of each only what lies within an object's box: full-size masks of all need too much.
    chunk = max(1, _PIXELS_AT_ONCE // math.prod(image_size))
    for first in range(0, len(mask_logits), chunk):
        proposed = draw_masks(mask_logits[first : first + chunk], image_size)
        proposed_areas = proposed.flatten(1).sum(1)
        for i, (x1, y1, x2, y2) in enumerate(windows):
            rows, columns = slice(y1, y2 + 1), slice(x1, x2 + 1)
            shared = (proposed[:, rows, columns] & true_masks[i, rows, columns]).flatten(1).sum(1)
            union = areas[i] + proposed_areas - shared
            best[i] = torch.maximum(best[i], (shared.double() / union.clamp(min=1)).amax())
    return best


def drawn_hits(true_masks: Tensor, masks: ProposalMasks) -> Tensor:
    """As :func:`proposal_hits`, for proposals that are drawn: of an image in tiles, or from the cache.

    Args:
        true_masks: bool ``[m, H, W]``.
        masks: of the proposals.
    """
    crops, boxes = masks.crops(torch.arange(len(masks.empty), device=masks.empty.device))
    areas, boxes = [int(crop.sum()) for crop in crops], boxes.cpu()
    best = torch.zeros(len(true_masks), dtype=torch.float64)
    for i, (x1, y1, x2, y2) in enumerate(boxes_of_masks(true_masks).tolist()):
        near = (boxes[:, 0] <= x2) & (boxes[:, 2] > x1) & (boxes[:, 1] <= y2) & (boxes[:, 3] > y1)
        area = int(true_masks[i].sum())
        for k in near.nonzero()[:, 0].tolist() if area else ():
            left, top, right, bottom = boxes[k].tolist()
            shared = int((true_masks[i, top:bottom, left:right] & crops[k].cpu()).sum())
            best[i] = max(float(best[i]), shared / (area + areas[k] - shared))
    return best


def nearest_classes(tokens: Tensor, true_masks: Tensor, prototypes: Tensor) -> Tensor:
    """Class that the encoder alone would assign to each object, given its true mask.

    Args:
        tokens: ``[h, w, C]`` patch tokens of the image.
        true_masks: bool ``[m, H, W]``.
        prototypes: ``[K, C]`` class prototypes, of any norm.

    Returns:
        int64 ``[m]``; -1 for an empty mask.
    """
    if len(true_masks) == 0:
        return torch.zeros(0, dtype=torch.int64, device=tokens.device)
    true_masks = true_masks.to(tokens.device)
    features = pool_tokens(tokens, true_masks)
    return nearest_to_features(features, ~true_masks.flatten(1).any(1), prototypes)


def nearest_to_features(features: Tensor, empty: Tensor, prototypes: Tensor) -> Tensor:
    """As :func:`nearest_classes`, from pooled features.

    Args:
        features: ``[m, C]`` of :func:`~nts.matching.pool_tokens` for the true masks.
        empty: bool ``[m]``, of the masks.
        prototypes: ``[K, C]`` class prototypes, of any norm.
    """
    return (features @ F.normalize(prototypes.float(), dim=1).T).argmax(1).masked_fill(empty, -1)


@dataclass(frozen=True)
class ProposalRecall:
    """Recall of the proposals for objects of a range of sizes; ``nan`` where there are none.

    Attributes:
        area: name of the range of sizes.
        objects: number of objects.
        recall_50, recall_75: share of the objects that some proposal covers with an IoU of at least 0.5, and 0.75.
        mean: mean of the best IoU.
    """

    area: str
    objects: int
    recall_50: float
    recall_75: float
    mean: float


@dataclass(frozen=True, eq=False)
class ModelSummary:
    """Figures of :class:`ModelDiagnostics`.

    Attributes:
        classes: names of the ``K`` classes.
        recall: of the proposals, for each range of sizes.
        objects: number of objects with a class, given their true masks.
        accuracy: share of them whose nearest class is their own; ``nan`` where there are none.
        per_class: accuracy of every class.
        confusion: int64 ``[K, K]`` of objects with true masks. Row: the nearest class, column: the true one.
    """

    classes: tuple[str, ...]
    recall: tuple[ProposalRecall, ...]
    objects: int
    accuracy: float
    per_class: dict[str, float]
    confusion: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; ``nan`` becomes ``None``."""
        values = {name: getattr(self, name) for name in ("objects", "accuracy", "per_class")}
        recall = [asdict(row) for row in self.recall]
        return without_nan(values | {"classes": self.classes, "recall": recall, "confusion": self.confusion.tolist()})


class ModelDiagnostics:
    """Collects the share of the two models in the errors, image by image.

    Args:
        classes: names of the classes, in the order of labels.
        ranges: names of ranges of sizes and their limits, both included; by default COCO's, in square pixels.
    """

    def __init__(self, classes: Sequence[str], ranges: Mapping[str, tuple[float, float]] | None = None) -> None:
        self.classes = tuple(classes)
        self.ranges = dict(AREA_RANGES if ranges is None else ranges)
        self._sizes: list[np.ndarray] = []
        self._best_iou: list[np.ndarray] = []
        self._confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)
        self._objects = np.zeros(len(self.classes), np.int64)

    def add_proposals(self, sizes: Sequence[float] | np.ndarray, best_iou: Tensor) -> None:
        """Add the objects of an image, distractors or not: their sizes ``[m]``, and :func:`proposal_hits` of them."""
        if len(sizes) != len(best_iou):
            raise ValueError(f"{len(sizes)} sizes, but {len(best_iou)} objects")
        self._sizes.append(np.asarray(sizes, np.float64))
        self._best_iou.append(best_iou.cpu().numpy())

    def add_labels(self, labels: Sequence[int] | np.ndarray, nearest: Tensor) -> None:
        """Add the objects of an image: true labels ``[m]``, -1 for distractors, and :func:`nearest_classes` of them."""
        labels, chosen = np.asarray(labels, np.int64), nearest.cpu().numpy()
        if len(labels) != len(chosen):
            raise ValueError(f"{len(labels)} labels, but {len(chosen)} objects")
        known = labels >= 0
        self._objects += np.bincount(labels[known], minlength=len(self.classes))
        known &= chosen >= 0
        np.add.at(self._confusion, (chosen[known], labels[known]), 1)

    def summary(self) -> ModelSummary:
        """Figures of all objects added so far."""
        sizes, best = (np.concatenate([np.zeros(0), *parts]) for parts in (self._sizes, self._best_iou))
        recall = []
        for name, (low, high) in self.ranges.items():
            of_range = best[(sizes >= low) & (sizes <= high)]
            figures = [_share(of_range >= 0.5), _share(of_range >= 0.75), _share(of_range)]
            recall.append(ProposalRecall(name, len(of_range), *figures))
        right, objects = self._confusion.diagonal(), int(self._objects.sum())
        per_class = zip(self.classes, right.tolist(), self._objects.tolist(), strict=True)
        return ModelSummary(
            classes=self.classes,
            recall=tuple(recall),
            objects=objects,
            accuracy=int(right.sum()) / objects if objects else math.nan,
            per_class={name: hits / of_class if of_class else math.nan for name, hits, of_class in per_class},
            confusion=self._confusion.copy(),
        )


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
