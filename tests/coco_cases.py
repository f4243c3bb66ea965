"""Random datasets in COCO's format, including odd ones, and the results of pycocotools on them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 160
CATEGORIES = (90, 3, 17)
AREA_BORDERS = (32, 96)


def box_rle(box, side: int = SIDE) -> dict[str, Any]:
    """Compressed RLE of a box without its upper left ninth; may be empty."""
    x, y, width, height = (max(round(value), 0) for value in box)
    mask = np.zeros((side, side), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    mask[y : y + height // 3, x : x + width // 3] = 0
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def draw_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random COCO dataset and results. Depending on the seed, a case contains:

    ids as numbers or strings, images and categories out of order, crowds, objects of all sizes and at the exact limits
    of small, medium and large, areas that differ from those of the masks, empty masks, many equal scores, more than a
    hundred results per class and image, classes or whole datasets without ground truth or without results.
    """
    rng = np.random.default_rng([2017, seed])
    numbers = rng.permutation(np.arange(1, 60))[: rng.integers(1, 7)]
    image_ids = [f"image_{n}" for n in numbers] if seed % 4 == 3 else numbers.tolist()
    crowds, ties, empties = seed % 3 == 0, seed % 5 < 2, seed % 7 == 0
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def draw_box() -> list[float]:
        side = rng.choice([*AREA_BORDERS, 6, 12, 50, 110], 2) + rng.integers(-1, 2, 2) * rng.random(2).round(1)
        return [*rng.integers(0, 50, 2).astype(float).tolist(), *side.tolist()]

    def add_result(image_id, category, box) -> None:
        score = float(rng.random())
        results.append(
            {
                "image_id": image_id,
                "category_id": int(category),
                "bbox": [float(value) for value in box],
                "segmentation": box_rle([0, 0, 0, 0] if empties and rng.random() < 0.2 else box),
                "score": round(score, 1) if ties else score,
            }
        )

    for image_id in image_ids:
        for _ in range(0 if seed % 29 == 0 else rng.integers(0, 6)):
            box, category = draw_box(), int(rng.choice(CATEGORIES[: 2 if seed % 6 == 0 else 3]))
            rle = box_rle([0, 0, 0, 0] if empties and rng.random() < 0.2 else box)
            area = float(coco_mask.area(rle))
            annotations.append(
                {
                    "id": 1000 - len(annotations),
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "segmentation": rle,
                    "area": area if rng.random() < 0.8 else float(rng.choice([32**2, 96**2, 96**2 + 1])),
                    "iscrowd": int(crowds and rng.random() < 0.3),
                }
            )
            for _ in range(rng.integers(0, 4)):
                shift = rng.integers(-3, 4, 4) * rng.choice([0.0, 1.0, 2.0])
                add_result(image_id, category, np.maximum(np.array(box) + shift, [0, 0, 1, 1]))
        for _ in range(rng.integers(0, 4)):
            add_result(image_id, rng.choice(CATEGORIES), draw_box())
    if seed % 11 == 0 and annotations:
        target = annotations[0]
        for _ in range(130):
            shift = np.maximum(np.array(target["bbox"]) + rng.integers(-6, 7, 4), [0, 0, 1, 1])
            add_result(target["image_id"], target["category_id"], shift)
    if seed % 31 == 0:
        results.clear()
    order = rng.permutation(len(results)).tolist()
    ground_truth = {
        "images": [{"id": image_id, "height": SIDE, "width": SIDE} for image_id in image_ids],
        "annotations": annotations,
        "categories": [{"id": category, "name": f"class {category}"} for category in CATEGORIES],
    }
    return ground_truth, [results[i] for i in order]


def oracle(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    class_ids: list[int] | None = None,
    result_areas: str = "own",
) -> COCOeval:
    """Run pycocotools; returns the evaluation with its arrays in ``eval`` and its twelve metrics in ``stats``."""
    # loadRes computes the area of a result from its box, if it has one.
    drop = "segmentation" if iou_type == "boxes" else "bbox" if result_areas == "own" else ""
    results = [{key: value for key, value in result.items() if key != drop} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(ground_truth))
        coco.createIndex()
        evaluation = COCOeval(
            coco, coco.loadRes(results) if results else COCO(), {"boxes": "bbox"}.get(iou_type, "segm")
        )
        if class_ids is not None:
            evaluation.params.catIds = class_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def copy_images(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], counts: dict[Any, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Dataset with repeated images; copies of an image follow each other in the order of ids."""
    copies: dict[str, Any] = {"images": [], "annotations": [], "categories": ground_truth["categories"]}
    copied: list[dict[str, Any]] = []
    for number, image_id in enumerate(sorted(counts)):
        for i in range(counts[image_id]):
            new = 100 * number + i + 1
            copies["images"].append({"id": new, "height": SIDE, "width": SIDE})
            for annotation in ground_truth["annotations"]:
                if annotation["image_id"] == image_id:
                    renamed = {"id": len(copies["annotations"]) + 1, "image_id": new}
                    copies["annotations"].append(copy.deepcopy(annotation) | renamed)
            copied += [copy.deepcopy(r) | {"image_id": new} for r in results if r["image_id"] == image_id]
    return copies, copied
