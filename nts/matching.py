"""Classify the proposals of an image by their nearest class prototype, and reduce them to instances (paper, Sec. 3.3).

The steps, in the order of :func:`match_proposals`: pool the target's patch tokens over every mask, compare with the
prototypes, suppress overlapping boxes of a class, merge softly by semantic similarity, return the best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .instances import Instances
from .masks import resize_matrix
from .merging import diffusion_decay, soft_merging_decay, suppress
from .method import Merging
from .proposal_masks import LogitMasks, ProposalMasks

_POOLING_CHUNK = 128


@dataclass(frozen=True)
class MatchingConfig:
    """The constants of the matching; the defaults are the published ones.

    Attributes:
        nms_iou: box NMS suppresses above this IoU, inside a class. 1 switches NMS off.
        max_instances: at most this many instances are returned per image.
        candidates_per_instance: at most ``candidates_per_instance * max_instances`` proposals enter soft merging, those
            of the highest predicted IoU.
        merge_exponent: exponent of the soft-merging decay. 0 switches soft merging off.
        score_threshold: instances are returned only above this score; 0 drops those that are similar to no class.
    """

    nms_iou: float = 0.5
    max_instances: int = 100
    candidates_per_instance: int = 8
    merge_exponent: float = 0.5
    score_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("nms_iou", "merge_exponent", "score_threshold"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)!r}")
        for name in ("max_instances", "candidates_per_instance"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if not 0 <= self.nms_iou <= 1:
            raise ValueError(f"nms_iou must lie in [0, 1], got {self.nms_iou}")
        if self.max_instances < 1 or self.candidates_per_instance < 1:
            raise ValueError("max_instances and candidates_per_instance must be at least 1")
        if self.merge_exponent < 0:
            raise ValueError(f"merge_exponent must not be negative, got {self.merge_exponent}")
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {self.score_threshold}")


def patch_weights(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights of the patches in the mean over a mask of bilinearly enlarged features.

    The publication enlarges the ``h x w`` features ``F`` to the mask's size, ``U = R_y F R_x^T``, and averages ``U``
    over the mask ``B`` (Sec. 3.3). The enlargement is linear, so the same mean is a weighted mean of the patches, with
    the weights ``R_y^T B R_x``: the adjoint of the resize, without the large feature map.

    Args:
        masks: ``[n, S, S]``, bool, or 0/1 in the precision wanted.
        grid: ``(h, w)``.

    Returns:
        float ``[n, h, w]``; the weights of a mask sum to its area.
    """
    like = masks.new_empty(0, dtype=masks.dtype if masks.is_floating_point() else torch.float32)
    resize_y = resize_matrix(grid[0], masks.shape[1], antialias=False, like=like)
    resize_x = resize_matrix(grid[1], masks.shape[2], antialias=False, like=like)
    return torch.cat([resize_y.T @ chunk.to(like.dtype) @ resize_x for chunk in masks.split(_POOLING_CHUNK)])


def pool_tokens(tokens: Tensor, masks: Tensor) -> Tensor:
    """Average patch tokens over masks and normalise: the mask features ``g_i`` (paper, Sec. 3.3).

    Args:
        tokens: ``[h, w, C]`` patch tokens.
        masks: ``[n, S, S]``, bool, or 0/1 in the precision wanted.

    Returns:
        float ``[n, C]``, L2-normalised; zeros for an empty mask.
    """
    if len(masks) == 0:
        return tokens.new_zeros(0, tokens.shape[-1], dtype=torch.float32)
    height, width, _ = tokens.shape
    weights = patch_weights(masks, (height, width)).flatten(1)
    means = weights @ tokens.float().flatten(0, 1) / weights.sum(1, keepdim=True).clamp(min=1e-12)
    return F.normalize(means, dim=1)


def similarity(features: Tensor, prototypes: Tensor) -> Tensor:
    """Clamped cosine similarity ``s_ic = max(0, g_i . p_c)`` (paper, Sec. 3.3).

    Args:
        features: ``[n, C]`` mask features, L2-normalised.
        prototypes: ``[K, C]`` class prototypes, L2-normalised.

    Returns:
        ``[n, K]`` in ``[0, 1]``.
    """
    return (features @ prototypes.T).clamp(min=0, max=1)


