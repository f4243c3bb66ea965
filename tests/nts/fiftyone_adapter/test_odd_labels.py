"""Malformed labels are skipped, counted and reported by all readers of labels; the others are used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from drawn_dataset import CLASSES, PLUGIN, REFERENCES
from PIL import Image

NAN, INFINITY = float("nan"), float("inf")


def spoil(view, attribute: str, value) -> str:
    """Modify the first label of the first sample, and return the sample's id."""
    sample = view.first()
    setattr(sample.ground_truth.detections[0], attribute, value)
    sample.save()
    return sample.id


MALFORMED = {
    "rotated box": ("bounding_box", [0.1, 0.1, 0.3, 0.3, 45.0], "has 5 numbers, not 4"),
    "three numbers": ("bounding_box", [0.1, 0.1, 0.3], "has 3 numbers, not 4"),
    "no width": ("bounding_box", [0.1, 0.1, 0, 0.3], "has no area"),
    "negative height": ("bounding_box", [0.4, 0.4, 0.3, -0.3], "has no area"),
    "NaN in the box": ("bounding_box", [0.1, NAN, 0.3, 0.3], "is not finite"),
    "infinite box": ("bounding_box", [0.1, 0.1, INFINITY, 0.3], "is not finite"),
    "outside": ("bounding_box", [1.2, 0.1, 0.3, 0.3], "lies outside its image"),
    "pixels": ("bounding_box", [20, 30, 50, 60], "lies outside its image"),
    "pixels from the corner": ("bounding_box", [0, 0, 50, 60], "boxes are fractions of the image, not pixels"),
    "greatest float": ("bounding_box", [0, 0, 1e308, 1], "boxes are fractions of the image, not pixels"),
    "from far to far": ("bounding_box", [-1e30, 0, 2e30, 1], "boxes are fractions of the image, not pixels"),
    "far away": ("bounding_box", [-1e30, 0, 0.5, 1], "lies outside its image"),
    "empty box": ("bounding_box", [], "it has no box"),
    "1-D mask": ("mask", np.ones(9, bool), "has the shape [9]"),
    "0-D mask": ("mask", np.array(1), "has the shape []"),
    "4-D mask": ("mask", np.ones((2, 3, 3, 3), bool), "has the shape [2, 3, 3, 3]"),
    "channels first": ("mask", np.ones((3, 8, 8), bool), "has the shape [3, 8, 8]"),
    "no pixels": ("mask", np.ones((0, 8), bool), "is empty"),
    "NaN in the mask": ("mask", np.full((4, 4), NAN), "holds NaN"),
    "heat map": ("mask", np.arange(16.0).reshape(4, 4), "neither 0 and 1, nor probabilities"),
    "all background": ("mask", np.zeros((4, 4), bool), "its mask is empty"),
    "negative integers": ("mask", np.array([[-1, 1]]), "holds negative integers"),
    "no background": ("mask", np.array([[1, 2]]), "but no 0"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_labels_are_left_out_of_memories_evaluations_trainings_and_draws(nts_fo, drawn, references, kind):
    from nts.fiftyone_adapter.importing import REFERENCES as ROLE
    from nts.fiftyone_adapter.importing import sample_references_view, view_to_coco

    attribute, value, reason = MALFORMED[kind]
    spoil(references, attribute, value)
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    (skipped,) = report.skipped
    assert reason in skipped.reason
    assert references.first().filepath in skipped.reason
    assert sum(report.shots.values()) == REFERENCES - 1

    drawn.clone_sample_field("ground_truth", "found")
    drawn.set_values("found.detections.confidence", [[0.9] * n for n in drawn.values(drawn_length("found"))])
    notes = nts_fo.evaluate_nap(references, "found", "ground_truth").notes
    assert any("2 labels or images were left out" in note and reason in note for note in notes)

    data = view_to_coco(references, ROLE, "ground_truth", CLASSES)
    assert len(data.ground_truth["annotations"]) == REFERENCES - 1
    (left_out,) = data.unplaced
    assert reason in left_out

    drawable = sample_references_view(references, "ground_truth", 2, 0).count("ground_truth.detections")
    assert drawable == (REFERENCES - 1 if attribute == "bounding_box" else REFERENCES)


def drawn_length(field: str):
    from fiftyone import ViewField

    return ViewField(f"{field}.detections").length()


def test_masks_of_floats_with_channels_or_in_another_channel_are_read_as_what_they_are(fo, nts_fo, references):
    from nts.fiftyone_adapter.labels import detection_mask

    detection = references.first().ground_truth.detections[0]
    mask = detection.mask
    right = detection_mask(detection, (256, 256))
    green = np.stack([np.zeros_like(mask), mask, np.zeros_like(mask)], 2).astype(np.uint8) * 200
    for stored in (
        np.where(mask, 4.0, -4.0),
        np.where(mask, 0.8, 0.3),
        mask[None],
        mask[None, None],
        mask[..., None],
        green,
        np.concatenate([green, np.full((*mask.shape, 1), 255, np.uint8)], 2),
    ):
        detection.mask = stored
        assert np.array_equal(detection_mask(detection, (256, 256)), right)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P", "JPEG"])
def test_mask_files_of_every_mode_are_read_alike(fo, tmp_path, mode):
    from nts.fiftyone_adapter.labels import detection_mask

    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 16:40] = 255
    path = str(tmp_path / ("mask.jpg" if mode == "JPEG" else "mask.png"))
    image = Image.fromarray(mask)
    if mode in ("RGB", "RGBA"):
        image = Image.merge("RGB", [Image.new("L", image.size), Image.new("L", image.size), image])
    image = image if mode == "JPEG" else image.convert(mode)
    image.save(path, **({"quality": 60} if mode == "JPEG" else {}))
    detection = fo.Detection(label="a", mask_path=path, bounding_box=[0, 0, 1, 1])
    assert np.array_equal(detection_mask(detection, (32, 48)), mask > 0)


def _polyline(**attributes) -> Callable:
    return lambda fo: fo.Polyline(label="a", **attributes)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_polyline(points=[[(0.1, 0.1)]], closed=True), "a polygon needs three different vertices, and it has 1"),
        (_polyline(points=[[(0.1, 0.1), (0.5, 0.5)]], filled=True), "three different vertices, and it has 2"),
        (_polyline(points=[[(0.1, 0.1), (0.5, 0.5), (0.1, 0.1)]], closed=True), "vertices, and it has 2"),
        (_polyline(points=[[(0.1, 0.1), (0.5,)]]), "its vertices are not pairs of numbers"),
        (
            _polyline(points=[[(0, 0), (50, 0), (50, 60)]], closed=True),
            "vertices are fractions of the image, not pixels",
        ),
        (_polyline(points=[[(0, 0), (50, 60)]]), "vertices are fractions of the image, not pixels"),
    ],
)
def test_malformed_polylines_and_keypoints_say_why(fo, tmp_path, make, reason):
    (skipped,) = _read(fo, tmp_path, make(fo))
    assert reason in skipped.reason


