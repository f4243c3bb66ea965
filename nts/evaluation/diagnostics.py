"""Where the average precision is lost: in the proposals, in the labels, in the masks, or on things nobody asked for.

:func:`diagnose` needs ground truth and results alone. What lies under a false positive decides its kind, much as in
TIDE (Bolya et al., arXiv 2008.08115, Sec. 2.1), with one kind more: *distractors*, objects of classes that are
annotated but not evaluated, which a method that always chooses the nearest class cannot but mistake for one. The
oracles repair one kind of error and leave the rest: repaired predictions of an object that another has found already
are taken away, as in TIDE, so that a repair never turns into duplicates.

:class:`ModelDiagnostics` needs the models' outputs too, image by image: how well the proposals cover the objects
(:func:`proposal_hits`), and how often the encoder alone, given the true mask, finds the class
(:func:`nearest_classes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from ..masks import boxes_of_masks, draw_masks
from ..matching import pool_tokens
from ..metrics.average_precision import accumulate, objects_to_find, summarise
from ..metrics.coco import without_nan
from ..metrics.crowds import is_crowd
from ..metrics.matches import AREA_RANGES, IouType, Matches, assign, geometries, match

FOUND_IOU = 0.5
"""From here on a prediction shows an object."""
TOUCHED_IOU = 0.1
"""From here on a prediction has to do with an object (TIDE's background threshold)."""
ErrorKind = Literal["wrong_class", "duplicate", "poor_localisation", "distractor", "background"]
ERROR_KINDS: tuple[ErrorKind, ...] = ("wrong_class", "duplicate", "poor_localisation", "distractor", "background")

_PIXELS_AT_ONCE = 1 << 26


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """Predictions and objects of each class at an IoU of 0.5, int64 ``[K]`` each.

    A false positive is judged by the object that it overlaps most, of any class, crowds left out:

    Attributes:
        right: predictions that found an object.
        wrong_class: that object is of another evaluated class.
        duplicate: it is of the right class, and reached with an IoU of 0.5, but a better prediction has found it.
        poor_localisation: it is of the right class, but the IoU is below 0.5.
        distractor: it is of a class that is not evaluated.
        background: there is none with an IoU of 0.1.
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
        """The sum of each over all classes."""
        return {name: int(getattr(self, name).sum()) for name in self.__dataclass_fields__}

    def of_class(self, k: int) -> dict[str, int]:
        """The counts of one class."""
        return {name: int(getattr(self, name)[k]) for name in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What :func:`diagnose` found.

    Attributes:
        iou_type: IoU of ``"boxes"`` or ``"masks"``.
        classes: names of the ``K`` evaluated classes.
        distractors: names of the classes whose objects count as distractors.
        ap: average precision as it is; ``nan`` where there is no ground truth.
        ap_if_labels_perfect: if every false positive on a distractor or on an object of another class were gone, and
            an object that nothing else finds were found by the best-scored of those that reach it with an IoU of 0.5.
        ap_if_masks_perfect: if every right or poorly localised prediction had the mask (and box) of its object.
        errors: over all predictions.
        confidence: the threshold of ``errors_above`` and ``confusion``.
        errors_above: over predictions with a score of at least that.
        confusion: int64 ``[K + 1, K + 2]``. Row: the predicted class; the last, that nothing was predicted. Column: the
            true class; then a distractor; then background. Objects are given, by falling score and whatever their
            class, to one prediction with an IoU of 0.5 each. Column ``k < K`` sums to the objects of a class;
            predictions of objects already given away are in none.
        kinds: for every false positive its row in the list of results, and what it is.
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
        """The figures as plain values, for JSON, without ``kinds`` and ``pairs``; ``nan`` becomes ``None``."""
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
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
    iou_type: IouType = "masks",
    distractor_class_ids: Sequence[int] | None = None,
    *,
    confidence: float | None = None,
) -> Diagnostics:
    """Say what the predictions of a data set get wrong.

    Args:
        ground_truth: a COCO dataset, with the annotations of distractors too, where there are any.
        results: COCO results.
        class_ids: category ids that are evaluated; all where ``None``.
        iou_type: ``"boxes"`` or ``"masks"``.
        distractor_class_ids: category ids of distractors; all that are not evaluated where ``None``.
        confidence: counts are also given for predictions of at least this score; where ``None``, of at least the score
            at which F1 over all classes is best.

    Raises:
        ValueError: as :func:`~nts.metrics.matches.match`; if a class id is both evaluated and a distractor, or a
            distractor is unknown.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    evaluated = sorted(names) if class_ids is None else sorted(set(class_ids))
    distractors = sorted(set(names) - set(evaluated) if distractor_class_ids is None else set(distractor_class_ids))
    if both := sorted(set(evaluated) & set(distractors)):
        raise ValueError(f"class ids {both} cannot be evaluated and distractors")
    if unknown := [class_id for class_id in distractors if class_id not in names]:
        raise ValueError(f"unknown class ids {unknown}: the ground truth has {sorted(names)}")
    matches = match(ground_truth, results, evaluated, iou_type)
    judged = _judge(matches, ground_truth, results, evaluated, distractors)
    if confidence is None:
        confidence = _best_confidence(matches)
    confusion, pairs = _confusion(judged, confidence)
    wrong = np.flatnonzero(judged.kind >= 0)
    return Diagnostics(
        iou_type=iou_type,
        classes=matches.classes,
        distractors=tuple(names[class_id] for class_id in distractors),
        ap=summarise(accumulate(matches)).ap,
        ap_if_labels_perfect=_ap(
            ground_truth, _with_perfect_labels(judged, ground_truth, results), evaluated, iou_type
        ),
        ap_if_masks_perfect=_ap(ground_truth, _with_perfect_masks(judged, ground_truth, results), evaluated, iou_type),
        errors=_count(judged, -math.inf),
        confidence=confidence,
        errors_above=_count(judged, confidence),
        confusion=confusion,
        kinds={int(matches.result[i]): ERROR_KINDS[judged.kind[i]] for i in wrong.tolist()},
        pairs=pairs,
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """Matches, and what lies under every prediction.

    Attributes:
        matches: of the predictions, ``n``.
        objects: int64 ``[o]``: rows of annotations of evaluated classes and distractors, without crowds.
        object_label: int64 ``[o]``: evaluated class of each, ``K`` for distractors.
        closest: int64 ``[n]``: the object that each prediction overlaps most; -1 below ``TOUCHED_IOU``.
        closest_iou: float64 ``[n]``.
        edges: which prediction, which object, and their IoU, where that reaches ``FOUND_IOU``.
        right: bool ``[n]``.
        kind: int64 ``[n]``: index of ERROR_KINDS, -1 for what is no false positive.
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
    """The table, and its pairs."""
    matches, classes = judged.matches, len(judged.matches.classes)
    # What COCO ignores has found a crowd: nothing can be said about it.
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
    """The score at which F1, over all classes and at an IoU of 0.5, is best; 0 where nothing is right."""
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
    """Of the chosen predictions, those of best score on each object that nothing has found yet: indices."""
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


def _ap(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], class_ids: Sequence[int], iou_type: IouType
) -> float:
    return summarise(accumulate(match(ground_truth, results, class_ids, iou_type))).ap


# ----------------------------------------------------------------------------------------------------------------------
# With the models


def proposal_hits(true_masks: Tensor, mask_logits: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The best IoU that any proposal reaches with each object.

    Args:
        true_masks: bool ``[m, H, W]``.
        mask_logits: ``[n, S, S]`` low-resolution logits of the proposals.
        image_size: ``(H, W)``.

    Returns:
        float64 ``[m]``, on the proposals' device; 0 for an empty mask, and where there are no proposals.

    Raises:
        ValueError: if the masks are not of the image's size.
    """
    if tuple(true_masks.shape[1:]) != tuple(image_size):
        raise ValueError(f"true masks are {tuple(true_masks.shape[1:])}, the image {tuple(image_size)}")
    true_masks = true_masks.to(mask_logits.device)
    best = torch.zeros(len(true_masks), dtype=torch.float64, device=mask_logits.device)
    areas = true_masks.flatten(1).sum(1)
    windows = boxes_of_masks(true_masks).tolist()
    # Few proposals at a time, and of each only what lies within an object's box: full-size masks of all need too much.
    chunk = max(1, _PIXELS_AT_ONCE // math.prod(image_size))
    for first in range(0, len(mask_logits), chunk):
        proposed = draw_masks(mask_logits[first : first + chunk], image_size)
        proposed_areas = proposed.flatten(1).sum(1)
        for i, (x1, y1, x2, y2) in enumerate(windows):
            rows, columns = slice(y1, y2 + 1), slice(x1, x2 + 1)
            shared = (proposed[:, rows, columns] & true_masks[i, rows, columns]).flatten(1).sum(1)
            union = areas[i] + proposed_areas - shared
            best[i] = torch.maximum(best[i], (shared.double() / union.clamp(min=1)).amax())
    return best


def nearest_classes(tokens: Tensor, true_masks: Tensor, prototypes: Tensor, features: Tensor | None = None) -> Tensor:
    """The class that the encoder alone would give each object, from its true mask.

    Args:
        tokens: ``[h, w, C]`` patch tokens of the image.
        true_masks: bool ``[m, H, W]``.
        prototypes: ``[K, C]`` class prototypes; they are L2-normalised here.
        features: ``[m, C]``, what ``pool_tokens`` makes of the masks, where it is known already.

    Returns:
        int64 ``[m]``; -1 for an empty mask.
    """
    if len(true_masks) == 0:
        return torch.zeros(0, dtype=torch.int64, device=tokens.device)
    true_masks = true_masks.to(tokens.device)
    features = pool_tokens(tokens, true_masks) if features is None else features
    nearest = (features @ F.normalize(prototypes.float(), dim=1).T).argmax(1)
    return nearest.masked_fill(~true_masks.flatten(1).any(1), -1)


@dataclass(frozen=True)
class ProposalRecall:
    """How well the proposals cover the objects of some sizes; ``nan`` where there are none.

    Attributes:
        area: name of the range of sizes.
        objects: number of objects.
        recall_50, recall_75: share of them of which some proposal reaches an IoU of 0.5, and of 0.75.
        mean: mean of the best IoU.
    """

    area: str
    objects: int
    recall_50: float
    recall_75: float
    mean: float


@dataclass(frozen=True, eq=False)
class ModelSummary:
    """What :class:`ModelDiagnostics` gathered.

    Attributes:
        classes: names of the ``K`` classes.
        recall: of the proposals, for each range of sizes.
        objects: number of objects with a class, given their true masks.
        accuracy: share of them that are nearest to their own class; ``nan`` where there are none.
        per_class: the same for every class.
        confusion: int64 ``[K, K]``: of objects with true masks; row: the nearest class, column: the true one.
    """

    classes: tuple[str, ...]
    recall: tuple[ProposalRecall, ...]
    objects: int
    accuracy: float
    per_class: dict[str, float]
    confusion: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; ``nan`` becomes ``None``."""
        values = {name: getattr(self, name) for name in ("objects", "accuracy", "per_class")}
        recall = [asdict(row) for row in self.recall]
        return without_nan(values | {"classes": self.classes, "recall": recall, "confusion": self.confusion.tolist()})


class ModelDiagnostics:
    """Gathers, image by image, what the two models contribute to the errors.

    Args:
        classes: names of the classes, in the order of labels.
        ranges: names of ranges of sizes and their limits, both included; by default COCO's, in square pixels.
    """

    def __init__(self, classes: Sequence[str], ranges: Mapping[str, tuple[float, float]] | None = None) -> None:
        self.classes = tuple(classes)
        self.ranges = dict(AREA_RANGES if ranges is None else ranges)
        self._sizes: list[np.ndarray] = []
        self._best_iou: list[np.ndarray] = []
        self._confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)
        self._objects = np.zeros(len(self.classes), np.int64)

    def add_proposals(self, sizes: Sequence[float] | np.ndarray, best_iou: Tensor) -> None:
        """Objects of an image, distractors or not: their sizes ``[m]``, and what :func:`proposal_hits` says of them."""
        if len(sizes) != len(best_iou):
            raise ValueError(f"{len(sizes)} sizes, but {len(best_iou)} objects")
        self._sizes.append(np.asarray(sizes, np.float64))
        self._best_iou.append(best_iou.cpu().numpy())

    def add_labels(self, labels: Sequence[int] | np.ndarray, nearest: Tensor) -> None:
        """Objects of an image: their true labels ``[m]``, -1 for distractors, and what :func:`nearest_classes` says."""
        labels, chosen = np.asarray(labels, np.int64), nearest.cpu().numpy()
        if len(labels) != len(chosen):
            raise ValueError(f"{len(labels)} labels, but {len(chosen)} objects")
        known = labels >= 0
        self._objects += np.bincount(labels[known], minlength=len(self.classes))
        known &= chosen >= 0
        np.add.at(self._confusion, (chosen[known], labels[known]), 1)

    def summary(self) -> ModelSummary:
        """What was gathered so far."""
        sizes, best = (np.concatenate([np.zeros(0), *parts]) for parts in (self._sizes, self._best_iou))
        recall = []
        for name, (low, high) in self.ranges.items():
            of_range = best[(sizes >= low) & (sizes <= high)]
            figures = [_share(of_range >= 0.5), _share(of_range >= 0.75), _share(of_range)]
            recall.append(ProposalRecall(name, len(of_range), *figures))
        right, objects = self._confusion.diagonal(), int(self._objects.sum())
        per_class = zip(self.classes, right.tolist(), self._objects.tolist(), strict=True)
        return ModelSummary(
            classes=self.classes,
            recall=tuple(recall),
            objects=objects,
            accuracy=int(right.sum()) / objects if objects else math.nan,
            per_class={name: hits / of_class if of_class else math.nan for name, hits, of_class in per_class},
            confusion=self._confusion.copy(),
        )


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
