"""Inspection of a dataset's memory: pictures and samples of its references, and warnings."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import torch
from drawn_dataset import CLASSES, REFERENCES, truncate
from PIL import Image

from nts.inspection import LeaveOneOut
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry


def picture(thumbnail) -> np.ndarray:
    kind, content = thumbnail.uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_inspection_finds_every_reference_and_groups_them_by_class(nts_fo, drawn, memory):
    found = nts_fo.inspecting.inspect_memory(drawn, memory)
    labels = drawn.match_tags("reference").values("ground_truth.detections.id", unwind=True)
    assert [entry.label_id for entry in found.entries] == labels
    assert found.shots == dict.fromkeys(CLASSES, 2)
    assert found.similarities.shape == (2, 2)
    assert [check.class_name for check in found.of_classes(CLASSES)] == sorted(2 * list(CLASSES))
    assert [check.class_name for check in found.of_classes(CLASSES[:1])] == 2 * [CLASSES[0]]
    margins = [check.margin for check in found.by_margin]
    assert margins == sorted(margins)
    assert found.most_similar_classes(1) in ([0], [1])
    assert found.most_similar_classes(9) == [0, 1]


def test_memory_is_read_once_until_it_is_rebuilt(nts_fo, drawn, references, memory):
    first = nts_fo.inspecting.inspect_memory(drawn, memory)
    assert nts_fo.inspecting.inspect_memory(drawn, memory) is first
    nts_fo.build_reference_memory(references.limit(2), "ground_truth", memory, overwrite=True)
    assert len(nts_fo.inspecting.inspect_memory(drawn, memory).entries) == 2
    nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    with pytest.raises(nts_fo.errors.RunNotFound):
        nts_fo.inspecting.inspect_memory(drawn, memory)


def test_thumbnails_show_the_objects_outlined_in_the_colours_of_the_grid(nts_fo, drawn, memory):
    from nts.fiftyone_adapter.colours import label_colours

    entries = nts_fo.inspecting.inspect_memory(drawn, memory).entries
    shown = nts_fo.inspecting.thumbnails(drawn, memory, entries, size=120)
    assert len(shown) == REFERENCES
    colours = label_colours(drawn, "ground_truth", CLASSES)
    for entry, thumbnail in zip(entries, shown, strict=True):
        pixels = picture(thumbnail).astype(int)
        assert max(pixels.shape[:2]) == 120
        colour = [int(colours[entry.class_name][k : k + 2], 16) for k in (1, 3, 5)]
        near = np.abs(pixels - colour).sum(2) < 150
        assert 0.01 < near.mean() < 0.6


def test_missing_picture_says_what_is_missing_and_the_others_are_shown(nts_fo, drawn, references, memory):
    found = nts_fo.inspecting.inspect_memory(drawn, memory)
    first, second, third, _ = (entry.sample_id for entry in found.entries)
    truncate(drawn[first].filepath)
    drawn.delete_samples(second)
    sample = drawn[third]
    sample["ground_truth"] = None
    sample.save()
    shown = nts_fo.inspecting.thumbnails(drawn, memory, found.entries)
    assert "cannot be decoded" in shown[0].problem
    assert shown[1].problem == "its sample is not in this dataset"
    assert shown[2].problem == "its label is not in this dataset any more"
    assert [thumbnail.uri is not None for thumbnail in shown] == [False, False, False, True]
    assert nts_fo.inspecting.missing_samples(drawn, found) == 1


def test_imported_memory_finds_its_labels_where_they_are_and_says_so_where_not(
    nts_fo, fo, drawn, make_dataset, memory, tmp_path
):
    path = nts_fo.export_memory(drawn, memory, tmp_path)
    nts_fo.import_memory(drawn, path, "again")
    found = nts_fo.inspecting.inspect_memory(drawn, "again")
    assert all(thumbnail.uri for thumbnail in nts_fo.inspecting.thumbnails(drawn, "again", found.entries))
    assert nts_fo.inspecting.missing_samples(drawn, found) == 0

    elsewhere = make_dataset([fo.Sample("x.png")])
    nts_fo.import_memory(elsewhere, path, "again")
    found = nts_fo.inspecting.inspect_memory(elsewhere, "again")
    assert nts_fo.inspecting.missing_samples(elsewhere, found) == REFERENCES
    assert {thumbnail.problem for thumbnail in nts_fo.inspecting.thumbnails(elsewhere, "again", found.entries)} == {
        "its sample is not in this dataset"
    }
    assert nts_fo.inspecting.references_view(elsewhere, "again", found.entries).count() == 0


def test_view_of_references_has_their_samples_in_order_and_no_other_label(nts_fo, drawn, memory):
    entries = nts_fo.inspecting.inspect_memory(drawn, memory).entries[::-1][:3]
    view = nts_fo.inspecting.references_view(drawn, memory, entries)
    assert view.values("id") == [entry.sample_id for entry in entries]
    assert view.values("ground_truth.detections.id", unwind=True) == [entry.label_id for entry in entries]


def test_order_of_references_is_left_where_they_are_too_many(nts_fo, monkeypatch, drawn, memory):
    entries = nts_fo.inspecting.inspect_memory(drawn, memory).entries[::-1]
    monkeypatch.setattr("nts.fiftyone_adapter.inspecting._MAX_ORDERED", 2)
    view = nts_fo.inspecting.references_view(drawn, memory, entries)
    assert sorted(view.values("id")) == view.values("id") == sorted(entry.sample_id for entry in entries)


def test_checks_are_told_in_words(nts_fo):
    nan = math.nan
    words = {
        "more like 'pear' (0.83) than like 'apple' without it (0.79)": ("apple", 0.79, "pear", 0.83),
        "more like 'apple' without it (0.79) than like 'pear' (0.60)": ("apple", 0.79, "pear", 0.6),
        "the only reference of 'apple': nothing to compare it with": ("apple", nan, "pear", 0.6),
        "like the other references (0.79); there is no other class": ("apple", 0.79, None, nan),
    }
    for expected, values in words.items():
        assert nts_fo.inspecting.describe_check(LeaveOneOut(0, *values)) == expected


@pytest.mark.parametrize("name", ["", "12", "images/a.png", "A" * 24, "0" * 24])
def test_references_whose_ids_are_of_no_sample_are_inspected_too(nts_fo, drawn, memory, tmp_path, name):
    bank = MemoryBank(EncoderInfo("some", "f", 28, 3))
    bank.add(MemoryEntry("a", torch.ones(3), sample_id=name, label_id=name))
    bank.save(tmp_path / "foreign.safetensors")
    nts_fo.import_memory(drawn, tmp_path / "foreign.safetensors", "foreign")
    found = nts_fo.inspecting.inspect_memory(drawn, "foreign")
    assert [thumbnail.problem for thumbnail in nts_fo.inspecting.thumbnails(drawn, "foreign", found.entries)] == [
        "its sample is not in this dataset"
    ]
    assert nts_fo.inspecting.missing_samples(drawn, found) == 1
    assert nts_fo.inspecting.references_view(drawn, "foreign", found.entries).count() == 0
    known = nts_fo.inspecting.inspect_memory(drawn, memory).entries[0]
    shown = nts_fo.inspecting.references_view(drawn, memory, [known, *found.entries])
    assert shown.values("ground_truth.detections.id", unwind=True) == [known.label_id]
    assert found.by_margin[0].agrees is None
    assert found.disagreeing == []


def test_negatives_are_counted_by_source(nts_fo, drawn, references, memory):
    found = nts_fo.inspecting.inspect_memory(drawn, memory)
    assert found.negatives == nts_fo.load_memory(drawn, memory).negative_counts
    nts_fo.build_reference_memory(references, "ground_truth", "plain", preset="paper")
    assert nts_fo.inspecting.inspect_memory(drawn, "plain").negatives == {}
    assert nts_fo.inspecting.count_negatives({"rejected": 1}) == "1 negative (1 rejected)"
    counts = {"other class": 2, "reference image": 5, "background image": 3}
    assert nts_fo.inspecting.count_negatives(counts) == (
        "10 negatives (5 of reference images, 3 of background images, 2 of other classes)"
    )