def test_a_hole_without_area_does_not_spoil_its_polygon(fo, tmp_path):
    square = [(0.1, 0.2), (0.5, 0.2), (0.5, 0.6), (0.1, 0.6)]
    (alone,) = _read(fo, tmp_path, fo.Polyline(label="a", points=[square], filled=True))
    (reference,) = _read(fo, tmp_path, fo.Polyline(label="a", points=[square, [(0.2, 0.3), (0.4, 0.5)]], filled=True))
    assert np.array_equal(reference.mask, alone.mask)


SEGMENTED = np.zeros((10, 20), np.uint8)
SEGMENTED[2:5, 3:9], SEGMENTED[6:, 10:], SEGMENTED[0] = 1, 15, 255
PALETTE = [0, 0, 0, 128, 0, 0] + [0, 0, 0] * 13 + [192, 128, 128] + [0, 0, 0] * 239 + [224, 224, 192]


def in_palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values, "L").convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette(PALETTE)
    return image


@pytest.mark.parametrize("stored", ["palette file", "colours", "floats", "[1, h, w]", "grey as RGB", "RGBA", "16 bits"])
def test_segmentations_are_read_as_numbers_however_they_are_stored(fo, tmp_path, stored):
    rgb = np.array(PALETTE, np.uint8).reshape(-1, 3)[SEGMENTED]
    grey = SEGMENTED[..., None].repeat(3, 2)
    in_palette(SEGMENTED).save(tmp_path / "mask.png")
    segmentation = {
        "palette file": lambda: fo.Segmentation(mask_path=str(tmp_path / "mask.png")),
        "colours": lambda: fo.Segmentation(mask=rgb),
        "floats": lambda: fo.Segmentation(mask=SEGMENTED.astype(np.float64)),
        "[1, h, w]": lambda: fo.Segmentation(mask=SEGMENTED[None]),
        "grey as RGB": lambda: fo.Segmentation(mask=grey),
        "RGBA": lambda: fo.Segmentation(mask=np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 255, np.uint8)], 2)),
        "16 bits": lambda: fo.Segmentation(mask=SEGMENTED.astype(np.uint16)),
    }[stored]()
    found = {r.class_name: r.mask for r in _read(fo, tmp_path, segmentation, {1: "aeroplane", 15: "person"})}
    assert sorted(found) == ["aeroplane", "person"]
    assert np.array_equal(found["aeroplane"], SEGMENTED == 1)
    assert np.array_equal(found["person"], SEGMENTED == 15)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((4, 4), 0.5), "its mask holds fractions"),
        (np.full((4, 4), NAN), "its mask holds NaN or infinity"),
        (np.ones(9), "its mask has the shape [9]"),
        (np.ones((2, 3, 3, 3)), "its mask has the shape [2, 3, 3, 3]"),
        (np.zeros((0, 3)), "its mask is empty"),
        (np.array([["a"]]), "not numbers of classes"),
        (
            np.tile(np.array([3, 200, 7], np.uint8), (4, 4, 1)),
            "holds colours, but the dataset's mask targets name numbers",
        ),
    ],
)
def test_segmentations_that_cannot_be_read_say_why(fo, tmp_path, mask, reason):
    (skipped,) = _read(fo, tmp_path, fo.Segmentation(mask=mask), {1: "a"})
    assert reason in skipped.reason


