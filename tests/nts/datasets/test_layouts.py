"""Datasets on disk: every layout is read as it was drawn, with all fields of its protocol, and errors are reported."""

from __future__ import annotations

import filecmp
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_layouts import is_drawn, tiny

from nts.datasets.coco_records import has_mask
from nts.datasets.layouts import load
from nts.datasets.protocol_data import ProtocolData, protocol_data
from nts.datasets.protocols import COCO_CLASSES, PROTOCOLS, VOC_CLASSES, get_protocol
from nts.datasets.repair import LayoutError
from nts.datasets.sampling import qualifies
from synthetic.layouts import COCO_IDS, main

DRAWN = [name for name, protocol in PROTOCOLS.items() if is_drawn(protocol)]


def read(name: str, **options) -> ProtocolData:
    return load(get_protocol(name), tiny(get_protocol(name).layout), **options)


def by_image(dataset: dict) -> dict[int, list[dict]]:
    annotations: dict[int, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    return annotations


def mask_of(annotation: dict, image: dict) -> np.ndarray:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    merged = coco_mask.merge(segmentation) if isinstance(segmentation, list) else segmentation
    return coco_mask.decode(merged).astype(bool)


@pytest.fixture
def copy(tmp_path):
    """Copy of a drawn dataset that a test may damage."""

    def copied(layout: str) -> Path:
        return shutil.copytree(tiny(layout), tmp_path / layout)

    return copied


@pytest.mark.parametrize("name", DRAWN)
def test_every_protocol_finds_its_images_classes_and_annotations(name):
    protocol, data = get_protocol(name), read(name)
    names = {c["id"]: c["name"] for c in data.targets["categories"]}
    novel = protocol.novel_classes or tuple(names.values())
    assert {names[class_id] for class_id in data.class_ids} == set(novel)
    assert list(data.class_ids) == sorted(data.class_ids)
    assert set(data.class_ids) | set(data.base_class_ids) == set(names)
    assert {names[class_id] for class_id in data.base_class_ids} == set(protocol.base_classes)
    for dataset in (data.references, data.targets):
        images = {image["id"]: image for image in dataset["images"]}
        assert len(images) == len(dataset["images"]) > 1
        ids = [annotation["id"] for annotation in dataset["annotations"]]
        assert len(set(ids)) == len(ids)
        assert 0 not in ids
        for image in images.values():
            assert Path(image["path"]).is_absolute()
            with Image.open(image["path"]) as file:
                assert file.size == (image["width"], image["height"])
        for annotation in dataset["annotations"]:
            x, y, w, h = annotation["bbox"]
            image = images[annotation["image_id"]]
            assert 0 <= x < x + w <= image["width"]
            assert 0 <= y < y + h <= image["height"]
            assert annotation["iscrowd"] in (0, 1)
            assert annotation["area"] > 0
            assert annotation["category_id"] in names
            if has_mask(annotation):
                mask = mask_of(annotation, image)
                assert mask.sum() == annotation["area"]
                ys, xs = mask.nonzero()
                assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x, y, x + w, y + h)
    assert {(i["width"], i["height"]) for i in data.targets["images"]} == {(256, 256), (256, 208)}
    assert data.notes == ()


