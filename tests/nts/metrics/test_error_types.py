"""Error types of predictions, and oracles that correct one type of error at a time."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from coco_cases import draw_case
from pycocotools import mask as coco_mask

from nts.metrics.coco import evaluate
from nts.metrics.error_types import ERROR_KINDS, Diagnostics, diagnose
from nts.metrics.matches import IouType, match

SEEDS = range(24)


def errors_of(
    ground_truth: dict,
    results: list[dict],
    class_ids: list[int],
    iou_type: IouType,
    distractor_class_ids: list[int] | None = None,
    **options: float,
) -> Diagnostics:
    """Match and diagnose."""
    matches = match(ground_truth, results, class_ids, iou_type)
    return diagnose(matches, ground_truth, results, class_ids, distractor_class_ids, **options)


def scene(*found, objects) -> tuple[dict, list[dict]]:
    """One image of boxes; class 1 is "a", 2 is "b", 9 a distractor. Boxes are given by left and right edge."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": [x1, 0, x2 - x1, 10], "area": 10 * (x2 - x1), "iscrowd": 0}
        for i, (c, x1, x2) in enumerate(objects, 1)
    ]
    results = [
        {"image_id": 1, "category_id": c, "bbox": [x1, 0, x2 - x1, 10], "score": score} for c, x1, x2, score in found
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 9, "name": "rock"}]
    images = [{"id": 1, "height": 100, "width": 400}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


ALL_KINDS = scene(
    (1, 0, 20, 0.9),  # right
    (1, 2, 20, 0.8),  # again: a duplicate
    (1, 45, 80, 0.7),  # on an object of class 2
    (1, 100, 108, 0.6),  # less than half of an object of class 1
    (1, 202, 220, 0.5),  # on the distractor
    (1, 300, 320, 0.4),  # on nothing
    (2, 101, 120, 0.3),  # on the object of class 1 that nothing has found
    objects=[(1, 0, 20), (2, 40, 80), (1, 100, 120), (9, 200, 220)],
)


def test_every_kind_of_error_is_told_from_the_others():
    ground_truth, results = ALL_KINDS
    found = errors_of(ground_truth, results, [1, 2], "boxes", confidence=0.55)
    assert found.classes == ("a", "b")
    assert found.distractors == ("rock",)
    expected = {
        "right": 1,
        "wrong_class": 1,
        "duplicate": 1,
        "poor_localisation": 1,
        "distractor": 1,
        "background": 1,
        "missed": 1,
    }
    assert found.errors.of_class(0) == expected
    assert found.errors.of_class(1) == dict.fromkeys(expected, 0) | {"wrong_class": 1, "missed": 1}
    assert found.errors_above.of_class(0) == expected | {"distractor": 0, "background": 0}
    assert found.errors.total() == {
        name: value + (name in ("wrong_class", "missed")) for name, value in expected.items()
    }


def test_confusion_gives_each_object_to_one_prediction():
    ground_truth, results = ALL_KINDS
    found = errors_of(ground_truth, results, [1, 2], "boxes", confidence=0.0)
    # Columns: a, b, distractor, background. The duplicate is in none.
    assert found.confusion.tolist() == [[1, 1, 1, 2], [1, 0, 0, 0], [0, 0, 0, 0]]
    above = errors_of(ground_truth, results, [1, 2], "boxes", confidence=0.65)
    assert above.confusion.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]


def test_kinds_and_pairs_name_what_is_counted():
    ground_truth, results = ALL_KINDS
    found = errors_of(ground_truth, results, [1, 2], "boxes", confidence=0.55)
    assert found.kinds == {
        1: "duplicate",
        2: "wrong_class",
        3: "poor_localisation",
        4: "distractor",
        5: "background",
        6: "wrong_class",
    }
    # The third prediction is above the confidence but overlaps nothing sufficiently; the duplicate is in no pair.
    assert sorted(found.pairs.tolist()) == [[-1, 2], [-1, 3], [0, 0], [2, 1], [3, -1]]
    assert len(found.pairs) == found.confusion.sum()


def test_distractors_are_background_where_they_are_not_told():
    ground_truth, results = ALL_KINDS
    found = errors_of(ground_truth, results, [1, 2], "boxes", distractor_class_ids=[])
    assert found.errors.total()["distractor"] == 0
    assert found.errors.total()["background"] == 2
    assert found.distractors == ()


def test_perfect_labels_find_what_was_called_something_else():
    ground_truth, results = scene(
        (1, 0, 20, 0.9),
        (2, 0, 20, 0.8),
        (2, 40, 60, 0.7),
        (1, 80, 100, 0.6),
        objects=[(1, 0, 20), (1, 40, 60), (9, 80, 100)],
    )
    found = errors_of(ground_truth, results, [1, 2], "boxes")
    assert found.ap == pytest.approx(51 / 101)
    assert found.ap_if_labels_perfect == pytest.approx(1)
    assert found.ap_if_masks_perfect == found.ap


