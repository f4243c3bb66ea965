"""Protocol datasets in FiftyOne, equal to those read by the engine, and views as data of a protocol."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tiny_layouts import tiny

from nts.datasets.layouts import load
from nts.datasets.protocols import get_protocol
from nts.datasets.repair import LayoutError
from nts.datasets.sampling import draw_references


@pytest.fixture
def importing(fo):
    from nts.fiftyone_adapter import importing

    yield importing
    for name in fo.list_datasets("imported*"):
        fo.delete_dataset(name)


def objects_of_view(view, with_shots: bool = False) -> dict[str, list[tuple]]:
    """Class, box in pixels, crowd flag and shots of the labels of every image, sorted."""
    objects = defaultdict(list)
    for sample in view.iter_samples():
        width, height = sample.metadata.width, sample.metadata.height
        for label in sample["ground_truth"].detections if sample["ground_truth"] else ():
            x, y, w, h = label.bounding_box
            shots = label.get_attribute_value("shots", None) if with_shots else None
            crowd = int(label.get_attribute_value("iscrowd", 0))
            objects[sample.filepath].append((label.label, x * width, y * height, w * width, h * height, crowd, shots))
    return {path: sorted(found, key=str) for path, found in objects.items()}


def objects_of_coco(dataset: dict) -> dict[str, list[tuple]]:
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    paths = {image["id"]: image["path"] for image in dataset["images"]}
    objects = defaultdict(list)
    for a in dataset["annotations"]:
        row = (names[a["category_id"]], *map(float, a["bbox"]), a["iscrowd"], a.get("shots"))
        objects[paths[a["image_id"]]].append(row)
    return {path: sorted(found, key=str) for path, found in objects.items()}


def assert_same_objects(found: dict[str, list[tuple]], expected: dict[str, list[tuple]]) -> None:
    assert found.keys() == expected.keys()
    for path, rows in expected.items():
        assert Counter((row[0], *row[5:]) for row in found[path]) == Counter((row[0], *row[5:]) for row in rows)
        left = list(found[path])
        for row in rows:
            same = [o for o in left if o[0] == row[0] and o[5:] == row[5:]]
            nearest = min(same, key=lambda o, row=row: np.abs(np.subtract(o[1:5], row[1:5])).max())
            assert np.abs(np.subtract(nearest[1:5], row[1:5])).max() < 1e-3
            left.remove(nearest)


@pytest.mark.parametrize("name", ["coco-fsod", "voc-2", "cd-fsod-clipart1k", "cd-fsod-uodd", "lvis", "pascal-5i-1"])
def test_fiftyone_and_the_engine_read_the_same_objects(importing, name):
    protocol = get_protocol(name)
    folder = tiny(protocol.layout)
    data = load(protocol, folder)
    dataset = importing.import_layout(name, folder, f"imported-{name}")
    shots = protocol.layout == "cd-fsod"
    for tag, coco in (("references", data.references), ("targets", data.targets)):
        view = dataset.load_saved_view(tag)
        assert sorted(view.values("filepath")) == sorted(image["path"] for image in coco["images"])
        assert_same_objects(objects_of_view(view, shots and tag == "references"), objects_of_coco(coco))
    names = {category["id"]: category["name"] for category in data.targets["categories"]}
    assert dataset.info["classes"] == [names[class_id] for class_id in data.class_ids]
    assert len(dataset.info["base_classes"]) == len(data.base_class_ids)
    assert dataset.persistent


def test_fiftyone_reads_the_files_of_coco_themselves_with_the_same_objects_and_masks(importing, fo):
    folder = tiny("coco")
    direct = fo.Dataset.from_dir(
        dataset_type=fo.types.COCODetectionDataset,
        data_path=str(folder / "val2017"),
        labels_path=str(folder / "annotations" / "instances_val2017.json"),
        label_types="segmentations",
        label_field="ground_truth",
        name="imported-direct",
    )
    data = load(get_protocol("coco-80"), folder)
    assert_same_objects(objects_of_view(direct), objects_of_coco(data.targets))
    imported = importing.import_layout("coco-80", folder, "imported-engine").match_tags("targets")
    for one, other in zip(direct.sort_by("filepath"), imported.sort_by("filepath"), strict=True):
        masks = [[d.mask for d in s.ground_truth.detections] if s.ground_truth else [] for s in (one, other)]
        assert len(masks[0]) == len(masks[1])
        assert all(np.array_equal(a, b) for a, b in zip(*masks, strict=True))


def test_an_import_that_fails_leaves_no_dataset_behind(importing, fo, monkeypatch):
    def fail(dataset, *_):
        assert dataset.name == "imported-broken"
        raise KeyError("in the middle")

    monkeypatch.setattr(importing, "_add_coco", fail)
    with pytest.raises(KeyError, match="in the middle"):
        importing.import_layout("coco-fsod", tiny("coco"), "imported-broken")
    assert not fo.dataset_exists("imported-broken")


def test_a_custom_protocol_has_views_and_no_layout(importing, tmp_path):
    with pytest.raises(LayoutError, match="FiftyOne views"):
        importing.import_layout("custom", tmp_path)


def test_views_become_the_data_of_a_protocol(importing, references, targets):
    from drawn_dataset import CLASSES

    data = importing.custom_data(references, targets, "ground_truth")
    assert [c["name"] for c in data.targets["categories"]] == sorted(CLASSES)
    assert data.class_ids == (1, 2)
    assert not data.box_references
    assert not data.notes
    assert [image["path"] for image in data.targets["images"]] == targets.values("filepath")
    expected = objects_of_view(_with_metadata(targets))
    assert_same_objects(objects_of_coco(data.targets), expected)
    drawn = draw_references(get_protocol("custom"), data, 2, 7)
    assert [len(of_class) for of_class in drawn.values()] == [2, 2]
    json.dumps([data.references, data.targets])
    mask = coco_mask.decode(drawn[1][0]["segmentation"])
    assert mask.sum() == drawn[1][0]["area"]


def test_custom_base_classes_are_distractors_and_unknown_classes_are_refused(importing, references, targets):
    from drawn_dataset import CLASSES

    data = importing.custom_data(references, targets, "ground_truth", classes=[CLASSES[1]])
    assert data.class_ids == (2,)
    assert data.base_class_ids == (1,)
    assert {a["category_id"] for a in data.targets["annotations"]} == {1, 2}
    with pytest.raises(importing.InputError, match="no label of the classes unicorn"):
        importing.custom_data(references, targets, "ground_truth", classes=["unicorn"])
    with pytest.raises(importing.InputError, match="no label of the classes unicorn"):
        importing.custom_data(references, targets, "ground_truth", classes=[CLASSES[0], "unicorn"])
    with pytest.raises(importing.InputError, match="label field 'truth' does not exist"):
        importing.custom_data(references, targets, "truth")


def test_references_that_are_boxes_ask_for_masks_and_targets_that_are_boxes_are_told_of(importing, drawn):
    for sample in drawn.iter_samples(autosave=True):
        for label in sample.ground_truth.detections[:1]:
            label.mask = None
    data = importing.custom_data(drawn.match_tags("reference"), drawn.match_tags("target"), "ground_truth")
    assert data.box_references
    assert sum("segmentation" not in a for a in data.references["annotations"]) == 4
    assert all(a["segmentation"] for a in data.targets["annotations"])
    assert any("of the targets have no mask" in note for note in data.notes)


def test_labels_outside_their_image_are_left_out_and_told_of(importing, drawn):
    sample = drawn.match_tags("target").first()
    count = len(sample.ground_truth.detections)
    sample.ground_truth.detections[0].bounding_box = [1.2, 0.2, 0.1, 0.1]
    sample.save()
    data = importing.custom_data(drawn.match_tags("reference"), drawn.match_tags("target"), "ground_truth")
    assert sum(a["image_id"] == sample.id for a in data.targets["annotations"]) == count - 1
    (note,) = data.notes
    assert note.startswith("1 labels or images of the targets were left out: ")
    assert "lies outside its image" in note


def test_crowds_can_be_counted_as_objects(importing, drawn):
    for sample in drawn.match_tags("target").iter_samples(autosave=True):
        for label in sample.ground_truth.detections:
            label["iscrowd"] = "1"

    def crowds(**options) -> int:
        views = drawn.match_tags("reference"), drawn.match_tags("target")
        return sum(
            a["iscrowd"] for a in importing.custom_data(*views, "ground_truth", **options).targets["annotations"]
        )

    assert crowds() == drawn.match_tags("target").count("ground_truth.detections")
    assert crowds(crowd=None) == 0


def test_images_that_cannot_be_read_are_left_out_and_named(importing, drawn):
    broken = drawn.match_tags("target").first()
    Path(broken.filepath).write_bytes(b"nothing")
    data = importing.custom_data(drawn.match_tags("reference"), drawn.match_tags("target"), "ground_truth")
    assert broken.id not in {image["id"] for image in data.targets["images"]}
    (note,) = data.notes
    assert broken.filepath in note
    for sample in drawn.match_tags("target"):
        Path(sample.filepath).write_bytes(b"nothing")
    with pytest.raises(importing.InputError, match="none of the images of the targets can be read"):
        importing.custom_data(drawn.match_tags("reference"), drawn.match_tags("target"), "ground_truth")


def test_the_drawn_view_does_not_depend_on_ids_and_order(importing, drawn, make_dataset):
    view = importing.sample_references_view(drawn, "ground_truth", 2, 5)
    counts = view.count_values("ground_truth.detections.label")
    assert set(counts.values()) == {2}
    again = make_dataset([sample.copy() for sample in reversed(list(drawn))])
    other = importing.sample_references_view(again, "ground_truth", 2, 5)
    assert _named(other) == _named(view)
    assert set(other.values("id")).isdisjoint(view.values("id"))
    seeds = {tuple(_named(importing.sample_references_view(drawn, "ground_truth", 1, seed))) for seed in range(6)}
    assert len(seeds) > 1


def test_the_drawn_view_takes_the_classes_asked_for_no_crowds_and_what_there_is(importing, drawn):
    from drawn_dataset import CLASSES

    everything = drawn.count_values("ground_truth.detections.label")
    view = importing.sample_references_view(drawn, "ground_truth", 1000, 5, classes=[CLASSES[0]])
    assert view.count_values("ground_truth.detections.label") == {CLASSES[0]: everything[CLASSES[0]]}
    for sample in drawn.iter_samples(autosave=True):
        for label in sample.ground_truth.detections:
            label["iscrowd"] = label.label == CLASSES[0]
    drawn.add_dynamic_sample_fields()
    view = importing.sample_references_view(drawn, "ground_truth", 1, 5)
    assert view.count_values("ground_truth.detections.label") == {CLASSES[1]: 1}
    with pytest.raises(importing.InputError, match="no label of the classes unicorn"):
        importing.sample_references_view(drawn, "ground_truth", 1, 5, classes=["unicorn"])
    with pytest.raises(ValueError, match="at least 1"):
        importing.sample_references_view(drawn, "ground_truth", 0, 5)


def _named(view) -> list[tuple]:
    """Labels of a view, by properties that do not depend on a database."""
    rows = [
        (Path(sample.filepath).name, label.label, tuple(label.bounding_box))
        for sample in view
        for label in sample.ground_truth.detections
    ]
    return sorted(rows)


def _with_metadata(view):
    view.compute_metadata()
    return view


def test_names_of_datasets_and_views_may_hold_slashes(importing, make_dataset, fo, tmp_path):
    dataset = make_dataset([fo.Sample(tmp_path / "a.png"), fo.Sample(tmp_path / "b.png")], name="of/birds")
    dataset.save_view("to/check", dataset.limit(1))
    assert len(importing.view_of("of/birds")) == 2
    assert len(importing.view_of("of/birds/to/check")) == 1
    with pytest.raises(importing.InputError, match="there is no dataset 'of/birds/elsewhere'"):
        importing.view_of("of/birds/elsewhere")
