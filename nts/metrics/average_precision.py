"""Precision, recall and COCO's twelve figures, equal to ``accumulate`` and ``summarize`` of pycocotools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matches import Matches

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision-recall curves, the arrays of ``COCOeval.eval``; -1 where there is no ground truth.

    Attributes:
        precision: float64 ``[T, R, K, A, M]``: best precision at this recall or a higher one.
        recall: float64 ``[T, K, A, M]``: of all predictions.
        scores: float64 ``[T, R, K, A, M]``: score at which this recall is reached.
        max_detections: ``M`` limits of predictions per class and image, ascending.
        areas: names of the ``A`` ranges of areas.
        classes: names of the ``K`` classes.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    max_detections: tuple[int, ...]
    areas: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """COCO's twelve figures in ``[0, 1]``; ``nan`` where there is no ground truth.

    Attributes:
        ap: mean over IoU thresholds 0.50:0.05:0.95, recall thresholds and classes.
        ap50, ap75: AP at an IoU of 0.5 and 0.75.
        ap_small, ap_medium, ap_large: AP of objects of up to 32², up to 96², and above 96² pixels.
        ar_1, ar_10, ar_100: recall with 1, 10 and all evaluated predictions per class and image, mean over IoU
            thresholds and classes.
        ar_small, ar_medium, ar_large: recall with all predictions, for objects of these sizes.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True, eq=False)
class ConfidenceCounts:
    """True and false positives above each threshold on the confidence, at one IoU threshold.

    Attributes:
        thresholds: float64 ``[B]``, ascending.
        tp, fp: int64 ``[K, B]``: right and wrong predictions with a score of at least the threshold.
        ground_truth: int64 ``[K]``: number of objects.
        iou: the IoU threshold.
        classes: names of the ``K`` classes.
    """

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    ground_truth: np.ndarray
    iou: float
    classes: tuple[str, ...]


def accumulate(
    matches: Matches, max_detections: Sequence[int] = (1, 10, 100), image_counts: np.ndarray | None = None
) -> Curves:
    """Compute precision over recall for every class, range of areas, IoU threshold and limit of predictions.

    The arrays equal those of ``COCOeval.accumulate``. Only true positives are visited: precision and recall rise at
    them, and precision falls everywhere else.

    Args:
        matches: of the whole data set.
        max_detections: limits of predictions per class and image, ascending.
        image_counts: int ``[I]``: how often each image counts, as in a bootstrap; once where ``None``.

    Raises:
        ValueError: if a limit is above that of the matches, or image_counts has another length than the images.
    """
    limits = tuple(sorted(max_detections))
    if limits[-1] > matches.max_detections:
        raise ValueError(f"at most {matches.max_detections} predictions per class and image were matched, not {limits}")
    counts = np.ones(len(matches.image_ids), np.int64) if image_counts is None else np.asarray(image_counts, np.int64)
    if counts.shape != (len(matches.image_ids),):
        raise ValueError(f"image_counts has the shape {counts.shape}, there are {len(matches.image_ids)} images")
    areas, thresholds = len(matches.areas), len(matches.iou_thresholds)
    shape = (thresholds, len(RECALL_THRESHOLDS), len(matches.classes), areas, len(limits))
    precision, scores = -np.ones(shape), -np.ones(shape)
    recall = -np.ones(shape[:1] + shape[2:])

    weight = counts[matches.image]
    objects = objects_to_find(matches, counts)
    right, wrong = matches.true_positives(), matches.false_positives()
    bounds = np.searchsorted(matches.label, np.arange(len(matches.classes) + 1))
    for k in np.flatnonzero(objects.any(0)):
        of_class = np.arange(bounds[k], bounds[k + 1])
        of_class = of_class[weight[of_class] > 0]
        of_class = of_class[np.argsort(-matches.score[of_class], kind="stable")]
        for m, limit in enumerate(limits):
            ranked = of_class[matches.rank[of_class] < limit]
            ranked_scores, ranked_weight = matches.score[ranked], weight[ranked]
            hits = right[:, :, ranked]
            # Of a prediction that counts twice both copies come at once: only the last of them can be the best.
            wrong_so_far = np.cumsum(wrong[:, :, ranked] * ranked_weight, axis=-1)
            for a in np.flatnonzero(objects[:, k]):
                for t in range(thresholds):
                    at = np.flatnonzero(hits[a, t])
                    tp = np.cumsum(ranked_weight[at])
                    p, s = _interpolate(tp, wrong_so_far[a, t, at], ranked_scores[at], objects[a, k])
                    if len(ranked):
                        s[0] = ranked_scores[0]  # a recall of 0 is reached by the first prediction, right or wrong
                    precision[t, :, k, a, m], scores[t, :, k, a, m] = p, s
                    recall[t, k, a, m] = tp[-1] / objects[a, k] if len(tp) else 0.0
    return Curves(precision, recall, scores, limits, matches.areas, matches.classes)