class TestCoco:
    def test_ids_have_gaps_and_order_is_that_of_the_file(self):
        assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[-1], len(COCO_IDS)) == (1, 13, 90, 80)
        data = read("coco-80")
        assert {c["id"]: c["name"] for c in data.targets["categories"]} == dict(
            zip(COCO_IDS, COCO_CLASSES, strict=True)
        )
        file = json.loads((tiny("coco") / "annotations" / "instances_train2017.json").read_text())
        assert [a["id"] for a in data.references["annotations"]] == [a["id"] for a in file["annotations"]]
        assert [a["image_id"] for a in file["annotations"]] != sorted(a["image_id"] for a in file["annotations"])

    def test_validation_has_every_case(self):
        data = read("coco-fsod")
        annotations = by_image(data.targets)
        assert sum(a["iscrowd"] for a in data.targets["annotations"]) == 1
        kinds = {isinstance(a["segmentation"], dict) for a in data.targets["annotations"] if a["iscrowd"]}
        assert kinds == {True}
        classes = [{a["category_id"] for a in annotations[image["id"]]} for image in data.targets["images"]]
        assert set() in classes
        assert any(of_image and of_image <= set(data.base_class_ids) for of_image in classes)
        assert any(of_image & set(data.class_ids) and of_image & set(data.base_class_ids) for of_image in classes)
        assert any(min(a["bbox"][2:]) < 32 for a in data.targets["annotations"])
        assert any(min(a["bbox"][:2]) == 0 for a in data.targets["annotations"])
        several = [Counter(a["category_id"] for a in of_image) for of_image in annotations.values()]
        assert max(max(counts.values(), default=0) for counts in several) > 1
        sizes = {i["id"]: (i["width"], i["height"]) for i in data.references["images"]}
        invalid = [a for a in data.references["annotations"] if not qualifies(a, *sizes[a["image_id"]])]
        assert any(a["iscrowd"] for a in invalid)
        assert len(invalid) > 20

    def test_episodes_take_references_and_targets_from_val2014(self):
        for fold in range(4):
            data = read(f"coco-20i-{fold}")
            assert data.references is data.targets
            assert "val2014" in data.targets["images"][0]["path"]
            images = {
                c: {a["image_id"] for a in data.targets["annotations"] if a["category_id"] == c} for c in data.class_ids
            }
            assert min(map(len, images.values())) >= 2

    def test_another_edition_is_read_when_asked_for_or_when_there_is_no_other_and_told(self, copy):
        assert "val2017" in read("coco-20i-0", edition="2017").targets["images"][0]["path"]
        folder = copy("coco")
        (folder / "annotations" / "instances_val2014.json").unlink()
        data = load(get_protocol("coco-20i-0"), folder)
        assert "val2017" in data.targets["images"][0]["path"]
        assert data.notes == ("The protocol was published on COCO 2014; this was read from COCO 2017.",)
        with pytest.raises(LayoutError, match=r"no .*instances_val2014.json"):
            load(get_protocol("coco-20i-0"), folder, edition="2014")

    def test_other_classes_than_the_protocols_can_be_evaluated(self):
        data = read("coco-fsod", classes=["zebra", "dog"])
        assert data.class_ids == (18, 24)
        assert len(data.base_class_ids) == 78
        with pytest.raises(LayoutError, match="the data set has no class 'unicorn'"):
            read("coco-fsod", classes=["unicorn"])


class TestLvis:
    def test_image_level_annotations_are_read(self):
        data = read("lvis")
        assert {c["frequency"] for c in data.targets["categories"]} == {"r", "c", "f"}
        annotations, names = by_image(data.targets), {c["id"] for c in data.targets["categories"]}
        in_part = unknown = 0
        for image in data.targets["images"]:
            present = {a["category_id"] for a in annotations[image["id"]]}
            negative, not_exhaustive = set(image["neg_category_ids"]), set(image["not_exhaustive_category_ids"])
            assert not present & negative
            assert negative
            assert not_exhaustive <= present
            in_part += len(not_exhaustive)
            unknown += len(names - present - negative)
        assert in_part > 2
        assert unknown > 2
        assert [] in annotations.values()
        for category in data.references["categories"]:
            of_class = [a for a in data.references["annotations"] if a["category_id"] == category["id"]]
            assert category["instance_count"] == len(of_class) > 0
            assert category["image_count"] == len({a["image_id"] for a in of_class})

    def test_a_class_that_is_in_a_picture_is_never_said_to_be_absent(self, monkeypatch, tmp_path):
        """The image content is only visible if nothing is removed from the annotations."""
        monkeypatch.setattr("synthetic.layouts._limit", lambda picture, left, references_only=True: picture)
        main(["lvis", str(tmp_path)])
        everything = load(get_protocol("lvis"), tmp_path)
        for one, other in (
            (read("lvis").targets, everything.targets),
            (read("lvis").references, everything.references),
        ):
            there, known = by_image(other), by_image(one)
            for image in one["images"]:
                seen = Counter(a["category_id"] for a in there[image["id"]])
                found = Counter(a["category_id"] for a in known[image["id"]])
                assert not seen.keys() & set(image["neg_category_ids"])
                assert {c for c in found if found[c] < seen[c]} == set(image["not_exhaustive_category_ids"])

    def test_images_are_found_by_their_address_in_both_folders(self):
        images = read("lvis").targets["images"]
        assert {Path(image["path"]).parent.name for image in images} == {"train2017", "val2017"}
        assert all(image["path"].endswith(image["file_name"]) for image in images)

    def test_annotations_may_lie_in_a_folder_of_their_own(self, copy):
        folder = copy("lvis")
        (folder / "annotations").mkdir()
        for split in ("train", "val"):
            (folder / f"lvis_v1_{split}.json").rename(folder / "annotations" / f"lvis_v1_{split}.json")
        assert len(load(get_protocol("lvis"), folder).targets["images"]) == 12

    def test_some_classes_have_too_few_references(self):
        data = read("lvis")
        sizes = {i["id"]: (i["width"], i["height"]) for i in data.references["images"]}
        valid = Counter(a["category_id"] for a in data.references["annotations"] if qualifies(a, *sizes[a["image_id"]]))
        names = {c["id"]: c["name"] for c in data.references["categories"]}
        assert {names[i]: valid[i] for i in names if valid[i] < 2} == {"gargoyle": 1, "hornet": 0}


