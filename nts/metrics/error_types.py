"""Types of errors: wrong class, duplicate, poor localisation, distractor, background, missed; and oracle AP.

The object under a false positive decides its type, as in TIDE (Bolya et al., arXiv 2008.08115, Sec. 2.1). There is one
more type: *distractors*, objects of classes that are annotated but not evaluated, which a method that always assigns
the nearest class cannot avoid. Each oracle repairs one type of error and leaves the rest. As in TIDE, repaired
predictions of an object that is already found are removed, so that a repair never adds duplicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from .average_precision import accumulate, objects_to_find, summarise
from .coco import without_nan
from .crowds import is_crowd
from .matches import IouType, Matches, assign, geometries, match

FOUND_IOU = 0.5
"""Least IoU with which a prediction finds an object."""
TOUCHED_IOU = 0.1
"""Least IoU with which a prediction touches an object (TIDE's background threshold)."""
ErrorKind = Literal["wrong_class", "duplicate", "poor_localisation", "distractor", "background"]
ERROR_KINDS: tuple[ErrorKind, ...] = ("wrong_class", "duplicate", "poor_localisation", "distractor", "background")


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """Predictions and objects of each class at an IoU of 0.5, int64 ``[K]`` each.

    The type of a false positive depends on the object of any class, crowds excepted, that it overlaps most.

    Attributes:
        right: predictions that found an object.
        wrong_class: the object is of another evaluated class.
        duplicate: the object is of the predicted class, with an IoU of at least 0.5, but another prediction found it.
        poor_localisation: the object is of the predicted class, but the IoU is below 0.5.
        distractor: the object is of a class that is not evaluated.
        background: no object is overlapped with an IoU of 0.1.
        missed: objects that no prediction found.
    """

    right: np.ndarray
    wrong_class: np.ndarray
    duplicate: np.ndarray
    poor_localisation: np.ndarray
    distractor: np.ndarray
    background: np.ndarray
    missed: np.ndarray

    def total(self) -> dict[str, int]:
        """Sums over all classes."""
        return {name: int(getattr(self, name).sum()) for name in self.__dataclass_fields__}

    def of_class(self, k: int) -> dict[str, int]:
        """Counts of one class."""
        return {name: int(getattr(self, name)[k]) for name in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """Figures of :func:`diagnose`.

    Attributes:
        iou_type: IoU of ``"boxes"`` or ``"masks"``.
        classes: names of the ``K`` evaluated classes.
        distractors: names of the classes whose objects count as distractors.
        ap: average precision of the predictions; ``nan`` where there is no ground truth.
        ap_if_labels_perfect: AP without false positives on distractors and objects of another class, where an object
            that nothing else finds is found by the best-scored of those that overlap it with an IoU of 0.5.
        ap_if_masks_perfect: AP if every right or poorly localised prediction had the mask (and box) of its object.
        errors: counts over all predictions.
        confidence: the threshold of ``errors_above`` and ``confusion``.
        errors_above: counts over predictions with at least this score.
        confusion: int64 ``[K + 1, K + 2]``. Row: the predicted class; the last: nothing predicted. Column: the true
            class; then distractors; then background. By descending score and regardless of class, each object is
            assigned to one prediction with an IoU of 0.5. Column ``k < K`` sums to the objects of a class;
            predictions of objects that are already assigned are in no column.
        kinds: type of every false positive by its row in the list of results.
        pairs: int64 ``[p, 2]``, one row for each count of ``confusion``: row in the list of results, and in that of
            annotations; -1 for none.
    """

    iou_type: IouType
    classes: tuple[str, ...]
    distractors: tuple[str, ...]
    ap: float
    ap_if_labels_perfect: float
    ap_if_masks_perfect: float
    errors: ErrorCounts
    confidence: float
    errors_above: ErrorCounts
    confusion: np.ndarray
    kinds: dict[int, ErrorKind]
    pairs: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Figures as plain values for JSON, without ``kinds`` and ``pairs``; ``nan`` becomes ``None``."""
        values: dict[str, Any] = {
            "iou_type": self.iou_type,
            "classes": list(self.classes),
            "distractors": list(self.distractors),
            "ap": self.ap,
            "ap_if_labels_perfect": self.ap_if_labels_perfect,
            "ap_if_masks_perfect": self.ap_if_masks_perfect,
            "confidence": self.confidence,
            "confusion": self.confusion.tolist(),
        }
        for name, counts in (("errors", self.errors), ("errors_above", self.errors_above)):
            per_class = {class_name: counts.of_class(k) for k, class_name in enumerate(self.classes)}
            values[name] = {"total": counts.total(), "per_class": per_class}
        return without_nan(values)


def diagnose(
    matches: Matches,
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
    distractor_class_ids: Sequence[int] | None = None,
    *,
    confidence: float | None = None,
) -> Diagnostics:
    """Classify the errors of the predictions of a data set.

    Args:
        matches: of ``results`` with ``ground_truth``, by :func:`~nts.metrics.matches.match`.
        ground_truth: a COCO dataset, including the annotations of distractors, if there are any.
        results: COCO results.
        class_ids: category ids that were evaluated; all where ``None``.
        distractor_class_ids: category ids of distractors; all that were not evaluated where ``None``.
        confidence: counts are also given for predictions of at least this score; where ``None``, of at least the score
            with the best F1 over all classes.

    Raises:
        ValueError: if the matches are of other data or classes; if a class id is both evaluated and a distractor, or a
            distractor is unknown.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    evaluated = sorted(names) if class_ids is None else sorted(set(class_ids))
    distractors = sorted(set(names) - set(evaluated) if distractor_class_ids is None else set(distractor_class_ids))
    if both := sorted(set(evaluated) & set(distractors)):
        raise ValueError(f"class ids {both} cannot be evaluated and distractors")
    if unknown := [class_id for class_id in (*evaluated, *distractors) if class_id not in names]:
        raise ValueError(f"unknown class ids {unknown}: the ground truth has {sorted(names)}")
    if matches.classes != tuple(names[class_id] for class_id in evaluated):
        raise ValueError(f"the matches are of other classes: {', '.join(matches.classes)}")
    if (matches.annotations, matches.results) != (len(ground_truth["annotations"]), len(results)):
        raise ValueError(
            f"the matches are of {matches.annotations} annotations and {matches.results} results, not of "
            f"{len(ground_truth['annotations'])} and {len(results)}"
        )
    judged = _judge(matches, ground_truth, results, evaluated, distractors)
    if confidence is None:
        confidence = _best_confidence(matches)
    confusion, pairs = _confusion(judged, confidence)
    wrong = np.flatnonzero(judged.kind >= 0)

    def oracle(repaired: Sequence[dict[str, Any]]) -> float:
        return summarise(accumulate(match(ground_truth, repaired, evaluated, matches.iou_type))).ap

    return Diagnostics(
        iou_type=matches.iou_type,
        classes=matches.classes,
        distractors=tuple(names[class_id] for class_id in distractors),
        ap=summarise(accumulate(matches)).ap,
        ap_if_labels_perfect=oracle(_with_perfect_labels(judged, ground_truth, results)),
        ap_if_masks_perfect=oracle(_with_perfect_masks(judged, ground_truth, results)),
        errors=_count(judged, -math.inf),
        confidence=confidence,
        errors_above=_count(judged, confidence),
        confusion=confusion,
        kinds={int(matches.result[i]): ERROR_KINDS[judged.kind[i]] for i in wrong.tolist()},
        pairs=pairs,
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """Matches, and the object under every prediction.

    Attributes:
        matches: of the predictions, ``n``.
        objects: int64 ``[o]``: rows of annotations of evaluated classes and distractors, without crowds.
        object_label: int64 ``[o]``: evaluated class of each, ``K`` for distractors.
        closest: int64 ``[n]``: the object that each prediction overlaps most; -1 below ``TOUCHED_IOU``.
        closest_iou: float64 ``[n]``: its IoU.
        edges: prediction, object and IoU of every pair that reaches ``FOUND_IOU``.
        right: bool ``[n]``: true positives.
        kind: int64 ``[n]``: index of ERROR_KINDS, -1 for all but false positives.
    """

    matches: Matches
    objects: np.ndarray
    object_label: np.ndarray
    closest: np.ndarray
    closest_iou: np.ndarray
    edges: tuple[np.ndarray, np.ndarray, np.ndarray]
    right: np.ndarray
    kind: np.ndarray


def _judge(
    matches: Matches,
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    evaluated: Sequence[int],
    distractors: Sequence[int],
) -> _Judged:
    label_of = {class_id: k for k, class_id in enumerate(evaluated)} | dict.fromkeys(distractors, len(evaluated))
    image_of = {image_id: i for i, image_id in enumerate(matches.image_ids)}
    annotations = ground_truth["annotations"]
    rows = [
        (image_of[annotation["image_id"]], row, label_of[annotation["category_id"]])
        for row, annotation in enumerate(annotations)
        if annotation["image_id"] in image_of
        and annotation["category_id"] in label_of
        and not is_crowd(annotation.get("iscrowd"))
    ]
    image, objects, object_label = np.array(sorted(rows), np.int64).reshape(-1, 3).T

    sizes_of = {entry["id"]: (entry.get("height"), entry.get("width")) for entry in ground_truth["images"]}
    sizes = [sizes_of[image_id] for image_id in matches.image_ids]
    shown = [annotations[row] for row in objects.tolist()]
    order = np.argsort(matches.image, kind="stable")
    predicted = [results[row] for row in matches.result[order].tolist()]
    truth = geometries(shown, image, sizes, matches.image_ids, matches.iou_type)
    found = geometries(predicted, matches.image[order], sizes, matches.image_ids, matches.iou_type)

    closest, closest_iou = np.full(len(matches), -1, np.int64), np.zeros(len(matches))
    edges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    ]
    shared = np.intersect1d(matches.image, image)
    limits = [np.searchsorted(of, shared, side) for of in (matches.image[order], image) for side in ("left", "right")]
    for d0, d1, o0, o1 in zip(*(limit.tolist() for limit in limits), strict=True):
        iou = coco_mask.iou(found[d0:d1], truth[o0:o1], np.zeros(o1 - o0, np.uint8))
        members = order[d0:d1]
        closest[members], closest_iou[members] = o0 + iou.argmax(1), iou.max(1)
        d, o = np.nonzero(iou >= FOUND_IOU)
        edges.append((members[d], o + o0, iou[d, o]))
    closest[closest_iou < TOUCHED_IOU] = -1

    all_sizes, first = matches.areas.index("all"), 0
    right = matches.true_positives()[all_sizes, first]
    under = np.append(object_label, -1)[closest]
    conditions = [
        closest < 0,
        under == len(evaluated),
        under != matches.label,
        closest_iou >= FOUND_IOU,
    ]
    kinds: list[ErrorKind] = ["background", "distractor", "wrong_class", "duplicate"]
    kind = np.select(conditions, [ERROR_KINDS.index(k) for k in kinds], ERROR_KINDS.index("poor_localisation"))
    kind[~matches.false_positives()[all_sizes, first]] = -1
    together = [np.concatenate(column) for column in zip(*edges, strict=True)]
    return _Judged(
        matches, objects, object_label, closest, closest_iou, (together[0], together[1], together[2]), right, kind
    )


def _count(judged: _Judged, confidence: float) -> ErrorCounts:
    matches = judged.matches
    above = matches.score >= confidence

    def per_class(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(matches.label[chosen & above], minlength=len(matches.classes))

    right = per_class(judged.right)
    objects = objects_to_find(matches, np.ones(len(matches.image_ids), np.int64))[matches.areas.index("all")]
    by_kind = {name: per_class(judged.kind == i) for i, name in enumerate(ERROR_KINDS)}
    return ErrorCounts(right=right, **by_kind, missed=objects - right)


def _confusion(judged: _Judged, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrix and its pairs, see :class:`Diagnostics`."""
    matches, classes = judged.matches, len(judged.matches.classes)
    # Ignored predictions matched a crowd, so their objects are unknown.
    taking_part = np.flatnonzero((matches.score >= confidence) & (judged.right | (judged.kind >= 0)))
    order = taking_part[np.lexsort((-matches.score[taking_part], matches.image[taking_part]))]
    position = np.full(len(matches), -1, np.int64)
    position[order] = np.arange(len(order))
    prediction, target, iou = judged.edges
    kept = position[prediction] >= 0
    prediction, target, iou = position[prediction[kept]], target[kept], iou[kept]
    none = np.zeros(len(judged.objects), bool)
    given = assign(prediction, target, iou, matches.image[order], none, none[None], np.array([FOUND_IOU]))[0, 0]

    counts = np.zeros((classes + 1, classes + 2), np.int64)
    hit = given >= 0
    np.add.at(counts, (matches.label[order[hit]], judged.object_label[given[hit]]), 1)
    alone = np.bincount(prediction, minlength=len(order)) == 0
    np.add.at(counts, (matches.label[order[alone]], classes + 1), 1)
    missed = np.ones(len(judged.objects), bool)
    missed[given[hit]] = False
    counts[classes, :-1] = np.bincount(judged.object_label[missed], minlength=classes + 1)
    rows, objects = matches.result[order], judged.objects
    pairs = np.concatenate(
        [
            np.stack([rows[hit], objects[given[hit]]], 1),
            np.stack([rows[alone], np.full(alone.sum(), -1)], 1),
            np.stack([np.full(missed.sum(), -1), objects[missed]], 1),
        ]
    )
    return counts, pairs


def _best_confidence(matches: Matches) -> float:
    """Score with the best F1 over all classes at an IoU of 0.5; 0 without true positives."""
    all_sizes = matches.areas.index("all")
    order = np.argsort(-matches.score, kind="stable")
    right = matches.true_positives()[all_sizes, 0][order].cumsum()
    wrong = matches.false_positives()[all_sizes, 0][order].cumsum()
    if not len(order) or right[-1] == 0:
        return 0.0
    objects = np.count_nonzero(~matches.gt_ignored[all_sizes])
    f1 = 2 * right / (right + wrong + objects)
    f1[:-1][np.diff(matches.score[order]) == 0] = 0  # equal scores are above a threshold together
    return float(matches.score[order[f1.argmax()]])


def _first_of_each(judged: _Judged, chosen: np.ndarray) -> np.ndarray:
    """Indices of the best-scored chosen predictions on each object that nothing has found yet."""
    all_sizes = judged.matches.areas.index("all")
    found = np.isin(judged.objects, judged.matches.matched[all_sizes, 0][judged.right])
    able = np.flatnonzero(chosen)
    able = able[~found[judged.closest[able]]]
    able = able[np.argsort(-judged.matches.score[able], kind="stable")]
    return able[np.unique(judged.closest[able], return_index=True)[1]]


def _with_perfect_labels(
    judged: _Judged, ground_truth: dict[str, Any], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    mislabelled = np.isin(judged.kind, [ERROR_KINDS.index("wrong_class"), ERROR_KINDS.index("distractor")])
    able = (judged.kind == ERROR_KINDS.index("wrong_class")) & (judged.closest_iou >= FOUND_IOU)
    repaired = [results[row] for row in judged.matches.result[~mislabelled].tolist()]
    for i in _first_of_each(judged, able).tolist():
        annotation = ground_truth["annotations"][judged.objects[judged.closest[i]]]
        repaired.append(results[judged.matches.result[i]] | {"category_id": annotation["category_id"]})
    return repaired


def _with_perfect_masks(
    judged: _Judged, ground_truth: dict[str, Any], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    poor = judged.kind == ERROR_KINDS.index("poor_localisation")
    untouched = np.flatnonzero(~judged.right & ~poor)
    repaired = [results[row] for row in judged.matches.result[untouched].tolist()]
    all_sizes = judged.matches.areas.index("all")
    own = [(i, judged.matches.matched[all_sizes, 0, i]) for i in np.flatnonzero(judged.right).tolist()]
    own += [(i, judged.objects[judged.closest[i]]) for i in _first_of_each(judged, poor).tolist()]
    for i, row in own:
        annotation, result = ground_truth["annotations"][row], results[judged.matches.result[i]]
        kept = {key: result[key] for key in ("image_id", "category_id", "score")}
        repaired.append(kept | {key: annotation[key] for key in ("bbox", "segmentation") if key in annotation})
    return repaired