def _read(fo, folder, label, names=None) -> list:
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (20, 10)).save(folder / "image.png")
    sample = fo.Sample(folder / "image.png", field=label)
    return list(references_of_sample(sample, annotations_of_sample(sample, "field", names or {})))


def test_labels_copied_between_samples_are_references_of_their_own(nts_fo, references):
    first, second = references.limit(2)
    second.ground_truth.detections.append(first.ground_truth.detections[0].copy())
    second.ground_truth.detections[-1]._id = first.ground_truth.detections[0]._id
    second.save()
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    assert sum(report.shots.values()) == REFERENCES + 1
    assert report.skipped == []
    entries = nts_fo.load_memory(references, "shapes").entries
    assert len(nts_fo.inspecting.thumbnails(references, "shapes", entries)) == REFERENCES + 1


def test_a_label_that_occurs_twice_in_a_sample_is_taken_once(nts_fo, references):
    sample = references.first()
    sample.ground_truth.detections.append(sample.ground_truth.detections[0])
    sample.save()
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    assert sum(report.shots.values()) == REFERENCES
    (skipped,) = report.skipped
    assert "another label of this sample has the same id" in skipped.reason


def test_a_draw_tells_copied_labels_apart_and_takes_none_twice(nts_fo, references):
    ids = {}
    for sample in references:
        (label,) = sample.ground_truth.detections
        label._id = ids.setdefault(label.label, label._id)  # as if copied between samples
        sample.ground_truth.detections.append(label)
        sample.save()
    for shots in (1, 2):
        view = nts_fo.importing.sample_references_view(references, "ground_truth", shots, 0)
        assert len(view) == shots * len(CLASSES)
        assert nts_fo.build_reference_memory(view, "ground_truth", f"m{shots}").shots == dict.fromkeys(CLASSES, shots)


def test_a_draw_leaves_out_crowds_that_the_dataset_does_not_declare(nts_fo, references):
    sample = references.first()
    sample.ground_truth.detections[0]["iscrowd"] = "1"
    sample.save()
    assert not references.has_field("ground_truth.detections.iscrowd")
    drawn_view = nts_fo.importing.sample_references_view(references, "ground_truth", 2, 0)
    assert sample.id not in drawn_view.values("id")
    assert nts_fo.importing.sample_references_view(references, "ground_truth", 2, 0, crowd=None).count() == REFERENCES


@pytest.mark.parametrize("name", [None, ""])
def test_labels_without_a_class_are_named_wherever_labels_are_read(nts_fo, drawn, references, targets, name):
    drawn.clone_sample_field("ground_truth", "found")
    drawn.set_values("found.detections.confidence", [[0.9] * n for n in drawn.values(drawn_length("found"))])
    spoil(references, "label", name)
    (skipped,) = nts_fo.build_reference_memory(references, "ground_truth", "m").skipped
    assert "it has no class" in skipped.reason
    notes = nts_fo.evaluate_nap(references, "found", "ground_truth").notes
    assert any("1 labels or images were left out" in note and "it has no class" in note for note in notes)
    notes = nts_fo.importing.custom_data(references, targets, "ground_truth").notes
    assert any("of the references were left out" in note and "it has no class" in note for note in notes)


