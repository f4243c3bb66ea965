"""Reliability of confidences: whether predictions of a confidence of 0.8 are right in 80 % of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matches import Matches

BINS = 10


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions by confidence, in bins of equal width from 0 to 1.

    Attributes:
        count: int64 ``[B]``, predictions of every bin.
        confidence: float64 ``[B]``, their mean confidence; NaN for an empty bin.
        precision: float64 ``[B]``, the share of them that is right; NaN for an empty bin.
        error: expected calibration error, ``sum_b count_b / n |confidence_b - precision_b|``; NaN without predictions.
    """

    count: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray
    error: float


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Measure the reliability of confidences.

    Args:
        confidence: ``[n]`` in ``[0, 1]``.
        right: bool ``[n]``.
        bins: ``B``.
    """
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(which, confidence, bins) / count
        precision = np.bincount(which, right, bins) / count
        gaps = np.nan_to_num(np.abs(mean - precision))
        error = float((gaps * count).sum() / count.sum()) if len(confidence) else float("nan")
    return Reliability(count, mean, precision, error)


def reliability_of_matches(
    matches: Matches, iou: float = 0.5, bins: int = BINS, *, chosen: np.ndarray | None = None
) -> Reliability:
    """Measure the reliability of matched predictions; those that match a crowd count neither way.

    Args:
        matches: of ``n`` predictions.
        iou: from which a prediction is right.
        bins: ``B``.
        chosen: bool ``[n]``, the predictions to count; all by default.

    Raises:
        ValueError: if there are no matches at this IoU.
    """
    t = np.flatnonzero(np.isclose(matches.iou_thresholds, iou))
    if not len(t):
        raise ValueError(f"no matches at an IoU of {iou}, only at {matches.iou_thresholds.round(2).tolist()}")
    area = matches.areas.index("all")
    counted = ~matches.ignored[area, t[0]]
    if chosen is not None:
        counted &= chosen
    right = matches.true_positives()[area, t[0]]
    return reliability(matches.score[counted].clip(0, 1), right[counted], bins)
