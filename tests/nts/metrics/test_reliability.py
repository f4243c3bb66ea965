"""Reliability diagrams, against a loop over predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nts.metrics.matches import match
from nts.metrics.reliability import BINS, reliability, reliability_of_matches


def test_bins_equal_a_loop():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(500), rng.random(500) < 0.4
    confidence[:3] = 0, 1, 0.3
    found = reliability(confidence, right)
    total = 0.0
    for b in range(BINS):
        members = [i for i in range(500) if min(int(confidence[i] * BINS), BINS - 1) == b]
        mean = sum(confidence[i] for i in members) / len(members)
        precision = sum(right[i] for i in members) / len(members)
        assert found.count[b] == len(members)
        assert (found.confidence[b], found.precision[b]) == pytest.approx((mean, precision))
        total += len(members) / 500 * abs(mean - precision)
    assert found.error == pytest.approx(total)


def test_confidences_that_keep_their_word_have_no_error():
    confidence = np.repeat([0.25, 0.75], 400)
    right = np.tile([True, False, False, False], 100).tolist() + np.tile([True, True, True, False], 100).tolist()
    assert reliability(confidence, np.array(right)).error == pytest.approx(0)
    assert reliability(confidence, ~np.array(right)).error == pytest.approx(0.5)


def test_empty_bins_and_no_predictions():
    found = reliability(np.array([0.95]), np.array([True]))
    assert found.count.tolist() == [0] * 9 + [1]
    assert np.isnan(found.precision[:9]).all()
    assert found.error == pytest.approx(0.05)
    nothing = reliability(np.zeros(0), np.zeros(0, bool))
    assert nothing.count.sum() == 0
    assert math.isnan(nothing.error)


def truth_and_results() -> tuple[dict, list[dict]]:
    boxes = [[0, 0, 10, 10], [20, 0, 10, 10], [0, 30, 10, 10]]
    truth = {
        "images": [{"id": 1, "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": int(k == 3)}
            for k, box in enumerate(boxes, 1)
        ],
    }
    scores = {0.9: boxes[0], 0.8: [21, 0, 10, 10], 0.7: boxes[2], 0.2: [50, 50, 5, 5]}
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for score, box in scores.items()]
    return truth, results


def test_matched_predictions_count_unless_they_match_a_crowd():
    truth, results = truth_and_results()
    found = reliability_of_matches(match(truth, results, [1], "boxes"))
    assert found.count.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1, 1]
    assert found.precision[[2, 8, 9]].tolist() == [0, 1, 1]
    assert found.error == pytest.approx((0.2 + 0.2 + 0.1) / 3)


def test_another_iou_is_used_and_one_without_matches_is_named():
    truth, results = truth_and_results()
    matches = match(truth, results, [1], "boxes")
    assert reliability_of_matches(matches, iou=0.95).precision[8] == 0
    with pytest.raises(ValueError, match=r"no matches at an IoU of 0.3, only at \[0.5, "):
        reliability_of_matches(matches, iou=0.3)