def test_perfect_masks_find_what_was_outlined_badly():
    ground_truth, results = scene(
        (1, 0, 14, 0.9), (1, 40, 46, 0.8), (1, 40, 45, 0.7), (1, 0, 3, 0.6), objects=[(1, 0, 20), (1, 40, 60)]
    )
    found = errors_of(ground_truth, results, [1, 2], "boxes")
    assert found.ap == pytest.approx(5 / 10 * 51 / 101)  # IoU 0.7: right up to that threshold
    assert found.ap_if_masks_perfect == pytest.approx(1)
    assert found.ap_if_labels_perfect == found.ap


def test_the_default_confidence_is_that_of_the_best_f1():
    ground_truth, results = scene(
        (1, 0, 20, 0.9), (1, 300, 320, 0.5), (1, 40, 60, 0.5), (1, 330, 350, 0.1), objects=[(1, 0, 20), (1, 40, 60)]
    )
    assert errors_of(ground_truth, results, [1], "boxes").confidence == 0.5
    assert errors_of(ground_truth, results[:2], [1], "boxes").confidence == 0.9
    assert errors_of(ground_truth, [], [1], "boxes").confidence == 0


def test_predictions_on_a_crowd_are_not_evaluated():
    ground_truth, results = scene((1, 0, 20, 0.9), objects=[(1, 0, 50)])
    ground_truth["annotations"][0]["iscrowd"] = 1
    found = errors_of(ground_truth, results, [1], "boxes", confidence=0)
    assert sum(found.errors.total().values()) == 0
    assert found.confusion.sum() == 0


def kinds_slowly(ground_truth, results, evaluated, iou_type) -> dict[str, int]:
    """Types of false positives, one prediction at a time."""
    matches = match(ground_truth, results, evaluated, iou_type)
    key = {"boxes": "bbox", "masks": "segmentation"}[iou_type]
    counts = dict.fromkeys(ERROR_KINDS, 0)
    for i in np.flatnonzero(matches.false_positives()[0, 0]):
        result = results[matches.result[i]]
        objects = [a for a in ground_truth["annotations"] if a["image_id"] == result["image_id"] and not a["iscrowd"]]
        ious = [float(coco_mask.iou([result[key]], [a[key]], [0])[0, 0]) for a in objects]
        best = max(ious, default=0.0)
        under = next((a["category_id"] for a, iou in zip(objects, ious, strict=True) if iou == best), None)
        if best < 0.1:
            counts["background"] += 1
        elif under not in evaluated:
            counts["distractor"] += 1
        elif under != result["category_id"]:
            counts["wrong_class"] += 1
        else:
            counts["duplicate" if best >= 0.5 else "poor_localisation"] += 1
    return counts


@pytest.mark.parametrize("iou_type", ["boxes", "masks"])
def test_drawn_cases_equal_a_direct_version_and_counts_add_up(iou_type):
    improved = 0
    for seed in SEEDS:
        ground_truth, results = draw_case(seed)
        found = errors_of(ground_truth, results, [3, 17], iou_type)
        total = found.errors.total()
        assert {kind: total[kind] for kind in ERROR_KINDS} == kinds_slowly(ground_truth, results, [3, 17], iou_type)
        objects = [a for a in ground_truth["annotations"] if not a["iscrowd"]]
        for k, class_id in enumerate((3, 17)):
            of_class = sum(a["category_id"] == class_id for a in objects)
            assert found.errors.right[k] + found.errors.missed[k] == of_class
            assert found.confusion[:, k].sum() == of_class
        assert found.confusion[:, 2].sum() == sum(a["category_id"] == 90 for a in objects)
        assert found.confusion[2, 3] == 0
        assert len(found.pairs) == found.confusion.sum()
        assert len(found.kinds) == sum(total[kind] for kind in ERROR_KINDS)
        figures = evaluate(ground_truth, results, [3, 17])
        np.testing.assert_equal(found.ap, getattr(figures, iou_type).novel.ap)
        if not math.isnan(found.ap):
            assert found.ap_if_labels_perfect >= found.ap - 0.02
            assert found.ap_if_masks_perfect >= found.ap - 1e-12
            improved += found.ap_if_masks_perfect > found.ap
        json.dumps(found.to_dict(), allow_nan=False)
    assert improved > 10


def test_invalid_diagnoses_are_refused():
    ground_truth, results = ALL_KINDS
    with pytest.raises(ValueError, match=r"class ids \[2\] cannot be evaluated and distractors"):
        errors_of(ground_truth, results, [1, 2], "boxes", [2, 9])
    with pytest.raises(ValueError, match=r"unknown class ids \[5\]"):
        errors_of(ground_truth, results, [1, 2], "boxes", [5])


def test_matches_of_other_data_are_refused():
    ground_truth, results = ALL_KINDS
    matches = match(ground_truth, results, [1, 2], "boxes")
    with pytest.raises(ValueError, match="the matches are of other classes: a, b"):
        diagnose(matches, ground_truth, results, [1])
    with pytest.raises(ValueError, match="the matches are of 4 annotations and 7 results, not of 4 and 6"):
        diagnose(matches, ground_truth, results[:-1], [1, 2])
    with pytest.raises(ValueError, match=r"unknown class ids \[5\]"):
        diagnose(matches, ground_truth, results, [1, 5])
