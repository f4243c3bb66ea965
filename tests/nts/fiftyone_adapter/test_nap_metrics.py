"""Metrics of an evaluation equal those of pycocotools on the same data; its notes report limitations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drawn_dataset import REFERENCES, blobs
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def test_evaluation_equals_pycocotools_to_the_last_digit(nts_fo, fo, make_dataset):
    dataset, ground_truth, results = _random_evaluation(fo, make_dataset)
    report = nts_fo.evaluate_nap(dataset, "predictions", "truth")
    for kind, iou_type in (("boxes", "bbox"), ("masks", "segm")):
        ours = getattr(report.result, kind)
        stats, per_class = _directly(ground_truth, results, iou_type)
        assert (ours.novel.ap, ours.novel.ap50, ours.novel.ap75) == stats
        assert {name: summary.ap for name, summary in ours.per_class.items()} == per_class
    assert 0.1 < report.result.masks.novel.ap < 0.9
    rows = report.table()
    assert [row["class"] for row in rows] == ["all", "a", "b", "c"]
    assert rows[0]["masks_ap"] == round(100 * report.result.masks.novel.ap, 1)


def test_novel_classes_alone_are_evaluated(nts_fo, fo, make_dataset):
    dataset, ground_truth, results = _random_evaluation(fo, make_dataset)
    report = nts_fo.evaluate_nap(dataset, "predictions", "truth", classes=["c", "a", "unheard-of"])
    _, per_class = _directly(ground_truth, results, "segm")
    assert report.result.masks.novel.ap == pytest.approx((per_class["a"] + per_class["c"]) / 2)
    assert any("has no unheard-of: these classes have no AP" in note for note in report.notes)


def test_evaluation_reports_limitations_in_notes(nts_fo, fo, make_dataset):
    dataset, _, _ = _random_evaluation(fo, make_dataset)
    first, second = dataset.limit(2)
    first["predictions"] = None
    second.truth.detections[0].mask = None
    second.truth.detections[1].bounding_box = [2, 2, 1, 1]
    first.save()
    second.save()
    notes = nts_fo.evaluate_nap(dataset, "predictions", "truth").notes
    assert any("no reference samples were left out" in note for note in notes)
    assert any("1 of 12 images have no 'predictions'" in note for note in notes)
    assert any("1 labels of 'truth' have no mask" in note for note in notes)
    assert any("1 labels or images were left out" in note and "lies outside its image" in note for note in notes)


def test_reference_samples_are_left_out_also_for_predictions_of_apply_model(nts_fo, drawn, memory):
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory))
    drawn.limit(REFERENCES + 1).apply_model(model, label_field="applied")
    evaluate = nts_fo.evaluate_nap
    assert evaluate(drawn, "applied", "ground_truth").left_out_references == 0
    options = {"memory_key": memory, "overwrite": True}
    assert evaluate(drawn, "applied", "ground_truth", **options).left_out_references == REFERENCES
    with_references = evaluate(drawn, "applied", "ground_truth", leave_out_references=False, **options)
    assert with_references.left_out_references == 0
    # The memory is named only to leave out its references; it does not own predictions or evaluation.
    assert nts_fo.runs.run_contents(drawn, memory, nts_fo.runs.MEMORY) == ["memory 'shapes'"]
    assert nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY) == ["memory 'shapes'"]
    assert drawn.has_field("applied")
    assert nts_fo.evaluation_results.open_evaluation(drawn, "nap_applied").config["shots"] is None


def _random_evaluation(fo, make_dataset):
    """Random objects, crowds and predictions, as a dataset and as independently written COCO records."""
    rng = np.random.default_rng(5)
    names = ["a", "b", "c"]
    samples, images, annotations, results = [], [], [], []
    for image_id in range(1, 13):
        height, width = (int(side) for side in rng.integers(30, 90, 2))
        images.append({"id": image_id, "height": height, "width": width})
        truth, predictions = [], []
        for mask in blobs(rng, 5, height, width):
            category, crowd = int(rng.integers(3)), int(rng.uniform() < 0.15)
            truth.append(fo.Detection.from_mask(mask, label=names[category], iscrowd=crowd))
            annotations.append({"id": len(annotations) + 1, "iscrowd": crowd, **_coco(mask, image_id, category)})
            for _ in range(2):
                moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
                guess = category if rng.uniform() < 0.8 else int(rng.integers(3))
                score = float(rng.uniform())
                predictions.append(fo.Detection.from_mask(moved, label=names[guess], confidence=score))
                results.append({"score": score, **_coco(moved, image_id, guess)})
        samples.append(
            fo.Sample(
                f"/nowhere/{image_id}.png",
                metadata=fo.ImageMetadata(width=width, height=height),
                truth=fo.Detections(detections=truth),
                predictions=fo.Detections(detections=predictions),
            )
        )
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    return make_dataset(samples), {"images": images, "annotations": annotations, "categories": categories}, results


def _coco(mask: np.ndarray, image_id: int, category: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": float(mask.sum()),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


def _directly(ground_truth: dict, results: list[dict], iou_type: str):
    """AP, AP50 and AP75 over all classes, and AP per class, by pycocotools."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(ground_truth))
    coco.createIndex()
    drop = "segmentation" if iou_type == "bbox" else "bbox"
    detections = coco.loadRes([{k: v for k, v in result.items() if k != drop} for result in results])
    evaluation = COCOeval(coco, detections, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = [category["name"] for category in ground_truth["categories"]]
    per_class = {name: float(precision[:, :, k][precision[:, :, k] > -1].mean()) for k, name in enumerate(names)}
    return tuple(float(value) for value in evaluation.stats[:3]), per_class
