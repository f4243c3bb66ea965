"""Objects of the evaluated images, and the accuracy of either model alone on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets.coco_records import has_mask, mask_of_annotation
from ..matching import pool_tokens
from ..metrics.coco import without_nan
from ..metrics.crowds import is_crowd
from ..targets import EncodedTarget, Target
from ..utils.run_folder import read_parts
from .model_diagnostics import ModelDiagnostics, drawn_hits, nearest_to_features, proposal_hits


@dataclass(frozen=True, eq=False)
class SeenObjects:
    """Features and proposals of the ``m`` objects of an image, given their true masks; on the CPU.

    Attributes:
        features: float ``[m, C]``, patch tokens of the image pooled over the masks.
        empty: bool ``[m]``, of the masks.
        best_iou: float64 ``[m]``, best IoU of any proposal.
    """

    features: Tensor
    empty: Tensor
    best_iou: Tensor

    @classmethod
    def of_target(cls, true_masks: Tensor, target: EncodedTarget | Target, tokens: Tensor) -> SeenObjects:
        """Objects with the masks bool ``[m, H, W]`` in a target, whose image has the patch tokens ``[h, w, C]``."""
        if isinstance(target, Target):
            best_iou = drawn_hits(true_masks, target.masks)
        else:
            best_iou = proposal_hits(true_masks, target.proposals.mask_logits, target.image_size)
        features = pool_tokens(tokens, true_masks.to(tokens.device))
        return cls(features.cpu(), ~true_masks.flatten(1).any(1), best_iou.cpu())


def objects_with_masks(annotations: Sequence[dict], image_size: tuple[int, int]) -> tuple[list[dict], Tensor]:
    """The annotations of ``m`` objects with masks, without crowds, and their masks: bool ``[m, H, W]``."""
    shown = [a for a in annotations if not is_crowd(a.get("iscrowd")) and has_mask(a)]
    masks = [mask_of_annotation(annotation, *image_size) for annotation in shown]
    return shown, torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *image_size), bool))


@dataclass(frozen=True, eq=False)
class EvaluatedObjects:
    """Objects with masks, without crowds.

    Attributes:
        areas: float64 ``[m]``, in square pixels.
        labels: int64 ``[m]``, index of the class.
        best_iou: float64 ``[m]``, best IoU of any proposal.
        nearest: int64 ``[D, m]``, index of the class nearest to the true mask, for every draw; -1 for an empty mask.
    """

    areas: np.ndarray
    labels: np.ndarray
    best_iou: np.ndarray
    nearest: np.ndarray

    @classmethod
    def none(cls, draws: int) -> EvaluatedObjects:
        """No object, of ``draws`` draws."""
        return cls(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros((draws, 0), np.int64))

    @classmethod
    def of_image(
        cls,
        annotations: Sequence[dict],
        seen: SeenObjects,
        classes: Mapping[int, str],
        draws: Sequence[tuple[Sequence[str], Tensor]],
    ) -> EvaluatedObjects:
        """Objects of an image.

        Args:
            annotations: of the ``m >= 1`` objects, see :func:`objects_with_masks`.
            seen: their features and proposals.
            classes: names of the evaluated classes by category id, in the order of their indices.
            draws: of every draw the names of its classes, and their prototypes ``[K, C]``.
        """
        order = {name: k for k, name in enumerate(classes.values())}
        nearest = []
        for names, prototypes in draws:
            rows = torch.tensor([order[name] for name in names])
            found = nearest_to_features(seen.features, seen.empty, prototypes.cpu())
            nearest.append(torch.where(found < 0, -1, rows[found]).numpy())
        return cls(
            areas=np.array([a["area"] for a in annotations], np.float64),
            labels=np.array([order[classes[a["category_id"]]] for a in annotations], np.int64),
            best_iou=seen.best_iou.numpy(),
            nearest=np.stack(nearest),
        )

    @classmethod
    def concatenate(cls, several: Sequence[EvaluatedObjects]) -> EvaluatedObjects:
        """Objects of several images."""
        return cls(**{f.name: np.concatenate([getattr(o, f.name) for o in several], axis=-1) for f in fields(cls)})

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays of a part."""
        return {f"objects {f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def read(cls, parts: Sequence[Path]) -> EvaluatedObjects:
        """Objects of all parts."""
        return cls(**{f.name: np.concatenate(read_parts(parts, f"objects {f.name}"), axis=-1) for f in fields(cls)})

    def summary(self, classes: Sequence[str], shots: Sequence[int]) -> dict[str, Any] | None:
        """Recall of the proposals and accuracy on true masks, in percent; ``None`` without objects.

        Args:
            classes: names of the classes.
            shots: of every draw. Accuracy is the mean over draws of equal shots.
        """
        if not len(self.areas):
            return None
        of_proposals = ModelDiagnostics(classes)
        of_proposals.add_proposals(self.areas, torch.from_numpy(self.best_iou))
        recall = [asdict(row) for row in of_proposals.summary().recall]
        accuracy = []
        for number in dict.fromkeys(shots):
            shares = []
            for of_draw, nearest in zip(shots, self.nearest, strict=True):
                if of_draw == number:
                    of_labels = ModelDiagnostics(classes)
                    of_labels.add_labels(self.labels, torch.from_numpy(nearest))
                    shares.append(of_labels.summary().accuracy)
            std = float(np.std(shares, ddof=1)) if len(shares) > 1 else math.nan
            figure = {"mean": 100 * float(np.mean(shares)), "std": 100 * std}
            accuracy.append({"shots": number, "objects": len(self.labels), "accuracy": figure})
        for row in recall:
            row |= {name: 100 * row[name] for name in ("recall_50", "recall_75", "mean")}
        return without_nan({"recall": recall, "accuracy_on_true_masks": accuracy})
