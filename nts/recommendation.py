"""The threshold that a run recommends, and the precision and recall to expect there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .calibration import FALSE_PER_IMAGE, Calibration

THRESHOLD = 0.5
"""Recommended probability: instances above it are more likely right than wrong."""
FEW_REFERENCES = 10
"""Below this number of references left out, a calibration is called rough."""

_INTERVAL = (0.05, 0.95)


@dataclass(frozen=True)
class Recommendation:
    """What to expect of the instances above a threshold.

    Attributes:
        threshold: on the probability.
        instances: number of instances at or above it.
        of: number of all instances.
        precision: expected share of these that is right; ``None`` if unknown.
        precision_interval: 90 % interval of the precision, by the calibration's replicates; ``None`` if unknown.
        recall: expected share of the objects that these find, with the objects that SAM2 is expected to miss; ``None``
            if unknown.
    """

    threshold: float
    instances: int
    of: int
    precision: float | None
    precision_interval: tuple[float, float] | None
    recall: float | None


def recommend(calibration: Calibration, scores: Tensor, threshold: float = THRESHOLD) -> Recommendation:
    """Expected precision and recall of the instances above a threshold.

    Args:
        calibration: shifted to the target view.
        scores: ``[n]`` of all instances on the view.
        threshold: on their probabilities.
    """
    probabilities = calibration.probabilities(scores)
    chosen = probabilities >= threshold
    count = int(chosen.sum())
    precision = interval = recall = None
    if calibration.basis == "references" and count:
        precision = float(probabilities[chosen].mean())
        means = torch.stack([line.probabilities(scores[chosen]).mean() for line in calibration.replicates])
        low, high = means.quantile(torch.tensor(_INTERVAL, dtype=means.dtype)).tolist()
        interval = (min(low, precision), max(high, precision))
        found = 1.0 if calibration.found is None else calibration.found
        recall = found * float(probabilities[chosen].sum() / probabilities.sum())
    return Recommendation(threshold, count, len(scores), precision, interval, recall)


def threshold_for_precision(calibration: Calibration, scores: Tensor, precision: float) -> float | None:
    """Lowest threshold whose instances have at least this expected precision.

    Returns:
        a probability; ``None`` if no instance reaches it, or the calibration does not know.
    """
    if calibration.basis != "references":
        return None
    # Instances of equal probability are above a threshold together.
    ascending, counts = calibration.probabilities(scores).double().unique(return_counts=True)
    probabilities, counts = ascending.flip(0), counts.flip(0)
    means = (probabilities * counts).cumsum(0) / counts.cumsum(0)
    enough = (means >= precision).nonzero()[:, 0]
    return float(probabilities[enough[-1]]) if len(enough) else None


def in_words(calibration: Calibration, recommendation: Recommendation) -> str:
    """A recommendation as sentences for the user: what to expect, and how sure that is."""
    head = f"{recommendation.instances} of {recommendation.of} instances have a confidence of at least"
    # Rounded down: 0.9999 is not 1.
    head = f"{head} {math.floor(1000 * recommendation.threshold) / 1000:g}."
    if calibration.basis == "none":
        return (
            f"{head} Confidences are not calibrated: the memory has no negatives. Build it again with the preset "
            "'default' to get a recommended threshold."
        )
    if calibration.basis == "negatives":
        return (
            f"{head} With one reference per class, precision and recall are unknown: the threshold is the score that "
            f"the {_count(calibration.negatives, 'negative')} of the reference images exceed {FALSE_PER_IMAGE:g} times "
            "per image. A second reference per class makes it reliable."
        )
    rests = (
        f"This rests on {_count(calibration.references, 'reference')} and {_count(calibration.negatives, 'negative')} "
        f"of {_count(calibration.images, 'image')}"
    )
    if calibration.references < FEW_REFERENCES:
        rests += ": a rough estimate"
    if recommendation.precision is None or recommendation.precision_interval is None or recommendation.recall is None:
        return f"{head} {rests}."
    low, high = recommendation.precision_interval
    return (
        f"{head} Expected precision {recommendation.precision:.0%} ({low:.0%} to {high:.0%}), recall "
        f"{recommendation.recall:.0%}. {rests}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
