"""The pipeline with the shipped models, on drawn scenes and, if available, on photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from novel_references import novel_references
from paths import SHARED

from nts import pipeline
from nts.building import build_memory
from nts.images import read_image
from nts.memory import EncoderInfo, EncoderMismatch, MemoryBank
from nts.metrics.coco import coco_results
from nts.pipeline import ReferenceSegmenter, encode_target, encode_together, prepare_image
from nts.presets import DEFAULT, PRESETS
from nts.references import Reference
from nts.tiling import Tiling
from synthetic.scenes import target_scenes

PHOTOS = SHARED / "photos"


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    return build_memory(novel_references(3, shots=2), small_encoder)[0]


@pytest.fixture(scope="module")
def target(small_encoder, small_segmenter):
    return encode_target(target_scenes(1)[0].image, small_encoder, small_segmenter)


def test_segmenting_equals_encoding_then_matching(memory, target, small_encoder, small_segmenter):
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    found = segmenter.segment(target_scenes(1)[0].image)
    again = segmenter.match(target)
    assert len(found) > 0
    assert torch.equal(found.scores, again.scores)
    assert found.image_size == (256, 256)
    for label, reference in zip(found.labels.tolist(), found.references.tolist(), strict=True):
        assert memory.entries[reference].class_name == segmenter.classes[label]


@pytest.mark.parametrize("fits", [1, 3, 5])
def test_images_encoded_together_have_the_targets_of_single_ones(fits, small_encoder, small_segmenter, monkeypatch):
    models = small_encoder, small_segmenter
    images = [prepare_image(scene.image[: 256 - 20 * k], *models) for k, scene in enumerate(target_scenes(5))]
    expected = [encode_target(image, *models) for image in images]
    encode, batches = small_encoder.encode, []

    def limited(pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        if len(pixels) > fits:
            raise torch.OutOfMemoryError("too much")
        return encode(pixels)

    with monkeypatch.context() as patch:
        patch.setattr(small_encoder, "encode", limited)
        encoded = encode_together(images, *models)
    assert batches == {1: [5, 2, 1, 1, 3, 1, 2, 1, 1], 3: [5, 2, 3], 5: [5]}[fits]
    for image, one, alone in zip(images, encoded, expected, strict=True):
        found = encode_target(one, *models)
        assert one.image_size == found.image_size == image.image_size
        assert torch.allclose(found.tokens, alone.tokens, atol=1e-3)
        assert torch.equal(found.proposals.points, alone.proposals.points)
        assert torch.allclose(found.proposals.mask_logits, alone.proposals.mask_logits, atol=1e-2)
        assert torch.allclose(found.features, alone.features, atol=1e-3)
    assert not torch.allclose(encoded[0].tokens, encoded[1].tokens, atol=0.1)


def test_tiles_encoded_together_are_those_encoded_one_by_one(memory, small_encoder, small_segmenter, monkeypatch):
    preset = replace(DEFAULT, tiling=Tiling((2, 2)))
    engine = ReferenceSegmenter(memory, small_encoder, small_segmenter, preset)
    image = np.concatenate([scene.image for scene in target_scenes(2)], 1)
    expected = engine.encode(image)
    monkeypatch.setattr(pipeline, "images_per_batch", lambda device: 3)
    found = engine.encode(image)
    assert len(found) == len(expected) > 5
    assert torch.allclose(found.features, expected.features, atol=1e-3)
    assert (found.masks.areas - expected.masks.areas).abs().max() <= 4


def test_boxes_span_the_masks(memory, target, small_encoder, small_segmenter):
    found = ReferenceSegmenter(memory, small_encoder, small_segmenter).match(target)
    for mask, box in zip(found.masks, found.boxes.int().tolist(), strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_objects_of_the_memory_s_classes_are_found(memory, small_encoder, small_segmenter):
    """Scenes of the references themselves: most featured objects must be found with their class."""
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    right = 0
    references = novel_references(3, shots=2)
    for reference in references:
        found = segmenter.segment(reference.image)
        mask = torch.from_numpy(reference.mask)
        iou = (found.masks & mask).flatten(1).sum(1) / (found.masks | mask).flatten(1).sum(1)
        names = [segmenter.classes[label] for label in found.labels.tolist()]
        good = [i for i, name in enumerate(names) if name == reference.class_name and iou[i] > 0.5]
        right += bool(good)
    assert right >= 4, f"{right} of {len(references)}"


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (37, 90)])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_images_of_any_shape_are_segmented(memory, small_encoder, small_segmenter, shape, preset):
    image = np.random.default_rng(1).integers(0, 255, (*shape, 3), np.uint8)
    found = ReferenceSegmenter(memory, small_encoder, small_segmenter, preset).segment(image)
    assert found.masks.shape[1:] == shape
    assert found.scores.isfinite().all()
    assert len(coco_results(found, 1, [1, 2, 3])) == len(found)


def test_memory_of_another_encoder_is_refused(small_encoder, small_segmenter):
    bank = MemoryBank(EncoderInfo("facebook/dinov2-large", "0" * 64, 518, 1024))
    with pytest.raises(EncoderMismatch, match=r"made by the encoder 'facebook/dinov2-large'.*not by 'small'"):
        ReferenceSegmenter(bank, small_encoder, small_segmenter)


def test_empty_memory_is_refused(small_encoder, small_segmenter):
    with pytest.raises(ValueError, match="the memory is empty"):
        ReferenceSegmenter(MemoryBank(small_encoder.info), small_encoder, small_segmenter)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs beside the checkout")
@pytest.mark.parametrize("preset", list(PRESETS))
def test_photographs_are_segmented_without_error(small_encoder, small_segmenter, preset):
    """The small models were not trained on photographs: only errors are checked."""
    built = []
    for name in ("apple", "basketball"):
        image = read_image(PHOTOS / "images" / name / "1.jpg")
        mask = read_image(PHOTOS / "masks" / name / "1.png").max(2) >= 128
        built.append(Reference(image, name, mask))
    memory, skipped = build_memory(built, small_encoder, preset)
    assert memory.classes == ("apple", "basketball")
    assert skipped == []
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter, preset)
    for path in sorted((PHOTOS / "images").glob("*/2.jpg")):
        found = segmenter.segment(read_image(path))
        assert found.scores.isfinite().all()
        assert found.image_size == (224, 224)
