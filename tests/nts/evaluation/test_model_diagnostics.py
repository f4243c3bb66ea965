"""Diagnostics of the two models: proposals against true masks, and encoder accuracy on true masks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nts.evaluation.model_diagnostics import ModelDiagnostics, drawn_hits, nearest_classes, proposal_hits
from nts.masks import draw_masks
from nts.proposal_masks import LogitMasks, RunLengthMasks


@pytest.mark.parametrize(("proposals", "side"), [(7, 16), (1, 16), (0, 16), (70, 24)])
def test_proposal_hits_equal_whole_masks(proposals, side, monkeypatch):
    monkeypatch.setattr("nts.evaluation.model_diagnostics._PIXELS_AT_ONCE", 5000)  # several chunks of proposals
    generator = torch.Generator().manual_seed(proposals)
    logits = F.avg_pool2d(torch.randn(proposals, 1, side, side, generator=generator), 5, 1, 2)[:, 0]
    true_masks = F.interpolate(torch.randn(5, 1, 6, 6, generator=generator), (40, 30), mode="bilinear")[:, 0] > 0.4
    true_masks[3] = False
    best = proposal_hits(true_masks, logits, (40, 30))
    expected = torch.zeros(5, dtype=torch.float64)
    for logit in logits:
        whole = F.interpolate(logit[None, None], (40, 30), mode="bilinear", align_corners=False)[0, 0] > 0
        for i, mask in enumerate(true_masks):
            union = int((whole | mask).sum())
            expected[i] = max(float(expected[i]), int((whole & mask).sum()) / union if union else 0.0)
    torch.testing.assert_close(best, expected, rtol=0, atol=1e-12)


def test_hits_of_drawn_proposals_are_the_same():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(9, 10, 8, generator=generator) - 0.5
    logits[3] = -1
    true_masks = torch.rand(4, 40, 30, generator=generator) > 0.6
    true_masks[2] = False
    true_masks[3] = draw_masks(logits[5:6], (40, 30))[0]
    expected = proposal_hits(true_masks, logits, (40, 30))
    assert float(expected[3]) == 1
    for masks in (LogitMasks(logits, (40, 30)), RunLengthMasks.of_logits(logits, (40, 30))):
        torch.testing.assert_close(drawn_hits(true_masks, masks), expected)


def test_proposal_hits_need_masks_of_the_image_size():
    with pytest.raises(ValueError, match=r"true masks are \(8, 9\), the image \(8, 8\)"):
        proposal_hits(torch.ones(1, 8, 9, dtype=torch.bool), torch.ones(2, 4, 4), (8, 8))


def test_nearest_class_is_that_of_the_tokens_under_the_mask():
    tokens = torch.zeros(4, 4, 3)
    tokens[:, :2, 0], tokens[:, 2:, 1] = 1, 1
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :, :6], masks[1, 4:9, 11:] = True, True
    prototypes = torch.tensor([[0.0, 5.0, 0.0], [0.1, 0.0, 0.0]])
    assert nearest_classes(tokens, masks, prototypes).tolist() == [1, 0, -1]
    assert nearest_classes(tokens, masks[:0], prototypes).tolist() == []


def test_model_diagnostics_gather_images():
    gathered = ModelDiagnostics(["a", "b"])
    gathered.add_proposals([100, 32**2, 96**2 + 1], torch.tensor([0.4, 0.6, 0.9]))
    gathered.add_proposals(np.zeros(0), torch.zeros(0))
    gathered.add_proposals([200], torch.tensor([0.8]))
    gathered.add_labels([0, 1, -1], torch.tensor([0, 0, 1]))
    gathered.add_labels([1, 1], torch.tensor([1, -1]))
    summary = gathered.summary()
    recall = {row.area: (row.objects, row.recall_50, row.recall_75) for row in summary.recall}
    assert recall == {
        "all": (4, 0.75, 0.5),
        "small": (3, pytest.approx(2 / 3), pytest.approx(1 / 3)),
        "medium": (1, 1.0, 0.0),  # the limit belongs to both, as in COCO
        "large": (1, 1.0, 1.0),
    }
    assert summary.recall[0].mean == pytest.approx(0.675)
    assert (summary.objects, summary.accuracy) == (4, 0.5)
    assert summary.per_class == {"a": 1.0, "b": pytest.approx(1 / 3)}
    assert summary.confusion.tolist() == [[1, 1], [0, 1]]
    json.dumps(summary.to_dict(), allow_nan=False)


def test_model_diagnostics_of_nothing():
    summary = ModelDiagnostics(["a"], {"any": (0, 1)}).summary()
    assert math.isnan(summary.accuracy)
    assert math.isnan(summary.recall[0].recall_50)
    assert summary.to_dict()["accuracy"] is None
    with pytest.raises(ValueError, match="2 sizes, but 1 objects"):
        ModelDiagnostics(["a"]).add_proposals([1, 2], torch.ones(1))
    with pytest.raises(ValueError, match="1 labels, but 2 objects"):
        ModelDiagnostics(["a"]).add_labels([0], torch.zeros(2, dtype=torch.int64))