class TestVoc:
    def test_boxes_are_a_pixel_less_and_difficult_objects_are_crowds(self, tmp_path):
        root = tmp_path / "VOCdevkit"
        self.write(root, "<xmin>45.7</xmin><ymin>20</ymin><xmax>100</xmax><ymax>60</ymax>", "<difficult>1</difficult>")
        data = load(get_protocol("voc-1"), tmp_path)
        (annotation,) = data.targets["annotations"]
        assert annotation["bbox"] == [44, 19, 55, 40]
        assert all(isinstance(value, int) for value in annotation["bbox"])
        assert annotation["area"] == 55 * 40
        assert annotation["iscrowd"] == 1
        assert annotation["category_id"] == VOC_CLASSES.index("sofa") == 17
        assert len(data.references["annotations"]) == 2
        assert [image["file_name"] for image in data.references["images"]] == [
            "VOC2007/JPEGImages/000001.jpg",
            "VOC2012/JPEGImages/000001.jpg",
        ]
        assert load(get_protocol("voc-1"), root).targets == data.targets

    def test_drawn_data_sets_have_every_case(self):
        data = read("voc-1")
        assert data.box_references
        assert not any(has_mask(a) for a in data.references["annotations"])
        for dataset in (data.references, data.targets):
            assert 0 < sum(a["iscrowd"] for a in dataset["annotations"]) < len(dataset["annotations"]) / 2
        annotations = by_image(data.targets)
        assert [] in annotations.values()
        classes = [{a["category_id"] for a in of_image} for of_image in annotations.values()]
        assert any(of_image and of_image <= set(data.base_class_ids) for of_image in classes)
        assert {i["file_name"][:7] for i in data.references["images"]} == {"VOC2007", "VOC2012"}
        assert {i["file_name"][:7] for i in data.targets["images"]} == {"VOC2007"}
        texts = [path.read_text() for path in sorted(tiny("voc").glob("VOCdevkit/*/Annotations/*.xml"))]
        assert any("<part>" in text for text in texts)
        assert any(".4</xmin>" in text for text in texts)

    def test_segmentations_have_a_mask_for_every_class_and_pixels_that_count_for_nothing(self):
        data = read("pascal-5i-2")
        assert data.references is data.targets
        assert data.class_ids == (11, 12, 13, 14, 15)
        assert not data.box_references
        annotations = by_image(data.targets)
        for image in data.targets["images"]:
            path = tiny("voc") / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{Path(image['path']).stem}.png"
            with Image.open(path) as file:
                classes = np.array(file)
            painted = np.zeros_like(classes)
            painted[coco_mask.decode(image["ignore"]).astype(bool)] = 255
            for annotation in annotations[image["id"]]:
                painted[mask_of(annotation, image)] = annotation["category_id"]
            assert np.array_equal(painted, classes)
            assert len({a["category_id"] for a in annotations[image["id"]]}) == len(annotations[image["id"]])
        images = {
            c: {a["image_id"] for a in data.targets["annotations"] if a["category_id"] == c} for c in range(1, 21)
        }
        assert min(map(len, images.values())) >= 2

    def test_faults_of_a_file_are_reported(self, tmp_path):
        root = tmp_path / "VOCdevkit"
        box = "<xmin>4</xmin><ymin>2</ymin><xmax>10</xmax><ymax>6</ymax>"
        self.write(root, box.replace("ymax", "bottom"))
        with pytest.raises(LayoutError, match="000001.xml has no <bndbox><ymax>"):
            load(get_protocol("voc-1"), tmp_path)
        self.write(root, box, name="unicorn")
        with pytest.raises(LayoutError, match="000001.xml has an object of the class 'unicorn'"):
            load(get_protocol("voc-1"), tmp_path)
        path = root / "VOC2012" / "Annotations" / "000001.xml"
        self.write(root, box)
        path.write_text("<annotation>")
        with pytest.raises(LayoutError, match="VOC2012/Annotations/000001.xml is no XML"):
            load(get_protocol("voc-1"), tmp_path)
        path.unlink()
        with pytest.raises(LayoutError, match=r"there is no .*VOC2012/Annotations/000001.xml. The data must be"):
            load(get_protocol("voc-1"), tmp_path)

    @staticmethod
    def write(root: Path, box: str, more: str = "", name: str = "sofa") -> None:
        """One image per year, with one object."""
        text = (
            "<annotation><size><width>120</width><height>80</height><depth>3</depth></size>"
            f"<object><name>{name}</name><bndbox>{box}</bndbox>{more}</object></annotation>"
        )
        for year in ("VOC2007", "VOC2012"):
            for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
                (root / year / folder).mkdir(parents=True, exist_ok=True)
            (root / year / "Annotations" / "000001.xml").write_text(text)
            Image.new("RGB", (120, 80)).save(root / year / "JPEGImages" / "000001.jpg")
            for split in ("trainval", "test"):
                (root / year / "ImageSets" / "Main" / f"{split}.txt").write_text("000001\n\n")

    def test_segmentations_must_be_class_numbers(self, copy):
        folder = copy("voc")
        path = sorted(folder.glob("VOCdevkit/VOC2012/SegmentationClass/*.png"))[0]
        Image.new("RGB", (256, 256)).save(path)
        with pytest.raises(LayoutError, match="must be an image of class numbers .* its mode is RGB"):
            load(get_protocol("pascal-5i-0"), folder)
        Image.new("L", (256, 256), 77).save(path)
        with pytest.raises(LayoutError, match=r"has pixels of unknown classes \[77\]"):
            load(get_protocol("pascal-5i-0"), folder)


