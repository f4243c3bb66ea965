"""Matching beyond the paper: a first pass over all proposals, a closer look at the survivors, and voted outlines.

The first pass compares the features of whole images, as published. Its survivors are embedded again from their crops,
as references are, compared with the references and with the negatives, suppressed and merged once more. Every part can
be switched off, see :class:`nts.method.Method`; with all parts off, this is :func:`nts.matching.choose_instances`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .confidence import combined_rank, confidence
from .exemplars import Exemplars
from .instances import Instances
from .matching import MatchingConfig, second_best_similarity, suppress_and_merge
from .method import Method
from .targets import EncodedTarget, Target

NEAR_BEST = 0.35
"""Share of the best score of an image from which on every instance gets a closer look."""


@dataclass(frozen=True)
class _Found:
    """``r`` proposals in descending order of score.

    Attributes:
        proposals: int64 ``[r]``.
        scores: ``[r]``, after merging.
        class_scores: ``[r, K]``.
        features: ``[r, C]``, what was compared with the references.
    """

    proposals: Tensor
    scores: Tensor
    class_scores: Tensor
    features: Tensor

    def __getitem__(self, which: Tensor | slice) -> _Found:
        return _Found(self.proposals[which], self.scores[which], self.class_scores[which], self.features[which])


def match_target(
    target: EncodedTarget | Target,
    class_scores: Tensor,
    exemplars: Exemplars,
    config: MatchingConfig,
    method: Method,
    blocked: Tensor | None = None,
) -> Instances:
    """Turn the proposals of an image into instances.

    Args:
        target: the image; with its crops, tiles or voters if the method uses them.
        class_scores: ``[n, K]`` in ``[0, 1]``, of the first pass, see :class:`nts.scoring.ExemplarScorer`.
        exemplars: of the memory.
        config: see :class:`MatchingConfig`.
        method: the parts to use.
        blocked: bool ``[n, K]``, classes that proposals may not have, see :mod:`nts.settled`; ``None`` for none.

    Raises:
        ValueError: if the target lacks what the method needs.
    """
    masks, predicted_iou = target.masks, target.predicted_iou

    def choose(proposals: Tensor, class_scores: Tensor, features: Tensor, background: Tensor | None) -> _Found:
        similarities, labels = class_scores.max(1)
        quality = predicted_iou[proposals]
        rank = combined_rank(similarities, quality) if method.rank == "combined" else quality
        rows, scores = suppress_and_merge(
            masks,
            target.features,
            proposals,
            labels,
            rank=rank,
            confidences=confidence(similarities, quality, background, exemplars.scale.slope, method.rank),
            config=config,
            merging=method.merging,
        )
        return _Found(proposals[rows], scores, class_scores[rows], features[rows])

    usable = ~masks.empty & predicted_iou.isfinite()
    if blocked is not None:
        usable &= ~blocked.all(1)
        class_scores = class_scores.masked_fill(blocked, 0)
    usable = usable.nonzero()[:, 0]
    features = (target.tile_features if method.tiles else target.features)[usable]
    background = None if method.crops else exemplars.background(features)
    found = choose(usable, class_scores[usable], features, background)
    if method.crops:
        survivors = found.proposals[: _survivors(found.scores, method)]
        features = target.crops.of(masks, survivors)
        closer = exemplars.crop_similarity(features)
        if blocked is not None:
            closer = closer.masked_fill(blocked[survivors], 0)
        found = choose(survivors, closer, features, exemplars.background(features))
    found = found[found.scores > config.score_threshold][: config.max_instances]
    return _instances(target, found, target.outlines.crops if method.consensus else masks.crops)


def _survivors(scores: Tensor, method: Method) -> int:
    """Number of instances of the first pass, by falling score, that get a closer look.

    Beyond ``survivors`` they are the ones that score nearly as high as the best: a crowded image has many of these.
    """
    near = int((scores >= NEAR_BEST * scores[:1]).sum())
    return max(method.survivors, near)


def _instances(
    target: EncodedTarget | Target, found: _Found, draw: Callable[[Tensor], tuple[list[Tensor], Tensor]]
) -> Instances:
    similarities, labels = found.class_scores.max(1)
    crops, boxes = draw(found.proposals)
    return Instances(
        crops=tuple(crops),
        image_size=target.image_size,
        boxes=boxes.float(),
        labels=labels,
        scores=found.scores,
        similarities=similarities,
        margins=similarities - second_best_similarity(found.class_scores, labels),
        predicted_iou=target.predicted_iou[found.proposals].float(),
        features=target.features[found.proposals],
        proposals=found.proposals,
        references=torch.full_like(found.proposals, -1),
        compared=found.features,
    )
