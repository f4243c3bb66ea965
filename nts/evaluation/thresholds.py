"""Choice of a predictor's threshold on validation classes, never on those that are tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..datasets.annotated_images import AnnotatedImages, Annotation
from ..datasets.episodes import Episode, EpisodeImages, References
from ..metrics.miou import summarise_episodes
from ..references import Reference
from ..segmenter import Segmenter
from .episode_evaluation import Predictor, evaluate_episodes

Thresholds = float | Mapping[Annotation, float]
"""One threshold for all references, or one per kind of annotation."""


def choose_threshold(
    make: Callable[[float], Predictor],
    thresholds: Sequence[float],
    episodes: Sequence[Episode],
    references: References,
    targets: EpisodeImages,
    *,
    side: int | None = None,
) -> tuple[float, dict[float, float]]:
    """Choose the threshold with the highest mIoU on episodes of *validation* classes.

    Args:
        make: builds the predictor for a threshold.
        thresholds: candidates.
        episodes: to choose by.
        references: source of their references.
        targets: source of their targets.
        side: see :func:`~nts.evaluation.episode_evaluation.evaluate_episodes`.

    Returns:
        The best threshold, the lowest on ties, and the mIoU of each, in ``[0, 1]``.

    Raises:
        ValueError: if there is no candidate, or no episode with a foreground pixel.
    """
    classes = {class_id: str(class_id) for class_id in sorted({episode.class_id for episode in episodes})}
    predictors = {threshold: make(threshold) for threshold in sorted(set(thresholds))}
    counts: dict[float, list[list[int]]] = {threshold: [] for threshold in predictors}
    for episode in sorted(episodes, key=lambda e: str(e.target)):  # all thresholds and episodes of a target in a row
        for threshold, predictor in predictors.items():
            (outcome,) = evaluate_episodes([episode], references, targets, predictor, side=side)
            counts[threshold].append([episode.class_id, *outcome.counts.numbers])
    found = {}
    for threshold, rows in counts.items():
        table = np.array(rows, np.int64).reshape(-1, 5)
        found[threshold] = summarise_episodes(table[:, 0], table[:, 1:], classes).miou
    if not found or any(np.isnan(list(found.values()))):
        raise ValueError("a threshold needs some to choose from, and episodes with a pixel to find")
    return max(found, key=lambda threshold: (found[threshold], -threshold)), found


def choose_thresholds(
    make: Callable[[float], Predictor],
    thresholds: Sequence[float],
    episodes: Sequence[Episode],
    references: EpisodeImages,
    targets: EpisodeImages,
    annotations: Sequence[Annotation],
    *,
    segmenter: Segmenter | None = None,
    seed: int = 0,
    side: int | None = None,
) -> dict[Annotation, float]:
    """Choose a threshold for every kind of annotation, see :func:`choose_threshold`.

    Args:
        make, thresholds, episodes, targets, side: as in :func:`choose_threshold`.
        references: images with the masks that annotations are simulated from.
        annotations: kinds to choose for.
        segmenter: SAM2, where annotations are promoted.
        seed: of the simulated annotations.
    """
    chosen = {}
    for annotation in annotations:
        shown = AnnotatedImages(references, annotation, seed=seed, segmenter=segmenter)
        chosen[annotation], _ = choose_threshold(make, thresholds, episodes, shown, targets, side=side)
    return chosen


def threshold_for(references: Sequence[Reference], thresholds: Thresholds) -> float:
    """Return the threshold for the annotation of some references.

    Raises:
        ValueError: if there is none for their kind.
    """
    if not isinstance(thresholds, Mapping):
        return thresholds
    kind, promoted = references[0].kind, any(reference.promoted for reference in references)
    of_kind = [annotation for annotation in thresholds if annotation.kind == kind]
    if not of_kind:
        raise ValueError(f"there is no threshold for references annotated by a {kind}")
    # A reference that SAM2 could not promote is shown as annotated, among others that were promoted.
    return thresholds[next((a for a in of_kind if a.promoted == promoted), of_kind[0])]
