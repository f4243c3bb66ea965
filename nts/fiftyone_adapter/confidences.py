"""Confidences of a segmentation as probabilities for its images, and the instances that a user is shown.

The calibration of a memory holds for images like the reference images. Once a view is segmented, it is shifted to all
scores in the field, and the confidences in the field are written again, except those of labels that a person has
decided about. Decided labels that another memory found do not count, nor do labels without a ``score``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from bson import ObjectId
from fiftyone import ViewField as F
from torch import Tensor

from ..calibration import Calibration
from ..recommendation import Recommendation, in_words, recommend, threshold_for_precision
from . import runs
from .config import SegmentationConfig
from .errors import InputError
from .label_writer import LabelWriter
from .runs import Collection
from .view_stages import without_stages_on


@dataclass(frozen=True)
class Shown:
    """The instances of a segmentation that a user is shown.

    Attributes:
        threshold: least confidence; ``None`` for all instances.
        view_name: the saved view of these instances; ``None`` if there is none.
        words: what to expect of these instances, and how sure that is.
    """

    threshold: float | None
    view_name: str | None
    words: str


def fit_confidences(
    view: Collection, writer: LabelWriter, calibration: Calibration | None
) -> tuple[Calibration | None, Tensor]:
    """Make the confidences in a segmented field probabilities for its images, and note the recommendation in the run.

    Args:
        view: dataset or view.
        writer: of the field.
        calibration: of the memory; ``None`` if confidences are scores. Then nothing is written.

    Returns:
        the calibration, shifted to the field, and the scores in the field, float64 ``[n]``.

    Raises:
        RunEnded: if the job no longer owns the run.
    """
    field = writer.fields[0]
    batches = list(runs.in_batches(sorted(writer.done())))
    memory = runs.config(view, field, runs.SEGMENTATION)["memory_fingerprint"]
    scores = _scores(score for ids in batches for score in _counted(view, field, ids, memory))
    if calibration is None:
        return None, scores
    calibration = calibration.shifted(scores)
    for ids in batches:
        with writer.owned():
            writer.write_labels("confidence", _changes(view, field, ids, calibration))
    recommendation = recommend(calibration, scores)
    writer.describe(calibration=calibration.to_dict(), recommendation=_stored(calibration, recommendation))
    return calibration, scores


def show_confident(
    view: Collection, field: str, config: SegmentationConfig, calibration: Calibration | None, scores: Tensor
) -> Shown:
    """Save the view that the options ask for; without a threshold, delete an earlier one.

    A saved view of the user's own is left alone, which the words say.

    Args:
        view: the images that were segmented. Its stages on the field are left out.
        field: the field of the instances.
        config: of the segmentation.
        calibration: shifted to the field; ``None`` if confidences are scores.
        scores: ``[n]``, of all instances in the field.
    """
    threshold, words = _choose(config, calibration, scores)
    if threshold is None:
        runs.delete_field_view(view, field, runs.CONFIDENT_VIEW)
        return Shown(None, None, words)
    images = without_stages_on(view, field, runs.error_field(field))
    confident = images.filter_labels(field, F("confidence") >= threshold, only_matches=False)
    try:
        return Shown(threshold, runs.save_field_view(confident, field, runs.CONFIDENT_VIEW), words)
    except InputError as error:
        return Shown(threshold, None, f"{words} No view of them was saved: {error}.")


def _choose(config: SegmentationConfig, calibration: Calibration | None, scores: Tensor) -> tuple[float | None, str]:
    """The least confidence to show, ``None`` for all instances, and the words about it."""
    if calibration is None:
        return _choose_score(config, scores)
    recommended = recommend(calibration, scores)
    if config.shown == "all":
        return None, in_words(calibration, recommended)
    if config.min_precision is not None:
        threshold = threshold_for_precision(calibration, scores, config.min_precision)
        if threshold is None:
            asked = f"{100 * config.min_precision:.3g}%"
            problem = f"No threshold is expected to give a precision of {asked}"
            if calibration.basis != "references":
                problem = f"It is unknown which threshold gives a precision of {asked}"
            return recommended.threshold, f"{problem}, so the recommended one is used. " + in_words(
                calibration, recommended
            )
        # Rounded down, the same number is shown, stored and compared with.
        chosen = math.floor(1e6 * threshold) / 1e6
    else:
        chosen = recommended.threshold if isinstance(config.shown, str) else config.shown
    return chosen, in_words(calibration, recommend(calibration, scores, chosen))


def _choose_score(config: SegmentationConfig, scores: Tensor) -> tuple[float | None, str]:
    """As :func:`_choose`, where confidences are scores."""
    if not isinstance(config.shown, str):
        above = int((scores >= config.shown).sum())
        return config.shown, f"{above} of {len(scores)} instances have a confidence of at least {config.shown:.2g}."
    if config.min_precision is None:
        return None, ""
    return None, (
        "All instances are shown: confidences of the preset 'paper' and of reference prompts are no probabilities, so "
        "it is unknown which threshold gives a precision."
    )


def _stored(calibration: Calibration, recommendation: Recommendation) -> dict[str, Any]:
    """A recommendation in the configuration of a run."""
    rests_on = {name: getattr(calibration, name) for name in ("basis", "references", "negatives", "images")}
    return {**asdict(recommendation), **rests_on, "words": in_words(calibration, recommendation)}


def _counted(view: Collection, field: str, sample_ids: Sequence[str], memory: str) -> Iterator[float | None]:
    """Scores by the memory of a fingerprint."""
    for label in _labels(view, field, sample_ids, "score", runs.DECISION, "decided_from"):
        _, score, decision, decided_from = label
        if decision is None or decided_from == memory:
            yield score


def _changes(
    view: Collection, field: str, sample_ids: Sequence[str], calibration: Calibration
) -> dict[str, dict[ObjectId, float]]:
    """Undecided labels whose confidence is not the probability of their score, and that probability.

    Returns:
        ``{sample id: {label id: probability}}``.
    """
    labels = [
        label
        for label in _labels(view, field, sample_ids, "_id", "score", "confidence", runs.DECISION)
        if label[2] is not None and label[4] is None
    ]
    probabilities = calibration.probabilities(_scores(label[2] for label in labels)).tolist()
    changes: dict[str, dict[ObjectId, float]] = {}
    for (sample_id, label_id, _, confidence, _), probability in zip(labels, probabilities, strict=True):
        if confidence != probability:
            changes.setdefault(sample_id, {})[label_id] = probability
    return changes


def _labels(view: Collection, field: str, sample_ids: Sequence[str], *attributes: str) -> Iterator[tuple]:
    """Sample id and attributes of every label."""
    for sample_id, *of_image in zip(*_values(view, field, sample_ids, *attributes), strict=True):
        for label in zip(*(values or () for values in of_image), strict=True):
            yield (sample_id, *label)


def _values(view: Collection, field: str, sample_ids: Sequence[str], *attributes: str) -> list[list]:
    """Ids of samples, and attributes of their labels."""
    samples = runs.all_images(view).select(sample_ids)
    return samples.values(["id", *(f"{field}.detections.{name}" for name in attributes)])


def _scores(values: Iterator[float | None]) -> Tensor:
    """Scores as float64 ``[n]``, without missing ones."""
    return torch.tensor([value for value in values if value is not None], dtype=torch.float64)
