"""Outlines by vote, against a loop over voters and pixels."""

from __future__ import annotations

import math

import pytest
import torch

from nts import consensus
from nts.consensus import Voters, as_votes, consensus_logits, votes_together
from nts.images import normalise, stretch
from nts.masks import draw_masks
from nts.proposal_masks import DrawnMasks
from nts.segmenter import ProposalConfig, Segmenter
from nts.targets import Outlines, VotedMasks
from synthetic.scenes import target_scenes

SIDE = 16


def blobs(n: int, seed: int) -> torch.Tensor:
    """Logits of discs that overlap much, as those of SAM2 for one object do."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.arange(SIDE)
    x, y, r = torch.rand(3, n, 1, 1, generator=generator)
    x, y = 5 + 3 * (x > 0.5) + x, 5 + 3 * (y > 0.5) + y
    return 4 + 2 * r - ((line - x) ** 2 + (line[:, None] - y) ** 2).sqrt()


def slow_outline(own: torch.Tensor, votes: torch.Tensor, quality: torch.Tensor) -> list[list[float]]:
    """Sum of the votes on every pixel; the mask's own logits where nobody votes for a pixel."""
    total = [[0.0] * SIDE for _ in range(SIDE)]
    for vote, q in zip(votes, quality.tolist(), strict=True):
        both = either = 0
        for y in range(SIDE):
            for x in range(SIDE):
                mine, theirs = own[y, x] > 0, vote[y, x] > 0
                both += bool(mine and theirs)
                either += bool(mine or theirs)
        if both / max(1, either) <= 0.6:
            continue
        for y in range(SIDE):
            for x in range(SIDE):
                total[y][x] += q**2 * both / either * float(vote[y, x])
    return total if any(value > 0 for row in total for value in row) else own.tolist()


def make_voters(seed: int = 1, n: int = 12) -> Voters:
    quality = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return Voters(as_votes(blobs(n, seed)), quality)


def test_votes_are_the_hyperbolic_tangent_of_half_the_logits():
    logits = torch.linspace(-12, 12, 97)
    assert as_votes(logits).dtype == torch.float16
    assert as_votes(logits).tolist() == pytest.approx([math.tanh(z / 2) for z in logits.tolist()], abs=1e-3)
    assert torch.equal(as_votes(logits) > 0, logits > 0)


def test_outlines_equal_a_loop_over_voters_and_pixels():
    logits, voters = blobs(5, 2), make_voters()
    expected = torch.tensor([slow_outline(own, voters.votes, voters.predicted_iou) for own in logits])
    found = consensus_logits(logits, voters)
    assert torch.allclose(found, expected, atol=1e-4)
    assert ((found > 0) != (logits > 0)).any(), "the vote changes something"


def test_a_mask_that_nobody_votes_on_is_left_as_it_is():
    logits, voters = blobs(2, 2), make_voters()
    logits[1] = -1
    logits[1, 0, 0] = 1
    found = consensus_logits(logits, voters)
    assert torch.equal(found[1], logits[1])
    nobody = Voters(voters.votes[:0], voters.predicted_iou[:0])
    assert torch.equal(consensus_logits(logits, nobody), logits)


def test_an_empty_vote_leaves_the_mask_as_it_is():
    """One uncertain voter for each pixel, and many that are certain of the contrary."""
    own = torch.full((1, 2, 8), -1.0)
    own[0, 0] = 1
    ballots = torch.full((8, 2, 8), -0.99)
    ballots[:, 0] = 0.01
    for k in range(8):
        ballots[k, 0, k] = -0.99
    voters = Voters(ballots.half(), torch.ones(8))
    assert torch.equal(consensus_logits(own, voters), own)


@pytest.mark.parametrize("voters", [0, 1, 12, 40])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_votes_on_all_instances_at_once_as_on_a_gpu_are_those_on_single_ones(count, voters, monkeypatch):
    monkeypatch.setattr(consensus, "_AT_A_TIME", 7)
    logits, given = blobs(max(1, count), 2)[:count], make_voters(n=voters)
    logits[-1:] -= 9  # empty: nobody votes on it
    found, expected = votes_together(logits, given), consensus_logits(logits, given)
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, atol=1e-5)


