"""Precision, recall, scores and the twelve metrics equal those of pycocotools exactly; counts equal direct counting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from coco_cases import copy_images, draw_case, oracle

from nts.metrics.average_precision import accumulate, counts_by_confidence, summarise
from nts.metrics.matches import match

CASES = 210


def figures(summary) -> np.ndarray:
    return np.array(dataclasses.astuple(summary))


@pytest.mark.parametrize("first", range(0, CASES, 30))
def test_arrays_and_figures_equal_pycocotools(first):
    for seed in range(first, first + 30):
        ground_truth, results = draw_case(seed)
        iou_type = ("boxes", "masks")[seed % 2]
        result_areas = ("own", "box")[seed // 2 % 2]
        class_ids = [17, 90] if seed % 9 == 8 else [3, 17, 90]
        expected = oracle(ground_truth, results, iou_type, class_ids, result_areas)
        matches = match(ground_truth, results, class_ids, iou_type, result_areas=result_areas)
        curves = accumulate(matches)
        for name in ("precision", "recall", "scores"):
            np.testing.assert_array_equal(getattr(curves, name), expected.eval[name], f"{name} of case {seed}")
        stats = np.where(expected.stats == -1, np.nan, expected.stats)
        np.testing.assert_array_equal(figures(summarise(curves)), stats, f"case {seed}")


def test_cases_hold_what_they_promise():
    drawn = [draw_case(seed) for seed in range(CASES)]
    matched = [match(*case, iou_type="boxes") for case in drawn]
    assert any(not results for _, results in drawn)
    assert any(not ground_truth["annotations"] for ground_truth, _ in drawn)
    assert any(isinstance(m.image_ids[0], str) for m in matched)
    assert any(len(m) < m.results for m in matched), "more than a hundred results"
    assert any(annotation["iscrowd"] for ground_truth, _ in drawn for annotation in ground_truth["annotations"])
    assert any(len(np.unique(m.score)) < len(m) / 2 for m in matched), "equal scores"
    assert all(m.ignored[a].any() for a in (1, 2, 3) for m in matched[2:3])
    assert any(len(set(m.gt_label.tolist())) < 3 for m in matched), "a class without ground truth"


@pytest.mark.parametrize("seed", range(8))
def test_image_counts_equal_copies_of_the_images(seed):
    ground_truth, results = draw_case(2 + 5 * seed)  # cases without equal scores: copies break ties by image
    counts = np.random.default_rng(seed).integers(0, 4, len(ground_truth["images"]))
    matches = match(ground_truth, results, iou_type="boxes")
    many, copied = copy_images(ground_truth, results, dict(zip(matches.image_ids, counts.tolist(), strict=True)))
    weighted = accumulate(matches, image_counts=counts)
    if not many["images"]:
        assert (weighted.precision == -1).all()
        return
    expected = oracle(many, copied, "boxes")
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(getattr(weighted, name), expected.eval[name])


def test_image_counts_of_another_length_are_refused():
    matches = match(*draw_case(1))
    with pytest.raises(ValueError, match="image_counts has the shape"):
        accumulate(matches, image_counts=np.ones(99, np.int64))


@pytest.mark.parametrize("seed", [0, 1, 4, 11, 29, 31])
def test_counts_by_confidence_equal_a_new_evaluation_above_each_threshold(seed):
    ground_truth, results = draw_case(seed)
    counts = counts_by_confidence(match(ground_truth, results, iou_type="boxes"), iou=0.75, bins=21)
    np.testing.assert_allclose(counts.thresholds, np.linspace(0, 1, 21))
    for b, threshold in enumerate(counts.thresholds):
        above = match(ground_truth, [r for r in results if r["score"] >= threshold], iou_type="boxes")
        for k in range(3):
            of_class = above.label == k
            assert counts.tp[k, b] == np.count_nonzero(above.true_positives()[0, 5] & of_class)
            assert counts.fp[k, b] == np.count_nonzero(above.false_positives()[0, 5] & of_class)
    for k, category in enumerate((3, 17, 90)):
        objects = [a for a in ground_truth["annotations"] if a["category_id"] == category and not a["iscrowd"]]
        assert counts.ground_truth[k] == len(objects)


def test_counts_by_confidence_cover_scores_beyond_zero_and_one():
    ground_truth, results = draw_case(1)
    wild = [result | {"score": 7 * result["score"] - 3} for result in results]
    counts = counts_by_confidence(match(ground_truth, wild, iou_type="boxes"))
    assert counts.tp[:, 0].sum() + counts.fp[:, 0].sum() == len(match(ground_truth, wild, iou_type="boxes"))
    assert counts.thresholds[0] < 0 < 1 < counts.thresholds[-1]
    with pytest.raises(ValueError, match="no matches at an IoU of 0.3"):
        counts_by_confidence(match(ground_truth, wild), iou=0.3)


def test_the_benchmark_of_evaluation_compares_like_with_like(capsys):
    from benchmarks.evaluation import run

    rows = run(images=6, fiftyone_images=0, draws=5)
    assert [row["who"] for row in rows] == ["ours", "ours, image by image", "pycocotools", "paired bootstrap"]
    ours, streamed, reference, _ = rows
    assert 0 < ours["masks_ap"] == streamed["masks_ap"] == reference["masks_ap"]
    assert 0 < ours["boxes_ap"] == streamed["boxes_ap"] == reference["boxes_ap"]
    assert reference["largest_difference"] == 0
    assert "| pycocotools | 6 |" in capsys.readouterr().out
