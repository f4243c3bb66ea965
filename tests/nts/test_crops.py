"""Features from crops: those of references, embedded once each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nts.crops import CROP_PATCHES, TargetCrops, embed_crops
from nts.encoder import Encoder
from nts.masks import boxes_of_masks
from nts.memory import instance_prototype
from nts.proposal_masks import LogitMasks
from nts.references import Reference, prepare_reference
from synthetic.scenes import target_scenes

SCENE = target_scenes(1)[0]


def as_reference(encoder: Encoder, mask: np.ndarray) -> torch.Tensor:
    """Features of an object as a reference, at the size of crops."""
    pixels, weights = prepare_reference(
        Reference(SCENE.image, "a", mask), CROP_PATCHES * encoder.patch_size, (CROP_PATCHES, CROP_PATCHES)
    )
    tokens = encoder.encode(pixels[None])[0]
    return F.normalize(instance_prototype(tokens.flatten(0, 1), weights.flatten()), dim=0)


def cut(masks: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
    boxes = boxes_of_masks(torch.from_numpy(masks))
    boxes[:, 2:] += 1
    crops = [torch.from_numpy(mask[y1:y2, x1:x2]) for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True)]
    return crops, boxes


def odd_masks() -> np.ndarray:
    """A pixel in a corner, a line across the image, everything, and a small square."""
    masks = np.zeros((4, 256, 256), bool)
    masks[0, 255, 0] = True
    masks[1, 100] = True
    masks[2] = True
    masks[3, 40:52, 200:212] = True
    return masks


@pytest.mark.parametrize("masks", [SCENE.masks, odd_masks()], ids=["objects", "odd"])
def test_an_object_is_embedded_as_a_reference_is(small_encoder, masks):
    found = embed_crops(SCENE.image, *cut(masks), small_encoder)
    expected = torch.stack([as_reference(small_encoder, mask) for mask in masks])
    assert torch.allclose(found, expected, atol=1e-4)
    assert found.norm(dim=1).tolist() == pytest.approx([1] * len(masks), abs=1e-5)


def test_no_objects_have_no_features(small_encoder):
    assert embed_crops(SCENE.image, [], torch.zeros(0, 4), small_encoder).shape == (0, small_encoder.info.dim)


def make_masks() -> LogitMasks:
    return LogitMasks(F.avg_pool2d(torch.from_numpy(SCENE.masks).float(), 4) - 0.5, (256, 256))


def test_every_proposal_is_embedded_once_and_the_image_is_read_once(small_encoder):
    read = []

    def image() -> np.ndarray:
        read.append(1)
        return SCENE.image

    crops, masks = TargetCrops(image, small_encoder), make_masks()
    first = crops.of(masks, torch.tensor([1, 0]))
    assert (crops.new, sorted(crops.features)) == (2, [0, 1])
    assert torch.equal(crops.of(masks, torch.tensor([0, 1])), first[[1, 0]])
    assert crops.new == 2
    drawn, boxes = masks.crops(torch.tensor([1, 0]))
    assert torch.allclose(first, embed_crops(SCENE.image, drawn, boxes, small_encoder), atol=1e-5)
    assert len(read) == 1


def test_known_features_need_no_image(small_encoder):
    def image() -> np.ndarray:
        raise AssertionError("the image was read")

    known = {k: F.normalize(torch.randn(small_encoder.info.dim), dim=0) for k in range(2)}
    crops = TargetCrops(image, small_encoder, known)
    assert torch.equal(crops.of(make_masks(), torch.tensor([1, 0])), torch.stack([known[1], known[0]]))
    assert crops.of(make_masks(), torch.zeros(0, dtype=torch.int64)).shape == (0, small_encoder.info.dim)
    assert crops.new == 0


def test_only_missing_ones_are_embedded(small_encoder):
    known = {0: F.normalize(torch.randn(small_encoder.info.dim), dim=0)}
    crops = TargetCrops(lambda: SCENE.image, small_encoder, known)
    found = crops.of(make_masks(), torch.tensor([0, 1]))
    assert torch.equal(found[0], known[0])
    assert crops.new == 1
