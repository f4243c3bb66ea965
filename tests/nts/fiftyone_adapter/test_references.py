"""Detections as references: geometry, orientation, and reasons for skipped labels."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_dataset import blobs
from PIL import Image

from nts.building import Skipped
from nts.references import Reference


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"bounding_box": [0, 0, 1, 1], "mask": np.ones((2, 2), bool)}, "it has no class"),
        ({"label": "a", "bounding_box": [0, 0, 1, 1], "mask": np.zeros((2, 2), bool)}, "its mask is empty"),
        (
            {"label": "a", "bounding_box": [1.2, 0.5, 0.5, 0.5], "mask": np.ones((2, 2), bool)},
            "its box [1.2, 0.5, 0.5, 0.5] lies outside its image",
        ),
        (
            {"label": "a", "bounding_box": [-0.5, 0, 1, 1], "mask": np.array([[True, False]])},
            "nothing of its mask is left on its image",
        ),
        (
            {"label": "a", "bounding_box": [float("nan"), 0, 1, 1], "mask": np.ones((2, 2), bool)},
            "its box [nan, 0, 1, 1] is not finite",
        ),
        ({"label": "a", "bounding_box": [0, 0, 1, 1], "mask_path": "/nowhere.png"}, "its mask file /nowhere.png is"),
    ],
    ids=["no class", "empty", "outside", "cut away", "nan", "no file"],
)
def test_label_that_is_no_reference_says_why(fo, tmp_path, label, reason):
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    sample = fo.Sample(tmp_path / "a.png", field=fo.Detections(detections=[fo.Detection(**label)]))
    (skipped,) = references_of_sample(sample, annotations_of_sample(sample, "field", {}))
    assert isinstance(skipped, Skipped)
    assert skipped.reason.startswith(reason)
    assert skipped.label_id == sample.field.detections[0].id


def test_box_without_a_mask_marks_the_whole_box(fo, tmp_path):
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    detection = fo.Detection(label="a", bounding_box=[0.5, 0.2, 0.25, 0.5])
    sample = fo.Sample(tmp_path / "a.png", field=fo.Detections(detections=[detection]))
    (reference,) = references_of_sample(sample, annotations_of_sample(sample, "field", {}))
    assert isinstance(reference, Reference)
    assert reference.kind == "box"
    assert reference.mask[2:7, 10:15].all()
    assert reference.mask.sum() == 25
    assert reference.box == pytest.approx((10, 2, 5, 5))


def test_reference_follows_the_orientation_of_its_image(fo, tmp_path):
    """Labels refer to the displayed image, rotated by its EXIF orientation."""
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    detection = fo.Detection(label="a", bounding_box=[0, 0, 0.5, 0.25], mask=np.ones((10, 10), bool))
    sample = fo.Sample(tmp_path / "a.jpg", field=fo.Detections(detections=[detection]))
    (reference,) = references_of_sample(sample, annotations_of_sample(sample, "field", {}))
    assert reference.image.shape == (40, 20, 3)
    assert reference.mask[:10, :10].all()
    assert reference.mask.sum() == 100


def test_box_in_whole_pixels_comes_back_in_whole_pixels(fo, tmp_path):
    """The crop truncates: a box at 56.9999 instead of 57 would be off by one pixel."""
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (231, 173)).save(tmp_path / "a.png")
    masks = blobs(np.random.default_rng(3), 200, 173, 231)
    detections = [fo.Detection.from_mask(mask, label="a") for mask in masks]
    sample = fo.Sample(tmp_path / "a.png", field=fo.Detections(detections=detections))
    for mask, reference in zip(
        masks, references_of_sample(sample, annotations_of_sample(sample, "field", {})), strict=True
    ):
        ys, xs = mask.nonzero()
        assert reference.box == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
