"""COCO records: masks of annotations, and the part of a data set that is about some images."""

from __future__ import annotations

import numpy as np
import pytest

from nts.datasets.coco_records import mask_of_annotation, of_images
from nts.references import InvalidReference


def test_segmentations_of_every_kind():
    polygon = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    mask = mask_of_annotation(polygon, 8, 10)
    assert mask.shape == (8, 10)
    assert mask.sum() == 12
    counts = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=False))
    runs = np.diff([0, *counts, mask.size]).tolist()
    assert np.array_equal(mask_of_annotation({"segmentation": {"size": [8, 10], "counts": runs}}, 8, 10), mask)
    with pytest.raises(InvalidReference, match="has 10 x 8 pixels, its image 9 x 8"):
        mask_of_annotation({"segmentation": {"size": [8, 10], "counts": runs}}, 8, 9)
    with pytest.raises(InvalidReference, match="no segmentation"):
        mask_of_annotation({"id": 4, "segmentation": []}, 8, 9)


def test_the_part_of_some_images_has_their_annotations_and_all_categories():
    dataset = {
        "images": [{"id": 3}, {"id": "a"}, {"id": 1}],
        "annotations": [{"id": 10, "image_id": 1}, {"id": 11, "image_id": "a"}, {"id": 12, "image_id": 3}],
        "categories": [{"id": 1, "name": "wren"}],
        "info": "all of it",
    }
    part = of_images(dataset, [1, 3])
    assert part == dataset | {
        "images": [{"id": 3}, {"id": 1}],
        "annotations": [{"id": 10, "image_id": 1}, {"id": 12, "image_id": 3}],
    }
    assert of_images(dataset, ()) == dataset | {"images": [], "annotations": []}
    assert len(dataset["images"]) == 3