def second_best_similarity(similarities: Tensor, labels: Tensor) -> Tensor:
    """Similarity of each mask to its second best class.

    Args:
        similarities: ``[n, K]`` in ``[0, 1]``, as :func:`similarity` gives them.
        labels: int64 ``[n]``, the best class of each.

    Returns:
        float ``[n]``; 0, the lowest similarity possible, where ``K`` is 1.
    """
    return similarities.scatter(1, labels[:, None], 0.0).amax(1)


def match_proposals(
    tokens: Tensor,
    mask_logits: Tensor,
    predicted_iou: Tensor,
    prototypes: Tensor,
    image_size: tuple[int, int],
    config: MatchingConfig | None = None,
    features: Tensor | None = None,
    class_scores: Tensor | None = None,
) -> Instances:
    """Turn the proposals of one image into instances (paper, Sec. 3.3).

    Args:
        tokens: ``[h, w, C]`` patch tokens of the target image.
        mask_logits: ``[n, S, S]`` low-resolution mask logits, positive inside.
        predicted_iou: ``[n]``, as SAM2 estimates them.
        prototypes: ``[K, C]`` class prototypes; they are L2-normalised here.
        image_size: ``(H, W)`` of the image in pixels.
        config: see :class:`MatchingConfig`.
        features: ``[n, C]`` from :func:`pool_tokens`; computed here by default.
        class_scores: ``[n, K]`` in ``[0, 1]``, to be used in place of the similarity to the prototypes.

    Returns:
        the instances; empty if no proposal is similar to any class.

    Raises:
        ValueError: if shapes do not fit together, or prototypes or tokens are not finite.
    """
    config = config or MatchingConfig()
    _check_inputs(tokens, mask_logits, predicted_iou, prototypes, image_size)
    features = pool_tokens(tokens, mask_logits > 0) if features is None else features
    if class_scores is None:
        class_scores = similarity(features, F.normalize(prototypes.float(), dim=1))
    return choose_instances(LogitMasks(mask_logits, image_size), features, predicted_iou, class_scores, config)


def choose_instances(
    masks: ProposalMasks,
    features: Tensor,
    predicted_iou: Tensor,
    class_scores: Tensor,
    config: MatchingConfig,
    blocked: Tensor | None = None,
) -> Instances:
    """Classify proposals, suppress and softly merge overlapping ones of a class, return the best (paper, Sec. 3.3).

    Each proposal takes its best class, ``argmax_c s_ic``. Box NMS (:func:`nts.merging.suppress`) is followed by
    semantic-aware soft merging (:func:`nts.merging.soft_merging_decay`, Eq. 4 and 5).

    Args:
        masks: of ``n`` proposals.
        features: float ``[n, C]`` mask features, L2-normalised.
        predicted_iou: ``[n]``.
        class_scores: ``[n, K]`` in ``[0, 1]``, see :mod:`nts.scoring`.
        config: see :class:`MatchingConfig`.
        blocked: bool ``[n, K]``, classes that proposals may not have, see :mod:`nts.settled`; ``None`` for none.
    """
    usable = ~masks.empty & predicted_iou.isfinite()
    if blocked is not None:
        usable &= ~blocked.all(1)
        class_scores = class_scores.masked_fill(blocked, 0)
    similarities, labels = class_scores.max(1)
    candidates = usable.nonzero()[:, 0]
    # NMS is ordered by predicted IoU alone; the score contains the class score alone.
    rows, scores = suppress_and_merge(
        masks,
        features,
        candidates,
        labels[candidates],
        rank=predicted_iou[candidates],
        confidences=similarities[candidates],
        config=config,
    )
    kept = scores > config.score_threshold
    chosen, scores = candidates[rows[kept]][: config.max_instances], scores[kept][: config.max_instances]
    crops, boxes = masks.crops(chosen)
    return Instances(
        crops=tuple(crops),
        image_size=masks.image_size,
        boxes=boxes.float(),
        labels=labels[chosen],
        scores=scores,
        similarities=similarities[chosen],
        margins=similarities[chosen] - second_best_similarity(class_scores[chosen], labels[chosen]),
        predicted_iou=predicted_iou[chosen].float(),
        features=features[chosen],
        proposals=chosen,
        references=torch.full_like(chosen, -1),
    )


