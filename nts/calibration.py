"""Calibration: from scores to probabilities of being right at IoU 0.5, without any label of a target.

The references and the negatives are scored as if they were found in targets: a reference with its own exemplar left
out, a negative without the negatives of its own image. A reference is right if its class wins and SAM2's best proposal
for it has an IoU of 0.5, a negative never is. A logistic regression on these gives probabilities for images like the
reference images. Expectation maximisation then shifts the share of right predictions to that of the target view.

With one reference per class nothing can be left out. Then the score that the negatives exceed 0.5 times per image
becomes the probability 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .confidence import confidence
from .exemplars import Exemplars, similarity_to_others, soft_maximum, soft_maximum_of_all
from .memory import MemoryBank
from .method import Method

RIDGE = 0.01
EM_ROUNDS = 50
RIGHT_IOU = 0.5
"""A prediction is right if its class is, and its IoU with the object is at least this."""
DOUBT = 0.1
"""Weight of a negative that the guard doubts: many of these may be unlabelled objects of a class, or none."""
LEAST_SLOPE = 0.1
"""Probabilities never fall with the score: if the negatives score higher than the references, they hardly rise."""
FALSE_PER_IMAGE = 0.5
"""With one reference per class: negatives per image above the recommended score."""
MOST_SCORES = 10_000
"""Scores of a target view that the expectation maximisation uses."""
REPLICATES = 50
"""Resamples of the reference images, for the uncertainty of the calibration."""

Basis = Literal["references", "negatives", "none"]


@dataclass(frozen=True)
class Line:
    """A map from scores to probabilities, ``logit p = slope logit(score) + offset``.

    Attributes:
        slope: of the map.
        offset: of the map.
        prior: share of right predictions that the offset assumes.
    """

    slope: float = 1.0
    offset: float = 0.0
    prior: float = 0.5

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of scores ``[n]`` in ``[0, 1]``."""
        return (self.slope * _logit(scores) + self.offset).sigmoid()

    def shifted(self, scores: Tensor) -> Line:
        """The map for other images, by expectation maximisation of their share of right predictions.

        The probabilities of all predictions are averaged, the average replaces the prior, and so on (Saerens et al.,
        Neural Computation 2002). Where this ends with all of them right, the map stays as it is: such predictions are
        few, or the maximal number per image has cut off the wrong ones, so that they do not show the share.

        Args:
            scores: ``[n]`` of all predictions on these images.
        """
        raw = self.slope * _logit(_thinned(scores).double()) + self.offset
        before = _logit(torch.tensor(self.prior, dtype=torch.float64))
        prior = before.sigmoid()
        low = 0.5 / len(raw)
        for _ in range(EM_ROUNDS):
            prior = (raw + _logit(prior) - before).sigmoid().mean().clamp(low, 1 - low)
        if prior >= 1 - 2 * low:
            return self
        return replace(self, offset=self.offset + float(_logit(prior) - before), prior=float(prior))