def test_a_label_that_occurs_twice_in_a_sample_is_evaluated_once(nts_fo, drawn, references):
    drawn.clone_sample_field("ground_truth", "found")
    drawn.set_values("found.detections.confidence", [[0.9] * n for n in drawn.values(drawn_length("found"))])
    right = nts_fo.evaluate_nap(references, "found", "ground_truth", eval_key="right").result
    sample = references.first()
    for field in ("ground_truth", "found"):
        sample[field].detections.append(sample[field].detections[0])
    sample.save()
    report = nts_fo.evaluate_nap(references, "found", "ground_truth", eval_key="twice")
    assert report.result == right
    assert any("2 labels or images were left out" in n and "has the same id" in n for n in report.notes)


def test_a_label_with_a_mask_and_a_file_of_it_counts_once(nts_fo, references):
    spoil(references, "mask_path", "mask.png")
    counts = nts_fo.checks.label_counts(references)["ground_truth"]
    assert (counts.labels, counts.masks) == (REFERENCES, REFERENCES)


def test_one_class_can_be_named_by_a_string(fo, nts_fo, references, targets):
    import fiftyone.operators as foo

    name = CLASSES[0]
    assert list(nts_fo.build_reference_memory(references, "ground_truth", "m", classes=name).shots) == [name]
    build = foo.get_operator(f"{PLUGIN}/build_reference_memory")
    assert list(build(references, "ground_truth", "other", classes=name).shots) == [name]
    assert list(nts_fo.similarity_heatmaps(targets.limit(1), "m", classes=name).fields) == [name]
    nts_fo.auto_segment_view(targets, "m", "p", limit=1)
    assert nts_fo.evaluate_nap(targets, "p", "ground_truth", classes=name).result.novel_classes == (name,)
    base = nts_fo.evaluate_nap(targets, "p", "ground_truth", classes=name, base_classes=CLASSES[1], eval_key="both")
    assert base.result.base_classes == (CLASSES[1],)
    drawn_view = nts_fo.importing.sample_references_view(references, "ground_truth", 1, 0, name)
    assert drawn_view.distinct("ground_truth.detections.label") == [name]


def test_labels_in_another_document_are_read_like_those_of_the_sample(fo, nts_fo, drawn, references, targets):
    alone = nts_fo.build_reference_memory(references, "ground_truth", "alone")
    nts_fo.auto_segment_view(targets, "alone", "p")
    expected = nts_fo.evaluate_nap(targets, "p", "ground_truth", eval_key="alone_nap").result
    nts_fo.runs.delete_run(drawn, "alone_nap", nts_fo.runs.EVALUATION)
    drawn.add_sample_field("labels", fo.EmbeddedDocumentField, embedded_doc_type=fo.DynamicEmbeddedDocument)
    for sample in drawn.iter_samples(autosave=True):
        sample["labels"] = fo.DynamicEmbeddedDocument(truth=sample.ground_truth.copy())
    drawn.add_dynamic_sample_fields()
    assert "labels.truth" in nts_fo.checks.reference_counts(drawn)
    assert "labels.truth" in nts_fo.checks.label_counts(drawn)
    report = nts_fo.build_reference_memory(references, "labels.truth", "nested")
    assert report.shots == alone.shots
    entries = nts_fo.load_memory(drawn, "nested").entries
    assert all(thumbnail.uri for thumbnail in nts_fo.inspecting.thumbnails(drawn, "nested", entries))
    assert nts_fo.inspecting.references_view(drawn, "nested", entries).count("labels.truth.detections") == REFERENCES

    before = set(drawn.get_field_schema(flat=True))
    nested = nts_fo.evaluate_nap(targets, "p", "labels.truth", eval_key="nested_nap").result
    assert nested.masks.novel == expected.masks.novel
    assert targets.first().labels.truth.detections[0].nested_nap in ("tp", "fn")
    evaluation = nts_fo.evaluation_results.open_evaluation(drawn, "nested_nap")
    assert evaluation.samples_where(drawn, "fn").count("labels.truth.detections") > 0
    nts_fo.runs.delete_run(drawn, "nested_nap", nts_fo.runs.EVALUATION)
    assert set(drawn.get_field_schema(flat=True)) == before
