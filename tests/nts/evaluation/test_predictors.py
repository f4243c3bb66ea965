"""Predictors and baselines of episodes, on drawn images in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nts.datasets.annotated_images import ANNOTATIONS, AnnotatedImages
from nts.evaluation.baselines import GeometricPrompts, ThresholdedPrior, target_prior
from nts.evaluation.predictors import PREDICTORS, PROMPTED_PREDICTORS, make_predictor
from nts.evaluation.shared_encodings import SharedEncodings
from nts.images import normalise, stretch
from nts.promotion import promote_boxes
from nts.vrp.loading import load_reference_prompt


def test_the_thresholded_prior_is_the_cosine_to_the_patches_that_are_half_covered(encodings, small_encoder, images):
    reference = images[0].reference("reference 1", 1)
    target = images[1].image("target 1")
    grid = small_encoder.grid[0]

    def tokens(image):
        return small_encoder.encode(normalise(stretch(image, small_encoder.info.input_size))[None])[0].flatten(0, 1)

    covered = Image.fromarray(reference.mask.astype(np.float32)).resize((grid, grid), Image.Resampling.BOX)
    chosen = torch.from_numpy(np.array(covered) >= 0.5).flatten()
    assert 0 < chosen.sum() < 100
    cosine = torch.cosine_similarity(tokens(target)[:, None], tokens(reference.image)[chosen][None], dim=-1).amax(1)
    stretched = ((cosine - cosine.min()) / (cosine.max() - cosine.min() + 1e-7)).reshape(1, 1, grid, grid)
    expected = torch.nn.functional.interpolate(stretched, size=target.shape[:2], mode="bilinear")[0, 0]
    found = target_prior(encodings, [reference], target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    masks = [ThresholdedPrior(encodings, threshold)([reference], target) for threshold in (0.5, 0.8)]
    assert masks[0].sum() > masks[1].sum() > 0
    assert not (masks[1] & ~masks[0]).any()


def test_a_single_point_of_a_reference_is_enough(encodings, images):
    reference = images[0].reference("reference 1", 1)
    for y, x in ((0, 0), (128, 7), (255, 255)):
        mask = np.zeros_like(reference.mask)
        mask[y, x] = True
        found = target_prior(encodings, [replace(reference, mask=mask, kind="point")], images[1].image("target 1"))
        assert found.max() > 0.5


def test_references_count_together_in_any_order(encodings, images):
    target = images[1].image("target 1")
    both = [images[0].reference(f"reference {n}", 1) for n in (1, 2)]
    apart = {reference.label_id: target_prior(encodings, [reference], target) for reference in both}
    together = target_prior(encodings, both, target)
    assert not any(torch.equal(together, alone) for alone in apart.values())
    torch.testing.assert_close(target_prior(encodings, both[::-1], target), together)


def test_images_seen_before_are_not_encoded_again_unless_memory_is_short(
    small_encoder, small_segmenter, images, monkeypatch
):
    encoded, original = [], type(small_encoder).encode
    monkeypatch.setattr(type(small_encoder), "encode", lambda self, x: encoded.append(1) or original(self, x))
    target = images[1].image("target 1")
    first, second = images[0].reference("reference 1", 1), images[0].reference("reference 4", 2)
    for budget, expected in ((1 << 30, 3), (1, 5)):
        encoded.clear()
        encodings = SharedEncodings(small_encoder, small_segmenter, budget)
        for reference in (first, second, first, second):
            ThresholdedPrior(encodings)([reference], target)
        assert len(encoded) == expected


@pytest.mark.parametrize("prompts", ["points", "box", "both"])
def test_sam2_is_prompted_with_what_it_was_told_to_be(encodings, prompts):
    pseudo_mask = np.zeros((40, 60), bool)
    pseudo_mask[10:20, 30:50] = True
    points, labels = GeometricPrompts(encodings, prompts).prompt(pseudo_mask)
    again, _ = GeometricPrompts(encodings, prompts).prompt(pseudo_mask)
    assert torch.equal(points, again)
    corners = points[labels != 1].tolist()
    assert corners == ([] if prompts == "points" else [[30, 10], [50, 20]])
    assert labels[labels != 1].tolist() == ([] if prompts == "points" else [2, 3])
    clicked = points[labels == 1]
    assert len(clicked) == (0 if prompts == "box" else 5)
    assert all(pseudo_mask[int(y), int(x)] for x, y in clicked.tolist())
    if prompts != "box":
        other, _ = GeometricPrompts(encodings, prompts, seed=1).prompt(pseudo_mask)
        assert not torch.equal(points, other)
        one = np.zeros_like(pseudo_mask)
        one[3, 4] = True
        assert [4.5, 3.5] in GeometricPrompts(encodings, prompts).prompt(one)[0].tolist()


def test_the_box_of_a_pseudo_mask_gives_the_mask_that_sam2_draws_for_that_box(encodings, small_segmenter, images):
    reference, target = images[0].reference("reference 1", 1), images[1].image("target 1")
    predictor = GeometricPrompts(encodings, "box", 0.9)
    pseudo_mask = ThresholdedPrior(encodings, 0.9)([reference], target)
    ys, xs = pseudo_mask.nonzero()
    box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    found, expected = predictor([reference], target), promote_boxes(target, [box], small_segmenter).masks[0]
    assert (found & expected).sum() / (found | expected).sum() > 0.99


def test_no_similarity_gives_no_instance(encodings, images, monkeypatch):
    target = images[1].image("target 1")
    monkeypatch.setattr("nts.evaluation.baselines.target_prior", lambda *_: torch.zeros(target.shape[:2]))
    for predictor in (ThresholdedPrior(encodings), GeometricPrompts(encodings, "both")):
        assert not predictor([images[0].reference("reference 1", 1)], target).any()


def test_predictors_have_the_names_that_runs_store():
    assert set(PREDICTORS) == {
        "training-free",
        "prior",
        "gp-sam-points",
        "gp-sam-box",
        "gp-sam-both",
        "vrp-map",
        "vrp-scorer",
        "both-scorers",
    }


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_takes_references_of_every_kind(name, small_encoder, small_segmenter, images):
    prompt = load_reference_prompt("small") if name in PROMPTED_PREDICTORS else None
    predictor = make_predictor(name, small_encoder, small_segmenter, prompt=prompt)
    target = images[1].image("target 1")
    for annotation in ANNOTATIONS:
        shown = AnnotatedImages(images[0], annotation, segmenter=small_segmenter)
        found = predictor([shown.reference("reference 1", 1), shown.reference("reference 2", 1)], target)
        assert found.shape == target.shape[:2]
        assert found.dtype == bool


def test_a_predictor_without_its_prompt_is_refused(small_encoder, small_segmenter):
    for name in PROMPTED_PREDICTORS:
        with pytest.raises(ValueError, match=f"the predictor '{name}' needs a trained reference prompt"):
            make_predictor(name, small_encoder, small_segmenter)


def test_an_unknown_predictor_is_told(small_encoder, small_segmenter):
    with pytest.raises(ValueError, match="there is no predictor 'best'; there are training-free, prior, gp-sam-points"):
        make_predictor("best", small_encoder, small_segmenter)