@dataclass(frozen=True)
class Calibration:
    """Calibration of a memory.

    Attributes:
        basis: what it rests on: ``"references"`` left out and negatives, ``"negatives"`` alone (one reference per
            class), or ``"none"``: then probabilities are the scores.
        line: the map from scores to probabilities.
        replicates: maps fitted to resamples of the reference images, for its uncertainty.
        references: number of references that were left out and scored.
        negatives: number of negatives that were scored.
        images: number of images of references and negatives.
        found: share of the references that SAM2 proposes at IoU 0.5; ``None`` if unknown.
    """

    basis: Basis = "none"
    line: Line = Line()
    replicates: tuple[Line, ...] = ()
    references: int = 0
    negatives: int = 0
    images: int = 0
    found: float | None = None

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of scores ``[n]`` in ``[0, 1]``."""
        return self.line.probabilities(scores)

    def shifted(self, scores: Tensor) -> Calibration:
        """The calibration for a target view, by all scores ``[n]`` on it, see :meth:`Line.shifted`."""
        if self.basis != "references" or len(scores) == 0:
            return self
        scores = _thinned(scores)  # once, for all maps
        replicates = tuple(line.shifted(scores) for line in self.replicates)
        return replace(self, line=self.line.shifted(scores), replicates=replicates)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Calibration:
        """Inverse of :meth:`to_dict`."""
        replicates = tuple(Line(**line) for line in stored["replicates"])
        return cls(**{**stored, "line": Line(**stored["line"]), "replicates": replicates})


def calibrate(memory: MemoryBank, exemplars: Exemplars, method: Method) -> Calibration:
    """Fit the calibration of a memory.

    Args:
        memory: with negatives; without any, there is nothing to calibrate with.
        exemplars: of the memory, on the CPU.
        method: that of the predictions.
    """
    items = _Items.of_memory(memory, exemplars, method)
    # The images that negatives were looked for in, so background images count as well.
    found_in = [each.image for each in memory.negatives if each.source != "rejected"]
    images = len({*(each.image for each in memory.entries), *found_in})
    known = Calibration(negatives=items.count(wrong=True), images=images, found=_found(memory))
    if known.negatives == 0:
        return known
    if known.negatives == len(items.scores):
        limit = items.scores.sort(descending=True).values[min(int(FALSE_PER_IMAGE * images), known.negatives - 1)]
        return replace(known, basis="negatives", line=Line(offset=-float(_logit(limit))))
    return replace(
        known,
        basis="references",
        line=items.fit(),
        replicates=tuple(items.resampled(seed).fit() for seed in range(REPLICATES)),
        references=items.count(wrong=False),
    )


@dataclass(frozen=True)
class _Items:
    """Scored references, of which their class has another, and scored negatives.

    Attributes:
        scores: ``[n]``.
        right: bool ``[n]``, whether a reference's own class won, with a right outline.
        negative: bool ``[n]``.
        weight: ``[n]``, in the fit.
        image: int64 ``[n]``, number of the image.
    """

    scores: Tensor
    right: Tensor
    negative: Tensor
    weight: Tensor
    image: Tensor

    @classmethod
    def of_memory(cls, memory: MemoryBank, exemplars: Exemplars, method: Method) -> _Items:
        labels, crops, scale = exemplars.labels, exemplars.crops, exemplars.scale
        entries = memory.entries
        names = [*(each.image for each in entries), *(each.image for each in memory.negatives)]
        images = {name: number for number, name in enumerate(dict.fromkeys(names))}
        shared = (labels.bincount(minlength=exemplars.classes)[labels] > 1).tolist()
        rows = [row for row, each in enumerate(entries) if shared[row] and each.predicted_iou is not None]
        similarity = similarity_to_others(crops, labels, exemplars.classes, scale.tau)[rows]
        best, won = similarity.max(1)
        background = exemplars.background(crops[rows])
        quality = torch.tensor([entries[row].predicted_iou for row in rows])
        scores = confidence(best, quality, background, scale.slope, method.rank)
        outlined = torch.tensor([(entries[row].proposal_iou or 0) >= RIGHT_IOU for row in rows], dtype=torch.bool)
        right = (won == labels[rows]) & outlined
        of_references = torch.tensor([images[entries[row].image] for row in rows], dtype=torch.int64)

        # Rejected predictions were chosen by their similarity, so they say nothing about other images.
        used = [row for row, each in enumerate(memory.negatives) if each.source != "rejected"]
        if not used:
            return cls(scores, right, torch.zeros_like(right), torch.ones(len(rows)), of_references)
        everything = torch.tensor([images[each.image] for each in memory.negatives])
        of_negatives = everything[used]
        found = F.normalize(torch.stack([memory.negatives[row].prototype for row in used]), dim=1)
        similarity = soft_maximum(found @ crops.T, labels, exemplars.classes, scale.tau).amax(1)
        background = None
        if len(exemplars.negatives):
            own = of_negatives[:, None] == everything[exemplars.trusted]
            # Where no other image has negatives, only the negative itself is left out: without any, it would score
            # higher than the references, which are compared with all.
            itself = torch.tensor(used)[:, None] == exemplars.trusted
            own = torch.where(own.all(1, keepdim=True), itself, own)
            cosines = (found @ exemplars.negatives.T).masked_fill(own, -torch.inf)
            background = soft_maximum_of_all(cosines, scale.tau_negatives)
        quality = torch.tensor([memory.negatives[row].predicted_iou for row in used])
        weights = torch.full((len(memory.negatives),), DOUBT).index_fill(0, exemplars.trusted, 1)[used]
        wrong = confidence(similarity, quality, background, scale.slope, method.rank)
        return cls(
            torch.cat([scores, wrong]),
            torch.cat([right, torch.zeros(len(used), dtype=torch.bool)]),
            torch.cat([torch.zeros_like(right), torch.ones(len(used), dtype=torch.bool)]),
            torch.cat([torch.ones(len(rows)), weights]),
            torch.cat([of_references, of_negatives]),
        )

    def count(self, *, wrong: bool) -> int:
        """Number of negatives, or of references."""
        return int((self.negative == wrong).sum())

    def fit(self) -> Line:
        slope, offset = fit_logistic(_logit(self.scores), self.right, self.weight)
        if slope < LEAST_SLOPE:
            slope, offset = LEAST_SLOPE, fit_offset(_logit(self.scores), self.right, self.weight, LEAST_SLOPE)
        low = 0.5 / len(self.right)
        share = float((self.weight * self.right).sum() / self.weight.sum())
        return Line(slope, offset, min(max(share, low), 1 - low))

    def resampled(self, seed: int) -> _Items:
        """The items of as many images, drawn with repetition."""
        generator = torch.Generator().manual_seed(seed)
        names = self.image.unique()
        drawn = names[torch.randint(len(names), (len(names),), generator=generator)]
        times = (self.image[:, None] == drawn).sum(1)
        rows = torch.arange(len(self.image)).repeat_interleave(times)
        return _Items(self.scores[rows], self.right[rows], self.negative[rows], self.weight[rows], self.image[rows])


def fit_logistic(
    inputs: Tensor, right: Tensor, weights: Tensor | None = None, ridge: float = RIDGE
) -> tuple[float, float]:
    """Logistic regression of one input, with a ridge towards slope 1 and offset 0, by Newton's method.

    The ridge gives data that are separable, or all alike, a finite answer.

    Args:
        inputs: ``[n]``, finite.
        right: bool ``[n]``.
        weights: ``[n]`` of the items; ``None`` for 1.
        ridge: weight of the squared distance from slope 1 and offset 0, in units of the log loss of one item.

    Returns:
        slope and offset.
    """
    design = torch.stack([inputs.double(), torch.ones(len(inputs), dtype=torch.float64)], 1)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64)
    line, truth = target.clone(), right.double()
    each = torch.ones_like(truth) if weights is None else weights.double()

    def loss_of(line: Tensor) -> float:
        loss = F.binary_cross_entropy_with_logits(design @ line, truth, each, reduction="sum")
        return float(loss + ridge * (line - target).square().sum())

    loss, improvement = loss_of(line), 1.0
    while improvement > 1e-10:
        expected = (design @ line).sigmoid()
        gradient = design.T @ (each * (expected - truth)) + 2 * ridge * (line - target)
        curvature = design.T @ (design * (each * expected * (1 - expected))[:, None])
        step = torch.linalg.solve(curvature + 2 * ridge * torch.eye(2).double(), gradient)
        while (new := loss_of(line - step)) > loss and float(step.abs().max()) > 1e-9:
            step = step / 2
        line, improvement, loss = line - step, loss - new, new
    return float(line[0]), float(line[1])


def fit_offset(inputs: Tensor, right: Tensor, weights: Tensor, slope: float, ridge: float = RIDGE) -> float:
    """The offset of :func:`fit_logistic` for a given slope, by bisection of the gradient."""
    low, high = -100.0, 100.0
    for _ in range(60):
        offset = (low + high) / 2
        residuals = weights.double() * ((slope * inputs.double() + offset).sigmoid() - right.double())
        low, high = (low, offset) if float(residuals.sum()) + 2 * ridge * offset > 0 else (offset, high)
    return (low + high) / 2


def _found(memory: MemoryBank) -> float | None:
    """Share of the references that SAM2 proposes at IoU 0.5."""
    known = [each.proposal_iou for each in memory.entries if each.proposal_iou is not None]
    return sum(iou >= RIGHT_IOU for iou in known) / len(known) if known else None


def _thinned(scores: Tensor) -> Tensor:
    """At most :data:`MOST_SCORES` of the scores, at equal distances in their order."""
    if len(scores) <= MOST_SCORES:
        return scores
    return scores.sort().values[torch.linspace(0, len(scores) - 1, MOST_SCORES).long()]


def _logit(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(1e-6, 1 - 1e-6).logit()
