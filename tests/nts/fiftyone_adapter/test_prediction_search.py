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


def map_of(dataset) -> dict:
    """Labels of the map by id."""
    return {label.id: label for label in dataset.values(f"{FIELD}_map.detections", unwind=True)}


def test_predictions_are_mapped_and_found_by_similarity(nts_fo, search, drawn, segmented, memory):
    total = segmented.count(f"{FIELD}.detections")
    report = search.index_predictions(drawn, FIELD)
    bank = nts_fo.load_memory(drawn, memory)
    assert (report.predictions, report.left_out, report.elsewhere) == (total, 0, 0)
    assert (report.references, report.negatives) == (len(bank.entries), len(bank.negatives))
    assert report.negatives > 0
    points = drawn.load_brain_results(report.embeddings_key)
    assert points.points.shape == (total + len(bank.entries) + len(bank.negatives), 2)
    assert set(points.label_ids) == set(map_of(drawn))
    assert set(points.label_ids) > set(segmented.values(f"{FIELD}.detections.id", unwind=True))

    names = [f"{FIELD}.detections.{name}" for name in ("id", "feature")]
    ids, features = segmented.values(names, unwind=True)
    found = drawn.to_patches(FIELD).sort_by_similarity(ids[0], k=6, brain_key=report.similarity_key).values("id")
    centred = np.array(features, float) - np.mean(features, axis=0, dtype=float)  # as FiftyOne Brain compares them
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = dict(zip(ids, centred @ centred[0], strict=True))
    nearest = sorted(cosines, key=lambda each: -cosines[each])[:6]
    assert [cosines[each] for each in found] == pytest.approx([cosines[each] for each in nearest], abs=1e-2)


def test_points_are_the_projection_of_what_was_compared(nts_fo, search, drawn, segmented, memory):
    from sklearn.decomposition import PCA

    report = search.index_predictions(drawn, FIELD)
    stored = drawn.load_brain_results(report.embeddings_key)
    placed = dict(zip(stored.label_ids, stored.points, strict=True))
    ids, features = segmented.values([f"{FIELD}.detections.{name}" for name in ("id", "feature")], unwind=True)
    bank = nts_fo.load_memory(drawn, memory)
    vectors = [*features, *(each.prototype.numpy() for each in (*bank.entries, *bank.negatives))]
    unit = np.array([vector / np.linalg.norm(vector) for vector in np.array(vectors, float)])
    expected = PCA(2).fit_transform(unit)
    found = np.array([placed[each] for each in [*ids, *(entry.label_id for entry in bank.entries)]])
    rows = len(found)
    signs = np.sign((found * expected[:rows]).sum(0))
    assert found * signs == pytest.approx(expected[:rows], abs=1e-3)


def test_the_map_shows_references_and_negatives_where_they_are(nts_fo, search, drawn, segmented, memory):
    search.index_predictions(drawn, FIELD)
    labels, bank = map_of(drawn), nts_fo.load_memory(drawn, memory)
    truth = {label.id: label for label in drawn.values("ground_truth.detections", unwind=True)}
    for entry in bank.entries:
        shown = labels[entry.label_id]
        assert (shown.label, shown.role, shown.decision) == (entry.class_name, "reference", None)
        assert shown.bounding_box == pytest.approx(truth[entry.label_id].bounding_box)
    negatives = [label for label in labels.values() if label.role == "negative"]
    assert {label.label for label in negatives} == {None}
    assert all(label.bounding_box == [0, 0, 1, 1] for label in negatives), "they are proposals without a label"
    images = {entry.sample_id for entry in (*bank.entries, *bank.negatives)}
    shown_in = {sample.id for sample in drawn if any(x.role != "prediction" for x in sample[f"{FIELD}_map"].detections)}
    assert shown_in == images
    predicted = {label.id: label for label in segmented.values(f"{FIELD}.detections", unwind=True)}
    for label_id, label in predicted.items():
        shown = labels[label_id]
        assert (shown.label, shown.role) == (label.label, "prediction")
        assert (shown.bounding_box, shown.confidence) == (label.bounding_box, label.confidence)
        assert shown.mask is None


def test_references_of_other_datasets_are_counted(nts_fo, search, drawn, segmented, references, memory):
    bank = nts_fo.load_memory(drawn, memory)
    gone = references.first().id
    of_gone = [each for each in (*bank.entries, *bank.negatives) if each.sample_id == gone]
    drawn.delete_samples([gone])
    report = search.index_predictions(drawn, FIELD)
    assert report.elsewhere == len(of_gone) > 0
    assert report.references + report.negatives == len(bank.entries) + len(bank.negatives) - len(of_gone)


def test_predictions_of_a_memory_that_is_gone_are_mapped_alone(search, drawn, segmented, memory):
    drawn.delete_run(memory)  # by FiftyOne, which leaves the predictions
    report = search.index_predictions(drawn, FIELD)
    assert (report.references, report.negatives, report.elsewhere) == (0, 0, 0)
    assert {label.role for label in map_of(drawn).values()} == {"prediction"}


