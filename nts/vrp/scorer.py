"""Scorers by class maps: a reference prompt, which knows no instances, scores the proposals of SAM2.

Beyond VRP-SAM, which ends with the map of a class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import boxes_of_masks
from ..matching import similarity
from ..segmenter import ImageEmbedding
from ..targets import EncodedTarget, Target
from .class_maps import ClassMapper

SURROUNDINGS = 0.15
"""Margin around a proposal's box, in which coverage is measured, as a share of the longer side."""


class VRPScorer:
    """Score of the class maps inside and around a proposal, see :func:`score_proposals`.

    Args:
        mapper: maps the classes.
    """

    name = "vrp"
    needs_embedding = True
    scores_cached_targets = True

    def __init__(self, mapper: ClassMapper) -> None:
        self._mapper = mapper

    def scores(self, target: EncodedTarget | Target) -> Tensor:
        """See :meth:`nts.scoring.Scorer.scores`."""
        if target.prompted is None:
            raise ValueError(
                "a reference prompt needs SAM2's embedding, but the image was encoded without its embedding: encode it "
                "with the segmenter that matches it"
            )
        return target.prompted.of(self._mapper.keys, self._score).to(target.predicted_iou.device)

    def _score(self, tokens: Tensor, embedding: ImageEmbedding, masks: Tensor, classes: Sequence[int]) -> Tensor:
        maps = self._mapper.maps(tokens, embedding, classes)
        return score_proposals(maps.probabilities, masks.to(maps.logits.device))


class CombinedScorer:
    """Similarity to the prototypes times the square root of the :class:`VRPScorer`'s score.

    On classes held out from training this did better than the other combinations that were tried.

    Args:
        mapper: maps the classes.
        prototypes: ``[K, C]`` of the same classes, L2-normalised.
    """

    name = "both"
    needs_embedding = True
    scores_cached_targets = True

    def __init__(self, mapper: ClassMapper, prototypes: Tensor) -> None:
        self._vrp = VRPScorer(mapper)
        self._prototypes = prototypes

    def scores(self, target: EncodedTarget | Target) -> Tensor:
        """See :meth:`nts.scoring.Scorer.scores`."""
        vrp = self._vrp.scores(target)
        return similarity(target.features, self._prototypes.to(target.features.device)) * vrp.sqrt()


def score_proposals(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Score every proposal as an instance of every class.

    The mean probability inside the mask says whether it is of the class. The *coverage* says whether it is all of the
    object: the share of the class's probability in and around the mask's box that lies in the mask. A part of an object
    has a high mean and a low coverage. The score is their product::

        s_ic = mean_{u in M_i} P_c(u)  *  sum_{u in M_i} P_c(u) / sum_{u in box_i} P_c(u)

    Args:
        probabilities: ``[K, S, S]`` in ``[0, 1]``.
        masks: bool ``[n, S, S]``.

    Returns:
        float ``[n, K]`` in ``[0, 1]``; zeros for an empty mask.
    """
    inside = masks.flatten(1).to(probabilities.dtype) @ probabilities.flatten(1).T
    around = _box_sums(probabilities, _surroundings(masks))
    areas = masks.flatten(1).sum(1)[:, None].clamp(min=1)
    coverage = inside / torch.maximum(around, inside).clamp(min=1e-6)
    return (inside / areas * coverage).clamp(0, 1)


def _surroundings(masks: Tensor) -> Tensor:
    """Boxes of masks with a margin: int64 ``[n, 4]``, ``x1, y1, x2, y2``, half-open, inside the map."""
    boxes = boxes_of_masks(masks)
    boxes[:, 2:] += 1
    margin = (SURROUNDINGS * (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)).ceil().long()
    height, width = masks.shape[1:]
    limit = boxes.new_tensor([width, height])
    return torch.cat([(boxes[:, :2] - margin).clamp(min=0), torch.minimum(boxes[:, 2:] + margin, limit)], 1)


def _box_sums(maps: Tensor, boxes: Tensor) -> Tensor:
    """Sums of each map ``[K, S, S]`` over each box ``[n, 4]``, from one integral image: ``[n, K]``."""
    table = F.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    x1, y1, x2, y2 = boxes.T
    return (table[:, y2, x2] - table[:, y1, x2] - table[:, y2, x1] + table[:, y1, x1]).T.to(maps.dtype)
