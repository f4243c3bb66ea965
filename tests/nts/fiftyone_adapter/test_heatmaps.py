"""Similarity maps as fields of a dataset: content, ownership and deletion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_dataset import CLASSES, TARGETS, truncate

from nts.heatmaps import similarity_maps
from nts.images import prepare_target, read_image

FIELDS = [f"shapes_{name.replace(' ', '_')}_similarity" for name in CLASSES]


def test_maps_are_the_similarity_that_the_matching_sees(nts_fo, drawn, targets, memory, small_encoder):
    report = nts_fo.similarity_heatmaps(targets, memory)
    assert (report.fields, report.mapped, report.resumed, report.failed) == (
        dict(zip(CLASSES, FIELDS, strict=True)),
        TARGETS,
        0,
        {},
    )
    sample = targets.first()
    image = read_image(sample.filepath)
    pixels, _ = prepare_target(image, small_encoder.info.input_size, 1024)
    expected = similarity_maps(small_encoder.encode(pixels[None])[0], nts_fo.load_memory(drawn, memory).prototypes())
    for field, patches in zip(FIELDS, expected.numpy(), strict=True):
        heatmap = sample[field]
        assert heatmap.range == [0, 1]
        assert heatmap.map.shape == (128, 128)
        assert heatmap.map.dtype == np.float32
        # Every patch of the encoder's grid is recovered, apart from the blur of the resizing.
        side = len(patches)
        centres = ((np.arange(side) + 0.5) * 128 / side).astype(int)
        assert np.abs(heatmap.map[np.ix_(centres, centres)] - patches).mean() < 0.05
        assert np.array_equal(heatmap.map, heatmap.map.round(2))
    assert not drawn.match_tags("reference").exists(FIELDS[0])


def test_maps_are_brighter_on_objects_of_their_class_than_elsewhere(nts_fo, targets, memory):
    nts_fo.similarity_heatmaps(targets, memory)
    inside, outside = [], []
    for sample in targets:
        for name, field in zip(CLASSES, FIELDS, strict=True):
            of_class = np.zeros((128, 128), bool)
            for label in sample.ground_truth.detections:
                if label.label == name:
                    x, y, w, h = (round(128 * value) for value in label.bounding_box)
                    of_class[y : y + h, x : x + w] = True
            if of_class.any():
                inside.append(sample[field].map[of_class].mean())
                outside.append(sample[field].map[~of_class].mean())
    assert np.mean(inside) > np.mean(outside) + 0.2


def test_existing_maps_are_resumed_and_other_classes_are_added(nts_fo, drawn, targets, memory):
    nts_fo.similarity_heatmaps(targets.limit(1), memory, classes=CLASSES[:1])
    report = nts_fo.similarity_heatmaps(targets, memory, classes=CLASSES[:1])
    assert (report.mapped, report.resumed) == (TARGETS - 1, 1)
    report = nts_fo.similarity_heatmaps(targets, memory, classes=CLASSES[1:])
    assert (report.fields, report.mapped) == ({CLASSES[1]: FIELDS[1]}, TARGETS)
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS)["shapes_similarity"]["fields"] == FIELDS


def test_maps_that_another_process_made_meanwhile_stay_in_the_run(nts_fo, fo, drawn, targets, memory, monkeypatch):
    before = fo.core.odm.DatasetDocument.objects.get(id=drawn._doc.id)
    nts_fo.similarity_heatmaps(targets.limit(1), memory, classes=CLASSES[:1])
    monkeypatch.setattr(drawn, "_doc", before)  # the dataset as this process sees it if another one made the maps
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS) == {}
    nts_fo.similarity_heatmaps(targets.limit(1), memory, classes=CLASSES[1:])
    drawn.reload()
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS)["shapes_similarity"]["fields"] == FIELDS
    nts_fo.runs.delete_run(drawn, "shapes_similarity", nts_fo.runs.HEATMAPS)
    assert not set(FIELDS) & set(drawn.get_field_schema())


def test_stored_settings_are_those_of_earlier_versions(nts_fo, drawn, targets, memory):
    nts_fo.similarity_heatmaps(targets.limit(1), memory, classes=CLASSES[:1])
    stored = nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS)["shapes_similarity"]
    ours = set(stored) - {"cls", "type", "method", "schema", "plugin_version", "token"}
    assert ours == {"memory_fingerprint", "preset", "memory_key", "classes", "fields"}


def test_maps_of_an_earlier_memory_are_replaced_only_if_asked_for(nts_fo, drawn, references, targets, memory):
    nts_fo.similarity_heatmaps(targets, memory)
    nts_fo.build_reference_memory(references.limit(2), "ground_truth", memory, overwrite=True)
    with pytest.raises(
        ValueError, match=r"'shapes_similarity' holds results with other settings \(another memory\): switch on"
    ):
        nts_fo.similarity_heatmaps(targets, memory)
    left = nts_fo.load_memory(drawn, memory).classes
    assert set(nts_fo.similarity_heatmaps(targets, memory, overwrite=True).fields) == set(left)
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS)["shapes_similarity"]["classes"] == list(left)


def test_one_broken_image_is_listed_and_the_others_are_mapped(nts_fo, drawn, targets, memory):
    path = targets.first().filepath
    truncate(path)
    report = nts_fo.similarity_heatmaps(targets, memory)
    assert report.mapped == TARGETS - 1
    assert list(report.failed) == [targets.first().id]
    assert f"{path} cannot be decoded" in report.failed[targets.first().id]
    with pytest.raises(ValueError, match="none of the 1 images could be mapped: the image"):
        nts_fo.similarity_heatmaps(targets.limit(1), memory)


def test_deleting_leaves_nothing(nts_fo, drawn, references, targets, memory):
    before = set(drawn.get_field_schema())
    nts_fo.similarity_heatmaps(targets, memory)
    words = [*(f"field {name!r}" for name in FIELDS), "heat maps 'shapes_similarity'"]
    assert nts_fo.runs.run_contents(drawn, memory, nts_fo.runs.MEMORY) == [*words, "memory 'shapes'"]
    assert nts_fo.runs.delete_run(drawn, "shapes_similarity", nts_fo.runs.HEATMAPS) == words
    assert set(drawn.get_field_schema()) == before

    nts_fo.similarity_heatmaps(targets, memory)
    assert nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY) == [*words, "memory 'shapes'"]
    assert set(drawn.get_field_schema()) == before
    assert drawn.list_runs(method="nts_heatmaps") == []


def test_fields_have_names_that_are_free_and_differ(nts_fo, fo, dataset):
    dataset.add_sample_field("m_cat_similarity", fo.StringField)
    names = nts_fo.heatmap_fields.heatmap_fields(dataset, "m", ["cat", "big cat", "big.cat", "猫", "3d"])
    assert list(names.values()) == [
        "m_cat_similarity_2",
        "m_big_cat_similarity",
        "m_big_cat_similarity_2",
        "m_class_similarity",
        "m_3d_similarity",
    ]


def test_invalid_maps_are_refused_with_a_reason(nts_fo, drawn, targets, memory):
    with pytest.raises(nts_fo.InputError, match="the memory 'shapes' has no class unicorn; it has: ") as error:
        nts_fo.similarity_heatmaps(targets, memory, classes=["unicorn"])
    assert error.value.option == "classes"
    with pytest.raises(ValueError, match="choose 1 to 20 classes, not 0"):
        nts_fo.similarity_heatmaps(targets, memory, classes=[])
    with pytest.raises(ValueError, match="has no memory 'other'"):
        nts_fo.similarity_heatmaps(targets, "other")
    drawn.register_run("shapes_similarity", drawn.init_run(method="mine"))
    with pytest.raises(ValueError, match="stored as 'shapes_similarity', and this name is taken by a run of another"):
        nts_fo.similarity_heatmaps(targets, memory)
    assert Path(targets.first().filepath).exists()
