"""All operators on photographs, if a folder `shared/photos` exists beside the checkout.

The small models were not trained on photographs, so the results are not checked; only that every step works, reports
its result, and leaves nothing incomplete.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paths import SHARED
from scipy import ndimage

from nts.images import read_image

PHOTOS = SHARED / "photos"
URI = "@nts/reference-segmentation"

pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs beside the checkout")


def instances_of_photo(fo, path: Path) -> list:
    """Connected components of a class mask as detections, without specks of a few pixels."""
    mask = read_image(PHOTOS / "masks" / path.parent.name / f"{path.stem}.png").max(2) >= 128
    parts, count = ndimage.label(mask)
    separate = [parts == k for k in range(1, count + 1)]
    return [fo.Detection.from_mask(part, label=path.parent.name) for part in separate if part.sum() >= 50]


@pytest.fixture
def photographs(fo, make_dataset):
    samples = []
    for path in sorted((PHOTOS / "images").glob("*/*.jpg")):
        sample = fo.Sample(path, tags=[path.parent.name, f"number {path.stem}"])
        sample["truth"] = fo.Detections(detections=instances_of_photo(fo, path))
        samples.append(sample)
    return make_dataset(samples)


@pytest.mark.parametrize("shots", [1, 3, 5])
def test_memory_segmentation_and_evaluation_of_photographs(fo, photographs, shots):
    import fiftyone.operators as foo

    references = photographs.match_tags([f"number {k}" for k in range(1, shots + 1)])
    assert len(references) == 2 * shots
    memory = foo.get_operator(f"{URI}/build_reference_memory")(references, "truth", "photos")
    assert set(memory.shots) == {"apple", "basketball"}
    assert min(memory.shots.values()) >= shots
    assert memory.skipped == []

    targets = photographs.exclude(references).limit(4) if shots < 5 else photographs
    found = foo.get_operator(f"{URI}/auto_segment_view")(targets, "photos", "found")
    assert found.segmented == len(targets)
    assert found.failed == {}
    photographs.reload()
    for detections in targets.values("found.detections"):
        for detection in detections:
            assert detection.label in ("apple", "basketball")
            assert 0 < detection.confidence <= 1
            assert -1 <= detection.similarity <= 1
            assert detection.score <= 1
            assert np.isfinite(detection.predicted_iou)
            assert detection.mask.any()

    instances = [detection for of_image in targets.values("found.detections") for detection in of_image]
    by_score = [detection.confidence for detection in sorted(instances, key=lambda detection: detection.score)]
    assert by_score == sorted(by_score)  # a probability follows its score

    report = foo.get_operator(f"{URI}/evaluate_nap")(targets, "found", "truth")
    assert report.result.images == len(targets) - (2 * shots if shots == 5 else 0)
    assert 0 <= report.result.masks.novel.ap <= report.result.masks.novel.ap50 <= 1
