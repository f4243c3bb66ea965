"""Labels of every FiftyOne type as references; unusable ones are skipped with a reason."""

from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pytest
from drawn_dataset import CLASSES, REFERENCES
from PIL import Image

from nts.building import Skipped
from nts.datasets.annotations import simulate

WIDTH, HEIGHT = 20, 10
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def read(fo, tmp_path):
    """`read(label, names)`: references and Skipped of a sample with that label."""
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")

    def read(label, names=None, **options) -> list:
        sample = fo.Sample(tmp_path / "a.png", field=label)
        return list(references_of_sample(sample, annotations_of_sample(sample, "field", names or {}), **options))

    return read


def marked(reference) -> list[tuple[int, int]]:
    """Column and row of every pixel of the mask."""
    return [(int(x), int(y)) for y, x in np.argwhere(reference.mask)]


SQUARE = [(0.1, 0.2), (0.5, 0.2), (0.5, 0.6), (0.1, 0.6)]
HOLE = [(0.2, 0.3), (0.3, 0.3), (0.3, 0.5), (0.2, 0.5)]


@pytest.mark.parametrize("how", [{"closed": True}, {"filled": True}, {"closed": True, "filled": True}])
def test_closed_or_filled_polylines_are_masks_with_holes(fo, read, how):
    (reference,) = read(fo.Polyline(label="a", points=[SQUARE, HOLE], **how))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:6, 2:10] = True
    expected[3:5, 4:6] = False
    assert np.array_equal(reference.mask, expected)
    assert (reference.kind, reference.class_name, reference.box) == ("mask", "a", None)


def test_open_polylines_are_scribbles_cut_at_the_border(fo, read):
    field = fo.Polylines(
        polylines=[
            fo.Polyline(label="a", points=[[(0.025, 0.55), (1.5, 0.55)]]),
            fo.Polyline(label="b", points=[SQUARE]),
        ]
    )
    cut, whole = read(field)
    assert marked(cut) == [(x, 5) for x in range(WIDTH)]
    assert (cut.kind, whole.kind) == ("scribble", "scribble")
    assert whole.label_id == field.polylines[1].id


def test_a_polygon_too_thin_for_the_middle_of_a_pixel_still_marks_pixels(fo, read):
    (thin,) = read(fo.Polyline(label="a", points=[[(0.1, 0.51), (0.5, 0.51), (0.3, 0.52)]], closed=True))
    assert thin.mask.any()
    assert thin.kind == "mask"


def test_keypoints_are_points_without_those_that_are_not_there(fo, read):
    points = [(0.0, 0.0), (NAN, NAN), (1.0, 1.0), (0.51, 0.31), (0.5, NAN), (1.2, 0.5)]
    (reference,) = read(fo.Keypoints(keypoints=[fo.Keypoint(label="a", points=points)]))
    assert marked(reference) == [(0, 0), (10, 3), (19, 9)]
    assert reference.kind == "point"
    (alone,) = read(fo.Keypoint(label="a", points=[(1.0, 0.0)]))
    assert marked(alone) == [(19, 0)]


def test_single_labels_are_read_like_lists_of_one(fo, read):
    box = fo.Detection(label="a", bounding_box=[0.1, 0.2, 0.4, 0.4])
    (alone,), (in_list,) = read(box), read(fo.Detections(detections=[box.copy()]))
    assert np.array_equal(alone.mask, in_list.mask)
    assert alone.kind == in_list.kind == "box"
    assert alone.box == in_list.box == (2, 2, 8, 4)


def test_segmentations_give_a_reference_for_each_class_and_none_for_the_background(fo, read):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:4], values[5], values[7], values[9] = 1, 2, 7, 3
    segmentation = fo.Segmentation(mask=values)
    names = {1: "cat", 2: "dog", 3: "cat"}
    found = {reference.class_name: reference for reference in read(segmentation, names)}
    assert sorted(found) == ["7", "cat", "dog"]
    assert np.array_equal(found["cat"].mask, np.isin(values, [1, 3]))
    assert np.array_equal(found["7"].mask, values == 7)
    assert found["dog"].label_id == f"{segmentation.id}/dog"
    assert {reference.kind for reference in found.values()} == {"mask"}
    with_background = read(segmentation, {**names, 0: "table"})
    assert [reference.class_name for reference in with_background] == ["table", "cat", "dog", "7"]
    assert [reference.class_name for reference in read(segmentation, names, classes=["dog"])] == ["dog"]


