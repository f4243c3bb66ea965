"""Conversion between FiftyOne's labels and masks."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_dataset import blobs
from made_up_instances import made_up_instances, two_references
from PIL import Image

from nts.calibration import Calibration, Line


def test_masks_come_back_from_fiftyone_exactly(fo):
    from nts.fiftyone_adapter.labels import detection_mask

    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 90, 2)
        (mask,) = blobs(rng, 1, height, width)
        assert (detection_mask(fo.Detection.from_mask(mask), (height, width)) == mask).all()


def test_instances_become_detections_of_the_same_pixels(fo):
    from nts.fiftyone_adapter.labels import detection_mask, to_detections

    height, width = 41, 67
    masks = np.stack(blobs(np.random.default_rng(1), 5, height, width))
    instances, memory = made_up_instances(masks), two_references()
    detections = to_detections(instances, memory).detections

    assert len(detections) == 5
    for k, detection in enumerate(detections):
        assert (detection_mask(detection, (height, width)) == masks[k]).all()
        assert detection.mask.dtype == bool
        x, y, w, h = detection.bounding_box
        assert 0 <= x <= x + w <= 1
        assert 0 <= y <= y + h <= 1
        assert detection.label == memory.classes[instances.labels[k]]
        assert detection.score == detection.confidence == float(instances.scores[k])
        assert detection.similarity == pytest.approx(float(instances.similarities[k]))
        assert detection.margin == pytest.approx(float(instances.margins[k]))
        assert detection.predicted_iou == pytest.approx(float(instances.predicted_iou[k]))
        assert detection.reference_id == memory.entries[instances.references[k]].label_id


def test_confidence_is_the_calibrated_probability_of_the_score(fo):
    from nts.fiftyone_adapter.labels import to_detections

    instances = made_up_instances(np.stack(blobs(np.random.default_rng(1), 5, 41, 67)))
    calibration = Calibration("references", Line(slope=3.0, offset=-1.0))
    for detection, score in zip(
        to_detections(instances, two_references(), calibration).detections, instances.scores.tolist(), strict=True
    ):
        assert detection.score == score
        assert detection.confidence == pytest.approx(1 / (1 + np.exp(1 - 3 * np.log(score / (1 - score)))))


def test_no_instances_become_empty_detections(fo):
    from nts.fiftyone_adapter.labels import to_detections

    detections = to_detections(made_up_instances(np.zeros((0, 4, 5), bool)), two_references())
    assert isinstance(detections, fo.Detections)
    assert detections.detections == []


def test_boxes_are_fractions_that_stay_inside_the_image(fo):
    from nts.fiftyone_adapter.labels import to_detections

    rng = np.random.default_rng(0)
    for height, width in ((7, 3), (333, 1001), (480, 641)):
        masks = np.zeros((40, height, width), bool)
        for mask in masks:
            (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (height, width))
            mask[top:bottom, left:right] = True
        instances = made_up_instances(masks)
        for detection, box in zip(
            to_detections(instances, two_references()).detections, instances.boxes.tolist(), strict=True
        ):
            x1, y1, x2, y2 = map(int, box)
            x, y = x1 / width, y1 / height
            assert detection.bounding_box == [x, y, min((x2 - x1) / width, 1 - x), min((y2 - y1) / height, 1 - y)]


@pytest.mark.parametrize(
    ("label", "box", "mask", "digest"),
    [
        ("a", [0.1, 0.2, 0.3, 0.4], np.tri(3, 5, dtype=bool), "54378a74beea7230"),
        ("a", [0.1 + 1e-12, 0.2, 0.3, 0.4], 255 * np.tri(3, 5, dtype=np.uint8), "54378a74beea7230"),
        ("a", [1 / 3, 0, 1, 2 / 3], None, "46056b2c0cd21676"),
        ("b", ["x"], None, "a306b4a919f657c4"),
        (None, None, None, "e38c33d9a8183793"),
    ],
)
def test_digests_stay_those_of_earlier_versions(fo, label, box, mask, digest):
    """Every label of a field would count as edited otherwise."""
    from nts.fiftyone_adapter.labels import label_digest

    assert label_digest(label, box, mask) == digest


@pytest.mark.parametrize("channels", ["L", "RGBA"])
def test_mask_in_a_file_is_read_like_one_in_the_database(fo, tmp_path, channels):
    from nts.fiftyone_adapter.labels import detection_mask

    mask = np.eye(6, dtype=bool)
    box = [0.25, 0.5, 0.25, 0.25]
    path = str(tmp_path / "mask.png")
    Image.fromarray(mask.astype(np.uint8) * 255).convert(channels).save(path)
    in_file, in_database = fo.Detection(mask_path=path, bounding_box=box), fo.Detection(mask=mask, bounding_box=box)
    assert (detection_mask(in_file, (24, 24)) == detection_mask(in_database, (24, 24))).all()


def test_mask_is_stretched_over_its_box_and_cut_at_the_border(fo):
    from nts.fiftyone_adapter.labels import detection_mask

    stretched = detection_mask(fo.Detection(mask=np.eye(2, dtype=bool), bounding_box=[0, 0, 1, 0.5]), (8, 6))
    assert stretched[:2, :3].all()
    assert stretched[2:4, 3:].all()
    assert stretched.sum() == 12

    cut = detection_mask(fo.Detection(mask=np.ones((4, 4), bool), bounding_box=[-0.25, 0.75, 0.5, 0.5]), (8, 8))
    assert cut[6:, :2].all()
    assert cut.sum() == 4
