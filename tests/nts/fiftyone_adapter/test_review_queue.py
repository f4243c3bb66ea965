"""Predictions to review first: their features, and the queue."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch

FIELD = "nts_shapes"


@pytest.fixture
def review_queue(nts_fo) -> ModuleType:
    return importlib.import_module("nts.fiftyone_adapter.review_queue")


@pytest.fixture
def segmented(nts_fo, targets, memory):
    nts_fo.auto_segment_view(targets, "shapes")
    return targets


def test_predictions_carry_the_feature_that_was_compared(nts_fo, drawn, segmented):
    bank = nts_fo.load_memory(drawn, "shapes")
    references = torch.nn.functional.normalize(bank.instance_prototypes(), dim=1)
    labels = segmented.values(f"{FIELD}.detections", unwind=True)
    assert labels
    for label in labels:
        feature = torch.from_numpy(label.feature.astype(np.float32))
        assert feature.shape == (bank.encoder.dim,)
        assert float(feature.norm()) == pytest.approx(1, abs=1e-2)
        nearest = bank.entries[int((references @ feature).argmax())]
        assert nearest.class_name == label.label


def test_the_queue_holds_undecided_predictions_only(review_queue, decisions, segmented):
    total = segmented.count(f"{FIELD}.detections")
    first = review_queue.review_queue(segmented, FIELD, 3)
    assert len(first) == 3
    decisions.decide(segmented, FIELD, "rejected", first[:1])
    assert first[0] not in review_queue.review_queue(segmented, FIELD, total)
    assert len(review_queue.review_queue(segmented, FIELD, total)) == total - 1


def test_predictions_without_a_feature_are_ranked_by_their_score(review_queue, segmented):
    ids, scores = segmented.values([f"{FIELD}.detections.id", f"{FIELD}.detections.confidence"], unwind=True)
    dataset = segmented._root_dataset
    dataset.set_label_values(f"{FIELD}.detections.feature", dict.fromkeys(ids))
    ranked = [ids[k] for k in np.argsort([-score for score in scores], kind="stable")]
    assert review_queue.review_queue(segmented, FIELD, len(ids)) == ranked
