"""Evaluation of several predictors on the same episodes, with references annotated in several ways.

Every row of the table gets the same episodes, and the same annotation of the same reference image. Intervals are of the
bootstrap over episodes, 95 %. Differences from a chosen row are taken on the same samples, so that the difficulty of an
episode cancels out.

A control is a row like any other: a predictor that is shown references of a wrong class, or that ignores them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..datasets.annotated_images import AnnotatedImages, Annotation
from ..datasets.episode_lists import EpisodeList
from ..datasets.episodes import Episode, EpisodeImages, show_wrong_class
from ..metrics.bootstrap import percentiles, share_better
from ..metrics.coco import without_nan
from ..metrics.miou import bootstrap_accuracy, summarise_episodes
from ..segmenter import Segmenter
from .episode_evaluation import Predictor, evaluate_episodes
from .predictor_table import FIGURES, Cell, Difference, Estimate, PredictorTable


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        predictor: to evaluate.
        shown: references of the episode's class, or of a wrong one, see
            :func:`~nts.datasets.episodes.show_wrong_class`.
    """

    predictor: Predictor
    shown: Literal["right class", "wrong class"] = "right class"


def evaluate_predictors(
    references: EpisodeImages,
    targets: EpisodeImages,
    lists: Sequence[EpisodeList],
    groups: Mapping[str, Sequence[int]],
    rows: Mapping[str, Row],
    *,
    annotations: Sequence[Annotation] = (Annotation(),),
    segmenter: Segmenter | None = None,
    seed: int = 0,
    side: int | None = None,
    against: str = "",
    draws: int = 1000,
    about: Mapping[str, Any] | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> PredictorTable:
    """Run every row on every episode, with every kind of annotation.

    Args:
        references: images with the masks that annotations are simulated from.
        targets: images with the ground truth.
        lists: the episodes, see :func:`~nts.datasets.episode_lists.draw_lists`.
        groups: category ids by name of their group. A wrong class is any other of all groups.
        rows: by their names in the table.
        annotations: kinds of annotation of the references.
        segmenter: SAM2, where annotations are promoted.
        seed: of the simulated annotations and of the wrong classes.
        side: compare masks at ``side`` pixels squared; at the size of the target where ``None``.
        against: row that the others are compared with; empty for none.
        draws: samples of the bootstrap.
        about: settings and notes to store in the table.
        tick: called after every episode of every list.

    Raises:
        ValueError: if ``against`` is no row, a list has no episode or a class beyond its group, or a control finds no
            other class.
    """
    if against and against not in rows:
        raise ValueError(f"there is no row {against!r} to compare with; there are {', '.join(rows)}")
    _check_lists(lists, groups)
    misled: dict[int, list[Episode]] = {}
    if any(row.shown == "wrong class" for row in rows.values()):
        everything = {class_id for class_ids in groups.values() for class_id in class_ids}
        for n, of_list in enumerate(lists):
            misled[n] = show_wrong_class(of_list.episodes, references.dataset, everything, seed=seed)
    shown = [AnnotatedImages(references, annotation, seed=seed, segmenter=segmenter) for annotation in annotations]
    counts = {
        (n, annotation, name): np.zeros((len(of_list.episodes), 4), np.int64)
        for n, of_list in enumerate(lists)
        for annotation in annotations
        for name in rows
    }
    seconds, skipped = dict.fromkeys(rows, 0.0), dict[str, None]()
    # All episodes of a target in a row, so that predictors encode it once.
    places = [(n, e) for n, of_list in enumerate(lists) for e in range(len(of_list.episodes))]
    for n, e in sorted(places, key=lambda place: str(lists[place[0]].episodes[place[1]].target)):
        episode = lists[n].episodes[e]
        for images in shown:
            for name, row in rows.items():
                instead = [misled[n][e]] if row.shown == "wrong class" else None
                began = time.perf_counter()
                (outcome,) = evaluate_episodes([episode], images, targets, row.predictor, side=side, shown=instead)
                seconds[name] += time.perf_counter() - began
                counts[n, images.annotation, name][e] = outcome.counts.numbers
                if outcome.error:
                    skipped[f"episode {e} of {lists[n].group}, {lists[n].shots} shots: {outcome.error}"] = None
        tick()
    names = {category["id"]: category["name"] for category in targets.dataset["categories"]}
    cells = []
    for n, of_list in enumerate(lists):
        classes = {class_id: names[class_id] for class_id in sorted(groups[of_list.group])}
        for annotation in annotations:
            of_rows = {name: counts[n, annotation, name] for name in rows}
            cells += _cells(of_list, annotation, of_rows, classes, against, draws)
    return PredictorTable(
        tuple(cells),
        against,
        seconds,
        tuple(skipped),
        {str(images.annotation): len(images.not_promoted) for images in shown if images.not_promoted},
        dict(about or {}),
    )


def _check_lists(lists: Sequence[EpisodeList], groups: Mapping[str, Sequence[int]]) -> None:
    for of_list in lists:
        if not of_list.episodes:
            raise ValueError(f"the list of the {of_list.group} classes, {of_list.shots} shots, has no episode")
        beyond = {episode.class_id for episode in of_list.episodes} - set(groups.get(of_list.group, ()))
        if beyond:
            raise ValueError(
                f"the list of the {of_list.group} classes, {of_list.shots} shots, has episodes of categories "
                f"{sorted(beyond)}, which are none of them"
            )


def _cells(
    of_list: EpisodeList,
    annotation: Annotation,
    counts: Mapping[str, np.ndarray],
    classes: Mapping[int, str],
    against: str,
    draws: int,
) -> list[Cell]:
    """Cells of all rows; ``counts`` are int64 ``[E, 4]`` by row."""
    class_ids = [episode.class_id for episode in of_list.episodes]
    samples = dict(zip(counts, bootstrap_accuracy(class_ids, list(counts.values()), draws=draws), strict=True))
    accuracy = {name: summarise_episodes(class_ids, of_row, classes) for name, of_row in counts.items()}
    values = {name: {"miou": found.miou, "fb-iou": found.fb_iou} for name, found in accuracy.items()}
    cells = []
    for name in counts:
        figures: dict[str, Estimate] = {}
        differences: dict[str, Difference] = {}
        for figure in FIGURES:
            figures[figure] = _estimate(values[name][figure], samples[name][figure])
            if against and name != against:
                less = samples[name][figure] - samples[against][figure]
                value = values[name][figure] - values[against][figure]
                estimate = _estimate(value, less)
                better = without_nan(share_better(less))
                differences[figure] = Difference(estimate.value, estimate.low, estimate.high, better)
        per_class = without_nan({label: 100 * value for label, value in accuracy[name].per_class.items()})
        cells.append(
            Cell(
                name,
                str(annotation),
                of_list.shots,
                of_list.group,
                len(class_ids),
                figures,
                differences,
                per_class,
            )
        )
    return cells


def _estimate(value: float, samples: np.ndarray) -> Estimate:
    low, high = percentiles(samples)
    return Estimate(*without_nan([100 * value, 100 * low, 100 * high]))