def test_no_masks_have_no_outlines():
    assert consensus_logits(torch.zeros(0, SIDE, SIDE), make_voters()).shape == (0, SIDE, SIDE)


@pytest.mark.parametrize("cells", [1, 100, 1000])
def test_blocks_of_pixels_do_not_matter(monkeypatch, cells):
    logits, voters = blobs(5, 3), make_voters()
    expected = consensus_logits(logits, voters)
    monkeypatch.setattr(consensus, "_CELLS", cells)
    assert torch.equal(consensus_logits(logits, voters), expected)


def test_the_order_of_voters_does_not_matter():
    logits, voters = blobs(5, 4), make_voters()
    order = torch.randperm(len(voters), generator=torch.Generator().manual_seed(0))
    shuffled = Voters(voters.votes[order], voters.predicted_iou[order])
    assert torch.allclose(consensus_logits(logits, shuffled), consensus_logits(logits, voters), atol=1e-5)


def test_mirrored_voters_are_flipped_and_added():
    voters = make_voters()
    both = voters.and_also(voters.mirrored())
    assert len(both) == 2 * len(voters)
    assert torch.equal(both.votes[len(voters) :], voters.votes.flip(2))
    logits = blobs(3, 5)
    one, other = consensus_logits(logits, both), consensus_logits(logits.flip(2), both)
    assert torch.allclose(one.flip(2), other, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 52), (5, 3)])
def test_outlines_drawn_when_asked_for_are_those_drawn_at_once(size):
    logits, voters = blobs(6, 6), make_voters()
    which = torch.tensor([4, 0, 2])
    direct, boxes = VotedMasks(logits, voters, size).crops(which)
    stored, stored_boxes = DrawnMasks.of_logits(consensus_logits(logits, voters), size).crops(which)
    assert torch.equal(boxes, stored_boxes)
    assert all(torch.equal(a, b) for a, b in zip(direct, stored, strict=True))
    masks = draw_masks(consensus_logits(logits, voters)[which], size)
    for crop, (x1, y1, x2, y2), mask in zip(direct, boxes.tolist(), masks, strict=True):
        assert torch.equal(crop, mask[y1:y2, x1:x2])
        assert crop.sum() == mask.sum()


def test_an_outline_that_vanishes_at_the_size_of_the_image_is_the_proposal_s_own():
    size = (4, 4)
    own = torch.full((2, SIDE, SIDE), 1.0)
    voted = own.clone()
    voted[0] = -1
    voted[0, 0, 0] = 1e-3
    outlines = Outlines(DrawnMasks.of_logits(voted, size), DrawnMasks.of_logits(own, size))
    assert DrawnMasks.of_logits(voted, size).crops(torch.tensor([0]))[0][0].numel() == 0
    crops, boxes = outlines.crops(torch.tensor([0, 1]))
    assert boxes.tolist() == [[0, 0, 4, 4]] * 2
    assert all(crop.all() for crop in crops)


def test_voters_are_all_three_masks_above_the_threshold(small_segmenter: Segmenter):
    """And asking for them changes no proposal."""
    embedding = small_segmenter.embed(normalise(stretch(target_scenes(1)[0].image, 256)))
    alone = small_segmenter.propose(embedding, ProposalConfig(points_per_side=6))
    asked = small_segmenter.propose(embedding, ProposalConfig(points_per_side=6, voters=True))
    assert alone.voters is None
    assert torch.allclose(asked.mask_logits, alone.mask_logits, atol=1e-4)
    assert torch.equal(asked.predicted_iou, alone.predicted_iou)
    assert torch.equal(asked.points, alone.points)
    assert len(asked.voters) > len(asked)
    assert asked.voters.predicted_iou.min() > 0.3
    for own, quality in zip(as_votes(asked.mask_logits), asked.predicted_iou, strict=True):
        same = (asked.voters.predicted_iou == quality).nonzero()[:, 0]
        assert any(torch.allclose(asked.voters.votes[row], own, atol=1e-3) for row in same), "a proposal votes, too"