def test_a_segmentation_is_stretched_over_its_image(fo, read):
    (reference,) = read(fo.Segmentation(mask=np.array([[0, 5]], np.uint8)))
    assert np.array_equal(reference.mask, np.arange(WIDTH) >= WIDTH // 2 + np.zeros((HEIGHT, 1)))


def test_a_segmentation_in_colours_is_read_from_a_file(fo, read, tmp_path):
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[:3], colours[5:] = (255, 0, 4), (1, 2, 3)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    found = read(fo.Segmentation(mask_path=str(tmp_path / "colours.png")), {0xFF0004: "cat"})
    assert {reference.class_name: int(reference.mask.sum()) for reference in found} == {
        "cat": 3 * WIDTH,
        "#010203": 5 * WIDTH,
    }


def test_names_of_values_are_those_of_the_field_or_else_of_the_dataset(fo, dataset):
    from nts.fiftyone_adapter.labels import names_of_values

    assert names_of_values(dataset, "truth") == {}
    dataset.default_mask_targets = {1: "cat"}
    dataset.mask_targets = {"colours": {"#ff0004": "dog"}}
    dataset.save()
    assert names_of_values(dataset, "truth") == {1: "cat"}
    assert names_of_values(dataset.view(), "colours") == {0xFF0004: "dog"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda fo: fo.Polyline(label="a", points=[]), "it has no vertices"),
        (lambda fo: fo.Polyline(label="a", points=[[]], closed=True), "it has no vertices"),
        (lambda fo: fo.Polyline(label="a", points=[[(0.1, NAN), (0.2, 0.3)]]), "a coordinate of it is not finite"),
        (lambda fo: fo.Polyline(label="a", points=[[(1.1, 0.5), (1.4, 0.3)]]), "it lies outside its image"),
        (
            lambda fo: fo.Polyline(label="a", points=[[(-1, -1), (-1, -2), (-2, -2)]], filled=True),
            "it lies outside its",
        ),
        (lambda fo: fo.Polyline(points=[SQUARE]), "it has no class"),
        (lambda fo: fo.Keypoint(label="a", points=[]), "it has no points"),
        (lambda fo: fo.Keypoint(label="a", points=[(NAN, NAN)]), "it has no points"),
        (lambda fo: fo.Keypoint(label="a", points=[(0.5, INFINITY)]), "a coordinate of it is not finite"),
        (lambda fo: fo.Keypoint(label="a", points=[(0.5, 1.01)]), "it lies outside its image"),
        (lambda fo: fo.Keypoint(label="a", points=[(0.5, -1), (2, 2)]), "all its points lie outside its image"),
        (lambda fo: fo.Keypoint(points=[(0.5, 0.5)]), "it has no class"),
        (lambda fo: fo.Segmentation(mask_path="/nowhere.png"), "its mask file /nowhere.png is missing or no image"),
        (lambda fo: fo.Segmentation(), "it has no mask"),
        (lambda fo: fo.Segmentation(mask=np.full((2, 2), 0.5)), "its mask holds fractions"),
    ],
)
def test_label_that_is_no_reference_says_why(fo, read, make, reason):
    (skipped,) = read(make(fo))
    assert isinstance(skipped, Skipped)
    assert skipped.reason.startswith(reason)


def test_labels_weaker_than_a_mask_can_be_left_out(fo, read):
    for label, reason in (
        (fo.Detection(label="a", bounding_box=[0, 0, 1, 1]), "it has a box but no mask"),
        (fo.Keypoint(label="a", points=[(0.5, 0.5)]), "it has points but no mask"),
        (fo.Polyline(label="a", points=[SQUARE]), "it has a scribble but no mask"),
    ):
        (skipped,) = read(label, masks_only=True)
        assert skipped.reason == reason
    (taken,) = read(fo.Polyline(label="a", points=[SQUARE], closed=True), masks_only=True)
    assert taken.kind == "mask"


