"""Average precision equals that of pycocotools exactly, on random and malformed cases."""

from __future__ import annotations

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nts.metrics.coco import evaluate, summarise_matches
from nts.metrics.matches import concatenate, match, match_image


def rle_of(box, height=100, width=120) -> dict:
    x, y, w, h = (round(value) for value in box)
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    mask[max(y, 0) : y + h // 3, max(x, 0) : x + w // 3] = 0
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def make_case(seed: int, images: int = 8, crowds: bool = True, string_ids: bool = False) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(seed)
    ids = [f"img_{i}" if string_ids else i + 1 for i in range(images)]
    categories = [{"id": c, "name": f"class {c}"} for c in (3, 17, 90)]
    annotations, results = [], []
    for image_id in ids[:-1]:
        for _ in range(rng.integers(0, 6)):
            box = [float(v) for v in (*rng.integers(0, 60, 2), *rng.integers(5, 50, 2))]
            category = int(rng.choice([3, 17, 90]))
            rle = rle_of(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "segmentation": rle,
                    "area": float(coco_mask.area(rle)),
                    "iscrowd": int(crowds and rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 3)):
                near = [v + float(rng.integers(-4, 5)) for v in box]
                near = [max(near[0], 0), max(near[1], 0), max(near[2], 3), max(near[3], 3)]
                results.append(result_of(image_id, category, near, rng.random()))
    for _ in range(10):
        box = [float(v) for v in (*rng.integers(0, 60, 2), *rng.integers(5, 50, 2))]
        results.append(result_of(ids[rng.integers(images)], int(rng.choice([3, 17, 90])), box, rng.random()))
    sizes = {"height": 100, "width": 120}
    return {"images": [{"id": i, **sizes} for i in ids], "annotations": annotations, "categories": categories}, results


def result_of(image_id, category_id, box, score) -> dict:
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "score": float(score),
        "segmentation": rle_of(box),
    }


