"""nAP: average precision over novel classes, for boxes and masks.

Ground truth and results are in COCO's format: a dictionary with ``images``, ``annotations`` and ``categories``, and a
list of results with ``image_id``, ``category_id``, ``score``, ``bbox`` and ``segmentation``. The figures equal those of
pycocotools to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from ..instances import Instances
from ..utils.names import as_names
from .average_precision import Curves, Summary, accumulate, objects_to_find, summarise
from .crowds import is_crowd as is_crowd
from .matches import Matches, ResultAreas, match


@dataclass(frozen=True)
class AveragePrecision:
    """Figures of one kind of IoU.

    Attributes:
        novel: over the novel classes.
        base: over the base classes; ``None`` without any.
        per_class: of every class, novel and base, by name, in the order of category ids.
    """

    novel: Summary
    base: Summary | None
    per_class: dict[str, Summary]


@dataclass(frozen=True)
class NovelAP:
    """nAP: average precision over the novel classes, and over evaluated base classes.

    Attributes:
        boxes: figures by IoU of boxes.
        masks: figures by IoU of masks.
        novel_classes, base_classes: names, in the order of their category ids.
        images: number of evaluated images.
        ground_truth: number of objects of these classes, without crowds.
        predictions: number of results of these classes, at most ``max_detections`` of a class and image.
        max_detections: largest number of results of a class and image.
    """

    boxes: AveragePrecision
    masks: AveragePrecision
    novel_classes: tuple[str, ...]
    base_classes: tuple[str, ...]
    images: int
    ground_truth: int
    predictions: int
    max_detections: int

    def to_dict(self) -> dict[str, Any]:
        """Figures as plain values for JSON; ``nan`` becomes ``None``."""
        return without_nan(asdict(self))


def evaluate(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
    base_class_ids: Sequence[int] = (),
    *,
    result_areas: ResultAreas = "own",
) -> NovelAP:
    """Evaluate results against ground truth.

    Args:
        ground_truth: a COCO dataset. Images without annotations count too.
        results: COCO results. Those of other classes or unknown images are left out.
        class_ids: category ids of the novel classes; all but the base classes where ``None``.
        base_class_ids: category ids of evaluated base classes.
        result_areas: see :func:`~nts.metrics.matches.match`; it affects small, medium and large masks only.

    Raises:
        ValueError: if there are no images or novel classes, a class id is unknown or both novel and base, a score or
            box is not finite, or masks of one image differ in size.
    """
    base = set(base_class_ids)
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    novel = set(names) - base if class_ids is None else set(class_ids)
    if not novel and ground_truth["images"]:
        raise ValueError("there is no class to evaluate")
    if both := sorted(novel & base):
        raise ValueError(f"class ids {both} cannot be novel and base")
    evaluated = sorted(novel | base)
    boxes = match(ground_truth, results, evaluated, "boxes", result_areas=result_areas)
    masks = match(ground_truth, results, evaluated, "masks", result_areas=result_areas)
    return summarise_matches(boxes, masks, [names[class_id] for class_id in sorted(base)])


def summarise_matches(
    boxes: Matches,
    masks: Matches,
    base_classes: str | Sequence[str] = (),
    curves: tuple[Curves, Curves] | None = None,
) -> NovelAP:
    """Summarise existing matches.

    Args:
        boxes, masks: matches of the same results and ground truth, by IoU of boxes and of masks.
        base_classes: names of the classes that are not novel.
        curves: of both, by :func:`~nts.metrics.average_precision.accumulate`; computed where ``None``.

    Raises:
        ValueError: if the two do not belong together, a base class is unknown, or no class is novel.
    """
    base_classes = as_names(base_classes) or []
    if (boxes.iou_type, masks.iou_type) != ("boxes", "masks"):
        raise ValueError(f"matches of boxes and of masks are needed, got {boxes.iou_type} and {masks.iou_type}")
    if boxes.image_ids != masks.image_ids or boxes.classes != masks.classes or len(boxes) != len(masks):
        raise ValueError("the matches of boxes and of masks are not of the same results and ground truth")
    if unknown := sorted(set(base_classes) - set(masks.classes)):
        raise ValueError(f"unknown base classes {unknown}: there are {list(masks.classes)}")
    novel = [k for k, name in enumerate(masks.classes) if name not in set(base_classes)]
    base = [k for k, name in enumerate(masks.classes) if name in set(base_classes)]
    if not novel:
        raise ValueError("there is no novel class: all are base classes")
    once = np.ones(len(masks.image_ids), np.int64)
    of_boxes, of_masks = curves or (accumulate(boxes), accumulate(masks))
    return NovelAP(
        boxes=_average_precision(of_boxes, novel, base),
        masks=_average_precision(of_masks, novel, base),
        novel_classes=tuple(masks.classes[k] for k in novel),
        base_classes=tuple(masks.classes[k] for k in base),
        images=len(masks.image_ids),
        ground_truth=int(objects_to_find(masks, once)[masks.areas.index("all")].sum()),
        predictions=len(masks),
        max_detections=masks.max_detections,
    )


def coco_results(
    instances: Instances,
    image_id: int | str,
    category_ids: Sequence[int],
    box_convention: Literal["half-open", "inclusive"] = "half-open",
) -> list[dict]:
    """Convert the instances of an image to COCO results.

    Args:
        instances: of one image.
        image_id: of the image.
        category_ids: category id of every label.
        box_convention: ``"half-open"``: ``x, y, width, height`` span all pixels of the mask. ``"inclusive"``: width and
            height are one pixel less, as published.
    """
    short = 1.0 if box_convention == "inclusive" else 0.0
    # One at a time, to limit memory for large images.
    masks = (instances.mask(k).cpu().numpy() for k in range(len(instances)))
    encoded = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
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


def without_nan(value: Any) -> Any:
    """Copy of a value for JSON: ``nan`` becomes ``None``, tuples become lists."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _average_precision(curves: Curves, novel: Sequence[int], base: Sequence[int]) -> AveragePrecision:
    return AveragePrecision(
        novel=summarise(curves, novel),
        base=summarise(curves, base) if base else None,
        per_class={name: summarise(curves, [k]) for k, name in enumerate(curves.classes)},
    )
