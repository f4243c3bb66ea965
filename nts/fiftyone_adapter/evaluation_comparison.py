"""Stored evaluations side by side: differences with intervals, and nAP against the number of references."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import fiftyone as fo

from ..metrics.bootstrap import Interval, paired_bootstrap
from ..metrics.matches import IouType
from . import runs
from .checks import InputError
from .evaluation_results import StoredEvaluation

COMPARED_FIGURES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ar_100": "AR100"}
"""Figures that are compared, and their names."""

_MAX_COMPARISONS = 32
_DRAWS, _FEWER_DRAWS, _MANY_PREDICTIONS = 1000, 200, 20_000


@dataclass(frozen=True)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        figures: AP, AP50, AP75 and AR100 over the novel classes: the second less the first.
        classes: ``{class: AP of the second less AP of the first}``, in ``[-1, 1]``, without classes that lack either.
    """

    figures: dict[str, Interval]
    classes: dict[str, float]


_comparisons: dict[tuple, Comparison] = {}


def compare_evaluations(first: StoredEvaluation, second: StoredEvaluation, iou_type: IouType) -> Comparison:
    """Figures of the second evaluation less those of the first, on their common images, with 95 % intervals.

    For many predictions fewer draws are made; each interval has their number. The last comparisons are cached.

    Raises:
        InputError: if the two have no image in common, or differ in classes or ground truth.
    """
    names = first.identity, second.identity, iou_type
    if names not in _comparisons:
        if len(_comparisons) == _MAX_COMPARISONS:
            _comparisons.pop(next(iter(_comparisons)))
        _comparisons[names] = _compare(first, second, iou_type)
    return _comparisons[names]


def _compare(first: StoredEvaluation, second: StoredEvaluation, iou_type: IouType) -> Comparison:
    if first.config["classes"] != second.config["classes"]:
        raise InputError(f"{first.key!r} and {second.key!r} have different novel classes: their nAP cannot be compared")
    novel, (a, b) = first.config["classes"], (first.matches(iou_type), second.matches(iou_type))
    try:
        draws = _DRAWS if len(a) + len(b) <= _MANY_PREDICTIONS else _FEWER_DRAWS
        figures = {
            figure: paired_bootstrap(a, b, figure=figure, classes=novel, draws=draws) for figure in COMPARED_FIGURES
        }
    except ValueError as error:
        raise InputError(str(error)) from error
    before, after = ({name: run.summary(iou_type, name)["ap"] for name in novel} for run in (first, second))
    both = [name for name in novel if before[name] is not None and after[name] is not None]
    return Comparison(figures, {name: after[name] - before[name] for name in both})


@dataclass(frozen=True)
class Shots:
    """Evaluations that differ in the number of references per class.

    Attributes:
        points: ``(shots, nAP in [0, 1], name of the evaluation)``, by shots.
        means: ``(shots, mean, standard deviation)``; the deviation is 0 for a single run.
        left_out: names of evaluations with other classes or ground truth, or with no one number of shots.
    """

    points: list[tuple[int, float, str]]
    means: list[tuple[int, float, float]]
    left_out: list[str]


def against_shots(dataset: fo.Dataset, like: StoredEvaluation, iou_type: IouType) -> Shots:
    """nAP against references per class, over the evaluations of the same classes, ground truth and number of images."""
    points, left_out = [], []
    for key, made in runs.list_runs(dataset, runs.EVALUATION).items():
        shots, value = set(made.get("shots") or ()), made[f"{iou_type}_ap"]
        same = all(made.get(name) == like.config[name] for name in ("classes", "ground_truth_field", "images"))
        if same and len(shots) == 1 and value is not None:
            points.append((shots.pop(), value, key))
        else:
            left_out.append(key)
    means = []
    for shots in sorted({point[0] for point in points}):
        values = [value for at, value, _ in points if at == shots]
        means.append((shots, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
    return Shots(sorted(points), means, left_out)
