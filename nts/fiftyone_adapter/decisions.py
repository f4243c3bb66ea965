"""Decisions of a person about predictions: accepted, rejected, rejected for the outline only, or corrected.

A decision is stored on the label: as the attribute ``decision``, with the time (``decided_at``) and the memory that the
prediction came from (``decided_from``), and as a label tag of the same name, for the filters of the App and for
exports. A segmentation never changes a decided label, and does not repeat it: see :mod:`nts.settled`.

Labels that a person has edited or added, in the App or in Python, count as corrected. Every prediction is stored with a
digest of its class, box and mask (``written``), which tells the edited ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import fiftyone as fo
import numpy as np
import torch
from bson import ObjectId
from pycocotools import mask as coco_mask
from pymongo import UpdateOne
from torch import Tensor

from ..references import InvalidReference
from ..settled import Settled
from . import checks, runs
from .documents import bulk_write, detection_document
from .errors import InputError
from .labels import DETECTION_ATTRIBUTES, label_digest, label_mask
from .locking import exclusive
from .runs import Collection

logger = logging.getLogger(__name__)

Decision = Literal["accepted", "rejected", "wrong outline", "corrected"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

DECISION_ATTRIBUTES = {
    runs.DECISION: fo.StringField,
    "decided_at": fo.DateTimeField,
    "decided_from": fo.StringField,
}
"""Attributes of a decided label."""

CHANGES = ("label", *DECISION_ATTRIBUTES)
"""Values of a label that a decision changes."""

DUPLICATE = 0.9
"""IoU of the boxes from which a label of the same class is a copy."""


@dataclass(frozen=True)
class LabelState:
    """Class and decision of a label, to be restored by :func:`undo`.

    Attributes:
        sample_id, label_id: of the label.
        label: its class.
        decision: ``None`` if undecided.
        decided_at: time of the decision.
        decided_from: fingerprint of the memory that the prediction came from.
    """

    sample_id: str
    label_id: str
    label: str
    decision: Decision | None
    decided_at: datetime | None
    decided_from: str | None


@dataclass(frozen=True)
class DecisionStep:
    """A decision that :func:`undo_last` can take back.

    Attributes:
        id: unique.
        decision: ``None`` if labels became undecided.
        labels: number of labels.
    """

    id: str
    decision: Decision | None
    labels: int


@dataclass(frozen=True)
class UndoReport:
    """Result of :func:`undo_last`.

    Attributes:
        step: the decision that was taken back.
        restored: number of labels that are as before.
        changed: labels that were decided otherwise since, or got another class: they stay as they are.
        gone: labels that are not there any more.
    """

    step: DecisionStep
    restored: int
    changed: int
    gone: int


@exclusive
def decide(
    view: Collection,
    field: str,
    decision: Decision | None,
    label_ids: Sequence[str] | None = None,
    *,
    class_name: str | None = None,
) -> list[LabelState]:
    """Accept, reject or correct predictions. The decision can be taken back by :func:`undo_last`.

    Args:
        view: dataset or view with the labels.
        field: field of a segmentation.
        decision: ``None`` makes the labels undecided again.
        label_ids: labels to decide about; ``None`` for all labels in the view.
        class_name: the right class; only for ``"corrected"``.

    Returns:
        the earlier states of the labels, for :func:`undo`.

    Raises:
        InputError: if the field is not one of a segmentation or cannot be edited, or an argument is none of these.
    """
    if decision is not None and decision not in DECISIONS:
        raise InputError(f"there is no decision {decision!r}; there are {', '.join(DECISIONS)}", option="decision")
    if class_name is not None and decision != "corrected":
        raise InputError("only a corrected label has another class", option="class_name")
    before, after = _decide(view, field, decision, label_ids, class_name)
    if before:
        _remember(view, field, before, after)
    return before


def _decide(
    view: Collection, field: str, decision: Decision | None, label_ids: Sequence[str] | None, class_name: str | None
) -> tuple[list[LabelState], list[LabelState]]:
    """States of the labels before and after a decision, see :func:`decide`."""
    config = _segmentation(view, field)
    checks.check_detections_field(view, field, "predictions field")
    runs.check_editable(view, [field])
    _declare(view, field, DECISION_ATTRIBUTES)
    before = _states(view, field, label_ids)
    stamp = None if decision is None else _now()
    memory = None if decision is None else config["memory_fingerprint"]
    after = [
        LabelState(
            each.sample_id, each.label_id, each.label if class_name is None else class_name, decision, stamp, memory
        )
        for each in before
    ]
    _write(view, field, before, after)
    return before, after


def last_step(view: Collection, field: str) -> DecisionStep | None:
    """The decision that :func:`undo_last` would take back; ``None`` if there is none."""
    steps = runs.list_steps(view, field)
    return DecisionStep(**steps[-1]) if steps else None


@exclusive
def undo_last(view: Collection, field: str, step_id: str | None = None) -> UndoReport | None:
    """Take back the last decision about the labels of a field, whoever made it, in the App or in Python.

    Labels that were decided otherwise since, or got another class, stay as they are.

    Args:
        view: dataset or view.
        field: field of a segmentation.
        step_id: of the decision to take back, if it is still the last one.

    Returns:
        ``None`` if there is no decision to take back.

    Raises:
        InputError: if the field is not one of a segmentation or cannot be edited, or another decision than ``step_id``
            is the last one by now.
    """
    _segmentation(view, field)
    runs.check_editable(view, [field])
    step = last_step(view, field)
    if step is None:
        return None
    if step_id not in (None, step.id):
        raise InputError("another decision was made meanwhile: undo that one first")
    before, after = _recalled(runs.step_content(view, field, step.id))
    there = {each.label_id: each for each in _states(runs.all_images(view), field, list(before))}
    now = [each for each in there.values() if _values(each) == after[each.label_id]]
    restored = [LabelState(each.sample_id, each.label_id, *before[each.label_id]) for each in now]
    _write(view, field, now, restored)
    runs.remove_step(view, field, step.id)
    return UndoReport(step, len(now), len(there) - len(now), len(before) - len(there))


@exclusive
def undo(view: Collection, field: str, states: Sequence[LabelState]) -> int:
    """Restore the class and decision of labels, as returned by :func:`decide`.

    Labels that are gone are left out.

    Returns:
        number of restored labels.
    """
    wanted = {each.label_id: each for each in states}
    now = _states(runs.all_images(view), field, list(wanted))
    _write(view, field, now, [wanted[each.label_id] for each in now])
    return len(now)


@exclusive
def mark_edited(view: Collection, field: str) -> int:
    """Mark the labels of a segmentation that a person has edited or added as corrected.

    Args:
        view: dataset or view; the labels of the whole dataset are looked at.
        field: field of a segmentation.

    Returns:
        number of labels that were not marked before.
    """
    images = runs.all_images(view)
    if images.get_field(field) is None:  # a run that was killed before it made its field
        return 0
    _declare(images, field, {**DETECTION_ATTRIBUTES, **DECISION_ATTRIBUTES})
    edited = []
    for ids in runs.in_batches(images.exists(field).values("id")):
        names = ("id", "label", "bounding_box", "mask", "mask_path", "written", "score", runs.DECISION)
        columns = images.select(ids).values(["id", *(f"{field}.detections.{name}" for name in names)])
        for _, *of_image in zip(*columns, strict=True):
            for label_id, label, box, mask, mask_path, written, score, decision in zip(
                *(values or () for values in of_image), strict=True
            ):
                if decision == "corrected":
                    continue
                if written is None:
                    # Before digests were stored, predictions had a score; a label that a person has drawn has none.
                    is_edited = score is None
                else:
                    is_edited = mask_path is not None or label_digest(label, box, mask) != written
                if is_edited:
                    edited.append(label_id)
    if edited:
        _decide(images, field, "corrected", edited, None)  # nothing to take back: the next look would find them again
    return len(edited)


def declare_decisions(view: Collection, field: str) -> None:
    """Declare the attributes of decisions, which a field of an earlier version lacks."""
    _declare(view, field, DECISION_ATTRIBUTES)


def decision_counts(view: Collection, field: str) -> dict[str, int]:
    """Number of labels of a view by decision; ``"undecided"`` for those without one."""
    found = view.count_values(f"{field}.detections.{runs.DECISION}") if _is_declared(view, field) else {}
    total = view.count(f"{field}.detections")
    decided = {name: found.get(name, 0) for name in DECISIONS}
    return {"undecided": total - sum(decided.values()), **decided}


@exclusive
def copy_decided(view: Collection, field: str, to_field: str) -> int:
    """Copy accepted and corrected labels to a field of their own, such as the ground truth.

    Labels that were copied before, or that overlap a label of the same class there (boxes, IoU of 0.9), are left out.

    Args:
        view: dataset or view with the labels.
        field: field of a segmentation.
        to_field: another field of type Detections; it is created if it is missing.

    Returns:
        number of labels that were copied.

    Raises:
        InputError: if a field cannot be used.
    """
    _segmentation(view, field)
    dataset = view._root_dataset
    if to_field in runs.list_runs(view, runs.SEGMENTATION):
        raise InputError(f"{to_field!r} holds predictions of a segmentation: choose another field", option="to_field")
    if dataset.has_sample_field(to_field):
        checks.check_detections_field(view, to_field, "field to copy to")
        runs.check_editable(view, [to_field])
    else:
        dataset.add_sample_field(to_field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    _declare(view, field, DECISION_ATTRIBUTES)
    dataset.add_sample_field(f"{to_field}.detections.copied_from", fo.StringField)
    chosen = view.filter_labels(field, fo.ViewField(runs.DECISION).is_in(["accepted", "corrected"]))
    copied = 0
    for ids in runs.in_batches(chosen.values("id")):
        there = dict(_by_image(runs.all_images(view).select(ids), to_field, "label", "bounding_box", "copied_from"))
        writes = []
        for sample_id, labels in _by_image(chosen.select(ids), field, *_COPIED, "_id"):
            new = _without_duplicates(labels, there[sample_id])
            if new:
                writes.append(_appended(sample_id, to_field, [_copy(label) for label in new]))
                copied += len(new)
        bulk_write(dataset, writes, ids)
    return copied


_COPIED = ("label", "bounding_box", "mask", "mask_path")
"""Values of a label that a copy has too."""


def _by_image(view: Collection, field: str, *names: str) -> Iterator[tuple[ObjectId, list[dict[str, Any]]]]:
    """Id and labels of every image, with some of their values as they are stored.

    As documents of FiftyOne, ten thousand labels with their masks would take ten seconds to read and to write.
    """
    columns = view.values(["_id", *(f"{field}.detections.{name}" for name in names)], _raw=True)
    for sample_id, *of_image in zip(*columns, strict=True):
        labels = zip(*(values or () for values in of_image), strict=True)
        yield sample_id, [dict(zip(names, label, strict=True)) for label in labels]


def _copy(label: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stored label, as it is stored."""
    values = {name: label[name] for name in _COPIED if label[name] is not None}
    return detection_document({**values, "copied_from": str(label["_id"])})


