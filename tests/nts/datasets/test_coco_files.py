"""Unusual COCO files: each gives a result with a note, or a clear error before a model runs."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from nts.datasets.coco_files import load_coco_files
from nts.datasets.protocol_data import ProtocolData, protocol_data
from nts.datasets.repair import LayoutError, run_lengths
from nts.datasets.sampling import draw_references
from nts.evaluation import __main__ as command
from nts.evaluation.markdown import table
from nts.evaluation.predictor_run import without_references_of_other_ids
from nts.evaluation.predictor_table import PredictorTable
from nts.metrics.average_precision import accumulate, summarise
from nts.metrics.coco import evaluate, is_crowd
from nts.metrics.matches import match
from nts.utils.names import as_names

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
BOX = [10, 10, 20, 20]
SIZE = (40, 60)


def rle(mask: np.ndarray, *, compressed: bool = True) -> dict:
    """Run-length code of a mask."""
    if compressed:
        code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return {"size": code["size"], "counts": code["counts"].decode()}
    pixels = mask.flatten("F").astype(int)
    edges = np.flatnonzero(np.diff(np.append(0, pixels))).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, pixels.size]).tolist()}


def square() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:30, 10:30] = True
    return mask


def annotation(number: int, **change) -> dict:
    """Square in image `number` of class 1 (odd numbers) or 2."""
    base = {"id": number, "image_id": number, "category_id": 2 - number % 2, "bbox": list(BOX), "iscrowd": 0}
    return {**base, "segmentation": [list(SQUARE)], "area": 400, **change}


class Files:
    """Two COCO files of four images each, for tests to modify before reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json = {role: self._draw(role) for role in ("references", "targets")}

    def _draw(self, role: str) -> dict:
        rng = np.random.default_rng(len(role))
        images = []
        for number in range(1, 5):
            name = f"{role}{number}.png"
            Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(self.folder / name)
            images.append({"id": number, "file_name": name, "width": SIZE[1], "height": SIZE[0]})
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        return {"images": images, "annotations": [annotation(n) for n in range(1, 5)], "categories": categories}

    @property
    def references(self) -> dict:
        return self.json["references"]

    @property
    def targets(self) -> dict:
        return self.json["targets"]

    def write(self) -> list[Path]:
        paths = [self.folder / f"{role}.json" for role in self.json]
        for path, content in zip(paths, self.json.values(), strict=True):
            path.write_text(json.dumps(content))
        return paths

    def load(self, **options) -> ProtocolData:
        return load_coco_files(*self.write(), **options)

    def note(self, **options) -> str:
        (note,) = self.load(**options).notes
        return note

    def error(self, **options) -> str:
        with pytest.raises(LayoutError) as error:
            self.load(**options)
        return str(error.value)


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


def test_good_files_need_no_notes(files):
    data = files.load()
    assert data.class_ids == (1, 2)
    assert data.notes == ()


