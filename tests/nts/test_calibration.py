"""Calibration, against brute force, and where it cannot be fitted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from made_up_memories import CHANNELS, made_up_memory

from nts.calibration import (
    EM_ROUNDS,
    MOST_SCORES,
    REPLICATES,
    RIDGE,
    Calibration,
    Line,
    _Items,
    calibrate,
    fit_logistic,
    fit_offset,
)
from nts.exemplars import Exemplars
from nts.memory import MemoryBank, Negative
from nts.method import PUBLISHED, Method
from nts.presets import DEFAULT

METHOD = DEFAULT.method
LINE = torch.linspace(0, 1, 201)


def loss(slope: float, offset: float, inputs: list[float], right: list[bool]) -> float:
    """Log loss with the ridge, one item after another."""
    total = RIDGE * ((slope - 1) ** 2 + offset**2)
    for x, is_right in zip(inputs, right, strict=True):
        z = slope * x + offset
        total += math.log1p(math.exp(-abs(z))) + max(0.0, -z if is_right else z)
    return total


def brute_force(inputs: list[float], right: list[bool]) -> tuple[float, float]:
    """Minimiser of the loss by a grid that is refined around its best point; the loss is convex."""
    slope, offset, reach = 1.0, 0.0, 64.0
    while reach > 1e-6:
        steps = [reach * k / 4 for k in range(-4, 5)]
        best = min(((slope + a, offset + b) for a in steps for b in steps), key=lambda at: loss(*at, inputs, right))
        if best == (slope, offset):
            reach /= 2
        slope, offset = best
    return slope, offset


CASES = {
    "overlapping": ([-3, -2, -1.5, -1, 0, 0.5, 1, 2, 3], [0, 0, 1, 0, 0, 1, 0, 1, 1]),
    "separable": ([-3, -2, -1, 1, 2, 3], [0, 0, 0, 1, 1, 1]),
    "separable the wrong way round": ([-3, -2, -1, 1, 2, 3], [1, 1, 1, 0, 0, 0]),
    "all right": ([-1, 0, 1, 2], [1, 1, 1, 1]),
    "all wrong": ([-1, 0, 1, 2], [0, 0, 0, 0]),
    "constant": ([0.7] * 6, [1, 0, 1, 1, 0, 1]),
    "one item": ([2.0], [0]),
}


@pytest.mark.parametrize("case", CASES)
def test_logistic_regression_equals_a_brute_force_minimiser(case):
    inputs, right = CASES[case]
    expected = brute_force(list(map(float, inputs)), list(map(bool, right)))
    found = fit_logistic(torch.tensor(inputs, dtype=torch.float64), torch.tensor(right, dtype=torch.bool))
    assert found == pytest.approx(expected, abs=1e-3)
    assert all(map(math.isfinite, found))


@pytest.mark.parametrize("case", CASES)
def test_the_offset_of_a_given_slope_equals_a_brute_force_minimiser(case):
    inputs, right = list(map(float, CASES[case][0])), list(map(bool, CASES[case][1]))
    best, reach = 0.0, 64.0
    while reach > 1e-6:
        at = min((best + reach * k / 4 for k in range(-4, 5)), key=lambda offset: loss(0.1, offset, inputs, right))
        best, reach = at, (reach / 2 if at == best else reach)
    found = fit_offset(torch.tensor(inputs), torch.tensor(right), torch.ones(len(inputs)), 0.1)
    assert found == pytest.approx(best, abs=1e-4)


def test_probabilities_never_fall_with_the_score():
    """Negatives that look like the references score higher than these."""
    scores = torch.tensor([0.3, 0.35, 0.4, 0.8, 0.85, 0.9])
    right = torch.arange(6) < 3
    items = _Items(scores, right, ~right, torch.ones(6), torch.arange(6))
    line = items.fit()
    assert line.slope > 0
    probabilities = line.probabilities(torch.linspace(0.05, 0.95, 20))
    assert (probabilities.diff() > 0).all()


def test_negatives_of_the_only_image_are_compared_with_the_others_of_it():
    """Without any, they would score higher than the references, which are compared with all."""
    memory = made_up_memory({"a": 3, "b": 3})
    first = memory.entries[0]
    alone = MemoryBank(memory.encoder, memory.preset)
    for entry in memory.entries:
        alone.add(replace(entry, sample_id="image", file="", predicted_iou=0.9, proposal_iou=0.9))
    generator = torch.Generator().manual_seed(5)
    things = torch.randn(8, CHANNELS, generator=generator) * 0.2 - first.prototype
    alone.add_negatives(Negative(each, "reference image", True, sample_id="image") for each in things)
    exemplars = Exemplars.of_memory(alone, METHOD)
    items = _Items.of_memory(alone, exemplars, METHOD)
    cosines = torch.nn.functional.normalize(things, dim=1) @ exemplars.negatives.T
    for row in range(len(things)):
        others = [float(cosines[row, k]) for k in range(len(things)) if k != row]
        tau = exemplars.scale.tau_negatives
        background = math.log(sum(math.exp(tau * c) for c in others) / len(others)) / tau
        similarity = float(exemplars.crop_similarity(torch.nn.functional.normalize(things[row : row + 1], dim=1)).max())
        expected = similarity / (1 + math.exp(-exemplars.scale.slope * (similarity - min(1, max(0, background)))))
        assert float(items.scores[items.negative][row]) == pytest.approx(expected, abs=1e-5)


def test_logistic_regression_of_nothing_is_the_identity():
    assert fit_logistic(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == (1.0, 0.0)


def test_extreme_inputs_are_fitted():
    inputs = torch.tensor([-13.8, -13.8, 13.8, 13.8, 13.8])
    slope, offset = fit_logistic(inputs, torch.tensor([False, True, True, True, False]))
    expected = brute_force(inputs.double().tolist(), [False, True, True, True, False])
    assert (slope, offset) == pytest.approx(expected, abs=1e-3)


def test_probabilities_equal_their_equation():
    line = Line(slope=1.7, offset=-0.4)
    expected = []
    for score in LINE.tolist():
        clipped = min(max(score, 1e-6), 1 - 1e-6)
        expected.append(1 / (1 + math.exp(-1.7 * math.log(clipped / (1 - clipped)) + 0.4)))
    assert line.probabilities(LINE).tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(Line().probabilities(LINE), LINE, atol=1e-5)


def slow_prior(scores: list[float], line: Line) -> float:
    """Share of right predictions by expectation maximisation, as in the publication: ratios of priors."""
    prior = line.prior
    at_training = [float(line.probabilities(torch.tensor([s], dtype=torch.float64))) for s in scores]
    for _ in range(EM_ROUNDS):
        expected = []
        for p in at_training:
            right, wrong = p * prior / line.prior, (1 - p) * (1 - prior) / (1 - line.prior)
            expected.append(right / (right + wrong))
        prior = min(max(sum(expected) / len(expected), 0.5 / len(scores)), 1 - 0.5 / len(scores))
    return prior


@pytest.mark.parametrize("prior", [0.2, 0.5, 0.8])
def test_the_shift_of_the_prior_equals_a_loop(prior):
    scores = torch.rand(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 2
    line = Line(2.0, 0.3, prior)
    expected = slow_prior(scores.tolist(), line)
    found = line.shifted(scores)
    assert found.prior == pytest.approx(expected, abs=1e-6)
    odds = math.log(expected / (1 - expected)) - math.log(prior / (1 - prior))
    assert (found.slope, found.offset) == (line.slope, pytest.approx(line.offset + odds, abs=1e-5))


def test_a_view_without_any_right_prediction_stays_finite():
    found = Line(3.0, 0.0, 0.5).shifted(torch.full((50,), 0.01))
    assert found.prior == pytest.approx(0.01)
    assert math.isfinite(found.offset)
    assert Line().shifted(torch.ones(1)).probabilities(LINE).isfinite().all()


def test_a_view_of_which_only_the_best_predictions_are_kept_is_not_taken_for_perfect():
    scores = torch.rand(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 2
    line = Line(2.0, 1.0, 0.2)
    assert line.shifted(scores).offset != line.offset
    best = scores.sort(descending=True).values[:100]
    assert line.probabilities(best).min() > 0.5
    assert line.shifted(best) == line


def test_many_scores_are_thinned_without_a_change_that_matters():
    scores = torch.rand(5 * MOST_SCORES, generator=torch.Generator().manual_seed(2))
    line = Line(2.0, -0.5, 0.4)
    few = scores.sort().values[:: len(scores) // MOST_SCORES]
    assert line.shifted(scores).offset == pytest.approx(line.shifted(few).offset, abs=1e-2)


def calibration_of(memory: MemoryBank, method: Method = METHOD) -> Calibration:
    return calibrate(memory, Exemplars.of_memory(memory, method), method)


def slow_soft_maximum(cosines: list[float], tau: float) -> float:
    if not cosines:
        return 0.0
    return min(max(math.log(sum(math.exp(tau * c) for c in cosines) / len(cosines)) / tau, 0), 1)


def slow_items(memory: MemoryBank, scale) -> list[tuple[float, bool]]:
    """Score of every reference and negative as if it were found in a target, and whether it is right."""

    def unit(each) -> torch.Tensor:
        return each.prototype / each.prototype.norm()

    def score(this, image: str | None) -> tuple[float, str]:
        similarity = {
            name: slow_soft_maximum(
                [float(unit(this) @ unit(e)) for e in memory.entries if e.class_name == name and e is not this],
                scale.tau,
            )
            for name in memory.classes
        }
        best = max(similarity, key=similarity.__getitem__)
        background = slow_soft_maximum(
            [float(unit(this) @ unit(n)) for n in memory.negatives if n.image != image], scale.tau_negatives
        )
        s = similarity[best]
        matched = s / (1 + math.exp(-scale.slope * (s - background)))
        return matched * this.predicted_iou**0.75, best

    items = []
    for entry in memory.entries:
        if memory.shots[entry.class_name] > 1:
            found, best = score(entry, None)
            items.append((found, best == entry.class_name))
    return items + [(score(negative, negative.image)[0], False) for negative in memory.negatives]


def test_references_and_negatives_are_scored_with_their_own_left_out():
    memory = made_up_memory({"a": 3, "b": 2, "alone": 1}, negatives=20, noise=0.9)
    exemplars = Exemplars.of_memory(memory, METHOD)
    items = _Items.of_memory(memory, exemplars, METHOD)
    expected = slow_items(memory, exemplars.scale)
    assert items.scores.tolist() == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert items.right.tolist() == [right for _, right in expected]
    assert len(items.scores) == 5 + 20


def test_a_calibration_separates_references_from_negatives():
    memory = made_up_memory({"a": 4, "b": 4}, negatives=30)
    found = calibration_of(memory)
    assert (found.basis, found.references, found.negatives, found.images) == ("references", 8, 30, 4)
    assert found.found == 1.0
    assert len(found.replicates) == REPLICATES
    assert len(set(found.replicates)) > 10
    items = _Items.of_memory(memory, Exemplars.of_memory(memory, METHOD), METHOD)
    probabilities = found.probabilities(items.scores)
    assert probabilities[items.right].mean() > 0.7
    assert probabilities[items.negative].mean() < 0.2
    assert found.line.slope > 0


def test_probabilities_rise_with_the_score():
    found = calibration_of(made_up_memory({"a": 4, "b": 4}, negatives=30))
    for calibration in (found, found.shifted(LINE)):
        assert (calibration.probabilities(LINE).diff() >= 0).all()


def test_the_order_of_references_and_the_names_of_classes_do_not_matter():
    shots = {"a": 3, "b": 3}
    one = calibration_of(made_up_memory(shots, negatives=30)).line
    for other in (
        made_up_memory(shots, negatives=30, order=[5, 2, 0, 3, 1, 4]),
        made_up_memory(shots, negatives=30, names={"a": "z", "b": "y"}),
    ):
        line = calibration_of(other).line
        assert (line.slope, line.offset, line.prior) == pytest.approx((one.slope, one.offset, one.prior), abs=1e-3)


def test_the_shift_moves_all_replicates():
    found = calibration_of(made_up_memory({"a": 4, "b": 4}, negatives=30))
    for scores in (LINE**3, torch.linspace(0, 1, 3 * MOST_SCORES).flip(0) ** 3):
        shifted = found.shifted(scores)
        assert shifted.line == found.line.shifted(scores)
        assert shifted.replicates == tuple(line.shifted(scores) for line in found.replicates)
    assert found.shifted(torch.zeros(0)) == found, "a view without predictions"


def test_without_negatives_there_is_no_calibration():
    found = calibration_of(made_up_memory({"a": 4, "b": 4}))
    assert (found.basis, found.line, found.references) == ("none", Line(), 0)
    assert torch.allclose(found.probabilities(LINE), LINE, atol=1e-5)
    assert found.shifted(LINE) == found


def test_rejected_predictions_do_not_calibrate():
    """They were chosen by their similarity, so they say nothing about other predictions."""
    assert calibration_of(made_up_memory({"a": 4}, negatives=20, source="rejected")).basis == "none"


@pytest.mark.parametrize("images", [1, 2, 5])
def test_one_reference_per_class_rests_on_the_negatives_alone(images):
    memory = made_up_memory({"a": 1, "b": 1}, negatives=30, images=images)
    found = calibration_of(memory)
    assert (found.basis, found.references, found.negatives) == ("negatives", 0, 30)
    assert found.images == images
    scores = _Items.of_memory(memory, Exemplars.of_memory(memory, METHOD), METHOD).scores
    above = (found.probabilities(scores) > 0.5).sum()
    assert above in (images // 2, images // 2 + 1), "0.5 per image, but for rounding of the limit itself"
    assert found.shifted(LINE) == found


def test_one_shot_with_fewer_negatives_than_images():
    found = calibration_of(made_up_memory({"a": 1}, negatives=1))
    assert found.basis == "negatives"
    assert found.probabilities(LINE).isfinite().all()


def test_background_images_count_as_images():
    memory = made_up_memory({"a": 1, "b": 1}, negatives=4, images=2)
    for number in range(12):
        memory.add_negative(Negative(torch.randn(CHANNELS), "background image", True, f"background {number}"))
    assert calibration_of(memory).images == 2 + 12


def test_all_references_in_one_image():
    """All negatives are of this image, so they are scored without any negative, and every resample is the same."""
    found = calibration_of(made_up_memory({"a": 3, "b": 3}, negatives=20, images=1))
    assert (found.basis, found.images) == ("references", 1)
    assert set(found.replicates) == {found.line}
    assert found.probabilities(LINE).isfinite().all()


def test_one_class_only():
    found = calibration_of(made_up_memory({"a": 5}, negatives=20))
    assert (found.basis, found.references) == ("references", 5)
    assert found.probabilities(LINE).isfinite().all()


@pytest.mark.parametrize("noise", [1e-4, 50.0], ids=["separable", "without any likeness"])
def test_references_that_are_all_alike_or_not_at_all(noise):
    found = calibration_of(made_up_memory({"a": 4, "b": 4}, negatives=20, noise=noise))
    assert found.basis == "references"
    for line in (found.line, *found.replicates):
        assert all(map(math.isfinite, (line.slope, line.offset, line.prior)))
        assert 0 < line.prior < 1


def test_equal_references_and_equal_negatives_have_constant_scores():
    memory = MemoryBank(made_up_memory({}).encoder)
    template = made_up_memory({"a": 1}).entries[0]
    for number in range(4):
        memory.add(replace(template, sample_id=f"image {number}"))
        memory.add_negative(Negative(template.prototype, "reference image", True, f"image {number}"))
    found = calibration_of(memory)
    assert found.basis == "references"
    assert found.probabilities(LINE).isfinite().all()


def test_references_that_sam2_never_proposes_are_not_scored_but_counted_as_missed():
    memory = MemoryBank(made_up_memory({}).encoder)
    made = made_up_memory({"a": 4}, negatives=20)
    for number, entry in enumerate(made.entries):
        missed = {"predicted_iou": None, "proposal_iou": 0.0}
        memory.add(replace(entry, **missed) if number == 0 else replace(entry, proposal_iou=0.9 if number > 1 else 0.3))
    memory.add_negatives(made.negatives)
    found = calibration_of(memory)
    assert (found.references, found.found) == (3, 0.5)


def test_memories_of_earlier_versions_have_references_without_proposals():
    memory = MemoryBank(made_up_memory({}).encoder)
    for entry in made_up_memory({"a": 4}).entries:
        memory.add(replace(entry, predicted_iou=None, proposal_iou=None))
    memory.add_negatives(made_up_memory({}, negatives=20).negatives)
    found = calibration_of(memory)
    assert (found.basis, found.found) == ("negatives", None)


@pytest.mark.parametrize("method", [METHOD.without("negatives"), METHOD.without("rank"), PUBLISHED])
def test_other_methods_are_calibrated_as_well(method):
    found = calibration_of(made_up_memory({"a": 4, "b": 4}, negatives=30), method)
    assert found.basis == "references"
    assert (found.probabilities(LINE).diff() >= 0).all()


@pytest.mark.parametrize("negatives", [0, 20])
def test_a_calibration_is_stored_as_plain_values(negatives):
    found = calibration_of(made_up_memory({"a": 3, "b": 3}, negatives=negatives))
    assert Calibration.from_dict(found.to_dict()) == found
