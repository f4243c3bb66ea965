"""References that are added to a memory later, moved to another class, and removed."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from drawn_dataset import CLASSES, REFERENCES


@pytest.fixture
def adding(nts_fo) -> ModuleType:
    return importlib.import_module("nts.fiftyone_adapter.adding_references")


def test_later_references_are_those_of_a_memory_built_at_once(nts_fo, drawn, references, adding):
    nts_fo.build_reference_memory(references, "ground_truth", "at_once", preset="paper")
    nts_fo.build_reference_memory(references.limit(1), "ground_truth", "step_by_step", preset="paper")
    report = adding.add_references(references.skip(1), "ground_truth", "step_by_step")
    assert sum(report.shots.values()) == REFERENCES
    expected, found = (nts_fo.load_memory(drawn, name) for name in ("at_once", "step_by_step"))
    assert found.shots == expected.shots == report.shots
    for ours, theirs in zip(found.entries, expected.entries, strict=True):
        assert ours.label_id == theirs.label_id
        assert ours.prototype.equal(theirs.prototype)


def test_a_reference_of_another_field_joins_the_memory(nts_fo, drawn, references, targets, adding):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    drawn.clone_sample_field("ground_truth", "drawn_by_hand")
    wanted = targets.limit(1)
    before = nts_fo.load_memory(drawn, "shapes")
    report = adding.add_references(wanted, "drawn_by_hand", "shapes")
    after = nts_fo.load_memory(drawn, "shapes")
    assert len(after) == len(before) + sum(report.added.values())
    assert {entry.sample_id for entry in after.entries[len(before) :]} == set(wanted.values("id"))
    assert after.negative_counts == before.negative_counts


def test_a_negative_that_becomes_a_reference_is_none_any_more(nts_fo, drawn, references, targets, adding):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    label = targets.first().ground_truth.detections[0]
    view = drawn.select_labels(ids=[label.id], fields="ground_truth")
    nts_fo.add_negatives(drawn, "shapes", view, "ground_truth")
    assert label.id in {negative.label_id for negative in nts_fo.load_memory(drawn, "shapes").negatives}
    adding.add_references(view, "ground_truth", "shapes")
    memory = nts_fo.load_memory(drawn, "shapes")
    assert label.id in {entry.label_id for entry in memory.entries}
    assert label.id not in {negative.label_id for negative in memory.negatives}


def test_labels_that_cannot_be_used_are_listed_and_change_nothing(nts_fo, drawn, references, targets, adding):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    before = nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)["shapes"]["fingerprint"]
    sample = targets.first()
    for label in sample.ground_truth.detections:
        label.label = None
    sample.save()
    with pytest.raises(nts_fo.InputError, match="no label could be used"):
        adding.add_references(targets.limit(1), "ground_truth", "shapes")
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)["shapes"]["fingerprint"] == before


def test_single_references_are_removed_and_moved(nts_fo, drawn, references, adding):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    first, second, *rest = nts_fo.load_memory(drawn, "shapes").entries
    assert adding.remove_references(drawn, "shapes", [first]) == 1
    assert adding.remove_references(drawn, "shapes", [first]) == 0, "it is gone"
    assert adding.move_references(drawn, "shapes", [second], "unicorn") == 1
    memory = nts_fo.load_memory(drawn, "shapes")
    assert {entry.label_id for entry in memory.entries} == {each.label_id for each in (second, *rest)}
    assert {entry.class_name for entry in memory.entries if entry.label_id == second.label_id} == {"unicorn"}
    assert drawn.distinct("ground_truth.detections.label") == list(CLASSES), "the labels stay as they are"
    with pytest.raises(nts_fo.InputError, match="a class needs a name"):
        adding.move_references(drawn, "shapes", [second], " ")
    with pytest.raises(nts_fo.InputError, match="would be empty: delete the memory instead"):
        adding.remove_references(drawn, "shapes", memory.entries)
    assert nts_fo.load_memory(drawn, "shapes").shots == memory.shots
