"""Bootstrap over images: intervals of a figure, and of the difference between two runs.

Images are drawn with replacement, as many as there are, and the figure is computed on the draw (Efron & Tibshirani, *An
Introduction to the Bootstrap*, 1993, ch. 13: the percentile interval). Two runs are compared on the same draws: the
difficulty of an image for both cancels out, and the interval of the difference is much narrower than that of either.

Matches do not depend on the draw, only the number of times that an image counts. Predictions are therefore sorted once,
and a draw costs little more than one cumulative sum over them: precision is required at the true positives only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .average_precision import RECALL_THRESHOLDS
from .matches import Matches

FIGURES: dict[str, tuple[str, str, int | None, int | None]] = {
    "ap": ("precision", "all", None, None),
    "ap50": ("precision", "all", 0, None),
    "ap75": ("precision", "all", 5, None),
    "ap_small": ("precision", "small", None, None),
    "ap_medium": ("precision", "medium", None, None),
    "ap_large": ("precision", "large", None, None),
    "ar_1": ("recall", "all", None, 1),
    "ar_10": ("recall", "all", None, 10),
    "ar_100": ("recall", "all", None, None),
    "ar_small": ("recall", "small", None, None),
    "ar_medium": ("recall", "medium", None, None),
    "ar_large": ("recall", "large", None, None),
}
"""Figures of a Summary: kind of curve, range of areas, index of the IoU threshold, limit of predictions."""

LEVEL = 0.95
_DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class FigureInterval:
    """Figure of one run, with a percentile interval.

    Attributes:
        figure: its name, as in a :class:`~nts.metrics.average_precision.Summary`.
        value: on the evaluated images.
        low, high: ends of the interval; ``nan`` where no draw has ground truth.
        level: share of the draws within the interval.
        draws: number of draws.
        images: number of images per draw.
    """

    figure: str
    value: float
    low: float
    high: float
    level: float
    draws: int
    images: int


@dataclass(frozen=True)
class Interval:
    """Difference between two runs, with a percentile interval.

    Attributes:
        figure: its name, as in a :class:`~nts.metrics.average_precision.Summary`.
        difference: second run minus first run, on the images that both evaluated.
        low, high: ends of the interval; ``nan`` where no draw has ground truth.
        level: share of the draws within the interval.
        p_better: share of the draws in which the second run is better; ties count half.
        draws: number of draws.
        images: number of images per draw: those that both runs evaluated.
        left_out: number of images that only one of them evaluated.
    """

    figure: str
    difference: float
    low: float
    high: float
    level: float
    p_better: float
    draws: int
    images: int
    left_out: int


def bootstrap(
    matches: Matches, *, figure: str = "ap", classes: Sequence[str] | None = None, draws: int = 1000, seed: int = 0
) -> FigureInterval:
    """Bootstrap a figure of one run.

    Args:
        matches: of the run.
        figure: one of :data:`FIGURES`.
        classes: names of the classes to average over; all where ``None``.
        draws: number of draws.
        seed: of the draws.

    Raises:
        ValueError: if figure or classes are unknown, there is no image, or fewer than one draw.
    """
    values = _draw(matches, figure, classes, draws, seed)
    low, high = percentiles(values[1:])
    return FigureInterval(figure, float(values[0]), low, high, LEVEL, draws, len(matches.image_ids))


def paired_bootstrap(
    a: Matches,
    b: Matches,
    *,
    figure: str = "ap",
    classes: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap the difference ``b - a`` of two runs, over the images that both evaluated.

    Args:
        a, b: matches of the two runs with one ground truth.
        figure: one of :data:`FIGURES`.
        classes: names of the classes to average over; all where ``None``.
        draws: number of draws.
        seed: of the draws.

    Raises:
        ValueError: if the runs share no image, differ in classes, kind of IoU or in the ground truth of an image, or as
            in :func:`bootstrap`.
    """
    images = len(a.image_ids) + len(b.image_ids)
    a, b = pair(a, b)
    shared = a.image_ids
    left_out = images - 2 * len(shared)
    first, second = (_draw(run, figure, classes, draws, seed) for run in (a, b))
    difference = second - first
    low, high = percentiles(difference[1:])
    better = share_better(difference[1:])
    return Interval(figure, float(difference[0]), low, high, LEVEL, better, draws, len(shared), left_out)


def pair(a: Matches, b: Matches) -> tuple[Matches, Matches]:
    """Restrict two runs to the images that both evaluated, and check that they are comparable.

    Raises:
        ValueError: if the runs share no image, differ in classes, kind of IoU or in the ground truth of an image.
    """
    if a.iou_type != b.iou_type:
        raise ValueError(f"runs by IoU of {a.iou_type} and of {b.iou_type} cannot be compared")
    if a.classes != b.classes:
        differing = sorted(set(a.classes) ^ set(b.classes)) or "their order"
        raise ValueError(f"the two runs were evaluated on different classes: they differ in {differing}")
    if a.image_ids != b.image_ids:
        of_b = set(b.image_ids)
        shared = [image_id for image_id in a.image_ids if image_id in of_b]
        a, b = restrict(a, shared), restrict(b, shared)
    if not a.image_ids:
        raise ValueError("the two runs have no image in common")
    if not (_same(a.gt_image, b.gt_image) and _same(a.gt_label, b.gt_label) and _same(a.gt_ignored, b.gt_ignored)):
        raise ValueError("the two runs were evaluated on different ground truth")
    return a, b


