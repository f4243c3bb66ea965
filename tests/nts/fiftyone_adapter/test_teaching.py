"""Decisions teach the memory: references, negatives, and what is found with them."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

FIELD = "nts_shapes"


@pytest.fixture
def teaching(nts_fo) -> ModuleType:
    return importlib.import_module("nts.fiftyone_adapter.teaching")


@pytest.fixture
def segmented(nts_fo, drawn, targets, memory):
    nts_fo.auto_segment_view(targets, memory)
    return targets


def label_ids(view) -> list[str]:
    return view.values(f"{FIELD}.detections.id", unwind=True)


def test_accepted_labels_become_references_and_rejected_ones_negatives(nts_fo, decisions, teaching, drawn, segmented):
    bank = nts_fo.load_memory(drawn, "shapes")
    accepted, corrected, rejected, *_ = label_ids(segmented)
    decisions.decide(segmented, FIELD, "accepted", [accepted])
    decisions.decide(segmented, FIELD, "corrected", [corrected], class_name="another shape")
    decisions.decide(segmented, FIELD, "rejected", [rejected])
    new = teaching.lessons(drawn, FIELD)
    assert (set(new.references), new.negatives, new.stale) == ({accepted, corrected}, (rejected,), ())

    report = teaching.teach(segmented, FIELD)
    assert (report.references, report.negatives, report.removed, report.skipped) == (2, 1, 0, [])
    taught = nts_fo.load_memory(drawn, "shapes")
    assert {entry.label_id for entry in taught.entries} == {e.label_id for e in bank.entries} | {accepted, corrected}
    assert "another shape" in taught.classes
    (negative,) = [each for each in taught.negatives if each.source == "rejected"]
    assert negative.label_id == rejected
    assert len(taught.negatives) == len(bank.negatives) + 1

    assert {accepted, corrected, rejected} <= set(label_ids(segmented))
    assert report.segmentation.kept == 3
    assert report.segmentation.from_cache == len(segmented)
    assert drawn.get_run_info(FIELD).config.memory_fingerprint == drawn.get_run_info("shapes").config.fingerprint
    assert len(teaching.lessons(drawn, FIELD)) == 0
    with pytest.raises(nts_fo.InputError, match="no decision in 'nts_shapes' is new to the memory 'shapes'"):
        teaching.teach(segmented, FIELD)


def test_references_of_another_field_have_pictures_and_are_shown(nts_fo, decisions, teaching, drawn, segmented):
    decisions.decide(segmented, FIELD, "rejected", label_ids(segmented)[:1])
    teaching.teach(segmented, FIELD)
    assert label_fields(nts_fo, drawn) == ["ground_truth"]
    for _ in range(2):
        decided = segmented.values(f"{FIELD}.detections.decision", unwind=True)
        accepted = label_ids(segmented)[decided.index(None)]
        decisions.decide(segmented, FIELD, "accepted", [accepted])
        teaching.teach(segmented, FIELD)
        assert label_fields(nts_fo, drawn) == ["ground_truth", FIELD]

    entries = nts_fo.load_memory(drawn, "shapes").entries
    (taught,) = [entry for entry in entries if entry.label_id == accepted]
    assert all(shown.uri for shown in nts_fo.inspecting.thumbnails(drawn, "shapes", entries))
    view = nts_fo.inspecting.references_view(drawn, "shapes", [entries[0], taught])
    assert view.values("id") == [entries[0].sample_id, taught.sample_id]
    assert view.values("ground_truth.detections.id", unwind=True) == [entries[0].label_id]
    assert label_ids(view) == [accepted]


def label_fields(nts_fo, drawn) -> list[str]:
    return nts_fo.runs.label_fields(nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)["shapes"])


def test_the_settings_of_the_segmentation_stay(nts_fo, decisions, teaching, drawn, targets, memory):
    nts_fo.auto_segment_view(targets, memory, preset="paper", max_instances=7, score_threshold=0.05)
    decisions.decide(targets, FIELD, "accepted", label_ids(targets)[:1])
    teaching.teach(targets, FIELD)
    stored = drawn.get_run_info(FIELD).config
    assert (stored.preset, stored.max_instances, stored.score_threshold) == ("paper", 7, 0.05)


def test_a_decision_that_changes_is_unlearnt(nts_fo, decisions, teaching, drawn, segmented):
    label = label_ids(segmented)[0]
    decisions.decide(segmented, FIELD, "accepted", [label])
    teaching.teach(segmented, FIELD)
    decisions.decide(segmented, FIELD, "rejected", [label])
    assert teaching.lessons(drawn, FIELD).stale == (label,)
    report = teaching.teach(segmented, FIELD)
    assert (report.references, report.negatives, report.removed) == (0, 1, 1)
    bank = nts_fo.load_memory(drawn, "shapes")
    assert label not in {entry.label_id for entry in bank.entries}
    assert label in {negative.label_id for negative in bank.negatives}
    decisions.decide(segmented, FIELD, "accepted", [label])
    report = teaching.teach(segmented, FIELD)
    assert (report.references, report.negatives, report.removed) == (1, 0, 1)
    assert label not in {negative.label_id for negative in nts_fo.load_memory(drawn, "shapes").negatives}


def test_a_reference_with_a_wrong_outline_is_to_be_unlearnt(nts_fo, decisions, teaching, drawn, segmented):
    label = label_ids(segmented)[0]
    decisions.decide(segmented, FIELD, "accepted", [label])
    teaching.teach(segmented, FIELD)
    decisions.decide(segmented, FIELD, "wrong outline", [label])
    assert len(teaching.lessons(drawn, FIELD)) == 1
    assert teaching.teach(segmented, FIELD).removed == 1
    assert len(teaching.lessons(drawn, FIELD)) == 0


def test_a_wrong_outline_teaches_nothing_and_does_not_come_back(nts_fo, decisions, teaching, drawn, segmented):
    label = segmented.first()[FIELD].detections[0]
    decisions.decide(segmented, FIELD, "wrong outline", [label.id])
    assert len(teaching.lessons(drawn, FIELD)) == 0
    with pytest.raises(nts_fo.InputError, match="no decision in"):
        teaching.teach(segmented, FIELD)
    decisions.decide(segmented, FIELD, "accepted", [label.id])
    teaching.teach(segmented, FIELD)
    decisions.decide(segmented, FIELD, "wrong outline", [label.id])
    report = teaching.teach(segmented, FIELD)
    assert (report.references, report.negatives, report.removed) == (0, 0, 1)
    undecided = [
        each
        for each in segmented.first()[FIELD].detections
        if each.label == label.label and not each.get_attribute_value("decision", None)
    ]
    assert all(fo_iou(label, each) < 0.5 for each in undecided)


def fo_iou(first, second) -> float:
    """IoU of the boxes of two detections."""
    import fiftyone.utils.iou as foui

    return float(foui.compute_ious([first], [second])[0, 0])


def test_the_report_tells_what_changed(decisions, teaching, drawn, segmented):
    """A rejected prediction stands for its class: whatever looks like it goes."""

    def shown() -> dict:
        return teaching._shown(drawn, FIELD, drawn.get_run_info(FIELD).config.serialize())

    best = [labels[0].id for labels in segmented.values(f"{FIELD}.detections")]
    decisions.decide(segmented, FIELD, "rejected", best)
    before = shown()
    report = teaching.teach(segmented, FIELD)
    after = shown()
    count = sum(map(len, before.values())) - report.disappeared + report.appeared
    assert count == sum(map(len, after.values()))
    assert before != after
    assert report.precision_before is not None
    assert report.segmentation.recommendation is not None


def test_boxes_that_match_are_the_same(teaching):
    box, moved, apart = [0.1, 0.1, 0.2, 0.2], [0.12, 0.1, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2]
    key = ("s", "a")
    assert teaching._without_match({key: [box, apart]}, {key: [moved]}) == 1
    assert teaching._without_match({key: [box]}, {("s", "b"): [box], ("t", "a"): [box]}) == 1
    assert teaching._without_match({}, {key: [box]}) == 0
