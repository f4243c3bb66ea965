"""Decided labels keep proposals away: against a slow obvious version, and through the matching."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nts.proposal_masks import LogitMasks, RunLengthMasks
from nts.settled import INSIDE, SAME_OBJECT, Settled, blocked_classes

SIZE = (48, 64)


def logits(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Random rectangles, one of them empty."""
    drawn = torch.full((count, 16, 16), -1.0)
    for i in range(1, count):
        (top, bottom), (left, right) = np.sort(rng.integers(0, 17, (2, 2)), axis=1)
        drawn[i, top : max(bottom, top + 1), left : max(right, left + 1)] = 1.0
    return drawn


def obvious(masks: LogitMasks, decided: np.ndarray, classes_of: torch.Tensor) -> torch.Tensor:
    blocked = torch.zeros(len(masks.empty), classes_of.shape[1], dtype=torch.bool)
    for i in range(len(masks.empty)):
        if masks.empty[i]:
            continue
        (crop,), ((x1, y1, x2, y2),) = masks.crops(torch.tensor([i]))
        proposal = np.zeros(SIZE, bool)
        proposal[y1:y2, x1:x2] = crop
        for mask, classes in zip(decided, classes_of, strict=True):
            iou = (proposal & mask).sum() / (proposal | mask).sum()
            inside = (proposal & mask).sum() / proposal.sum()
            if iou >= SAME_OBJECT or (classes.all() and inside >= INSIDE):
                blocked[i] |= classes
    return blocked


@pytest.mark.parametrize("form", ["logits", "run lengths"])
def test_blocked_classes_are_those_of_the_obvious_version(form: str):
    rng = np.random.default_rng(4)
    partly = 0
    for _ in range(20):
        proposals = logits(rng, 12)
        masks = LogitMasks(proposals, SIZE)
        decided = np.zeros((3, *SIZE), bool)
        for mask in decided:
            (top, bottom), (left, right) = np.sort(rng.integers(0, 48, (2, 2)), axis=1)
            mask[top : bottom + 1, left : right + 1] = True
        classes = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])
        settled = Settled.of_masks(torch.from_numpy(decided), classes, SIZE)
        expected = obvious(masks, decided, classes)
        partly += int((expected.any(1) & ~expected.all(1)).sum())
        stored = masks if form == "logits" else RunLengthMasks.of_logits(proposals, SIZE)
        assert torch.equal(blocked_classes(stored, settled), expected)
    assert partly, "no proposal was on a rejected label"


def test_nothing_decided_blocks_nothing():
    masks = LogitMasks(logits(np.random.default_rng(1), 5), SIZE)
    nothing = Settled.of_masks([], torch.zeros(0, 2, dtype=torch.bool), SIZE)
    assert not blocked_classes(masks, nothing).any()
    empty = Settled.of_masks(torch.zeros(1, *SIZE, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), SIZE)
    assert len(empty) == 0
    assert not blocked_classes(masks, empty).any()


def test_masks_of_another_size_are_refused():
    masks = LogitMasks(logits(np.random.default_rng(1), 5), SIZE)
    other = Settled.of_masks(torch.ones(1, 9, 9, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), (9, 9))
    with pytest.raises(ValueError, match=r"decided masks are \(9, 9\), the image \(48, 64\)"):
        blocked_classes(masks, other)
