"""The table of run kinds, and cascading deletion."""

from __future__ import annotations

import pytest
from drawn_dataset import fields_and_runs


@pytest.fixture
def runs(nts_fo):
    return nts_fo.runs


@pytest.fixture
def stored(runs, dataset, fo):
    """Dataset with a memory and one run of every kind that depends on it, all without content."""
    runs.store(dataset, "m", runs.MEMORY, {"classes": []})
    for kind, key in ((runs.SEGMENTATION, "p"), (runs.CLASS_MAPS, "c")):
        output = {"memory_key": "m", "output_field": key, "error_field": runs.error_field(key)}
        runs.store(dataset, key, kind, output)
        dataset.add_sample_field(runs.error_field(key), fo.StringField)
    dataset.add_sample_field("p", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.mask_targets["c"] = {1: "heron"}
    dataset.save()
    runs.store(dataset, "m_similarity", runs.HEATMAPS, {"memory_key": "m", "fields": ["h"]})
    runs.store(dataset, "nap_p", runs.EVALUATION, {"predictions_field": "p", "ground_truth_field": "truth"})
    return dataset


def test_a_run_names_its_fields(runs):
    config = {"output_field": "p", "error_field": "p_error", "fields": ["h", "i"]}
    assert runs.SEGMENTATION.fields(config) == runs.CLASS_MAPS.fields(config) == ["p", "p_error"]
    assert runs.HEATMAPS.fields(config) == ["h", "i"]
    assert runs.MEMORY.fields(config) == runs.EVALUATION.fields(config) == runs.PROMPT.fields(config) == []


def test_every_run_made_with_a_memory_goes_with_it(runs, stored):
    contents = [
        "field 'p'",
        "field 'p_error'",
        "evaluation 'nap_p'",
        "segmentation 'p'",
        "heat maps 'm_similarity'",
        "field 'c_error'",
        "class maps 'c'",
        "memory 'm'",
    ]
    assert runs.run_contents(stored, "m", runs.MEMORY) == contents
    assert runs.delete_run(stored, "m", runs.MEMORY) == contents
    assert stored.list_runs() == []
    assert stored.mask_targets == {}
    assert not any(stored.has_field(name) for name in ("p", "p_error", "c_error"))


def test_runs_of_another_memory_stay(runs, stored):
    runs.store(stored, "other", runs.MEMORY, {"classes": []})
    assert runs.delete_run(stored, "other", runs.MEMORY) == ["memory 'other'"]
    assert set(stored.list_runs()) == {"m", "p", "c", "m_similarity", "nap_p"}


def test_an_unfinished_run_goes_with_its_memory(runs, stored):
    unfinished = {"memory_key": "m", "output_field": "q", "error_field": "q_error"}
    runs.begin(stored, "q", runs.SEGMENTATION, unfinished)
    assert runs.run_contents(stored, "q", runs.SEGMENTATION) == ["unfinished segmentation 'q'"]
    assert "unfinished segmentation 'q'" in runs.delete_run(stored, "m", runs.MEMORY)
    assert stored.list_runs() == []


def test_an_unfinished_run_of_the_same_name_goes_with_the_complete_one(runs, stored):
    runs.begin(stored, "p", runs.SEGMENTATION, {"memory_key": "m", "output_field": "p", "error_field": "p_error"})
    assert runs.delete_run(stored, "p", runs.SEGMENTATION)[-1] == "segmentation 'p'"
    assert set(stored.list_runs()) == {"m", "c", "m_similarity"}


@pytest.mark.parametrize("kind", ["MEMORY", "SEGMENTATION", "EVALUATION", "HEATMAPS", "PROMPT", "CLASS_MAPS"])
def test_a_run_that_is_not_there_is_not_deleted(nts_fo, runs, dataset, kind):
    kind = getattr(runs, kind)
    for call in (runs.run_contents, runs.delete_run):
        with pytest.raises(nts_fo.errors.RunNotFound, match=f"has no {kind.noun} 'nothing'; it has none yet"):
            call(dataset, "nothing", kind)


def test_public_names_are_few_and_there(nts_fo):
    assert len(nts_fo.__all__) <= 20
    assert all(hasattr(nts_fo, name) for name in nts_fo.__all__)


def test_deleting_a_segmentation_leaves_its_memory(nts_fo, drawn, targets, memory, quick):
    before = fields_and_runs(drawn)
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth", eval_key="mine")
    assert nts_fo.runs.run_contents(drawn, "nts_shapes", nts_fo.runs.SEGMENTATION)[-2:] == [
        "evaluation 'mine'",
        "segmentation 'nts_shapes'",
    ]
    nts_fo.runs.delete_run(drawn, "nts_shapes", nts_fo.runs.SEGMENTATION)
    assert fields_and_runs(drawn) == before


def test_a_dataset_that_the_app_reloads_in_between_does_not_stop_a_run(nts_fo, drawn, monkeypatch):
    """FiftyOne raises a ReferenceError once the document of a dataset was replaced by another thread."""
    from fiftyone.core.collections import SampleCollection

    from nts.fiftyone_adapter import runs

    register, calls = SampleCollection.register_run, []

    def reloaded_meanwhile(view, *args, **kwargs):
        calls.append(args)
        if len(calls) < 3:
            raise ReferenceError("weakly-referenced object no longer exists")
        return register(view, *args, **kwargs)

    monkeypatch.setattr(SampleCollection, "register_run", reloaded_meanwhile)
    runs.store(drawn, "found", runs.SEGMENTATION, {"memory_key": "shapes"})
    assert list(runs.list_runs(drawn, runs.SEGMENTATION)) == ["found"]
    assert len(calls) == 3

    def always(view, *args, **kwargs):
        raise ReferenceError("weakly-referenced object no longer exists")

    monkeypatch.setattr(SampleCollection, "register_run", always)
    with pytest.raises(ReferenceError):
        runs.store(drawn, "other", runs.SEGMENTATION, {"memory_key": "shapes"})


@pytest.mark.parametrize("lost", ["register_run", "rename_run", "delete_run"])
def test_a_run_is_stored_though_the_dataset_is_reloaded_in_the_middle(nts_fo, dataset, monkeypatch, lost):
    """Any request of the App reloads the dataset that the threads of its server share."""
    runs = nts_fo.runs
    runs.store(dataset, "shapes", runs.MEMORY, {"version": 1})
    original, reloads = type(dataset).save, []
    within = []

    def save(self, *args, **kwargs):
        if within and not reloads:
            reloads.append(1)
            self.reload()  # another thread, between the change in memory and this
        return original(self, *args, **kwargs)

    method = getattr(type(dataset), lost)

    def interrupted(self, *args, **kwargs):
        within.append(1)
        try:
            return method(self, *args, **kwargs)
        finally:
            within.pop()

    monkeypatch.setattr(type(dataset), "save", save)
    monkeypatch.setattr(type(dataset), lost, interrupted)
    runs.store(dataset, "shapes", runs.MEMORY, {"version": 2})
    assert reloads
    dataset.reload()
    assert dataset.list_runs() == ["shapes"]
    assert runs.config(dataset, "shapes", runs.MEMORY)["version"] == 2
