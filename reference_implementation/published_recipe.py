"""Published matching stage, slow and explicit: oracle of the tests and baseline of the benchmarks.

Features are resized, every mask is drawn at full size, and classes are visited in a loop. Nothing is shared with the
engine. One detail differs from the publication: a mask that vanishes at full size is dropped instead of scoring NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """Masks bool ``[m, H, W]``, inclusive boxes int64 ``[m, 4]``, labels and scores ``[m]``, by descending score."""

    masks: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor


def instance_mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of tokens ``[P, C]``: the instance prototype."""
    total, mean = 0.0, torch.zeros(tokens.shape[1])
    for token, weight in zip(tokens, weights.tolist(), strict=True):
        mean = mean + weight * token
        total += weight
    return mean / total


def class_mean(instance_means: Tensor) -> Tensor:
    """Mean of the instance means ``[R, C]`` of a class, L2-normalised: the class prototype."""
    mean = sum(instance_means) / len(instance_means)
    return mean / mean.norm()


def mask_feature(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over a mask ``[S, S]`` of tokens ``[h, w, C]`` resized to it, L2-normalised."""
    enlarged = F.interpolate(
        tokens.permute(2, 0, 1)[None], size=tuple(mask.shape), mode="bilinear", align_corners=False
    )[0]
    mean = enlarged[:, mask].mean(1)
    return mean / mean.norm().clamp(min=1e-12)


def box_of(mask: Tensor) -> list[int]:
    """Inclusive bounding box of a mask; zeros if it is empty."""
    ys, xs = mask.nonzero(as_tuple=True)
    return [int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())] if len(xs) else [0, 0, 0, 0]


def box_iou(a: list[int], b: list[int]) -> float:
    """IoU of two boxes, without the +1 of inclusive boxes."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


def match(
    tokens: Tensor,
    mask_logits: Tensor,
    predicted_iou: Tensor,
    prototypes: Tensor,
    image_size: tuple[int, int],
    *,
    nms_iou: float = 0.5,
    max_instances: int = 100,
) -> Answer:
    """Published matching; arguments as in :func:`nts.matching.match_proposals`."""
    features = torch.stack([mask_feature(tokens, logits > 0) for logits in mask_logits])
    similarities = (features @ F.normalize(prototypes, dim=1).T).clamp(min=0)
    scores, labels = similarities.max(1)

    boxes = [box_of(logits > 0) for logits in mask_logits]
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(predicted_iou[i])):
        if all(labels[i] != labels[j] or box_iou(boxes[i], boxes[j]) <= nms_iou for j in kept):
            kept.append(i)
    kept = [i for i in kept[: 8 * max_instances] if scores[i] > 0]

    full = F.interpolate(mask_logits[kept][None], size=image_size, mode="bilinear", antialias=True)[0]
    masks = (full > 0).float()
    seen = masks.flatten(1).any(1)
    masks, kept = masks[seen], torch.tensor(kept, dtype=torch.int64)[seen]
    labels, scores, features = labels[kept], scores[kept], features[kept]
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0].tolist()
        for rank, i in enumerate(members):
            worst = 0.0
            for j in members[:rank]:
                covered = float((masks[i] * masks[j]).sum() / masks[i].sum())
                worst = max(worst, covered * max(0.0, float(features[i] @ features[j])))
            scores[i] = scores[i] * (1 - worst) ** 0.5

    order = scores.argsort(descending=True, stable=True)[:max_instances]
    masks = masks[order].bool()
    boxes = torch.tensor([box_of(mask) for mask in masks], dtype=torch.int64).reshape(-1, 4)
    return Answer(masks, boxes, labels[order], scores[order])