def test_a_memory_of_another_encoder_is_not_compared(nts_fo, search, drawn, segmented, memory):
    nts_fo.runs.update(drawn, FIELD, encoder_fingerprint="another")
    report = search.index_predictions(drawn, FIELD)
    assert (report.references, report.negatives) == (0, 0)


def test_decided_labels_of_an_earlier_encoder_are_left_out(search, drawn, segmented):
    names = [f"{FIELD}.detections.{name}" for name in ("id", "feature")]
    ids, features = segmented.values(names, unwind=True)
    drawn.set_label_values(names[1], {ids[0]: features[0][:8], ids[1]: features[1][:8]})
    report = search.index_predictions(drawn, FIELD)
    assert (report.predictions, report.left_out) == (len(ids) - 2, 2)
    assert report.references > 0
    assert report.similarity_key is None
    assert drawn.list_brain_runs() == [report.embeddings_key]


def test_a_prediction_that_was_taught_is_one_point(nts_fo, search, decisions, drawn, segmented, memory):
    teaching = importlib.import_module("nts.fiftyone_adapter.teaching")
    accepted, rejected = (label.id for label in segmented.first()[FIELD].detections[:2])
    decisions.decide(drawn, FIELD, "accepted", [accepted])
    decisions.decide(drawn, FIELD, "rejected", [rejected])
    teaching.teach(segmented, FIELD)
    report = search.index_predictions(drawn, FIELD)
    labels, bank = map_of(drawn), nts_fo.load_memory(drawn, memory)
    assert (labels[accepted].role, labels[accepted].decision) == ("reference", "accepted")
    assert (labels[rejected].role, labels[rejected].decision) == ("negative", "rejected")
    assert (report.references, report.negatives) == (len(bank.entries), len(bank.negatives))
    assert len(labels) == segmented.count(f"{FIELD}.detections") + len(bank.entries) + len(bank.negatives) - 2


def test_decisions_are_those_of_the_predictions(search, decisions, drawn, segmented):
    first, second, third = (label.id for label in segmented.first()[FIELD].detections[:3])
    decisions.decide(drawn, FIELD, "accepted", [first])
    search.index_predictions(drawn, FIELD)
    assert map_of(drawn)[first].decision == "accepted"
    before = decisions.decide(drawn, FIELD, "corrected", [first, second], class_name="other")
    shown = map_of(drawn)
    assert {(shown[each].label, shown[each].decision) for each in (first, second)} == {("other", "corrected")}
    assert shown[third].decision is None
    decisions.undo(drawn, FIELD, before)
    shown = map_of(drawn)
    assert (shown[first].decision, shown[second].decision) == ("accepted", None)
    assert shown[first].label == before[0].label


def test_an_edited_prediction_is_shown_as_corrected(search, decisions, drawn, segmented):
    search.index_predictions(drawn, FIELD)
    sample = segmented.first()
    sample[FIELD].detections[0].label = "other"
    sample.save()
    decisions.mark_edited(drawn, FIELD)
    shown = map_of(drawn)[sample[FIELD].detections[0].id]
    assert (shown.label, shown.decision) == ("other", "corrected")