def test_points_of_two_classes_on_one_pixel_are_both_left_out(fo, read):
    points = [("a", (0.5, 0.5)), ("b", (0.51, 0.52)), ("c", (0.9, 0.5))]
    field = fo.Keypoints(keypoints=[fo.Keypoint(label=name, points=[point]) for name, point in points])
    one, other, apart = read(field)
    assert one.reason == (
        f"it marks the same pixels as the label {field.keypoints[1].id!r} of the class 'b': one of them is wrong"
    )
    assert other.reason.startswith(f"it marks the same pixels as the label {field.keypoints[0].id!r} of the class 'a'")
    assert apart.class_name == "c"


# ---- memories --------------------------------------------------------------------------------------------------------


@pytest.fixture
def annotated(fo, drawn, references):
    """Drawn dataset with its references in fields of every label type."""
    drawn.default_mask_targets = dict(enumerate(CLASSES, start=1))
    for number, sample in enumerate(references.iter_samples(autosave=True)):
        fields: dict[str, list] = {"points": [], "scribbles": [], "polygons": [], "boxes": []}
        values = None
        for label in sample.ground_truth.detections:
            mask = _on_image(label, sample)
            rng = np.random.default_rng(number)
            height, width = mask.shape
            ys, xs = simulate(mask, "point", rng, points=3).nonzero()
            points = [((x + 0.5) / width, (y + 0.5) / height) for x, y in zip(xs, ys, strict=True)]
            name, box = label.label, label.bounding_box
            fields["points"].append(fo.Keypoint(label=name, points=points))
            fields["scribbles"].append(fo.Polyline(label=name, points=[points]))
            corners = fo.Detection(label=name, bounding_box=box).to_polyline(filled=True)
            fields["polygons"].append(corners)
            fields["boxes"].append(fo.Detection(label=name, bounding_box=box))
            values = np.zeros(mask.shape, np.uint8) if values is None else values
            values[mask] = 1 + CLASSES.index(name)
        sample["points"] = fo.Keypoints(keypoints=fields["points"])
        sample["scribbles"] = fo.Polylines(polylines=fields["scribbles"] + fields["polygons"])
        sample["boxes"] = fo.Detections(detections=fields["boxes"])
        sample["classes"] = fo.Segmentation(mask=values)
        sample["one_point"] = fields["points"][0].copy()
        sample["one_box"] = fields["boxes"][0].copy()
        sample["one_scribble"] = fields["scribbles"][0].copy()
    drawn.save()
    return references


KINDS = {
    "points": {"point": 4},
    "scribbles": {"mask": 4, "scribble": 4},
    "boxes": {"box": 4},
    "classes": {"mask": 4},
    "one_point": {"point": 4},
    "one_box": {"box": 4},
    "one_scribble": {"scribble": 4},
    "ground_truth": {"mask": 4},
}


def test_labels_are_counted_by_kind(nts_fo, annotated):
    counts = nts_fo.checks.reference_counts(annotated)
    assert {field: counted.kinds for field, counted in counts.items()} == KINDS
    assert {counted.classes for counted in counts.values()} == {CLASSES}
    assert counts["scribbles"].words in ("4 masks, 4 scribbles", "4 scribbles, 4 masks")
    assert counts["boxes"].words == "4 boxes"
    assert counts["classes"].words == "4 segmentations"
    assert (counts["scribbles"].weak, counts["scribbles"].weak_words) == (4, "4 scribbles")


