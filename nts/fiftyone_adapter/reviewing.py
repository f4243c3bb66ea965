"""Review of predictions: those with a small margin or a low score get tags, and a saved view shows them."""

from __future__ import annotations

from dataclasses import dataclass

import fiftyone as fo
from fiftyone import ViewField as F

from . import checks, runs
from .checks import InputError
from .runs import Collection

REVIEW = "nts_review"
"""Tag of every label to review, beside the tags of its reasons."""

LOW_MARGIN, LOW_SCORE = "nts_low_margin", "nts_low_score"
REASONS = {LOW_MARGIN: "margin", LOW_SCORE: "confidence"}
"""Tag of every reason, and the attribute that is below its threshold."""

_WRITTEN_BY = {"margin": "auto_segment_view writes it", "confidence": "a model that scores its predictions writes it"}

REVIEW_FRACTION = 0.1
"""Fraction of the labels that a suggested threshold tags."""

_MAX_VALUES = 200_000  # behind a suggested threshold; the database sends no more than 16 MB at once


@dataclass(frozen=True)
class ReviewReport:
    """Result of tagging for review.

    Attributes:
        field: the field with the predictions.
        labels: labels of the field in the view.
        tagged: number of labels to review.
        reasons: their number for every reason; a label can have several.
        view_name: the saved view of all such labels of the field; ``None`` if there are none.
    """

    field: str
    labels: int
    tagged: int
    reasons: dict[str, int]
    view_name: str | None