class TestCdFsod:
    def test_shot_files_are_kept_apart_and_their_images_put_together(self):
        data = read("cd-fsod-clipart1k")
        assert data.box_references
        names = {i["id"]: i["file_name"] for i in data.references["images"]}
        assert len(set(names.values())) == len(names)
        for shots in (1, 5, 10):
            file = json.loads((tiny("cd-fsod") / "clipart1k" / "annotations" / f"{shots}_shot.json").read_text())
            file_names = {i["id"]: i["file_name"] for i in file["images"]}
            expected = [(file_names[a["image_id"]], a["category_id"], a["bbox"]) for a in file["annotations"]]
            found = [
                (names[a["image_id"]], a["category_id"], a["bbox"])
                for a in data.references["annotations"]
                if a["shots"] == shots
            ]
            assert found == expected

    def test_annotations_that_count_from_0_are_renumbered(self):
        file = json.loads((tiny("cd-fsod") / "FISH" / "annotations" / "test.json").read_text())
        assert file["annotations"][0]["id"] == 0
        assert [a["id"] for a in read("cd-fsod-deepfish").targets["annotations"]][:2] == [1, 2]

    def test_the_folder_of_one_set_will_do_and_a_shot_file_may_be_missing(self, copy):
        folder = copy("cd-fsod") / "UODD"
        protocol = get_protocol("cd-fsod-uodd")
        assert (folder / "test.json").is_file()
        assert load(protocol, folder).references["annotations"] == read("cd-fsod-uodd").references["annotations"]
        (folder / "annotations" / "5_shot.json").unlink()
        assert {a["shots"] for a in load(protocol, folder).references["annotations"]} == {1, 10}
        for shots in (1, 10):
            (folder / "annotations" / f"{shots}_shot.json").unlink()
        with pytest.raises(LayoutError, match=r"no .*1_shot.json and no .*5_shot.json and no .*10_shot.json"):
            load(protocol, folder)

    def test_shot_files_that_number_classes_differently_are_refused(self, copy):
        folder = copy("cd-fsod")
        path = folder / "UODD" / "annotations" / "5_shot.json"
        dataset = json.loads(path.read_text())
        dataset["categories"][0]["name"] = "starfish"
        path.write_text(json.dumps(dataset))
        with pytest.raises(LayoutError, match="category 0 is 'seacucumber' in one shot file, and 'starfish' in 5_shot"):
            load(get_protocol("cd-fsod-uodd"), folder)