def restrict(matches: Matches, image_ids: Sequence[int | str]) -> Matches:
    """Restrict matches to some images, in the order of ``matches.image_ids``. Rows of the lists do not change."""
    position = {image_id: i for i, image_id in enumerate(image_ids)}
    new = np.array([position.get(image_id, -1) for image_id in matches.image_ids], np.int64)
    kept, gt_kept = new[matches.image] >= 0, new[matches.gt_image] >= 0
    return replace(
        matches,
        image_ids=tuple(image_ids),
        image=new[matches.image[kept]],
        label=matches.label[kept],
        rank=matches.rank[kept],
        score=matches.score[kept],
        result=matches.result[kept],
        matched=matches.matched[:, :, kept],
        ignored=matches.ignored[:, :, kept],
        gt_image=new[matches.gt_image[gt_kept]],
        gt_label=matches.gt_label[gt_kept],
        annotation=matches.annotation[gt_kept],
        gt_ignored=matches.gt_ignored[:, gt_kept],
    )


def _draw(matches: Matches, figure: str, classes: Sequence[str] | None, draws: int, seed: int) -> np.ndarray:
    """Figure on the evaluated images, then on every draw: float64 ``[1 + draws]``."""
    if figure not in FIGURES:
        raise ValueError(f"unknown figure {figure!r}: there are {', '.join(FIGURES)}")
    if draws < 1:
        raise ValueError(f"at least one draw is needed, not {draws}")
    images = len(matches.image_ids)
    if images == 0:
        raise ValueError("there is no image to draw")
    if unknown := sorted(set(classes or ()) - set(matches.classes)):
        raise ValueError(f"unknown classes {unknown}: the run has {list(matches.classes)}")
    chosen = [k for k, name in enumerate(matches.classes) if classes is None or name in set(classes)]
    rng = np.random.default_rng(seed)
    counts = np.ones((1 + draws, images), np.int32)
    for row in counts[1:]:
        row[:] = np.bincount(rng.integers(0, images, images), minlength=images)
    chunks = np.split(counts, range(_DRAWS_AT_ONCE, len(counts), _DRAWS_AT_ONCE))
    per_class = np.stack([_figure_of_class(matches, figure, k, chunks) for k in chosen])
    known = ~np.isnan(per_class)
    total = np.where(known, per_class, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(len(counts), math.nan), where=known.any(0))


def _figure_of_class(matches: Matches, figure: str, k: int, chunks: Sequence[np.ndarray]) -> np.ndarray:
    """Figure of one class for every row of counts: float64 ``[rows]``, ``nan`` without ground truth."""
    kind, area, at_threshold, limit = FIGURES[figure]
    a = matches.areas.index(area)
    thresholds = range(len(matches.iou_thresholds)) if at_threshold is None else [at_threshold]
    start, stop = np.searchsorted(matches.label, [k, k + 1])
    members = np.arange(start, stop)
    members = members[matches.rank[members] < (limit or matches.max_detections)]
    members = members[np.argsort(-matches.score[members], kind="stable")]
    image = matches.image[members]
    found, ignored = matches.matched[a][:, members] >= 0, matches.ignored[a][:, members]
    to_find = matches.gt_image[(matches.gt_label == k) & ~matches.gt_ignored[a]]

    values = []
    for counts in chunks:
        objects = counts[:, to_find].sum(1, dtype=np.int64)
        weights = counts[:, image]
        seen = weights.cumsum(1, dtype=np.int32)
        of_thresholds = []
        for t in thresholds:
            hits = np.flatnonzero(found[t] & ~ignored[t])
            right = weights[:, hits].cumsum(1, dtype=np.int32)
            if kind == "recall":
                last = right[:, -1] if len(hits) else np.zeros(len(counts))
                of_thresholds.append(last / np.maximum(objects, 1))
                continue
            passed = np.flatnonzero(ignored[t])
            uncounted = np.zeros((len(counts), len(passed) + 1), np.int32)
            weights[:, passed].cumsum(1, out=uncounted[:, 1:])
            counted = seen[:, hits] - uncounted[:, np.searchsorted(passed, hits)]
            of_thresholds.append(_mean_precision(right, counted, objects))
        values.append(np.where(objects > 0, np.mean(of_thresholds, axis=0), math.nan))
    return np.concatenate(values)


def _mean_precision(right: np.ndarray, counted: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP of every draw, float64 ``[B]``, from counts at the true positives.

    Args:
        right: int ``[B, P]``: true positives up to and including each.
        counted: int ``[B, P]``: true and false positives up to and including each.
        objects: int64 ``[B]``: number of objects.
    """
    draws, positives = right.shape
    if positives == 0:
        return np.zeros(draws)
    precision = right / (counted + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # The first true positive at which each recall is reached, for all draws in one search: rows follow one another.
    rows = np.arange(draws)[:, None] * (int(right.max()) + int(objects.max()) + 2)
    at = np.searchsorted((right + rows).ravel(), (_needed(objects) + rows).ravel()).reshape(draws, -1)
    at -= np.arange(draws)[:, None] * positives
    reached = at < positives
    return np.where(reached, np.take_along_axis(best, np.minimum(at, positives - 1), 1), 0.0).mean(1)


def _needed(objects: np.ndarray) -> np.ndarray:
    """Number of true positives that reach each recall, in the arithmetic of ``accumulate``: int64 ``[B, R]``."""
    needed = np.ceil(RECALL_THRESHOLDS * objects[:, None]).astype(np.int64)
    total = np.maximum(objects, 1)[:, None]
    needed -= (needed - 1) / total >= RECALL_THRESHOLDS
    needed += needed / total < RECALL_THRESHOLDS
    return np.where(objects[:, None] > 0, needed, 1)


def share_better(differences: np.ndarray) -> float:
    """Share of the known differences above 0, with ties as halves; ``nan`` if none is known."""
    known = differences[~np.isnan(differences)]
    return float(np.mean((known > 0) + 0.5 * (known == 0))) if len(known) else math.nan


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """Ends of the percentile interval of the known values; ``nan`` if none is known."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b)