def suggest_thresholds(view: Collection, field: str, fraction: float = REVIEW_FRACTION) -> dict[str, float | None]:
    """Threshold of every reason below which a fraction of the labels lies; ``None`` if no label has the value.

    Of very many labels a sample is taken, always the same.
    """
    labels = view.count(f"{field}.detections")
    if labels > _MAX_VALUES:
        view = view.take(max(1, view.count() * _MAX_VALUES // labels), seed=51)
    found = view.aggregate(
        [fo.Quantiles(f"{field}.detections.{attribute}", fraction) for attribute in REASONS.values()]
    )
    return dict(zip(REASONS, found, strict=True))


def count_for_review(
    view: Collection, field: str, *, margin_below: float | None = None, score_below: float | None = None
) -> dict[str, int]:
    """Number of labels that :func:`tag_for_review` would tag, for every reason, and altogether under :data:`REVIEW`."""
    criteria = _criteria(view, field, margin_below, score_below)
    return _count(view, field, criteria) if criteria else {REVIEW: 0}


def tag_for_review(
    view: Collection, field: str, *, margin_below: float | None = None, score_below: float | None = None
) -> ReviewReport:
    """Tag labels with a small margin or a low score, and save a view of them.

    Tags of an earlier call that do not apply any more are removed, so the same call again changes nothing. The saved
    view shows the labels with the tag :data:`REVIEW`, smallest margin first: a label leaves it with its tag.

    Args:
        view: dataset or view with the labels.
        field: a field of type Detections.
        margin_below: tag labels whose ``margin`` is below this; ``None``: not by margin.
        score_below: tag labels whose ``confidence`` is below this; ``None``: not by score. With neither, both are the
            suggested ones.

    Raises:
        InputError: if the view or the field cannot be used, no label has the value of a threshold, or the user has a
            saved view of that name.
    """
    checks.check_view(view)
    checks.check_detections_field(view, field, "predictions field")
    if margin_below is None and score_below is None:
        suggested = suggest_thresholds(view, field)
        margin_below, score_below = suggested[LOW_MARGIN], suggested[LOW_SCORE]
        if margin_below is None and score_below is None:
            raise InputError(
                f"no label of {field!r} in this view has a margin or a confidence: there is nothing to compare"
            )
    runs.check_editable(view, [field])
    runs.check_field_view(view, field, runs.REVIEW_VIEW)
    criteria = _criteria(view, field, margin_below, score_below)
    counts = _count(view, field, criteria)
    labels = view.count(f"{field}.detections")
    _retag(view, field, {REVIEW: F.any(list(criteria.values())), **criteria})
    return ReviewReport(
        field=field,
        labels=labels,
        tagged=counts[REVIEW],
        reasons={reason: counts[reason] for reason in criteria},
        view_name=_save_view(view, field, REASONS[next(iter(criteria))]),
    )


def clear_review(view: Collection, field: str) -> int:
    """Remove the tags from the labels of a view; returns the number of labels that had them.

    The saved view is deleted with the last tag.
    """
    checks.check_detections_field(view, field, "predictions field")
    runs.check_editable(view, [field])
    count = view.count_label_tags(label_fields=field).get(REVIEW, 0)
    _retag(view, field, {})
    if not _tagged(view, field).count():
        runs.delete_field_view(view, field, runs.REVIEW_VIEW)
    return count


def _criteria(
    view: Collection, field: str, margin_below: float | None, score_below: float | None
) -> dict[str, fo.ViewExpression]:
    """Expression of every reason with a threshold: labels below it. A label without the value is not."""
    criteria = {}
    for reason, threshold in ((LOW_MARGIN, margin_below), (LOW_SCORE, score_below)):
        attribute = REASONS[reason]
        if threshold is None:
            continue
        if not view.count(f"{field}.detections.{attribute}"):
            raise InputError(f"no label of {field!r} in this view has a {attribute}: {_WRITTEN_BY[attribute]}")
        # To MongoDB a missing value is less than every number.
        criteria[reason] = F(attribute).is_number() & (F(attribute) < threshold)
    return criteria


def _count(view: Collection, field: str, criteria: dict[str, fo.ViewExpression]) -> dict[str, int]:
    """Number of labels for every reason, and altogether."""
    expressions = {**criteria, REVIEW: F.any(list(criteria.values()))}
    labels = F(f"{field}.detections")
    counts = view.aggregate([fo.Sum(labels.filter(expression).length()) for expression in expressions.values()])
    return {name: int(count or 0) for name, count in zip(expressions, counts, strict=True)}


def _retag(view: Collection, field: str, wanted: dict[str, fo.ViewExpression]) -> None:
    """Set our tags of the labels of a view, and remove those that do not apply."""
    # The view may filter by these tags: all changes are read before anything is written.
    missing = {tag: _ids(view, field, expression & ~_has(tag)) for tag, expression in wanted.items()}
    stale = {
        tag: _ids(view, field, _has(tag) & ~wanted[tag] if tag in wanted else _has(tag)) for tag in (REVIEW, *REASONS)
    }
    dataset = view._root_dataset
    for tag, (ids, label_ids) in missing.items():
        dataset._tag_labels(tag, field, ids=ids, label_ids=label_ids)
    for tag, (ids, label_ids) in stale.items():
        dataset._untag_labels(tag, field, ids=ids, label_ids=label_ids)


def _ids(view: Collection, field: str, expression: fo.ViewExpression) -> tuple[list, list]:
    """Ids of the samples with such labels, and of the labels."""
    ids, label_ids = view.filter_labels(field, expression).values(["_id", f"{field}.detections._id"])
    return ids, label_ids


def _has(tag: str) -> fo.ViewExpression:
    """Expression: a label has a tag. One whose tags are null has none."""
    return (F("tags") != None).if_else(F("tags").contains(tag), False)  # noqa: E711


def _tagged(view: Collection, field: str) -> fo.DatasetView:
    return runs.all_images(view).filter_labels(field, _has(REVIEW))


def _save_view(view: Collection, field: str, attribute: str) -> str | None:
    tagged = _tagged(view, field)
    if not tagged.count():
        runs.delete_field_view(view, field, runs.REVIEW_VIEW)
        return None
    sorted_labels = tagged.sort_by(F(f"{field}.detections.{attribute}").min())
    return runs.save_field_view(sorted_labels, field, runs.REVIEW_VIEW)
