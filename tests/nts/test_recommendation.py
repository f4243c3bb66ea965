"""Recommended thresholds, what to expect there, and the words for it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nts.calibration import Calibration, Line
from nts.recommendation import Recommendation, in_words, recommend, threshold_for_precision

SCORES = torch.tensor([0.95, 0.9, 0.7, 0.6, 0.5, 0.3, 0.2, 0.05])
KNOWN = Calibration(
    "references",
    Line(1.5, 0.2),
    (Line(1.5, -0.3), Line(1.5, 0.2), Line(1.5, 0.7)),
    references=12,
    negatives=30,
    images=9,
    found=0.8,
)


def probabilities() -> list[float]:
    return KNOWN.line.probabilities(SCORES).tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
def test_precision_and_recall_are_sums_of_probabilities(threshold):
    found = recommend(KNOWN, SCORES, threshold)
    chosen = [p for p in probabilities() if p >= threshold]
    assert (found.threshold, found.instances, found.of) == (threshold, len(chosen), len(SCORES))
    assert found.precision == pytest.approx(sum(chosen) / len(chosen))
    assert found.recall == pytest.approx(0.8 * sum(chosen) / sum(probabilities()))


def test_the_interval_is_that_of_the_replicates_and_holds_the_estimate():
    found = recommend(KNOWN, SCORES)
    chosen = SCORES[torch.tensor(probabilities()) >= 0.5]
    means = sorted(float(line.probabilities(chosen).mean()) for line in KNOWN.replicates)
    low, high = found.precision_interval
    # The 5 % quantile of three numbers lies a tenth of the way from the lowest to the next.
    assert low == pytest.approx(means[0] + 0.1 * (means[1] - means[0]), abs=1e-5)
    assert high == pytest.approx(means[2] - 0.1 * (means[2] - means[1]), abs=1e-5)
    assert low <= found.precision <= high


def test_precision_rises_and_recall_falls_with_the_threshold():
    found = [recommend(KNOWN, SCORES, threshold) for threshold in (0.0, 0.2, 0.4, 0.6, 0.8)]
    assert all(a.precision <= b.precision and a.recall >= b.recall for a, b in pairwise(found))


def test_nothing_above_the_threshold_and_nothing_at_all():
    for scores in (SCORES, SCORES[:0]):
        found = recommend(KNOWN, scores, 0.9999)
        assert (found.instances, found.of, found.precision, found.recall) == (0, len(scores), None, None)


def test_where_the_share_of_missed_objects_is_unknown_none_are_assumed():
    unknown = Calibration("references", KNOWN.line, KNOWN.replicates, 12, 30, 9)
    assert recommend(unknown, SCORES, 0.0).recall == pytest.approx(1)


@pytest.mark.parametrize("basis", ["negatives", "none"])
def test_without_references_left_out_precision_is_unknown(basis):
    found = recommend(Calibration(basis, KNOWN.line), SCORES)
    assert found.instances > 0
    assert (found.precision, found.precision_interval, found.recall) == (None, None, None)
    assert threshold_for_precision(Calibration(basis, KNOWN.line), SCORES, 0.5) is None


@pytest.mark.parametrize("precision", [0.5, 0.6, 0.8, 0.9, 0.95])
def test_the_threshold_for_a_precision_is_the_lowest_that_reaches_it(precision):
    found = threshold_for_precision(KNOWN, SCORES, precision)
    values = sorted(probabilities())
    reaching = [t for t in values if sum(p for p in values if p >= t) / sum(p >= t for p in values) >= precision]
    assert found == pytest.approx(min(reaching))
    assert recommend(KNOWN, SCORES, found).precision >= precision - 1e-6


def test_equal_probabilities_are_above_a_threshold_together():
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5])
    calibration = Calibration("references", Line(), (Line(),), 12, 30, 9)
    assert threshold_for_precision(calibration, scores, 0.65) == pytest.approx(0.9)
    assert threshold_for_precision(calibration, scores, 0.59) == pytest.approx(0.5)


def test_a_precision_that_nothing_reaches_has_no_threshold():
    assert threshold_for_precision(KNOWN, SCORES, 0.9999) is None
    assert threshold_for_precision(KNOWN, SCORES[:0], 0.5) is None


EXPECTED = Recommendation(0.5, 54, 265, 0.884, (0.8, 0.93), 0.712)


def test_words_of_a_calibrated_run():
    assert in_words(KNOWN, EXPECTED) == (
        "54 of 265 instances have a confidence of at least 0.5. Expected precision 88% (80% to 93%), recall 71%. "
        "This rests on 12 references and 30 negatives of 9 images."
    )


def test_words_of_a_rough_estimate():
    few = Calibration("references", Line(), (Line(),), references=9, negatives=1, images=1)
    assert in_words(few, EXPECTED).endswith("This rests on 9 references and 1 negative of 1 image: a rough estimate.")


def test_words_where_nothing_is_above_the_threshold():
    assert in_words(KNOWN, recommend(KNOWN, SCORES, 0.9999)) == (
        "0 of 8 instances have a confidence of at least 0.999. "
        "This rests on 12 references and 30 negatives of 9 images."
    )


def test_words_of_one_shot():
    words = in_words(Calibration("negatives", negatives=40, images=3), recommend(Calibration("negatives"), SCORES))
    assert "With one reference per class, precision and recall are unknown" in words
    assert "the 40 negatives of the reference images exceed 0.5 times per image" in words
    assert "A second reference per class makes it reliable" in words


def test_words_without_a_calibration():
    words = in_words(Calibration(), recommend(Calibration(), SCORES))
    assert words.startswith("5 of 8 instances have a confidence of at least 0.5. Confidences are not calibrated")
    assert "the memory has no negatives. Build it again with the preset 'default'" in words