def suppress_and_merge(
    masks: ProposalMasks,
    features: Tensor,
    candidates: Tensor,
    labels: Tensor,
    *,
    rank: Tensor,
    confidences: Tensor,
    config: MatchingConfig,
    merging: Merging = "soft",
) -> tuple[Tensor, Tensor]:
    """Suppress and softly merge overlapping candidates of a class.

    Args:
        masks: of all ``n`` proposals.
        features: float ``[n, C]``, L2-normalised, of all proposals.
        candidates: int64 ``[m]`` proposals.
        labels: int64 ``[m]``, class of each candidate.
        rank: ``[m]``, order of suppression and merging, highest first.
        confidences: ``[m]``, before the decay. Candidates of confidence 0 are dropped.
        config: see :class:`MatchingConfig`; its threshold and number of instances are left to the caller.
        merging: see :class:`nts.method.Method`.

    Returns:
        int64 rows of ``candidates`` in descending order of score, and their scores, all above 0. A mask can vanish at
        the size of a small image; it is dropped.
    """
    rows = suppress(masks.boxes[candidates], rank, labels, config.nms_iou)
    rows = rows[: config.candidates_per_instance * config.max_instances]
    rows = rows[confidences[rows] > 0]
    overlaps = masks.overlaps(candidates[rows], labels[rows])
    if merging == "soft":
        decay = soft_merging_decay(overlaps, features[candidates[rows]], config.merge_exponent)
    else:
        decay = diffusion_decay(overlaps, config.merge_exponent)
    scores = confidences[rows] * decay
    order = scores.argsort(descending=True, stable=True)
    order = order[(overlaps.areas[order] > 0) & (scores[order] > 0)]
    return rows[order], scores[order]


def nearest_references(features: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tensor:
    """Return the reference of its own class that each mask is most similar to.

    Args:
        features: ``[m, C]`` mask features, L2-normalised.
        labels: int64 ``[m]`` class of each mask.
        references: ``[R, C]`` instance prototypes of all references.
        reference_labels: int64 ``[R]`` their classes.

    Returns:
        int64 ``[m]`` rows of ``references``.
    """
    if len(features) == 0:
        return labels.new_zeros(0)
    cosine = features @ F.normalize(references.float(), dim=1).T
    return cosine.masked_fill(labels[:, None] != reference_labels[None, :], -2.0).argmax(1)


def _check_inputs(
    tokens: Tensor, mask_logits: Tensor, predicted_iou: Tensor, prototypes: Tensor, image_size: tuple[int, int]
) -> None:
    if tokens.ndim != 3:
        raise ValueError(f"tokens must be [h, w, C], got {tuple(tokens.shape)}")
    if mask_logits.ndim != 3 or len(mask_logits) != len(predicted_iou) or predicted_iou.ndim != 1:
        raise ValueError(
            "mask_logits must be [n, S, S] and predicted_iou [n], "
            f"got {tuple(mask_logits.shape)} and {tuple(predicted_iou.shape)}"
        )
    check_prototypes(prototypes, tokens.shape[2])
    if min(image_size) < 1:
        raise ValueError(f"image_size must be (H, W) of at least one pixel, got {tuple(image_size)}")
    if not tokens.isfinite().all():
        raise ValueError("the patch tokens of the target hold NaN or infinity")


def check_prototypes(prototypes: Tensor, channels: int) -> None:
    """Raise ``ValueError`` unless prototypes are finite, and ``[K, C]`` with ``K >= 1`` and ``C = channels``."""
    if prototypes.ndim != 2 or prototypes.shape[1] != channels or len(prototypes) == 0:
        raise ValueError(
            f"prototypes must be [K, C] with K >= 1 and C = {channels} as in the tokens, got {tuple(prototypes.shape)}"
        )
    if not prototypes.isfinite().all():
        raise ValueError("a prototype holds NaN or infinity: rebuild the memory without the reference it came from")
