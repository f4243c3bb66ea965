"""Masks of COCO annotations."""

from __future__ import annotations

import numpy as np
import pytest

from nts.datasets.coco_records import mask_of_annotation
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