class TestCompletion:
    """Valid but unusual COCO files: missing values are filled in, unusable entries are skipped and reported."""

    SQUARE = ([10, 10, 30, 10, 30, 30, 10, 30],)
    TRIANGLE = ([10, 10, 30, 10, 10, 30],)

    @staticmethod
    def complete(*annotations: dict, strict: bool = False, **image) -> ProtocolData:
        image = {"id": 1, "file_name": "1.jpg", "width": 60, "height": 40} | image
        image = {key: value for key, value in image.items() if value is not None}
        dataset = {"images": [image], "annotations": [dict(a) for a in annotations]}
        dataset["categories"] = [{"id": 3, "name": "cat"}]
        return protocol_data(dataset, dataset, ["cat"] if strict else None, strict=strict)

    @pytest.mark.parametrize("given", [{}, {"area": None}])
    def test_a_missing_area_is_that_of_the_mask_and_of_the_box_only_without_one(self, given):
        box = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], **given}
        data = self.complete({**box, "segmentation": list(self.TRIANGLE)}, box)
        drawn, filled = (a["area"] for a in data.targets["annotations"])
        assert 150 < drawn < 250
        assert filled == 400

    def test_missing_box_id_and_crowd_are_filled_in(self):
        data = self.complete({"image_id": 1, "category_id": 3, "segmentation": list(self.SQUARE), "iscrowd": None})
        (annotation,) = data.targets["annotations"]
        assert annotation["bbox"] == [10, 10, 20, 20]
        assert (annotation["id"], annotation["iscrowd"], annotation["area"]) == (1, 0, 400)
        assert data.notes == ()

    def test_unusable_annotations_are_skipped_and_reported(self):
        good = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}
        runs = {"size": [5, 5], "counts": [20, 5]}
        bad = [
            ({"image_id": 9}, "there is no image 9"),
            ({"bbox": None}, "neither box nor mask"),
            ({"bbox": [1, 1, float("nan"), 5]}, "not four finite numbers"),
            ({"segmentation": runs}, r"of \(height, width\) \[5, 5\], its image of \[40, 60\]"),
            ({"segmentation": {"size": [40, 60], "counts": [7]}}, "do not make up its image"),
            ({"segmentation": [[1, 1, 5, float("inf"), 5, 5]]}, "polygons are not finite"),
        ]
        for change, reason in bad:
            data = self.complete(good, {**good, **change, "id": 2})
            assert [a["id"] for a in data.targets["annotations"]] == [1]
            note, _ = data.notes  # the other one: boxes replace masks
            assert re.search(rf"left out: 1 \(annotation 2: .*{reason}", note)
        note, _ = self.complete(good, *({**good, "image_id": 9} for _ in range(7))).notes
        assert "left out: 7 (" in note
        assert note.endswith("and so on).")

    def test_a_missing_size_is_read_from_the_file(self, tmp_path):
        path = tmp_path / "1.jpg"
        Image.new("RGB", (60, 40)).save(path)
        box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}
        (image,) = self.complete(box, width=None, height=None, path=str(path)).targets["images"]
        assert (image["width"], image["height"]) == (60, 40)
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGB", (60, 40)).save(path, exif=exif)
        for reason, file in (("is turned by EXIF", path), ("its file cannot be read", tmp_path / "gone.jpg")):
            with pytest.raises(LayoutError, match=rf"image 1 has no width and height .*{reason}"):
                self.complete(box, strict=True, width=None, path=str(file))
            with pytest.raises(LayoutError, match=rf"left out, with their 1 annotations: 1 .*{reason}"):
                self.complete(box, width=None, path=str(file))

    def test_a_class_that_is_numbered_differently_is_named(self):
        one, other = (
            {"images": [], "annotations": [{"category_id": i}], "categories": [{"id": i, "name": "cat"}]}
            for i in (1, 2)
        )
        with pytest.raises(LayoutError, match="'cat' is category 2 in the targets, but 1 in the references"):
            protocol_data(one, other, None)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "file", "look"),
        [
            ("coco-fsod", "annotations/instances_val2017.json", "train2017/*.jpg"),
            ("coco-fsod", "annotations/instances_train2017.json", "annotations/instances_val2017.json"),
            ("coco-80", "val2017", "the folder of COCO"),
            ("lvis", "lvis_v1_val.json", "or both in annotations/"),
            ("voc-1", "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "VOC2012/ImageSets/Main/trainval.txt"),
            ("voc-1", "VOCdevkit/VOC2012", "VOC2012/Annotations/*.xml"),
            ("pascal-5i-0", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "SegmentationClass/*.png"),
            ("pascal-5i-0", "VOCdevkit/VOC2012/SegmentationClass", "SegmentationClass/*.png"),
            ("cd-fsod-clipart1k", "clipart1k/annotations/test.json", "<set>/test.json"),
            ("cd-fsod-clipart1k", "clipart1k/train", "<set>/train/*.jpg"),
        ],
    )
    def test_a_missing_file_is_named_with_what_the_folder_must_look_like(self, copy, name, file, look):
        folder = copy(get_protocol(name).layout)
        shutil.rmtree(folder / file) if (folder / file).is_dir() else (folder / file).unlink()
        with pytest.raises(LayoutError) as error:
            load(get_protocol(name), folder)
        assert str(folder / file) in str(error.value)
        assert look in str(error.value)

    def test_a_missing_folder_is_named_with_what_it_must_look_like(self, tmp_path):
        with pytest.raises(LayoutError, match=r"no folder .*nowhere. It must be the folder of COCO:\n *annotations/"):
            load(get_protocol("coco-fsod"), tmp_path / "nowhere")

    def test_json_that_is_none_or_no_data_set_is_named(self, copy):
        folder = copy("coco")
        path = folder / "annotations" / "instances_val2017.json"
        path.write_text('{"images": [')
        with pytest.raises(LayoutError, match=r"instances_val2017.json is no JSON"):
            load(get_protocol("coco-fsod"), folder)
        path.write_text('{"images": []}')
        with pytest.raises(LayoutError, match=r"not a COCO data set: it lacks annotations, categories"):
            load(get_protocol("coco-fsod"), folder)

    @pytest.mark.parametrize(
        ("part", "key"), [("images", "coco_url"), ("images", "neg_category_ids"), ("categories", "frequency")]
    )
    def test_missing_lvis_fields_are_named(self, copy, part, key):
        folder = copy("lvis")
        path = folder / "lvis_v1_val.json"
        dataset = json.loads(path.read_text())
        del dataset[part][1][key]
        path.write_text(json.dumps(dataset))
        with pytest.raises(LayoutError, match=f"lvis_v1_val.json is no LVIS data set: some of its {part} lack {key}"):
            load(get_protocol("lvis"), folder)

    def test_a_custom_protocol_has_no_layout(self, tmp_path):
        with pytest.raises(LayoutError, match="'custom' has no layout on disk: give it FiftyOne views"):
            load(get_protocol("custom"), tmp_path)

    def test_data_sets_that_do_not_belong_together_are_refused(self):
        def dataset(*categories: tuple[int, str], without: str = "") -> dict:
            """One image with an object of every category, except for those without objects."""
            image = {"id": 1, "file_name": "1.jpg", "width": 60, "height": 40}
            used = [i for i, name in categories if name not in without]
            return {
                "images": [image],
                "annotations": [{"id": i, "image_id": 1, "category_id": i, "bbox": [1, 1, 5, 5]} for i in used],
                "categories": [{"id": i, "name": name} for i, name in categories],
            }

        with pytest.raises(LayoutError, match="category 2 is 'b' in the targets, but 'c' in the references"):
            protocol_data(dataset((1, "a"), (2, "c")), dataset((1, "a"), (2, "b")), None)
        with pytest.raises(LayoutError, match="the references have no class 'b'"):
            protocol_data(dataset((1, "a")), dataset((1, "a"), (2, "b")), ["a", "b"])
        with pytest.raises(LayoutError, match=r"the targets have two categories of one name or id: \['a'\]"):
            protocol_data(dataset((1, "a")), dataset((1, "a"), (2, "a")), None)
        with pytest.raises(LayoutError, match="the data set has no class 'cat'; it has a"):
            protocol_data(dataset((1, "a")), dataset((1, "a")), "cat")
        assert protocol_data(dataset((1, "a")), dataset((2, "b"), (1, "a")), "a").base_class_ids == (2,)


@pytest.mark.parametrize(
    ("segmentation", "has"),
    [(None, False), ([], False), ([[]], False), ([[1, 1, 2, 1, 2, 2]], True), ({"size": [1, 1], "counts": "1"}, True)],
)
def test_an_annotation_has_a_mask_if_there_is_something_in_it(segmentation, has):
    assert has_mask({"segmentation": segmentation}) is has
    assert not has_mask({})


def test_the_command_draws_the_same_every_time(tmp_path, capsys):
    main(["lvis", str(tmp_path / "again")])
    assert f"35 files in {tmp_path / 'again'}" in capsys.readouterr().out
    files = [p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()]
    same, different, missing = filecmp.cmpfiles(tiny("lvis"), tmp_path / "again", map(str, files), shallow=False)
    assert (len(same), different, missing) == (35, [], [])