def test_the_embeddings_panel_colours_lassoes_and_hides_by_the_map(search, decisions, drawn, segmented):
    """FiftyOne's own server: colours of a decision are those of now, and a lasso selects by the ids of the labels."""
    from fiftyone.server.routes.embeddings_v2 import EmbeddingsV2Color, EmbeddingsV2LassoStage, EmbeddingsV2Masks

    report = search.index_predictions(drawn, FIELD)
    asked = {"datasetName": drawn.name, "brainKey": report.embeddings_key}

    def colours(attribute: str) -> bytes:
        route = EmbeddingsV2Color.__new__(EmbeddingsV2Color)
        return route._post_sync({**asked, "field": f"{report.map_field}.detections.{attribute}"}).body

    for attribute in ("label", "role", "decision"):
        assert b'"style": "categorical"' in colours(attribute)
    assert b"accepted" not in colours("decision")
    ids = [label.id for label in segmented.first()[FIELD].detections[:2]]
    decisions.decide(drawn, FIELD, "accepted", ids)
    drawn.reload()
    assert b'{"label": "accepted", "count": 2}' in colours("decision")

    order = drawn.load_brain_results(report.embeddings_key).label_ids.tolist()
    lassoed = {**asked, "indices": [order.index(each) for each in ids]}
    patches = drawn.to_patches(report.map_field)
    route = EmbeddingsV2LassoStage.__new__(EmbeddingsV2LassoStage)
    stage = route._post_sync({**lassoed, "view": patches._serialize()})
    assert (stage["_cls"].rpartition(".")[2], set(stage["kwargs"]["sample_ids"])) == ("Select", set(ids))
    stage = route._post_sync({**lassoed, "view": []})
    assert (stage["_cls"].rpartition(".")[2], set(stage["kwargs"]["ids"])) == ("MatchLabels", set(ids))

    masks = EmbeddingsV2Masks.__new__(EmbeddingsV2Masks)
    body = masks._post_sync({**asked, "view": patches.select(ids)._serialize()}).body
    visible = np.unpackbits(np.frombuffer(body[16:], np.uint8)[: -(-len(order) // 8)], bitorder="little")[: len(order)]
    assert [order[k] for k in np.flatnonzero(visible)] == [each for each in order if each in ids]


def test_the_map_is_no_field_of_labels(nts_fo, search, drawn, segmented):
    checks = importlib.import_module("nts.fiftyone_adapter.checks")
    search.index_predictions(drawn, FIELD)
    assert f"{FIELD}_map" not in checks.detections_fields(drawn)
    assert f"{FIELD}_map" not in checks.reference_fields(drawn)
    with pytest.raises(nts_fo.InputError, match="is a map of predictions"):
        checks.check_detections_field(drawn, f"{FIELD}_map", "label field")


def test_its_classes_have_the_colours_of_the_predictions(search, drawn, segmented):
    search.index_predictions(drawn, FIELD)
    drawn.reload()
    colours = {entry["path"]: entry["valueColors"] for entry in drawn.app_config.color_scheme.fields}
    assert colours[f"{FIELD}_map"] == colours[FIELD]


def test_nothing_is_locked_while_the_points_are_computed(search, drawn, segmented, monkeypatch):
    locking = importlib.import_module("nts.fiftyone_adapter.locking")
    project, held = search._project, []

    def watched(*arguments):
        held.append(set(locking._held.ids))
        return project(*arguments)

    monkeypatch.setattr(search, "_project", watched)
    search.index_predictions(drawn, FIELD)
    assert held == [set()]


def test_a_segmentation_that_is_replaced_meanwhile_gets_no_map(nts_fo, search, drawn, segmented, memory, monkeypatch):
    project = search._project

    def meanwhile(*arguments):
        nts_fo.auto_segment_view(segmented, memory, score_threshold=0.2, overwrite=True)
        return project(*arguments)

    monkeypatch.setattr(search, "_project", meanwhile)
    errors = importlib.import_module("nts.fiftyone_adapter.errors")
    with pytest.raises(errors.RunEnded, match="started again meanwhile"):
        search.index_predictions(drawn, FIELD)
    assert not drawn.has_sample_field(f"{FIELD}_map")
    assert drawn.list_brain_runs() == []


def test_a_decision_made_while_the_points_are_computed_is_shown(search, decisions, drawn, segmented, monkeypatch):
    project, label = search._project, segmented.first()[FIELD].detections[0].id

    def meanwhile(*arguments):
        decisions.decide(drawn, FIELD, "accepted", [label])
        return project(*arguments)

    monkeypatch.setattr(search, "_project", meanwhile)
    search.index_predictions(drawn, FIELD)
    assert map_of(drawn)[label].decision == "accepted"


def test_they_go_with_the_predictions(nts_fo, search, drawn, segmented):
    search.index_predictions(drawn, FIELD)
    search.index_predictions(drawn, FIELD)
    assert len(drawn.list_brain_runs()) == 2
    words = nts_fo.runs.run_contents(drawn, FIELD, nts_fo.runs.SEGMENTATION)
    assert f"field '{FIELD}_map'" in words
    assert nts_fo.runs.delete_run(drawn, FIELD, nts_fo.runs.SEGMENTATION) == words
    assert drawn.list_brain_runs() == []
    assert not drawn.has_sample_field(f"{FIELD}_map")
    assert f"{FIELD}_map" not in {entry["path"] for entry in drawn.app_config.color_scheme.fields}


def test_predictions_that_are_replaced_take_them_along(nts_fo, search, decisions, drawn, segmented):
    search.index_predictions(drawn, FIELD)
    decisions.decide(segmented, FIELD, "accepted", [segmented.first()[FIELD].detections[0].id])
    nts_fo.auto_segment_view(segmented, "shapes", score_threshold=0.2, overwrite=True)
    assert drawn.list_brain_runs() == []
    assert not drawn.has_sample_field(f"{FIELD}_map")


def test_a_field_of_the_user_is_not_replaced(nts_fo, search, drawn, segmented):
    import fiftyone as fo

    drawn.add_sample_field(f"{FIELD}_map", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    with pytest.raises(nts_fo.InputError, match="was not made by index_predictions"):
        search.index_predictions(drawn, FIELD)
    nts_fo.runs.delete_run(drawn, FIELD, nts_fo.runs.SEGMENTATION)
    assert drawn.has_sample_field(f"{FIELD}_map")


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
