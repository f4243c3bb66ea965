"""Proposals from shrunken copies of an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from nts.cache.targets import target_settings
from nts.evaluation.model_diagnostics import proposal_hits
from nts.images import normalise, stretch
from nts.pipeline import encode_target
from nts.presets import DEFAULT, preset_fingerprint
from nts.segmenter import ProposalConfig, point_grid
from nts.segmenter.scales import LEAST_SHARE, propose_at_scales, shrunken
from synthetic.scenes import draw_scene

SIDE = 256
CONFIG = ProposalConfig(8, voters=True)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return normalise(stretch(draw_scene([5, 0], range(100, 104), featured=100).image, SIDE))


def test_a_copy_lies_in_the_corner_of_an_empty_canvas(pixels):
    copy = shrunken(pixels, 0.3)
    assert copy.shape == pixels.shape
    assert (copy[:, 76:] == 0).all()
    assert (copy[:, :, 76:] == 0).all()
    assert copy[:, :76, :76].mean() == pytest.approx(float(pixels.mean()), abs=0.02)


def test_proposals_of_copies_are_cut_enlarged_and_appended(small_segmenter, pixels):
    embedding = small_segmenter.embed(pixels)
    found = propose_at_scales(small_segmenter, pixels, embedding, replace(CONFIG, scales=(0.5,)))
    own = small_segmenter.propose(embedding, CONFIG)
    # The slow version: SAM2's three masks for every point on the copy.
    copy = small_segmenter.embed(shrunken(pixels, 0.5))
    points = point_grid(4, SIDE // 2)
    logits, predicted = small_segmenter.predict_points(copy, points[:, None])
    best, chosen = predicted.max(1)
    logits = logits[torch.arange(16), chosen][:, None, :32, :32]
    enlarged = F.interpolate(logits, size=(64, 64), mode="bilinear")[:, 0]
    keep = (best > CONFIG.iou_threshold) & ((enlarged > 0).double().mean((1, 2)) >= LEAST_SHARE)
    enlarged = enlarged[keep]
    assert len(found) == len(own) + int(keep.sum()) > len(own)
    assert torch.equal(found.mask_logits[: len(own)], own.mask_logits)
    torch.testing.assert_close(found.mask_logits[len(own) :], enlarged, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found.predicted_iou[len(own) :], best[keep], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.points[len(own) :], 2 * points[keep])
    assert found.voters.votes.shape[1:] == (64, 64)
    assert len(found.voters) > len(own.voters)
    assert ((found.voters.votes[len(own.voters) :] > 0).double().mean((1, 2)) >= LEAST_SHARE).all()


def test_large_objects_are_found_on_copies(small_segmenter):
    """Objects as they were drawn, enlarged until they fill half of the image."""
    hits = {(): 0.0, (0.3,): 0.0}
    for seed in range(6):
        scene = draw_scene([5, seed], range(100, 104), featured=100)
        ys, xs = np.nonzero(scene.masks[0])
        size = 2 * max(np.ptp(ys), np.ptp(xs))
        top, left = (int(np.clip(v.mean() - size / 2, 0, SIDE - size)) for v in (ys, xs))
        window = (slice(top, top + size), slice(left, left + size))
        image = np.asarray(Image.fromarray(scene.image[window]).resize((SIDE, SIDE)))
        mask = np.asarray(Image.fromarray(scene.masks[0][window]).resize((SIDE, SIDE)))
        for scales in hits:
            preset = replace(DEFAULT, proposals=replace(DEFAULT.proposals, scales=scales))
            encoded = small_segmenter.embed(normalise(stretch(image, SIDE)))
            found = propose_at_scales(small_segmenter, normalise(stretch(image, SIDE)), encoded, preset.proposals)
            hits[scales] += float(proposal_hits(torch.from_numpy(mask)[None], found.mask_logits, (SIDE, SIDE))[0])
    assert hits[0.3,] > hits[()]


def test_targets_and_cache_keys_know_the_scales(small_segmenter, small_encoder):
    image = draw_scene([5, 0], range(100, 104), featured=100).image
    scaled = replace(DEFAULT, proposals=replace(DEFAULT.proposals, scales=(0.5,)))
    alone, more = (encode_target(image, small_encoder, small_segmenter, preset) for preset in (DEFAULT, scaled))
    assert len(more.proposals) > len(alone.proposals)
    keys = [target_settings(small_encoder, small_segmenter, preset) for preset in (DEFAULT, scaled)]
    assert "scales" not in keys[0]["proposals"]
    assert keys[1]["proposals"]["scales"] == (0.5,)
    assert preset_fingerprint(scaled) != preset_fingerprint(DEFAULT)


@pytest.mark.parametrize("scales", [(0.0,), (1.0,), (0.5, 2.0)])
def test_scales_out_of_range_are_refused(scales):
    with pytest.raises(ValueError, match="scales must lie between 0 and 1"):
        ProposalConfig(scales=scales)