def objects_to_find(matches: Matches, image_counts: np.ndarray) -> np.ndarray:
    """Number of annotations that count, by range of areas and class: int64 ``[A, K]``."""
    weight = image_counts[matches.gt_image]
    objects = np.zeros((len(matches.areas), len(matches.classes)), np.int64)
    for a, ignored in enumerate(matches.gt_ignored):
        np.add.at(objects[a], matches.gt_label[~ignored], weight[~ignored])
    return objects


def summarise(curves: Curves, classes: Sequence[int] | None = None) -> Summary:
    """Summarise curves over all or some classes, as ``COCOeval.summarize`` does.

    Args:
        curves: of :func:`accumulate`, with three limits of predictions.
        classes: indices of classes; all where ``None``.
    """
    chosen = np.arange(len(curves.classes)) if classes is None else np.asarray(classes, np.int64)
    area = {name: i for i, name in enumerate(curves.areas)}
    precision, recall = curves.precision[:, :, chosen], curves.recall[:, chosen]
    all_sizes, most = area["all"], len(curves.max_detections) - 1
    return Summary(
        ap=mean_of_known(precision[..., all_sizes, most]),
        ap50=mean_of_known(precision[0, ..., all_sizes, most]),
        ap75=mean_of_known(precision[5, ..., all_sizes, most]),
        ap_small=mean_of_known(precision[..., area["small"], most]),
        ap_medium=mean_of_known(precision[..., area["medium"], most]),
        ap_large=mean_of_known(precision[..., area["large"], most]),
        ar_1=mean_of_known(recall[..., all_sizes, 0]),
        ar_10=mean_of_known(recall[..., all_sizes, 1]),
        ar_100=mean_of_known(recall[..., all_sizes, most]),
        ar_small=mean_of_known(recall[..., area["small"], most]),
        ar_medium=mean_of_known(recall[..., area["medium"], most]),
        ar_large=mean_of_known(recall[..., area["large"], most]),
    )


def counts_by_confidence(matches: Matches, iou: float = 0.5, bins: int = 200) -> ConfidenceCounts:
    """Count true and false positives above each of ``bins`` thresholds on the score.

    Predictions are matched by descending score, so those above a threshold match as if there were no others.

    Raises:
        ValueError: if there are no matches at this IoU.
    """
    t = np.flatnonzero(np.isclose(matches.iou_thresholds, iou))
    if not len(t):
        raise ValueError(f"no matches at an IoU of {iou}, only at {matches.iou_thresholds.round(2).tolist()}")
    lowest, highest = (matches.score.min(), matches.score.max()) if len(matches) else (0.0, 1.0)
    thresholds = np.linspace(min(0.0, lowest), max(1.0, highest), bins)
    all_sizes = matches.areas.index("all")
    reached = np.searchsorted(thresholds, matches.score, "right")  # number of thresholds at or below the score
    counted = []
    for chosen in (matches.true_positives(), matches.false_positives()):
        members = chosen[all_sizes, t[0]]
        exactly = np.zeros((len(matches.classes), bins + 1), np.int64)
        np.add.at(exactly, (matches.label[members], reached[members]), 1)
        counted.append(exactly[:, :0:-1].cumsum(1)[:, ::-1])
    objects = objects_to_find(matches, np.ones(len(matches.image_ids), np.int64))[all_sizes]
    return ConfidenceCounts(thresholds, counted[0], counted[1], objects, iou, matches.classes)


def mean_of_known(values: np.ndarray) -> float:
    """Mean of all values but -1, as in pycocotools; ``nan`` if there are none."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else math.nan


def _interpolate(
    right: np.ndarray, wrong: np.ndarray, scores: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Best precision at each recall threshold or above, and its score, from counts at the true positives."""
    precision, score = np.zeros(len(RECALL_THRESHOLDS)), np.zeros(len(RECALL_THRESHOLDS))
    exact = right / (wrong.astype(np.float64) + right + np.spacing(1))
    best = np.maximum.accumulate(exact[::-1])[::-1]
    at = np.searchsorted(right / objects, RECALL_THRESHOLDS)
    reached = at < len(right)
    precision[reached], score[reached] = best[at[reached]], scores[at[reached]]
    return precision, score
