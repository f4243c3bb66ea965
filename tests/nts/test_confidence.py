"""Rank and confidence, against the equations one number at a time, and their monotonicity."""

from __future__ import annotations

import math

import pytest
import torch

from nts.confidence import combined_rank, confidence

SLOPE = 10.0


def draw(seed: int = 0, n: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(3, n, generator=torch.Generator().manual_seed(seed)))


def test_rank_is_predicted_iou_times_squared_similarity():
    similarity, quality, _ = draw()
    expected = [q * s**2 for s, q in zip(similarity.tolist(), quality.tolist(), strict=True)]
    assert combined_rank(similarity, quality).tolist() == pytest.approx(expected)


def test_confidence_equals_its_equation():
    similarity, quality, background = draw()
    without = [s * q**0.375 for s, q in zip(similarity.tolist(), quality.tolist(), strict=True)]
    assert confidence(similarity, quality, None, SLOPE).tolist() == pytest.approx(without, rel=1e-5)
    with_negatives = [
        s / (1 + math.exp(-SLOPE * (s - n))) * q**0.75
        for s, q, n in zip(similarity.tolist(), quality.tolist(), background.tolist(), strict=True)
    ]
    assert confidence(similarity, quality, background, SLOPE).tolist() == pytest.approx(with_negatives, rel=1e-5)


def test_as_published_the_predicted_iou_is_left_to_the_rank():
    similarity, quality, background = draw()
    assert torch.equal(confidence(similarity, quality, None, SLOPE, "predicted-iou"), similarity)
    lowered = confidence(similarity, quality, background, SLOPE, "predicted-iou")
    assert torch.equal(lowered, confidence(similarity, torch.ones_like(quality), background, SLOPE))


@pytest.mark.parametrize("negatives", [False, True])
def test_confidence_rises_with_similarity_and_predicted_iou_and_falls_with_background(negatives):
    line = torch.linspace(0, 1, 50)
    similarity, quality, background = torch.cartesian_prod(line, line, line).unbind(1)
    found = confidence(similarity, quality, background if negatives else None, SLOPE).reshape(50, 50, 50)
    assert (found.diff(dim=0) >= 0).all()
    assert (found.diff(dim=1) >= 0).all()
    assert (found.diff(dim=2) <= 0).all()
    assert (found[1:, 1:].diff(dim=2) < 0).any() == negatives
    assert found.min() >= 0
    assert found.max() <= 1


def test_predicted_iou_outside_its_range_gives_no_confidence_outside_it():
    """SAM2's predicted IoU is a regression, and may exceed 1 or fall below 0."""
    similarity, quality = torch.tensor([0.9, 0.9]), torch.tensor([1.2, -0.1])
    assert confidence(similarity, quality, None, SLOPE).tolist() == pytest.approx([0.9, 0.0])
    assert combined_rank(similarity, quality)[1] == 0