def direct(ground_truth, results, class_ids, iou_type) -> np.ndarray:
    """Metrics of pycocotools, called as in its demo."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(ground_truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), iou_type)
        evaluation.params.catIds = class_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("class_ids", [[3, 17, 90], [17], [3, 90]])
@pytest.mark.parametrize("seed", range(4))
def test_ap_equals_pycocotools_to_the_last_digit(seed, class_ids):
    ground_truth, results = make_case(seed, string_ids=seed == 3)
    found = evaluate(ground_truth, results, class_ids)
    for ours, iou_type in ((found.boxes, "bbox"), (found.masks, "segm")):
        stats = direct(ground_truth, results, class_ids, iou_type)
        assert (ours.novel.ap, ours.novel.ap50, ours.novel.ap75) == tuple(stats[:3])
    assert found.images == 8
    assert found.novel_classes == tuple(f"class {c}" for c in class_ids)
    assert found.base_classes == ()
    assert found.masks.base is None


def test_per_class_ap_equals_an_evaluation_of_that_class_alone():
    ground_truth, results = make_case(5)
    together = evaluate(ground_truth, results)
    for class_id in (3, 17, 90):
        alone = evaluate(ground_truth, results, [class_id])
        assert together.masks.per_class[f"class {class_id}"] == alone.masks.novel
        assert together.boxes.per_class[f"class {class_id}"] == alone.boxes.novel


def test_base_and_novel_classes_are_what_two_evaluations_say():
    ground_truth, results = make_case(11)
    together = evaluate(ground_truth, results, base_class_ids=[17])
    assert together.novel_classes == ("class 3", "class 90")
    assert together.base_classes == ("class 17",)
    assert together.masks.novel == evaluate(ground_truth, results, [3, 90]).masks.novel
    assert together.masks.base == evaluate(ground_truth, results, [17]).masks.novel
    assert list(together.masks.per_class) == ["class 3", "class 17", "class 90"]


def test_perfect_results_score_one():
    ground_truth, _ = make_case(6, crowds=False)
    results = [result_of(a["image_id"], a["category_id"], a["bbox"], 0.9) for a in ground_truth["annotations"]]
    found = evaluate(ground_truth, results)
    assert found.boxes.novel.ap == found.masks.novel.ap == pytest.approx(1.0)
    assert found.ground_truth == found.predictions == len(results)


def test_no_results_score_zero_and_no_ground_truth_scores_nan():
    ground_truth, results = make_case(7, crowds=False)
    assert evaluate(ground_truth, []).masks.novel.ap == 0
    nothing = evaluate({**ground_truth, "annotations": []}, results)
    assert math.isnan(nothing.boxes.novel.ap)
    assert nothing.to_dict()["boxes"]["novel"]["ap"] is None
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_class_without_ground_truth_does_not_count():
    ground_truth, results = make_case(8, crowds=False)
    fewer = {**ground_truth, "annotations": [a for a in ground_truth["annotations"] if a["category_id"] != 17]}
    found = evaluate(fewer, results)
    assert math.isnan(found.boxes.per_class["class 17"].ap)
    assert found.boxes.novel.ap == pytest.approx(evaluate(fewer, results, [3, 90]).boxes.novel.ap)


def test_results_of_other_classes_and_images_do_not_count_and_nothing_is_changed():
    ground_truth, results = make_case(9)
    before = json.dumps([ground_truth, results])
    found = evaluate(ground_truth, results, [3])
    strangers = [result_of("nowhere", 3, [0, 0, 9, 9], 1.0), result_of(1, 4, [0, 0, 9, 9], 1.0)]
    assert evaluate(ground_truth, results + strangers, [3]).to_dict() == found.to_dict()
    assert json.dumps([ground_truth, results]) == before


def test_invalid_evaluations_are_refused():
    ground_truth, results = make_case(10)
    with pytest.raises(ValueError, match="no image"):
        evaluate({**ground_truth, "images": []}, results)
    with pytest.raises(ValueError, match="no class"):
        evaluate(ground_truth, results, [])
    with pytest.raises(ValueError, match=r"unknown class ids \[5\]"):
        evaluate(ground_truth, results, [3, 5])
    with pytest.raises(ValueError, match=r"class ids \[3\] cannot be novel and base"):
        evaluate(ground_truth, results, [3, 17], [3])
    with pytest.raises(ValueError, match="no class"):
        evaluate(ground_truth, results, base_class_ids=[3, 17, 90])
    with pytest.raises(ValueError, match="image 1 has the score nan"):
        evaluate(ground_truth, [result_of(1, 3, [0, 0, 9, 9], math.nan)])


def test_matches_of_single_images_give_the_figures_of_the_whole():
    ground_truth, results = make_case(12)
    names = [f"class {c}" for c in (3, 17, 90)]
    of_kind = {}
    for iou_type in ("boxes", "masks"):
        of_kind[iou_type] = concatenate(
            [
                match_image(
                    [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]],
                    [r for r in results if r["image_id"] == image["id"]],
                    [3, 17, 90],
                    names,
                    image["id"],
                    iou_type,
                )
                for image in reversed(ground_truth["images"])
            ]
        )
    found = summarise_matches(of_kind["boxes"], of_kind["masks"], ["class 17"])
    assert found == evaluate(ground_truth, results, base_class_ids=[17])


def test_matches_that_do_not_belong_together_are_refused():
    ground_truth, results = make_case(12)
    boxes, masks = (match(ground_truth, results, iou_type=iou_type) for iou_type in ("boxes", "masks"))
    with pytest.raises(ValueError, match="matches of boxes and of masks are needed, got masks and boxes"):
        summarise_matches(masks, boxes)
    with pytest.raises(ValueError, match="not of the same results"):
        summarise_matches(match(ground_truth, results[1:], iou_type="boxes"), masks)
    with pytest.raises(ValueError, match=r"unknown base classes \['cat'\]"):
        summarise_matches(boxes, masks, ["cat"])
    with pytest.raises(ValueError, match="no novel class"):
        summarise_matches(boxes, masks, boxes.classes)
