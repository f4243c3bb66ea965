"""Memories stored in a dataset: cloned, replaced, exported and imported, and given negatives."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_dataset import CLASSES, REFERENCES, TARGETS, truncate
from safetensors_header import read_header, with_header

from nts.memory import EncoderInfo, EncoderMismatch, MemoryBank, MemoryEntry, Negative


def test_memory_comes_back_equal_in_a_clone_too(nts_fo, drawn, memory):
    bank = nts_fo.load_memory(drawn, memory)
    clone = drawn.clone()
    try:
        again = nts_fo.load_memory(clone, memory)
    finally:
        clone.delete()
    assert torch.equal(again.instance_prototypes(), bank.instance_prototypes())
    assert [e.label_id for e in again.entries] == [e.label_id for e in bank.entries]


def test_stored_runs_are_fiftyones_own_classes(nts_fo, fo, drawn, memory):
    """Classes of the plugin in the database could not be loaded without the plugin."""
    assert type(drawn.get_run_info(memory).config) is fo.core.runs.RunConfig
    assert type(drawn.load_run_results(memory, cache=False)) is fo.core.runs.RunResults


def test_class_names_may_hold_dots_and_dollars(nts_fo, drawn, references):
    for sample in references.iter_samples(autosave=True):
        for label in sample.ground_truth.detections:
            label.label = {CLASSES[0]: "St. $Bernhard", CLASSES[1]: "$et"}[label.label]
    nts_fo.build_reference_memory(references, "ground_truth", "dots")
    drawn.reload()
    assert nts_fo.load_memory(drawn, "dots").classes == ("$et", "St. $Bernhard")


def test_old_memory_survives_when_the_new_one_cannot_be_stored(nts_fo, drawn, references, memory, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(drawn), "save_run_results", full)
        with pytest.raises(OSError, match="No space left"):
            nts_fo.build_reference_memory(references.limit(1), "ground_truth", memory, overwrite=True)
    assert list(nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)) == [memory]
    assert len(nts_fo.load_memory(drawn, memory)) == REFERENCES
    nts_fo.build_reference_memory(references.limit(1), "ground_truth", memory, overwrite=True)
    assert drawn.list_runs() == [memory]
    assert len(nts_fo.load_memory(drawn, memory)) == 1


def test_exported_memory_is_imported_into_another_dataset(nts_fo, drawn, dataset, memory, tmp_path):
    path = nts_fo.export_memory(drawn, memory, tmp_path)
    assert path == tmp_path / "shapes.safetensors"
    with pytest.raises(nts_fo.InputError, match=f"the file {path} exists"):
        nts_fo.export_memory(drawn, memory, tmp_path / "shapes")

    report = nts_fo.import_memory(dataset, path)
    assert report.memory_key == memory
    assert report.shots == dict.fromkeys(CLASSES, 2)
    stored = nts_fo.runs.list_runs(dataset, nts_fo.runs.MEMORY)[memory]
    assert stored["fingerprint"] == nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)[memory]["fingerprint"]


def test_empty_memory_is_not_imported(nts_fo, dataset, tmp_path):
    path = tmp_path / "nothing.safetensors"
    MemoryBank(EncoderInfo("some", "f", 28, 3)).save(path)
    with pytest.raises(nts_fo.InputError, match=f"the memory in {path} is empty"):
        nts_fo.import_memory(dataset, path)


# ---- fingerprints and old memories -----------------------------------------------------------------------------------


def small_bank() -> MemoryBank:
    bank = MemoryBank(EncoderInfo("some", "f", 28, 3))
    bank.add(MemoryEntry("a", torch.tensor([1.0, 2.0, 3.0]), "s1", "l1"))
    bank.add(MemoryEntry("b", torch.tensor([0.5, -1.0, 0.25]), "s2", "l2"))
    return bank


def test_fingerprint_of_a_memory_without_negatives_is_that_of_earlier_versions(nts_fo):
    expected = "fa74ea156948363575fc3135f5295ec1d9b77d330a336846924573afbd41c9c9"
    assert nts_fo.runs.fingerprint(small_bank()) == expected


def test_fingerprint_covers_everything_that_decides_a_result(nts_fo):
    fingerprint, prototype = nts_fo.runs.fingerprint, torch.tensor([0.0, 1.0, 0.0])
    negative = Negative(prototype, "reference image", False, "s1", "", "file", 0.5)
    seen = {fingerprint(small_bank())}
    for change in (
        {"source": "rejected"},
        {"sure": True},
        {"predicted_iou": 0.6},
        {"file": "other"},
        {"prototype": 2 * prototype},
        {},
    ):
        bank = small_bank()
        bank.add_negative(replace(negative, **change))
        seen.add(fingerprint(bank))
    for change in (
        {"whole_prototype": prototype},
        {"predicted_iou": 0.5, "proposal_iou": 0.5},
        {"predicted_iou": 0.6, "proposal_iou": 0.5},
        {"predicted_iou": None, "proposal_iou": 0.0},
    ):
        for row in range(2):
            bank = MemoryBank(small_bank().encoder)
            for number, entry in enumerate(small_bank().entries):
                bank.add(replace(entry, **change) if number == row else entry)
            seen.add(fingerprint(bank))
    assert len(seen) == 1 + 6 + 8


def test_memory_of_an_earlier_version_works_with_the_default_preset(
    nts_fo, drawn, references, targets, tmp_path, quick
):
    """As a memory without negatives, whose references are compared by their crops alone."""
    nts_fo.build_reference_memory(references, "ground_truth", "new")
    new, old = nts_fo.load_memory(drawn, "new"), MemoryBank(nts_fo.load_memory(drawn, "new").encoder)
    for entry in new.entries:
        old.add(replace(entry, whole_prototype=None, predicted_iou=None, proposal_iou=None))
    data = old.to_bytes()
    added = ("predicted_iou", "proposal_iou")
    entries = [
        {name: value for name, value in entry.items() if name not in added}
        for entry in json.loads(read_header(data)["entries"])
    ]
    path = tmp_path / "old.safetensors"
    path.write_bytes(with_header(data, schema_version="3", entries=json.dumps(entries)))
    report = nts_fo.import_memory(drawn, path)
    assert (report.shots, report.negatives) == (dict.fromkeys(CLASSES, 2), {})
    segmented = nts_fo.auto_segment_view(targets, "old", preset=quick)
    assert segmented.segmented == TARGETS
    assert sum(segmented.instances.values()) > 0


# ---- negatives later -------------------------------------------------------------------------------------------------


@pytest.fixture
def rejected(fo, drawn, targets):
    """The targets, with a rejected prediction in `found` of each, and one without a mask."""
    mask = np.zeros((256, 256), bool)
    mask[100:160, 60:140] = True
    for sample in targets.iter_samples(autosave=True):
        detections = [
            fo.Detection.from_mask(mask, label=CLASSES[0], tags=["rejected"]),
            fo.Detection(label=CLASSES[1], bounding_box=[0.1, 0.1, 0.1, 0.1], tags=["rejected"]),
            fo.Detection.from_mask(mask.T, label=CLASSES[1]),
        ]
        sample["found"] = fo.Detections(detections=detections)
    drawn.reload()
    return drawn.match_tags("target").select_labels(tags="rejected", fields="found")


def test_rejected_predictions_become_negatives(nts_fo, drawn, references, memory, rejected):
    before = nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)[memory]
    had = nts_fo.load_memory(drawn, memory).negative_counts
    report = nts_fo.add_negatives(drawn, memory, rejected, "found")
    assert (report.added, report.images, len(report.skipped)) == (TARGETS, TARGETS, TARGETS)
    assert {item.reason.rpartition(": ")[2] for item in report.skipped} == {"it has a box but no mask"}
    bank = nts_fo.load_memory(drawn, memory)
    assert report.negatives == bank.negative_counts == {**had, "rejected": TARGETS}
    labels = [negative.label_id for negative in bank.negatives if negative.source == "rejected"]
    wanted = rejected.values("found.detections.id")
    assert labels == [of_sample[0] for of_sample in wanted]
    after = nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)[memory]
    assert after["fingerprint"] == nts_fo.runs.fingerprint(bank) != before["fingerprint"]
    same = ("label_field", "weak_labels", "skipped", "classes", "shots", "created", "preset")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert drawn.load_run_view(memory).values("id") == references.values("id")
    assert drawn.list_runs() == [memory]

    again = nts_fo.add_negatives(drawn, memory, rejected, "found")
    assert again.negatives == report.negatives, "a label is one negative"


def test_background_images_become_negatives_later(nts_fo, drawn, references, targets, memory):
    for sample in targets.iter_samples(autosave=True):
        sample["ground_truth"] = None
    unreadable = targets.first()
    truncate(unreadable.filepath)
    report = nts_fo.add_negatives(drawn, memory, drawn.select([*targets.values("id"), references.first().id]))
    assert report.images == TARGETS - 1
    assert {item.sample_id for item in report.skipped} == {unreadable.id, references.first().id}
    assert report.negatives["background image"] == report.added > 0
    found = [n for n in nts_fo.load_memory(drawn, memory).negatives if n.source == "background image"]
    assert {n.sample_id for n in found} == set(targets.values("id")) - {unreadable.id}


def test_nothing_to_add_is_refused_with_the_reason(nts_fo, drawn, references, memory):
    before = nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)[memory]
    with pytest.raises(nts_fo.InputError, match=f"nothing to add: label '{CLASSES[0]}' of .*: it is a reference of th"):
        nts_fo.add_negatives(drawn, memory, references.limit(1), "ground_truth")
    with pytest.raises(nts_fo.InputError, match="nothing to add: .* references were taken from it"):
        nts_fo.add_negatives(drawn, memory, references.limit(1))
    with pytest.raises(nts_fo.InputError, match="the label field 'nothing' does not exist"):
        nts_fo.add_negatives(drawn, memory, references, "nothing")
    with pytest.raises(nts_fo.InputError, match="the view has no samples"):
        nts_fo.add_negatives(drawn, memory, drawn.limit(0))
    with pytest.raises(nts_fo.errors.RunNotFound, match="no memory 'nothing'"):
        nts_fo.add_negatives(drawn, "nothing", references)
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)[memory] == before


def test_memory_that_changes_meanwhile_keeps_the_change_and_one_that_is_gone_stays_gone(
    nts_fo, drawn, references, memory, rejected
):
    job = nts_fo.negatives_job(drawn, memory, rejected, "found")
    next(job)
    nts_fo.build_reference_memory(references.limit(1), "ground_truth", memory, overwrite=True)
    nts_fo.run(job)
    bank = nts_fo.load_memory(drawn, memory)
    assert (len(bank), bank.negative_counts["rejected"]) == (1, TARGETS)

    job = nts_fo.negatives_job(drawn, memory, rejected, "found")
    next(job)
    nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    with pytest.raises(nts_fo.errors.RunEnded, match="the memory 'shapes' was deleted meanwhile"):
        nts_fo.run(job)
    assert drawn.list_runs() == []


def test_memory_of_other_weights_takes_no_negatives(nts_fo, drawn, targets, tmp_path):
    path = tmp_path / "foreign.safetensors"
    bank = MemoryBank(EncoderInfo("small", "f", 28, 3))
    bank.add(MemoryEntry("a", torch.ones(3)))
    bank.save(path)
    nts_fo.import_memory(drawn, path)
    with pytest.raises(EncoderMismatch, match="this memory was made by the encoder 'small' "):
        nts_fo.add_negatives(drawn, "foreign", targets)