class TestCategories:
    @pytest.mark.parametrize("name", ["animals", "cat"])
    @pytest.mark.parametrize("roles", [["references"], ["targets"], ["references", "targets"]])
    def test_a_root_category_is_not_evaluated(self, files, name, roles):
        for role in roles:
            files.json[role]["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
        data = files.load()
        assert data.class_ids == (1, 2)
        assert data.base_class_ids == ()
        expected = ("Categories without a reference, not evaluated: animals.",) if name == "animals" else ()
        assert data.notes == expected
        assert files.load(classes="cat").class_ids == (1,)

    def test_a_root_category_that_takes_the_id_of_a_class_is_an_error(self, files):
        names = [{"id": 0, "name": "animals"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        files.targets["categories"] = names
        files.references["categories"] = [{"id": k, "name": name} for k, name in enumerate(("cat", "dog"))]
        for item in files.references["annotations"]:
            item["category_id"] -= 1
        assert "category 1 is 'cat' in the targets, but 'dog' in the references" in files.error()

    def test_ids_of_unused_categories_may_differ(self, files):
        files.targets["categories"].append({"id": 3, "name": "bird"})
        files.references["categories"].append({"id": 3, "name": "fish"})
        assert files.load().class_ids == (1, 2)

    def test_objects_without_a_reference_are_distractors(self, files):
        files.references["annotations"] = [a for a in files.references["annotations"] if a["category_id"] == 1]
        data = files.load()
        assert (data.class_ids, data.base_class_ids) == ((1,), (2,))
        assert data.notes == ("Categories without a reference, not evaluated, whose objects are distractors: dog (2).",)
        assert "no annotation at all of 'dog'" in files.error(classes=["cat", "dog"])

    def test_classes_that_only_one_file_has_are_named(self, files):
        files.references["categories"].append({"id": 3, "name": "bird"})
        files.references["annotations"].append(annotation(5, image_id=1, category_id=3))
        assert files.note() == "Categories of the references that the targets do not have, not evaluated: bird."

    def test_a_class_without_targets_has_no_ap_and_is_named(self, files):
        files.targets["annotations"] = [a for a in files.targets["annotations"] if a["category_id"] == 1]
        assert files.note() == "Classes without an object in the targets, which have no AP: dog."

    def test_one_class_is_enough(self, files):
        for role in files.json.values():
            role["categories"] = role["categories"][:1]
            role["annotations"] = [a for a in role["annotations"] if a["category_id"] == 1]
        assert files.load().class_ids == (1,)

    @pytest.mark.parametrize("name", ["", "grün.✓", "a.b$c", "two\nlines", "a|b", "all", "all base", "mean", "none"])
    def test_any_name_will_do(self, files, name):
        for role in files.json.values():
            role["categories"][0]["name"] = name
        data = files.load()
        assert [c["name"] for c in data.targets["categories"]] == [name, "dog"]

    @pytest.mark.parametrize("name", [None, [], {}])
    def test_but_there_must_be_one(self, files, name):
        files.targets["categories"][0]["name"] = name
        assert "category 1 of the targets has no name" in files.error()


class TestStructure:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\xff\xfe{\x00", "is no JSON"),
            (
                json.dumps({"images": [{"file_name": "grün"}]}, ensure_ascii=False).encode("latin-1"),
                "not text in UTF-8",
            ),
            (b"{", "is no JSON"),
            (b"", "is no JSON"),
            (b"[]", "it is a list, as a file of results is"),
            (b"3", "it is a int, not an object"),
            (b"null", "is not a COCO data set"),
        ],
    )
    @pytest.mark.parametrize("role", [0, 1])
    def test_files_that_are_not_coco_are_refused_and_named(self, files, content, message, role):
        paths = files.write()
        paths[role].write_bytes(content)
        with pytest.raises(LayoutError, match=message) as error:
            load_coco_files(*paths)
        assert str(paths[role]) in str(error.value)

    def test_a_byte_order_mark_is_fine(self, files):
        paths = files.write()
        paths[0].write_bytes(b"\xef\xbb\xbf" + paths[0].read_bytes())
        assert load_coco_files(*paths).class_ids == (1, 2)

    @pytest.mark.parametrize("key", ["images", "annotations", "categories"])
    @pytest.mark.parametrize("role", ["references", "targets"])
    def test_missing_and_wrong_parts_are_named(self, files, key, role):
        for value, message in (
            (None, f"{key!r} must be a list, not null"),
            ({"1": {}}, f"{key!r} must be a list, not an object"),
            ("x", f"{key!r} must be a list, not text"),
        ):
            files.json[role][key] = value
            assert message in files.error()
            assert f"{role}.json" in files.error()
        del files.json[role][key]
        assert f"it lacks {key}" in files.error()

    def test_the_test_sets_of_coco_have_no_annotations(self, files):
        del files.targets["annotations"]
        files.targets.update(info={}, licenses=[])
        assert "a test set whose annotations are not public cannot be used" in files.error()

    @pytest.mark.parametrize("role", ["references", "targets"])
    def test_empty_files_are_told(self, files, role):
        files.json[role]["annotations"] = []
        assert ("has a usable reference" if role == "references" else "there is nothing to measure") in files.error(
            **({} if role == "references" else {"classes": ["cat"]})
        )
        files.json[role]["images"] = []
        assert "has no images" in files.error()

    @pytest.mark.parametrize(
        ("key", "change", "message"),
        [
            ("images", None, "entry 2 of 'images' of .* must be an object, and is null"),
            ("images", {"id": None}, r"entry 2 of 'images' of .* \('targets2.png'\) has no id"),
            ("images", {"id": [1]}, r"an image of the targets has the id \[1\]"),
            ("images", {"id": 1.5}, r"an image of the targets has the id 1.5"),
            ("images", {"file_name": None}, "the image 2 of the data set in .* has no file_name"),
            ("images", {"file_name": 7}, "the image 2 of the data set in .* has no file_name"),
            ("categories", "dog", "entry 2 of 'categories' of .* must be an object, and is text"),
            ("categories", {"id": None}, r"entry 2 of 'categories' of .* \('dog'\) has no id"),
            ("categories", {"id": "dog"}, "a category of the targets has the id 'dog': it must be an integer"),
            ("categories", {"id": 1}, "the targets have two categories of one name or id"),
            ("images", {"id": 1}, "1 ids are those of several images of the targets: 1"),
            ("images", {"file_name": "./targets1.png"}, "the images 1 and 2 of .* are both ./targets1.png"),
        ],
    )
    def test_broken_entries_are_named(self, files, key, change, message):
        entries = files.targets[key]
        entries[1] = {**entries[1], **change} if isinstance(change, dict) else change
        with pytest.raises(LayoutError, match=message):
            files.load()

    def test_numbers_as_text_are_the_same_ids(self, files):
        for item in files.targets["annotations"]:
            item |= {"image_id": str(item["image_id"]), "category_id": str(item["category_id"])}
        for category in files.references["categories"]:
            category["id"] = str(category["id"])
        data = files.load()
        assert [(a["image_id"], a["category_id"]) for a in data.targets["annotations"]] == [
            (1, 1),
            (2, 2),
            (3, 1),
            (4, 2),
        ]
        assert len(data.notes) == 2
        assert all("as text" in note for note in data.notes)

    def test_uuids_are_ids(self, files):
        for role in files.json.values():
            for image, item in zip(role["images"], role["annotations"], strict=True):
                image["id"] = item["image_id"] = f"image-{image['id']}"
                item["id"] = f"uuid-{item['id']}"
        data = files.load()
        assert data.notes == ()
        assert [a["id"] for a in data.targets["annotations"]] == ["uuid-1", "uuid-2", "uuid-3", "uuid-4"]

    def test_ids_of_annotations_may_repeat_but_copies_are_left_out(self, files):
        files.targets["annotations"][1]["id"] = 1
        files.targets["annotations"].append(dict(files.targets["annotations"][0]))
        data = files.load()
        assert len({a["id"] for a in data.targets["annotations"]}) == 4
        assert data.notes == ("Annotations of the targets that were left out because they are there twice: 1.",)


class TestImages:
    def test_names_may_be_absolute_in_subfolders_or_of_windows(self, files):
        (files.folder / "sub" / "deep").mkdir(parents=True)
        names = ["sub/deep/a.png", "sub\\deep\\b.png", str(files.folder / "targets3.png"), "sub/../targets4.png"]
        for number, name in enumerate(["a", "b"], start=1):
            shutil.move(files.folder / f"targets{number}.png", files.folder / "sub" / "deep" / f"{name}.png")
        for image, name in zip(files.targets["images"], names, strict=True):
            image["file_name"] = name
        assert all(Path(image["path"]).is_file() for image in files.load().targets["images"])

    @pytest.mark.parametrize("role", ["references", "targets"])
    def test_files_that_are_all_missing_are_told_of(self, files, role):
        for image in files.json[role]["images"]:
            image["file_name"] = f"elsewhere/{image['file_name']}"
        assert f"none of the 4 images of the {role} is found" in files.error()

    @pytest.mark.parametrize(
        "size", [{}, {"width": None}, {"height": 0}, {"width": -3}, {"width": "?"}, {"width": True}]
    )
    def test_a_size_that_is_no_size_is_read_from_the_file(self, files, size):
        image = files.targets["images"][1]
        files.targets["images"][1] = {"id": 2, "file_name": image["file_name"], **size}
        image = files.load().targets["images"][1]
        assert (image["height"], image["width"]) == SIZE

    def test_a_size_may_be_text(self, files):
        files.targets["images"][1] |= {"width": "60", "height": 40.0}
        assert files.load().targets["images"][1]["width"] == 60

    @pytest.mark.parametrize("kind", ["huge", "text", "gone"])
    def test_an_image_of_unknown_size_that_cannot_be_read_is_left_out_and_named(self, files, kind, monkeypatch):
        path = files.folder / "targets2.png"
        files.targets["images"][1] = {"id": 2, "file_name": path.name}
        if kind == "huge":
            Image.new("1", (2000, 2000)).save(path)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
        elif kind == "text":
            path.write_text("text")
        else:
            path.unlink()
        data = files.load()
        assert [image["id"] for image in data.targets["images"]] == [1, 3, 4]
        assert [a["image_id"] for a in data.targets["annotations"]] == [1, 3, 4]
        (note,) = data.notes
        assert note.startswith("Images of the targets that were left out, with their 1 annotations: 1 (the image 2 has")
        assert "targets2.png" in note

    def test_no_image_at_all_that_can_be_used_is_an_error(self, files):
        for image in files.targets["images"]:
            del image["width"]
            (files.folder / image["file_name"]).write_text("text")
        assert "none of the images can be used. Images of the targets that were left out" in files.error(classes="cat")


EMPTY = [None, [], [[]], {}, {"size": list(SIZE), "counts": ""}, {"size": list(SIZE), "counts": []}, "absent", [[], []]]
NO_AREA = [
    [[10, 10, 30, 30]],
    [[10, 10]],
    [[10, 10, 30, 30], []],
    {"size": list(SIZE), "counts": [2400]},
    rle(np.zeros(SIZE, bool)),
    [[100, 10, 130, 10, 130, 30]],
]


class TestMasks:
    @pytest.mark.parametrize("segmentation", [*EMPTY, *NO_AREA])
    def test_an_empty_mask_is_no_mask(self, files, segmentation):
        item = files.targets["annotations"][1]
        item["segmentation"] = segmentation
        if segmentation == "absent":
            del item["segmentation"]
        del item["area"]
        data = files.load()
        found = data.targets["annotations"][1]
        assert "segmentation" not in found
        assert (found["bbox"], found["area"]) == (BOX, 400)
        assert data.notes == (
            "1 objects of the targets have no mask: their boxes stand in for it, so the AP of masks means little.",
        )
        matches = match(data.targets, [], [1, 2], "masks")
        assert not matches.gt_ignored[0].any()
        item["bbox"] = None
        assert "annotation 2: it has neither box nor mask" in files.load().notes[0]

    @pytest.mark.parametrize(
        "segmentation",
        [
            [SQUARE],
            SQUARE,
            [SQUARE, []],
            [[5, 5, 9, 9], SQUARE],
            rle(square()),
            rle(square(), compressed=False),
            {**rle(square()), "size": [40.0, 60.0]},
        ],
    )
    @pytest.mark.parametrize("box", [None, [], BOX, [10, 10, -5, 5], [10, 10, 20], ["a"] * 4, [math.nan] * 4, "absent"])
    def test_a_mask_in_any_form_is_the_mask_and_gives_a_box_that_is_missing(self, files, segmentation, box):
        item = files.targets["annotations"][1]
        item |= {"segmentation": json.loads(json.dumps(segmentation)), "bbox": box, "area": None}
        if box == "absent":
            del item["bbox"]
        data = files.load()
        found = data.targets["annotations"][1]
        assert (found["bbox"], found["area"]) == (BOX, 400)
        assert data.notes == ()
        results = [{"image_id": 2, "category_id": 2, "score": 0.9, "segmentation": rle(square())}]
        assert summarise(accumulate(match(data.targets, results, [2]))).ap75 > 0.4

    @pytest.mark.parametrize(
        ("segmentation", "reason"),
        [
            ("iVBORw0KGgo=", "neither a list of polygons nor a run-length code"),
            (7, "neither a list of polygons nor a run-length code"),
            ([{"x": 1}], "neither a list of polygons"),
            ([["a"] * 8], "coordinates that are not numbers"),
            ([[*SQUARE, 5]], "odd number of coordinates"),
            ([[10, 10, math.nan, 10, 10, 30]], "polygons are not finite"),
            ([[10, 10, 1e9, 10, 10, 30]], "reach far beyond the image"),
            ({"size": [60, 40], "counts": rle(square())["counts"]}, r"of \(height, width\) \[60, 40\]"),
            ({"counts": rle(square())["counts"]}, r"of \(height, width\) None"),
            ({"size": list(SIZE), "counts": "~~~~"}, "runs of its mask do not make up its image"),
            ({"size": list(SIZE), "counts": "0"}, "runs of its mask do not make up its image"),
            ({"size": list(SIZE), "counts": "é"}, "runs of its mask do not make up its image"),
            ({"size": list(SIZE), "counts": [2000, "400"]}, "runs of its mask do not make up its image"),
            ({"size": list(SIZE), "counts": [2500, -100]}, "runs of its mask do not make up its image"),
            ({"size": list(SIZE), "counts": 7}, "runs of its mask do not make up its image"),
        ],
    )
    def test_a_damaged_mask_is_left_out_and_named(self, files, segmentation, reason):
        files.targets["annotations"][1]["segmentation"] = segmentation
        data = files.load()
        assert [a["id"] for a in data.targets["annotations"]] == [1, 3, 4]
        assert data.notes[0].startswith("Annotations of the targets that were left out: 1 (annotation 2: ")
        assert re.search(reason, data.notes[0])

    def test_run_lengths_are_those_of_pycocotools(self):
        rng = np.random.default_rng(0)
        for share in (0.0, 0.01, 0.5, 0.99, 1.0):
            mask = rng.random((37, 53)) < share
            counts = run_lengths(rle(mask)["counts"])
            expected = rle(mask, compressed=False)["counts"]
            assert counts.sum() == mask.size
            assert counts[1::2].sum() == mask.sum()
            assert counts.tolist()[: len(expected)] == expected


class TestBoxes:
    @pytest.mark.parametrize(
        ("box", "reason"),
        [
            ([10, 10, -5, 5], "has no area"),
            ([10, 10, 0, 5], "has no area"),
            ([70, 10, 5, 5], "lies outside of its image of 60 x 40 pixels"),
            ([10, 10, 5], "not four finite numbers"),
            ("10 10 5 5", "not four finite numbers"),
            ({"x": 1}, "not four finite numbers"),
            (None, "neither box nor mask"),
        ],
    )
    def test_a_box_alone_must_be_one(self, files, box, reason):
        files.targets["annotations"][1] |= {"segmentation": None, "bbox": box}
        assert reason in files.load().notes[0]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"image_id": 9}, "there is no image 9"),
            ({"image_id": None}, "there is no image None"),
            ({"image_id": [1]}, r"there is no image [1]"),
            ({"category_id": 9}, "there is no category 9"),
            ({"category_id": None}, "it has no category_id"),
            ({"category_id": {}}, "there is no category {}"),
        ],
    )
    def test_annotations_of_nothing_known_are_left_out_and_named(self, files, change, reason):
        files.targets["annotations"][1] |= change
        assert reason in files.load().notes[0]
        files.targets["annotations"][1] = None
        assert "annotation number 2: it is null, not an object" in files.load().notes[0]

    def test_boxes_relative_to_the_image_are_refused(self, files):
        for item in files.targets["annotations"]:
            item |= {"segmentation": [], "bbox": [0.2, 0.2, 0.3, 0.3]}
        assert "all boxes of the targets lie between 0 and 1" in files.error()

    def test_boxes_of_two_corners_are_told_of(self, files):
        for item in files.targets["annotations"]:
            item["bbox"] = [30, 20, 50, 39]
        assert files.note().startswith("4 boxes of the targets do not fit their masks or reach beyond their images")

    @pytest.mark.parametrize("area", [None, 0, -5, math.nan, "400", True])
    def test_an_area_that_is_none_is_measured(self, files, area):
        files.targets["annotations"][1]["area"] = area
        assert files.load().targets["annotations"][1]["area"] == 400


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        *[
            (v, False)
            for v in (None, False, 0, 0.0, math.nan, "", " ", "0", "0.0", "false", "False", "no", "nan", "maybe")
        ],
        *[(v, True) for v in (True, 1, 1.0, 2, "1", " 1.0 ", "true", "TRUE", " yes", "y", "on", np.True_, np.int64(1))],
    ],
)
def test_the_mark_of_a_crowd(value, crowd):
    assert is_crowd(value) is crowd
    truth = {
        "images": [{"id": 1, "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 400, "iscrowd": value}],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 1.0}]
    assert math.isnan(evaluate(truth, results).boxes.novel.ap) is crowd


class TestCrowds:
    def test_classes_of_crowds_alone_are_told_of(self, files):
        for item in files.targets["annotations"]:
            item["iscrowd"] = int(item["category_id"] == 2)
        note = files.note()
        assert note.startswith("2 of the 4 objects of the targets are crowds (iscrowd), which count for nothing.")
        assert "which have no AP: dog (2)." in note
        assert "--crowds-as-objects" in note
        data = files.load(crowds_as_objects=True)
        assert data.notes == ()
        assert not any(a["iscrowd"] for a in data.targets["annotations"])

    def test_references_that_are_all_crowds_are_an_error_that_says_what_to_do(self, files):
        for item in files.references["annotations"]:
            item["iscrowd"] = "1"
        message = files.error()
        assert "all 4 annotations of the references are crowds" in message
        assert "--crowds-as-objects" in message
        assert files.load(crowds_as_objects=True).class_ids == (1, 2)


def test_names_become_a_list():
    assert as_names("cat") == ["cat"]
    assert as_names(iter(["cat", "dog"])) == ["cat", "dog"]
    assert as_names(()) == []
    assert as_names(None) is None


def test_a_cell_of_a_table_is_one_line():
    assert table(["a"], [["x|y\nz\r\n"]], "l").splitlines()[2:] == ["| x\\|y z   |"]


def test_the_draw_does_not_depend_on_skipped_entries(files):
    before = draw_references(command.get_protocol("custom"), files.load(), 1, 0)
    files.references["annotations"].append(annotation(9, image_id=77))
    after = draw_references(command.get_protocol("custom"), files.load(), 1, 0)
    assert [[a["id"] for a in drawn] for drawn in before.values()] == [[a["id"] for a in d] for d in after.values()]


def test_the_command_ends_before_models_are_loaded(files, monkeypatch):
    files.targets["images"][0]["id"] = 2
    references, targets = map(str, files.write())
    monkeypatch.setattr(command, "load_encoder", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit, match="LayoutError: 1 ids are those of several images of the targets: 2"):
        command.main(["run", "custom", "--references", references, "--targets", targets])
    with pytest.raises(SystemExit, match="must both be COCO files, or both of FiftyOne"):
        command.main(["run", "custom", "--references", references, "--targets", "fiftyone:x"])


def test_a_run_with_names_of_all_kinds_and_unreadable_images_ends_in_a_report(files):
    names = ["all", "mean|\n✓ $a.b"]
    for role in files.json.values():
        role["images"] = [{"id": i["id"], "file_name": i["file_name"]} for i in role["images"]]
        for category, name in zip(role["categories"], names, strict=True):
            category["name"] = name
        role["categories"].insert(0, {"id": 0, "name": "background", "supercategory": "none"})
    (files.folder / "targets1.png").write_text("text")
    files.targets["images"][1] |= {"width": 60, "height": 40}
    (files.folder / "targets2.png").write_bytes((files.folder / "targets2.png").read_bytes()[:200])
    shutil.copy(files.folder / "references3.png", files.folder / "targets3.png")
    shutil.copy(files.folder / "references1.png", files.folder / "targets4.png")
    for item in files.targets["annotations"]:
        item["iscrowd"] = int(item["category_id"] == 2)
    references, targets = map(str, files.write())
    out = files.folder / "out"
    words = ["run", "custom", "--references", references, "--targets", targets, "--out", str(out)]
    words += ["--shots", "1", "--seeds", "1", "--points", "4", "--device", "cpu", "--save-predictions"]
    command.main(words)
    numbers = json.loads((out / "report.json").read_text())
    assert set(numbers["draws"][0]["per_class"]) == set(names)
    assert numbers["draws"][0]["per_class"][names[1]]["masks ap"] is None
    notes = " ".join(numbers["notes"])
    for words_of_note in ("targets1.png", "background", "are crowds", "show references too"):
        assert words_of_note in notes
    assert "targets2.png" in numbers["skipped"][0]
    text = (out / "report.md").read_text()
    assert "| mean\\| ✓ $a.b |" in text
    assert "| all |" in text


def test_episodes_have_no_target_that_is_a_reference_under_another_id(files):
    shutil.copy(files.folder / "references1.png", files.folder / "targets3.png")
    shutil.copy(files.folder / "references2.png", files.folder / "targets2.png")
    targets, (note,) = without_references_of_other_ids(files.load())
    assert [image["id"] for image in targets["images"]] == [1, 2, 4]  # a target 2 never receives reference 2
    assert {a["image_id"] for a in targets["annotations"]} == {1, 2, 4}
    assert note == "1 images of the targets are references under another id, and were left out."
    assert note in PredictorTable((), about={"notes": [note]}).to_markdown()


def test_two_data_sets_in_memory_are_checked_too():
    with pytest.raises(LayoutError, match="data set of the targets is not a COCO data set: it lacks annotations"):
        protocol_data({"images": [], "annotations": [], "categories": []}, {"images": [], "categories": []}, None)