@pytest.mark.parametrize("field", [field for field in KINDS if field != "ground_truth"])
def test_a_memory_can_be_built_of_every_type_and_looked_into(nts_fo, drawn, annotated, field, tmp_path):
    report = nts_fo.build_reference_memory(annotated, field, "shapes")
    count = sum(KINDS[field].values())
    weak = count - KINDS[field].get("mask", 0)
    assert report.skipped == []
    assert report.kinds == KINDS[field]
    assert (report.promoted, report.unpromoted) == (weak, 0)
    assert report.shots == dict.fromkeys(CLASSES, count // 2)

    entries = nts_fo.inspecting.inspect_memory(drawn, "shapes").entries
    assert all(entry.promoted == (entry.kind != "mask") for entry in entries)
    for thumbnail in nts_fo.inspecting.thumbnails(drawn, "shapes", entries):
        assert thumbnail.problem == ""
        picture = Image.open(io.BytesIO(b64decode(thumbnail.uri.partition(",")[2])))
        assert max(picture.size) == 160
    shown = nts_fo.inspecting.references_view(drawn, "shapes", entries[:2])
    assert set(shown.values("id")) == {entry.sample_id for entry in entries[:2]}
    labels = [sample[field] for sample in shown]
    ids = {each.id for label in labels for each in getattr(label, getattr(label, "_LABEL_LIST_FIELD", ""), [label])}
    assert ids == {entry.label_id.partition("/")[0] for entry in entries[:2]}

    path = nts_fo.export_memory(drawn, "shapes", tmp_path)
    imported = nts_fo.import_memory(drawn, path, "again")
    assert (imported.kinds, imported.promoted, imported.shots) == (report.kinds, report.promoted, report.shots)
    again = nts_fo.inspecting.thumbnails(drawn, "again", nts_fo.inspecting.inspect_memory(drawn, "again").entries)
    assert [thumbnail.problem for thumbnail in again] == [""] * count


@pytest.mark.parametrize("field", ["points", "scribbles", "boxes"])
def test_weak_labels_are_used_raw_on_request(nts_fo, drawn, annotated, field):
    options = {"weak_labels": "raw", "segmenter": "not loaded", "preset": "paper"}  # it looks for no negatives
    report = nts_fo.build_reference_memory(annotated, field, "raw", **options)
    assert (report.kinds, report.promoted, report.unpromoted) == (KINDS[field], 0, 0)
    drawn_masks = nts_fo.build_reference_memory(annotated, field, "drawn")
    assert drawn_masks.promoted == 4
    one, other = (nts_fo.load_memory(drawn, key).instance_prototypes() for key in ("raw", "drawn"))
    assert not one.equal(other)


def test_references_without_a_sam2_mask_are_used_raw_and_counted(nts_fo, annotated, monkeypatch):
    from nts.fiftyone_adapter import building

    monkeypatch.setattr(building, "promote", lambda references, *_: references)
    report = nts_fo.build_reference_memory(annotated, "points", "shapes")
    assert (report.kinds, report.promoted, report.unpromoted) == ({"point": 4}, 0, 4)


def test_bad_points_are_left_out_and_listed(nts_fo, fo, annotated):
    sample = annotated.first()
    sample.points.keypoints.append(fo.Keypoint(label=CLASSES[0], points=[(3, 3)]))
    sample.points.keypoints.append(fo.Keypoint(points=[(0.5, 0.5)]))
    sample.save()
    report = nts_fo.build_reference_memory(annotated, "points", "shapes")
    assert sum(report.shots.values()) == REFERENCES
    assert [item.reason for item in report.skipped] == [
        f"label {CLASSES[0]!r} of {sample.filepath}: it lies outside its image",
        f"label None of {sample.filepath}: it has no class",
    ]


def test_classes_of_segmentations_can_be_chosen_and_missing_ones_are_named(nts_fo, drawn, annotated):
    report = nts_fo.build_reference_memory(annotated, "classes", "shapes", classes=[CLASSES[1], "unheard-of"])
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == ["unheard-of"]
    with pytest.raises(nts_fo.InputError, match="has no label of the classes unheard-of; it has: "):
        nts_fo.build_reference_memory(annotated, "classes", "none", classes=["unheard-of"])
    drawn.default_mask_targets = {}
    drawn.save()
    assert nts_fo.build_reference_memory(annotated, "classes", "numbers").shots == {"1": 2, "2": 2}


def test_targets_are_segmented_by_a_memory_of_points(nts_fo, targets, annotated):
    nts_fo.build_reference_memory(annotated, "points", "shapes")
    nts_fo.auto_segment_view(targets, "shapes")
    found = [d for detections in targets.values("nts_shapes.detections") for d in detections]
    assert {d.label for d in found} <= set(CLASSES)
    report = nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth")
    assert report.result.masks.novel.ap50 > 0.02


def _on_image(label, sample) -> np.ndarray:
    from nts.fiftyone_adapter.labels import detection_mask

    with Image.open(sample.filepath) as image:
        return detection_mask(label, (image.height, image.width))
