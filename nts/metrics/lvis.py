"""Federated average precision of LVIS (Gupta et al., arXiv 1908.03195, Sec. 3; the ``lvis`` package).

LVIS has too many classes to annotate all of them in every image. An image is therefore evaluated only for the classes
that are known to be present (it has annotations of them) or absent (``neg_category_ids``); predictions of other classes
are left out. Where annotations of a class are not exhaustive (``not_exhaustive_category_ids``), unmatched predictions
are neither right nor wrong. At most 300 predictions of an image count, over all classes. As in the ``lvis`` package,
predictions and annotations without area are left out. LVIS v1 has no crowds and no ignored objects, so such marks are
not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .average_precision import Curves, accumulate, mean_of_known
from .coco import without_nan
from .matches import ImageId, IouType, Matches, ResultAreas, areas_of, concatenate, geometries, match_image, renumber

MAX_DETECTIONS = 300
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
"""Values of the field ``frequency``: in LVIS v1 classes of up to 10, up to 100, or more training images."""


@dataclass(frozen=True)
class LvisSummary:
    """LVIS's thirteen figures in ``[0, 1]``; ``nan`` where there is no ground truth.

    Attributes:
        ap, ap50, ap75: AP over IoU thresholds 0.50:0.05:0.95, at 0.5, and at 0.75.
        ap_small, ap_medium, ap_large: AP of objects of these sizes.
        ap_rare, ap_common, ap_frequent: AP over the classes of these frequencies.
        ar_300: recall with 300 predictions.
        ar_small, ar_medium, ar_large: recall of objects of these sizes.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ap_rare: float
    ap_common: float
    ap_frequent: float
    ar_300: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class LvisAP:
    """Federated average precision of boxes and masks.

    Attributes:
        boxes: figures by IoU of boxes.
        masks: figures by IoU of masks.
        boxes_per_class, masks_per_class: AP of every class.
        images: number of evaluated images.
        predictions: number of results of classes that are evaluated in their image, at most 300 of an image.
    """

    boxes: LvisSummary
    masks: LvisSummary
    boxes_per_class: dict[str, float]
    masks_per_class: dict[str, float]
    images: int
    predictions: int

    def to_dict(self) -> dict[str, Any]:
        """Figures as plain values for JSON; ``nan`` becomes ``None``."""
        return without_nan(asdict(self))


def evaluate_lvis(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
    *,
    result_areas: ResultAreas = "own",
) -> LvisAP:
    """Evaluate results against the ground truth of LVIS.

    Args:
        ground_truth: an LVIS dataset: COCO's, with ``neg_category_ids`` and ``not_exhaustive_category_ids`` of every
            image and the ``frequency`` of every category.
        results: COCO results. Those of unknown images are left out.
        class_ids: category ids to evaluate; all where ``None``.
        result_areas: see :func:`~nts.metrics.matches.match`.

    Raises:
        ValueError: as :func:`~nts.metrics.matches.match`.
    """
    boxes = match_lvis(ground_truth, results, class_ids, "boxes", result_areas=result_areas)
    masks = match_lvis(ground_truth, results, class_ids, "masks", result_areas=result_areas)
    frequency_of = {category["name"]: category["frequency"] for category in ground_truth["categories"]}
    frequencies = [frequency_of[name] for name in masks.classes]
    curves = {matches.iou_type: accumulate(matches, (MAX_DETECTIONS,)) for matches in (boxes, masks)}
    per_class = {
        kind: {name: mean_of_known(of.precision[:, :, k, 0, 0]) for k, name in enumerate(of.classes)}
        for kind, of in curves.items()
    }
    return LvisAP(
        boxes=summarise_lvis(curves["boxes"], frequencies),
        masks=summarise_lvis(curves["masks"], frequencies),
        boxes_per_class=per_class["boxes"],
        masks_per_class=per_class["masks"],
        images=len(masks.image_ids),
        predictions=len(masks),
    )


