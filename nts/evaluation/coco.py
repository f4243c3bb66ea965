"""Average precision by pycocotools, over novel classes, for boxes and masks.

Ground truth and results are in COCO's own terms, the currency of the field: a dictionary with ``images``,
``annotations`` and ``categories``, and a list of results with ``image_id``, ``category_id``, ``score``, ``bbox`` and
``segmentation``. The number is pycocotools' number.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..instances import Instances

IOU_TYPES = {"boxes": "bbox", "masks": "segm"}


@dataclass(frozen=True)
class AveragePrecision:
    """AP in ``[0, 1]`` for one kind of IoU; ``nan`` where no ground truth was there to be found.

    Attributes:
        ap: mean over IoU thresholds 0.50:0.05:0.95 and classes.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        per_class: for every class ``(ap, ap50, ap75)``.
    """

    ap: float
    ap50: float
    ap75: float
    per_class: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class NovelAP:
    """nAP: average precision over the novel classes.

    Attributes:
        boxes: with IoU of boxes.
        masks: with IoU of masks.
        classes: the novel classes, in the order of their category ids.
        images: number of images evaluated.
        ground_truth: number of objects of the novel classes, crowds left out.
        predictions: number of results of the novel classes.
        max_detections: results counted per image and class.
    """

    boxes: AveragePrecision
    masks: AveragePrecision
    classes: tuple[str, ...]
    images: int
    ground_truth: int
    predictions: int
    max_detections: int = 100

    def to_dict(self) -> dict:
        """As plain values, for JSON; ``nan`` becomes ``None``."""
        return _without_nan(asdict(self))


def evaluate(ground_truth: dict, results: Sequence[dict], class_ids: Sequence[int] | None = None) -> NovelAP:
    """Evaluate results against ground truth with pycocotools.

    Args:
        ground_truth: a COCO dataset. Every image counts, those without ground truth too.
        results: COCO results. Results for other classes or unknown images are not counted.
        class_ids: category ids of the novel classes; all where ``None``.

    Raises:
        ValueError: if there are no images or classes, a class id is unknown, or a score is not finite.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    novel = sorted(names) if class_ids is None else sorted(set(class_ids))
    image_ids = {image["id"] for image in ground_truth["images"]}
    if not image_ids:
        raise ValueError("there is no image to evaluate")
    if not novel:
        raise ValueError("there is no class to evaluate")
    if unknown := [class_id for class_id in novel if class_id not in names]:
        raise ValueError(f"unknown class ids {unknown}: the ground truth has {sorted(names)}")
    results = [r for r in results if r["category_id"] in set(novel) and r["image_id"] in image_ids]
    for result in results:
        if not math.isfinite(result["score"]):
            raise ValueError(f"a result in image {result['image_id']!r} has the score {result['score']}")

    coco = _quiet_coco(ground_truth)
    precision = {kind: _average_precision(coco, results, novel, names, iou) for kind, iou in IOU_TYPES.items()}
    objects = [a for a in ground_truth["annotations"] if a["category_id"] in set(novel) and not a.get("iscrowd", 0)]
    return NovelAP(
        boxes=precision["boxes"],
        masks=precision["masks"],
        classes=tuple(names[class_id] for class_id in novel),
        images=len(image_ids),
        ground_truth=len(objects),
        predictions=len(results),
    )


def coco_results(
    instances: Instances,
    image_id: int | str,
    category_ids: Sequence[int],
    box_convention: Literal["half-open", "inclusive"] = "half-open",
) -> list[dict]:
    """Instances as COCO results.

    Args:
        instances: of one image.
        image_id: passed through unchanged.
        category_ids: category id of every label.
        box_convention: ``"half-open"``: ``x, y, width, height`` span all pixels of the mask. ``"inclusive"``: width and
            height are one pixel short, as published.
    """
    short = 1.0 if box_convention == "inclusive" else 0.0
    masks = np.asfortranarray(instances.masks.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    encoded = coco_mask.encode(masks) if len(instances) else []
    rows = zip(instances.labels.tolist(), instances.scores.tolist(), instances.boxes.tolist(), encoded, strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1 - short, y2 - y1 - short],
            "score": score,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        }
        for label, score, (x1, y1, x2, y2), rle in rows
    ]


def _average_precision(
    coco: COCO, results: list[dict], novel: list[int], names: dict[int, str], iou_type: str
) -> AveragePrecision:
    # pycocotools takes a result's area from its box, where it has one; a mask's area is that of the mask.
    drop = "segmentation" if iou_type == "bbox" else "bbox"
    results = [{key: value for key, value in result.items() if key != drop} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        detections = coco.loadRes(results) if results else COCO()
        evaluation = COCOeval(coco, detections, iou_type)
        evaluation.params.catIds = novel
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU threshold, recall, class; all areas, 100 results
    return AveragePrecision(
        *_summary(precision),
        per_class={names[class_id]: _summary(precision[:, :, k]) for k, class_id in enumerate(novel)},
    )


def _summary(precision: np.ndarray) -> tuple[float, float, float]:
    """AP, AP50, AP75 as pycocotools summarises them: the mean over all that is not -1."""
    return _mean(precision), _mean(precision[0]), _mean(precision[5])


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else math.nan


def _quiet_coco(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
