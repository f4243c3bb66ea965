"""The FiftyOne model: equal to a segmentation of a view."""

from __future__ import annotations

import pytest
import torch
from calibrated_memory import store_calibrated_memory


def test_apply_model_gives_what_auto_segment_view_gives(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory), preset=quick)
    targets.apply_model(model, label_field="applied", skip_failures=False)
    for sample in targets:
        pairs = zip(sample.applied.detections, sample.nts_shapes.detections, strict=True)
        for applied, segmented in pairs:
            assert applied.label == segmented.label
            assert applied.score == segmented.score
            assert applied.bounding_box == segmented.bounding_box
            assert (applied.mask == segmented.mask).all()


def test_confidence_of_the_model_is_that_in_images_like_the_reference_images(
    nts_fo, references, targets, small_encoder, small_segmenter, quick
):
    bank = store_calibrated_memory(references, "known", small_encoder, small_segmenter, quick)
    for preset in (quick, "paper"):
        model = nts_fo.ReferenceSegmenterModel(bank, preset=preset)
        found = [label for sample in targets for label in model.predict(None, sample).detections]
        scores = torch.tensor([label.score for label in found], dtype=torch.float64)
        calibration = model.segmenter.calibration
        assert (calibration is None) == (preset == "paper")
        probabilities = scores if calibration is None else calibration.probabilities(scores)
        assert len(found) > 1
        assert [label.confidence for label in found] == pytest.approx(probabilities.tolist())


def test_model_segments_a_plain_array_too(nts_fo, fo, drawn, memory, quick):
    from nts.images import read_image

    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory), preset=quick)
    assert (model.media_type, model.ragged_batches, model.transforms, model.preprocess) == ("image", True, None, False)
    assert isinstance(model.predict(read_image(drawn.first().filepath)), fo.Detections)