def match_lvis(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
    iou_type: IouType = "masks",
    *,
    result_areas: ResultAreas = "own",
) -> Matches:
    """Match the results of a data set, image by image with :func:`match_lvis_image`.

    Rows of results and annotations refer to the given lists, as in :func:`~nts.metrics.matches.match`.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    evaluated = sorted(names) if class_ids is None else sorted(set(class_ids))
    if unknown := [class_id for class_id in evaluated if class_id not in names]:
        raise ValueError(f"unknown class ids {unknown}: the ground truth has {len(names)} others")
    if not evaluated:
        raise ValueError("there is no class to evaluate")
    rows = _rows_by_image(results, ground_truth["images"])
    gt_rows = _rows_by_image(ground_truth["annotations"], ground_truth["images"])
    classes = [names[class_id] for class_id in evaluated]
    together = concatenate(
        [
            match_lvis_image(
                [ground_truth["annotations"][i] for i in gt_rows[image["id"]]],
                [results[i] for i in rows[image["id"]]],
                evaluated,
                classes,
                image,
                iou_type,
                result_areas=result_areas,
            )
            for image in ground_truth["images"]
        ]
    )
    order = np.array([i for of_image in rows.values() for i in of_image], np.int64)
    gt_order = np.array([i for of_image in gt_rows.values() for i in of_image], np.int64)
    return renumber(together, order, gt_order, len(results), len(ground_truth["annotations"]))


def match_lvis_image(
    annotations: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int],
    classes: Sequence[str],
    image: dict[str, Any],
    iou_type: IouType,
    *,
    result_areas: ResultAreas = "own",
) -> Matches:
    """Match the results of one image, for a streaming evaluation; :func:`~nts.metrics.matches.concatenate` joins.

    Args:
        annotations: of the image.
        results: of the image.
        class_ids: category ids to evaluate, ascending.
        classes: their names, in the same order.
        image: its entry in the data set, with ``id``, ``height``, ``width``, ``neg_category_ids`` and
            ``not_exhaustive_category_ids``.
        iou_type: ``"boxes"`` or ``"masks"``.
        result_areas: see :func:`~nts.metrics.matches.match`.

    Raises:
        ValueError: as :func:`~nts.metrics.matches.match`.
    """
    scores = np.array([result["score"] for result in results], np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"a result in image {image['id']!r} has the score {scores[~np.isfinite(scores)][0]}")
    counted = np.sort(np.argsort(-scores, kind="stable")[:MAX_DETECTIONS])
    gt_rows = np.array([i for i, annotation in enumerate(annotations) if annotation["area"] > 0], np.int64)
    truth = [annotations[i] | {"iscrowd": 0} for i in gt_rows.tolist()]
    known = {annotation["category_id"] for annotation in truth} | set(image["neg_category_ids"])
    rows = np.array([i for i in counted.tolist() if results[i]["category_id"] in known], np.int64)
    found = [results[i] for i in rows.tolist()]
    size = (image["height"], image["width"])
    compared = geometries(found, np.zeros(len(found), np.int64), [size], [image["id"]], iou_type)
    rows = rows[areas_of(compared, found, result_areas) > 0]
    matches = match_image(
        truth,
        [results[i] for i in rows.tolist()],
        class_ids,
        classes,
        image["id"],
        iou_type,
        image_size=size,
        max_detections=MAX_DETECTIONS,
        result_areas=result_areas,
    )
    incomplete = set(image["not_exhaustive_category_ids"])
    lenient = np.array([class_id in incomplete for class_id in class_ids], bool)[matches.label]
    matches = replace(matches, ignored=matches.ignored | (lenient & (matches.matched < 0)))
    return renumber(matches, rows, gt_rows, len(results), len(annotations))


def summarise_lvis(curves: Curves, frequencies: Sequence[str]) -> LvisSummary:
    """Summarise curves as ``LVISEval.summarize`` does.

    Args:
        curves: of ``accumulate(matches, (300,))``.
        frequencies: ``"r"``, ``"c"`` or ``"f"`` of every class.

    Raises:
        ValueError: if there is not one known frequency for every class.
    """
    if len(frequencies) != len(curves.classes) or not set(frequencies) <= set(FREQUENCIES):
        raise ValueError(f"every class needs a frequency of {', '.join(FREQUENCIES)}; got {sorted(set(frequencies))}")
    precision, recall = curves.precision[..., -1], curves.recall[..., -1]
    area = {name: i for i, name in enumerate(curves.areas)}
    of = {word: np.array([f == key for f in frequencies]) for key, word in FREQUENCIES.items()}
    everything = precision[..., area["all"]]
    return LvisSummary(
        ap=mean_of_known(everything),
        ap50=mean_of_known(everything[0]),
        ap75=mean_of_known(everything[5]),
        **{f"ap_{size}": mean_of_known(precision[..., area[size]]) for size in ("small", "medium", "large")},
        **{f"ap_{word}": mean_of_known(everything[:, :, members]) for word, members in of.items()},
        ar_300=mean_of_known(recall[..., area["all"]]),
        **{f"ar_{size}": mean_of_known(recall[..., area[size]]) for size in ("small", "medium", "large")},
    )


def _rows_by_image(items: Sequence[dict[str, Any]], images: Sequence[dict[str, Any]]) -> dict[ImageId, list[int]]:
    """Rows of the items of every image, in the order of images."""
    rows: dict[ImageId, list[int]] = {image["id"]: [] for image in images}
    for i, item in enumerate(items):
        if item["image_id"] in rows:
            rows[item["image_id"]].append(i)
    return rows
