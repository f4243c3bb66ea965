"""Labels of a segmentation that a person has decided about outlive the run that made them."""

from __future__ import annotations

import fiftyone as fo
from fiftyone import ViewField as F

from .storage import Collection, all_images, in_batches

DECISION = "decision"
"""Attribute of a label: ``"accepted"``, ``"corrected"``, or one of :data:`REFUSED`; none while undecided."""

REFUSED = ("rejected", "wrong outline")
"""Decisions against a label: it is not used, in evaluations and copies."""

UNFINISHED = "unfinished"
"""Attribute of an image's labels: only the decided ones are left, and a run has yet to add its predictions."""


def with_decisions(view: Collection, field: str) -> fo.DatasetView:
    """Images of the whole dataset that have decided labels in a field, with these labels only."""
    return all_images(view).filter_labels(field, F(DECISION) != None)  # noqa: E711


def count_decided(view: Collection, field: str) -> int:
    """Number of decided labels in a field of the whole dataset."""
    if not view._root_dataset.has_sample_field(field):
        return 0
    return with_decisions(view, field).count(f"{field}.detections")


def keep_decided(view: Collection, field: str) -> None:
    """Remove the undecided labels of a field from the whole dataset. Call it under the lock."""
    dataset = view._root_dataset
    dataset.add_sample_field(f"{field}.{UNFINISHED}", fo.BooleanField)
    for ids in in_batches(all_images(view).exists(field).values("id")):
        samples = with_decisions(view, field).select(ids)
        kept = dict(zip(*samples.values(["id", f"{field}.detections"]), strict=True))
        values = {
            sample_id: fo.Detections(detections=kept[sample_id], **{UNFINISHED: True}) if sample_id in kept else None
            for sample_id in ids
        }
        dataset.set_values(field, values, key_field="id")
