"""Predictions in FiftyOne's embeddings panel and in its search for similar ones."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest

FIELD = "nts_shapes"


@pytest.fixture
def search(nts_fo) -> ModuleType:
    return importlib.import_module("nts.fiftyone_adapter.prediction_search")


@pytest.fixture
def segmented(nts_fo, targets, memory):
    nts_fo.auto_segment_view(targets, "shapes")
    return targets


def test_predictions_are_mapped_and_found_by_similarity(search, drawn, segmented):
    total = segmented.count(f"{FIELD}.detections")
    report = search.index_predictions(drawn, FIELD)
    assert (report.predictions, report.left_out) == (total, 0)
    points = drawn.load_brain_results(report.embeddings_key)
    assert points.points.shape == (total, 2)
    assert set(points.label_ids) == set(segmented.values(f"{FIELD}.detections.id", unwind=True))

    names = [f"{FIELD}.detections.{name}" for name in ("id", "feature")]
    ids, features = segmented.values(names, unwind=True)
    found = drawn.to_patches(FIELD).sort_by_similarity(ids[0], k=6, brain_key=report.similarity_key).values("id")
    centred = np.array(features, float) - np.mean(features, axis=0, dtype=float)  # as FiftyOne Brain compares them
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = dict(zip(ids, centred @ centred[0], strict=True))
    nearest = sorted(cosines, key=lambda each: -cosines[each])[:6]
    assert [cosines[each] for each in found] == pytest.approx([cosines[each] for each in nearest], abs=1e-2)


def test_they_go_with_the_predictions(nts_fo, search, drawn, segmented):
    search.index_predictions(drawn, FIELD)
    search.index_predictions(drawn, FIELD)
    assert len(drawn.list_brain_runs()) == 2
    nts_fo.runs.delete_run(drawn, FIELD, nts_fo.runs.SEGMENTATION)
    assert drawn.list_brain_runs() == []


def test_predictions_that_are_replaced_take_them_along(nts_fo, search, decisions, drawn, segmented):
    search.index_predictions(drawn, FIELD)
    decisions.decide(segmented, FIELD, "accepted", [segmented.first()[FIELD].detections[0].id])
    nts_fo.auto_segment_view(segmented, "shapes", score_threshold=0.2, overwrite=True)
    assert drawn.list_brain_runs() == []


def test_what_cannot_be_mapped_is_refused(nts_fo, search, drawn, segmented):
    for arguments, message in (
        (("ground_truth",), "not a field of predictions"),
        ((FIELD, "lda"), "there is no projection 'lda'"),
    ):
        with pytest.raises(nts_fo.InputError, match=message):
            search.index_predictions(drawn, *arguments)
    with pytest.raises(nts_fo.InputError, match="at least 3 are needed"):
        search.index_predictions(drawn.limit_labels(f"{FIELD}.detections", 1).limit(2), FIELD)


def test_a_missing_package_leaves_the_earlier_map(nts_fo, search, drawn, segmented, monkeypatch):
    search.index_predictions(drawn, FIELD)
    before = drawn.list_brain_runs()
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(nts_fo.InputError, match="needs the package umap-learn"):
        search.index_predictions(drawn, FIELD, "umap")
    assert drawn.list_brain_runs() == before


def test_a_brain_run_of_the_user_is_not_replaced(nts_fo, search, drawn, segmented):
    import fiftyone.brain as fob

    features = np.random.default_rng(0).normal(size=(len(drawn), 4))
    fob.compute_visualization(drawn, embeddings=features, method="pca", brain_key=f"{FIELD}_embeddings")
    with pytest.raises(nts_fo.InputError, match="is taken by a run on something else"):
        search.index_predictions(drawn, FIELD)
    assert drawn.list_brain_runs() == [f"{FIELD}_embeddings"]
    nts_fo.runs.delete_run(drawn, FIELD, nts_fo.runs.SEGMENTATION)
    assert drawn.list_brain_runs() == [f"{FIELD}_embeddings"]
