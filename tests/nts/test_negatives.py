"""Choice of negatives, the guard, and thinning, against loops."""

from __future__ import annotations

import math
from statistics import mean, pstdev

import pytest
import torch
import torch.nn.functional as F

from nts.negatives import off_label_proposals, thin, usable_negatives


def blobs(n: int, seed: int, side: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    line = torch.arange(side)
    x, y, r = torch.rand(3, n, 1, 1, generator=generator)
    return (line - x * side) ** 2 + (line[:, None] - y * side) ** 2 <= (1 + r * side / 3) ** 2


def slow_iou(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one & two).sum()) / max(1.0, float((one | two).sum()))


def slow_choice(masks, quality, labelled) -> list[int]:
    chosen: list[int] = []
    for i in sorted(range(len(masks)), key=lambda i: -float(quality[i])):
        area = float(masks[i].sum())
        if area == 0:
            continue
        on_label = float((masks[i] & labelled.any(0)).sum()) / area if len(labelled) else 0.0
        if on_label >= 0.2 or any(slow_iou(masks[i], label) >= 0.2 for label in labelled):
            continue
        if all(slow_iou(masks[i], masks[j]) <= 0.6 for j in chosen):
            chosen.append(i)
    return chosen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("labels", [0, 1, 3])
def test_proposals_off_all_labels_are_those_of_a_loop(seed, labels):
    masks, labelled = blobs(80, seed), blobs(labels, 100 + seed)
    masks[3] = False
    quality = torch.rand(80, generator=torch.Generator().manual_seed(seed))
    expected = slow_choice(masks, quality, labelled)
    assert off_label_proposals(masks, quality, labelled).tolist() == expected
    assert 0 < len(expected) < 80


def test_each_thing_is_chosen_once_by_its_best_proposal():
    masks = torch.zeros(4, 20, 20, dtype=torch.bool)
    masks[0, 2:10, 2:10] = True
    masks[1, 2:10, 2:11] = True  # the same thing, a pixel wider
    masks[2, 2:5, 2:5] = True  # a part of it
    masks[3, 14:18, 14:18] = True
    none = masks[:0]
    assert off_label_proposals(masks, torch.tensor([0.6, 0.9, 0.5, 0.7]), none).tolist() == [1, 3, 2]


def test_a_proposal_around_a_small_label_is_chosen_but_one_on_it_is_not():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0] = True
    masks[1, 5:8, 5:8] = True
    label = torch.zeros(1, 20, 20, dtype=torch.bool)
    label[0, 5:8, 5:9] = True
    assert off_label_proposals(masks, torch.tensor([0.5, 0.9]), label).tolist() == [0]


def test_a_proposal_on_a_marked_pixel_is_never_chosen():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 2:12, 2:12] = True
    masks[1, 14:18, 14:18] = True
    marked = torch.zeros(20, 20, dtype=torch.bool)
    marked[5, 5] = True
    quality = torch.tensor([0.9, 0.5])
    assert off_label_proposals(masks, quality, masks[:0]).tolist() == [0, 1]
    assert off_label_proposals(masks, quality, masks[:0], marked).tolist() == [1]


def test_no_proposals_and_predicted_ious_that_are_no_numbers():
    masks = blobs(3, 0)
    assert off_label_proposals(masks[:0], torch.zeros(0), masks).tolist() == []
    quality = torch.tensor([math.nan, 0.5, math.inf])
    assert off_label_proposals(masks, quality, masks[:0]).tolist() == [1]


def test_the_guard_equals_a_loop():
    generator = torch.Generator().manual_seed(3)
    similarity, own = torch.rand(50, generator=generator), torch.rand(8, generator=generator)
    own[2] = math.nan
    sure = torch.rand(50, generator=generator) < 0.3
    known = [value for value in own.tolist() if not math.isnan(value)]
    limit = mean(known) - pstdev(known)
    expected = [i for i in range(50) if sure[i] or similarity[i] <= limit]
    assert usable_negatives(similarity, sure, own).tolist() == expected
    assert sure.sum() < len(expected) < 50


def test_the_guard_without_two_references_of_a_class_leaves_sure_negatives_alone():
    own = torch.full((3,), math.nan)
    assert usable_negatives(torch.zeros(3), torch.tensor([False, True, False]), own).tolist() == [1]


def slow_farthest(units: list[torch.Tensor], most: int) -> list[int]:
    chosen = [0]
    while len(chosen) < most:
        nearest = [max(float(unit @ units[j]) for j in chosen) for unit in units]
        chosen.append(min(range(len(units)), key=nearest.__getitem__))
    return sorted(chosen)


def test_thinning_equals_a_loop():
    prototypes = torch.randn(60, 5, generator=torch.Generator().manual_seed(4))
    assert thin(prototypes, 12).tolist() == slow_farthest(list(F.normalize(prototypes, dim=1)), 12)
    assert thin(prototypes, 60).tolist() == list(range(60))
    assert thin(prototypes[:0], 60).tolist() == []


def test_thinning_keeps_one_of_every_group():
    generator = torch.Generator().manual_seed(5)
    groups = torch.randn(10, 1, 16, generator=generator)
    prototypes = (groups + 0.01 * torch.randn(10, 30, 16, generator=generator)).flatten(0, 1)
    assert {row // 30 for row in thin(prototypes, 10).tolist()} == set(range(10))