def _appended(sample_id: ObjectId, field: str, labels: list[dict[str, Any]]) -> UpdateOne:
    """The write that appends labels to those that an image has by then, if it has any."""
    there = {"$ifNull": [f"${field}.detections", []]}
    now = {"_cls": fo.Detections.__name__, "detections": {"$concatArrays": [there, {"$literal": labels}]}}
    merged = {"$mergeObjects": [f"${field}", now]}
    return UpdateOne({"_id": sample_id}, [{"$set": {field: merged, "last_modified_at": "$$NOW"}}])


def _without_duplicates(labels: list[dict[str, Any]], there: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels that were not copied to, and are not the same as, one of some others."""
    copied = {other["copied_from"] for other in there}
    boxes: dict[str, list[Sequence[float]]] = {}
    for other in there:
        if len(other["bounding_box"] or ()) == 4:
            boxes.setdefault(other["label"], []).append(other["bounding_box"])

    def is_there(label: Mapping[str, Any]) -> bool:
        box, same_class = label["bounding_box"], boxes.get(label["label"])
        if str(label["_id"]) in copied:
            return True
        if same_class is None or len(box or ()) != 4:
            return False
        overlaps = coco_mask.iou(np.array([box], np.float64), np.array(same_class, np.float64), [0] * len(same_class))
        return bool(overlaps.max() >= DUPLICATE)

    return [label for label in labels if not is_there(label)]


class DecidedLabels:
    """The decided labels that a run leaves alone, by image.

    Args:
        view: dataset or view.
        field: field of the segmentation; it need not exist.
        classes: names of the memory's classes.
    """

    def __init__(self, view: Collection, field: str, classes: Sequence[str]) -> None:
        self._index = {name: k for k, name in enumerate(classes)}
        self._labels: Mapping[str, list[fo.Detection]] = {}
        if view._root_dataset.has_sample_field(field):
            found = runs.with_decisions(view, field).values(["id", f"{field}.detections"])
            self._labels = dict(zip(*found, strict=True))

    def __len__(self) -> int:
        return sum(map(len, self._labels.values()))

    def has(self, sample_id: str) -> bool:
        """Whether an image has decided labels."""
        return bool(self._labels.get(sample_id))

    def of(self, sample_id: str, image_size: tuple[int, int]) -> Settled | None:
        """The decided labels of an image, ``(H, W)``; ``None`` if there are none."""
        labels = self._labels.get(sample_id)
        if not labels:
            return None

        def mask(label: fo.Detection) -> Tensor:
            try:
                return torch.from_numpy(label_mask(label, image_size))
            except InvalidReference as error:
                logger.warning("a decided label of sample %s does not keep predictions away: %s", sample_id, error)
                return torch.zeros(image_size, dtype=torch.bool)

        classes = torch.zeros(len(labels), len(self._index), dtype=torch.bool)
        for blocked, label in zip(classes, labels, strict=True):
            blocked[:] = label[runs.DECISION] not in runs.REFUSED
            if label.label in self._index:
                blocked[self._index[label.label]] = True
        return Settled.of_masks(map(mask, labels), classes, image_size)


def _segmentation(view: Collection, field: str) -> dict:
    made = runs.list_runs(view, runs.SEGMENTATION)
    if field not in made:
        known = f"; there are {', '.join(made)}" if made else ""
        raise InputError(f"{field!r} is not a field of predictions that a segmentation made{known}")
    return made[field]


def _is_declared(view: Collection, field: str) -> bool:
    return view._root_dataset.get_field(f"{field}.detections.{runs.DECISION}") is not None


def _declare(view: Collection, field: str, attributes: Mapping[str, type[fo.Field]]) -> None:
    """Declare attributes that a field of an earlier version lacks."""
    for name, field_type in attributes.items():
        if view._root_dataset.get_field(f"{field}.detections.{name}") is None:
            view._root_dataset.add_sample_field(f"{field}.detections.{name}", field_type)


def _states(view: Collection, field: str, label_ids: Sequence[str] | None) -> list[LabelState]:
    if label_ids is not None:
        view = view.select_labels(ids=list(label_ids), fields=field)
    names = ("id", *CHANGES)
    columns = view.values(["id", *(f"{field}.detections.{name}" for name in names)])
    return [
        LabelState(sample_id, *label)
        for sample_id, *of_image in zip(*columns, strict=True)
        for label in zip(*(values or () for values in of_image), strict=True)
    ]


_Values = tuple[str, Decision | None, datetime | None, str | None]
"""The values of :data:`CHANGES` of a label."""


def _values(state: LabelState) -> _Values:
    return state.label, state.decision, _utc(state.decided_at), state.decided_from


def _now() -> datetime:
    """The time, to the millisecond, as the database stores it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _utc(time: datetime | None) -> datetime | None:
    """A time of the database, which may come without its time zone."""
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def _remember(view: Collection, field: str, before: Sequence[LabelState], after: Sequence[LabelState]) -> None:
    """Store a decision, to be taken back. Labels that were and became the same are stored together."""
    groups: dict[tuple[_Values, _Values], list[str]] = {}
    for old, new in zip(before, after, strict=True):
        groups.setdefault((_values(old), _values(new)), []).append(old.label_id)
    content = [[_plain(old), _plain(new), label_ids] for (old, new), label_ids in groups.items()]
    runs.add_step(view, field, len(before), {"groups": content}, decision=after[0].decision)


def _recalled(content: Mapping[str, Any]) -> tuple[dict[str, _Values], dict[str, _Values]]:
    """Values of labels before and after a stored decision, by label id."""
    before: dict[str, _Values] = {}
    after: dict[str, _Values] = {}
    for old, new, label_ids in content["groups"]:
        before |= dict.fromkeys(label_ids, _from_plain(old))
        after |= dict.fromkeys(label_ids, _from_plain(new))
    return before, after


def _plain(values: _Values) -> list[str | None]:
    label, decision, time, memory = values
    return [label, decision, None if time is None else time.isoformat(), memory]


def _from_plain(stored: Sequence[Any]) -> _Values:
    label, decision, time, memory = stored
    return label, decision, None if time is None else datetime.fromisoformat(time), memory


def _write(view: Collection, field: str, before: Sequence[LabelState], after: Sequence[LabelState]) -> None:
    """Write what changes, label by label: other labels of the same images may change at the same time."""
    dataset = view._root_dataset
    # Labels of an image with the same changes are written at once: label by label, ten thousand take a minute.
    groups: dict[tuple, list[ObjectId]] = {}
    for old, new in zip(before, after, strict=True):
        changes = [(name, getattr(new, name)) for name in CHANGES]
        changes = [(name, value) for name, value in changes if getattr(old, name) != value]
        if changes:
            groups.setdefault((new.sample_id, *changes), []).append(ObjectId(new.label_id))
    path = f"{field}.detections.$[label]"
    writes = [
        UpdateOne(
            {"_id": ObjectId(sample_id)},
            {"$set": {f"{path}.{name}": value for name, value in changes}},
            array_filters=[{"label._id": {"$in": label_ids}}],
        )
        for (sample_id, *changes), label_ids in groups.items()
    ]
    bulk_write(dataset, writes, sorted({sample_id for sample_id, *_ in groups}))
    for tag in DECISIONS:
        for change, had in ((dataset._tag_labels, False), (dataset._untag_labels, True)):
            pairs = [
                (new.sample_id, new.label_id)
                for old, new in zip(before, after, strict=True)
                if (old.decision == tag) == had and (new.decision == tag) != had
            ]
            if pairs:
                labels: dict[ObjectId, list[ObjectId]] = {}
                for sample_id, label_id in pairs:
                    labels.setdefault(ObjectId(sample_id), []).append(ObjectId(label_id))
                change(tag, field, ids=list(labels), label_ids=list(labels.values()))
    if writes and runs.has_map(dataset, field):
        _write_map(dataset, field, [new for old, new in zip(before, after, strict=True) if old != new])


def _write_map(dataset: fo.Dataset, field: str, states: Sequence[LabelState]) -> None:
    """Write the class and decision of labels to their copies in the map, which have the same ids."""
    groups: dict[tuple[str, str, Decision | None], list[ObjectId]] = {}
    for each in states:
        groups.setdefault((each.sample_id, each.label, each.decision), []).append(ObjectId(each.label_id))
    path = f"{runs.map_field(field)}.detections"
    writes = [
        UpdateOne(
            {"_id": ObjectId(sample_id), path: {"$exists": True}},
            {"$set": {f"{path}.$[label].label": label, f"{path}.$[label].decision": decision}},
            array_filters=[{"label._id": {"$in": label_ids}}],
        )
        for (sample_id, label, decision), label_ids in groups.items()
    ]
    bulk_write(dataset, writes, sorted({sample_id for sample_id, *_ in groups}))
    runs.renew_brain_runs(dataset, field)
