"""Building memories from a view: selected classes, and skipped labels."""

from __future__ import annotations

import numpy as np
from drawn_dataset import CLASSES, truncate


def test_memory_takes_only_the_classes_asked_for(nts_fo, drawn, references):
    report = nts_fo.build_reference_memory(references, "ground_truth", "one", classes=[CLASSES[1], "unheard-of"])
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == ["unheard-of"]
    assert nts_fo.load_memory(drawn, "one").classes == CLASSES[1:]
    assert drawn.load_run_view("one").values("id") == references.values("id")


def test_memory_reports_skipped_labels_with_a_reason(nts_fo, fo, references):
    first, second, third = list(references)[:3]
    first.ground_truth.detections[0].mask = None
    first.save()
    truncate(second.filepath)
    third.ground_truth.detections.append(fo.Detection(bounding_box=[0, 0, 1, 1], mask=np.ones((2, 2), bool)))
    third.save()

    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes", weak_labels="skip")
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == [CLASSES[0]]
    reasons = [item.reason for item in report.skipped]
    assert reasons[0] == f"label {CLASSES[0]!r} of {first.filepath}: it has a box but no mask"
    assert reasons[1].startswith(f"label {CLASSES[0]!r} of {second.filepath}: the image {second.filepath} cannot be")
    assert reasons[2] == f"label None of {third.filepath}: it has no class"

    raw = nts_fo.build_reference_memory(references, "ground_truth", "raw", weak_labels="raw")
    assert raw.shots == {CLASSES[0]: 1, CLASSES[1]: 2}
    assert (raw.kinds, raw.promoted, raw.unpromoted) == ({"mask": 2, "box": 1}, 0, 0)
    drawn = nts_fo.build_reference_memory(references, "ground_truth", "drawn")
    assert (drawn.kinds, drawn.promoted, drawn.unpromoted) == ({"mask": 2, "box": 1}, 1, 0)
