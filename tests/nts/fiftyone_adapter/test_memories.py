"""Memories stored in a dataset: cloned, replaced, exported and imported."""

from __future__ import annotations

import pytest
import torch
from drawn_dataset import CLASSES, REFERENCES

from nts.memory import EncoderInfo, MemoryBank


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
