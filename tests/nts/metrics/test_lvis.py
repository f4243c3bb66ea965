"""Federated AP equals a direct implementation of its definition, and the `lvis` package if it is installed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from coco_cases import CATEGORIES, draw_case
from pycocotools import mask as coco_mask

from nts.metrics.average_precision import accumulate
from nts.metrics.lvis import evaluate_lvis, match_lvis, match_lvis_image, summarise_lvis

RANGES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
SEEDS = [s for s in range(1, 40) if s not in (29, 31)]  # 29 has no annotations, 31 no results


def federated_case(seed: int) -> tuple[dict, list[dict]]:
    """Case without crowds, with LVIS's image-level annotations; some images have over 300 results."""
    ground_truth, results = draw_case(seed)
    rng = np.random.default_rng(seed)
    for annotation in ground_truth["annotations"]:
        annotation["iscrowd"] = 0
    for category, frequency in zip(ground_truth["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    for image in ground_truth["images"]:
        image["id"] = int(str(image["id"]).removeprefix("image_"))
        image["neg_category_ids"] = [c for c in CATEGORIES if rng.random() < 0.3]
        image["not_exhaustive_category_ids"] = [c for c in CATEGORIES if rng.random() < 0.3]
    for item in (*ground_truth["annotations"], *results):
        item["image_id"] = int(str(item["image_id"]).removeprefix("image_"))
    if seed % 5 == 4:
        image_id = results[0]["image_id"]
        for _ in range(400):
            other = results[int(rng.integers(len(results)))]
            results.append(other | {"image_id": image_id, "score": round(float(rng.random()), 2)})
    return ground_truth, results


def slowly(ground_truth, results, frequencies) -> list[float]:
    """The thirteen metrics for boxes, from the definition, one prediction at a time."""
    precision, recall = {}, {}
    images = {image["id"]: image for image in ground_truth["images"]}
    kept = []
    for image_id in sorted(images):
        of_image = sorted((r for r in results if r["image_id"] == image_id), key=lambda r: -r["score"])
        kept += of_image[:300]
    for category in sorted(CATEGORIES):
        for size, (low, high) in RANGES.items():
            for threshold in np.linspace(0.5, 0.95, 10):
                flags, objects = [], 0
                for image_id in sorted(images):
                    image = images[image_id]
                    truth = [
                        a
                        for a in ground_truth["annotations"]
                        if (a["image_id"], a["category_id"]) == (image_id, category) and a["area"] > 0
                    ]
                    counts = [low <= a["area"] <= high for a in truth]
                    objects += sum(counts)
                    if not truth and category not in image["neg_category_ids"]:
                        continue
                    free = set(range(len(truth)))
                    for result in kept:
                        if (result["image_id"], result["category_id"]) != (image_id, category):
                            continue
                        ious = [coco_mask.iou([result["bbox"]], [a["bbox"]], [0])[0, 0] for a in truth]
                        able = [g for g in free if ious[g] >= threshold]
                        able = [g for g in able if counts[g]] or able
                        if able:
                            best = max(able, key=lambda g: (ious[g], g))
                            free.remove(best)
                            flags.append((result["score"], "right" if counts[best] else "ignored"))
                        elif category in image["not_exhaustive_category_ids"]:
                            flags.append((result["score"], "ignored"))
                        else:
                            area = result["bbox"][2] * result["bbox"][3]
                            flags.append((result["score"], "wrong" if low <= area <= high else "ignored"))
                if objects == 0:
                    continue
                flags.sort(key=lambda flag: -flag[0])
                right = np.cumsum([flag == "right" for _, flag in flags])
                wrong = np.cumsum([flag == "wrong" for _, flag in flags])
                points = [(r / objects, r / (r + w)) for r, w in zip(right, wrong, strict=True) if r + w]
                key = (category, size, round(threshold, 2))
                recall[key] = right[-1] / objects if len(right) else 0.0
                precision[key] = np.mean(
                    [max((p for r, p in points if r >= wanted), default=0.0) for wanted in np.linspace(0, 1, 101)]
                )

    def mean(values, keep) -> float:
        chosen = [value for key, value in values.items() if keep(*key)]
        return float(np.mean(chosen)) if chosen else np.nan

    rarity = dict(zip(sorted(CATEGORIES), frequencies, strict=True))
    sizes = ("small", "medium", "large")
    return [
        mean(precision, lambda c, s, t: s == "all"),
        mean(precision, lambda c, s, t: s == "all" and t == 0.5),
        mean(precision, lambda c, s, t: s == "all" and t == 0.75),
        *(mean(precision, lambda c, s, t, size=size: s == size) for size in sizes),
        *(mean(precision, lambda c, s, t, f=f: s == "all" and rarity[c] == f) for f in "rcf"),
        mean(recall, lambda c, s, t: s == "all"),
        *(mean(recall, lambda c, s, t, size=size: s == size) for size in sizes),
    ]


def frequencies_of(ground_truth) -> list[str]:
    return [c["frequency"] for c in sorted(ground_truth["categories"], key=lambda c: c["id"])]


@pytest.mark.parametrize("seed", [1, 2, 4, 7, 10, 31])
def test_figures_equal_the_definition(seed):
    ground_truth, results = federated_case(seed)
    frequencies = frequencies_of(ground_truth)
    found = summarise_lvis(accumulate(match_lvis(ground_truth, results, iou_type="boxes"), (300,)), frequencies)
    expected = slowly(ground_truth, results, frequencies)
    np.testing.assert_allclose(dataclasses.astuple(found), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("iou_type", ["boxes", "masks"])
def test_arrays_and_figures_equal_the_lvis_package(iou_type, tmp_path, monkeypatch):
    lvis = pytest.importorskip("lvis", reason="the lvis package is not installed: the slow version alone is compared")
    monkeypatch.setattr(np, "float", float, raising=False)  # the package was written for NumPy before 1.24
    for seed in SEEDS:
        ground_truth, results = federated_case(seed)
        path = tmp_path / "lvis.json"
        path.write_text(json.dumps(ground_truth))
        drop = {"boxes": "segmentation", "masks": "bbox"}[iou_type]
        given = [{key: value for key, value in result.items() if key != drop} for result in results]
        evaluation = lvis.LVISEval(lvis.LVIS(str(path)), given, {"boxes": "bbox", "masks": "segm"}[iou_type])
        evaluation.run()
        curves = accumulate(match_lvis(ground_truth, results, iou_type=iou_type), (300,))
        np.testing.assert_array_equal(curves.precision[..., 0], evaluation.eval["precision"])
        np.testing.assert_array_equal(curves.recall[..., 0], evaluation.eval["recall"])
        figures = np.array(dataclasses.astuple(summarise_lvis(curves, frequencies_of(ground_truth))))
        expected = np.array(list(evaluation.get_results().values()), np.float64)
        np.testing.assert_array_equal(figures, np.where(expected == -1, np.nan, expected))


def one_image(**of_image) -> tuple[dict, dict, dict]:
    """An image with one object of class 1, a correct result, and a false positive of class 2."""
    image = {"id": 5, "height": 50, "width": 50, "neg_category_ids": [], "not_exhaustive_category_ids": []} | of_image
    found = {"image_id": 5, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "score": 0.5}
    return image, found, found | {"category_id": 2, "score": 0.9}


def test_a_class_counts_only_where_it_is_known_to_be_or_not_to_be():
    image, found, stray = one_image()
    matches = match_lvis_image([found], [stray, found], [1, 2], ["a", "b"], image, "boxes")
    assert matches.result.tolist() == [1]
    assert matches.results == 2
    image, found, stray = one_image(neg_category_ids=[2])
    matches = match_lvis_image([found], [stray, found], [1, 2], ["a", "b"], image, "boxes")
    assert matches.result.tolist() == [1, 0]
    assert matches.false_positives()[0, 0].tolist() == [False, True]


def test_unmatched_predictions_are_ignored_where_annotations_are_not_exhaustive():
    image, found, stray = one_image(neg_category_ids=[2], not_exhaustive_category_ids=[2])
    matches = match_lvis_image([found], [found, stray], [1, 2], ["a", "b"], image, "boxes")
    assert matches.ignored[0, 0].tolist() == [False, True]
    assert matches.matched[0, 0].tolist() == [0, -1]


def test_boxes_and_masks_of_a_data_set():
    ground_truth, results = federated_case(4)
    found = evaluate_lvis(ground_truth, results)
    assert found.images == len(ground_truth["images"])
    of_image = Counter(result["image_id"] for result in results)
    assert max(of_image.values()) > 300
    assert 0 < found.predictions <= sum(min(count, 300) for count in of_image.values()) < len(results)
    assert 0 < found.masks.ap < 1
    assert found.boxes.ap == pytest.approx(np.nanmean(list(found.boxes_per_class.values())))
    json.dumps(found.to_dict(), allow_nan=False)
    rows = match_lvis(ground_truth, results, iou_type="boxes")
    for i in range(len(rows)):
        assert results[rows.result[i]]["score"] == rows.score[i]
        assert results[rows.result[i]]["image_id"] == rows.image_ids[rows.image[i]]
        if (at := rows.matched[0, 0, i]) >= 0:
            assert ground_truth["annotations"][at]["category_id"] == results[rows.result[i]]["category_id"]


def test_invalid_evaluations_are_refused():
    ground_truth, results = federated_case(4)
    with pytest.raises(ValueError, match=r"unknown class ids \[4\]"):
        evaluate_lvis(ground_truth, results, [3, 4])
    with pytest.raises(ValueError, match="no class"):
        evaluate_lvis(ground_truth, results, [])
    with pytest.raises(ValueError, match="no image"):
        evaluate_lvis({**ground_truth, "images": []}, results)
    with pytest.raises(ValueError, match="has the score nan"):
        evaluate_lvis(ground_truth, [results[0] | {"score": float("nan")}])
    curves = accumulate(match_lvis(ground_truth, results), (300,))
    with pytest.raises(ValueError, match="every class needs a frequency"):
        summarise_lvis(curves, ["r", "c", "often"])
