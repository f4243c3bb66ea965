"""Bad input to the operators: each gives its error message, and no data is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from drawn_dataset import CLASSES, PLUGIN, REFERENCES, TARGETS, truncate
from PIL import Image


@pytest.fixture(scope="session")
def build(fo):
    return _operator("build_reference_memory")


@pytest.fixture(scope="session")
def segment(fo):
    return _operator("auto_segment_view")


@pytest.fixture(scope="session")
def evaluate(fo):
    return _operator("evaluate_nap")


@pytest.fixture
def memory(build, references):
    build(references, "ground_truth", "shapes")
    return "shapes"


def _operator(name: str):
    import fiftyone.operators as foo

    return foo.get_operator(f"{PLUGIN}/{name}")


def says(message: str):
    """Expect an error that starts with this message, verbatim."""
    return pytest.raises(ValueError, match="^" + re.escape(message))


# ---- views and datasets ----------------------------------------------------------------------------------------------


def test_view_without_samples(build, segment, evaluate, drawn, memory):
    nothing = drawn.match_tags("nothing")
    for call in (
        lambda: build(nothing, "ground_truth", "other"),
        lambda: segment(nothing, memory),
        lambda: evaluate(nothing, "ground_truth", "ground_truth"),
    ):
        with says("the view has no samples"):
            call()


def test_dataset_without_samples(build, dataset):
    with says("the view has no samples"):
        build(dataset, "ground_truth", "shapes")


@pytest.mark.parametrize(("file", "media"), [("a.mp4", "video"), ("a.pcd", "point-cloud"), ("a.fo3d", "3d")])
def test_dataset_of_another_medium(fo, build, make_dataset, file, media):
    with says(f"only images can be used, but the media type here is {media!r}"):
        build(make_dataset([fo.Sample(f"/nowhere/{file}")]), "ground_truth", "shapes")


def test_grouped_dataset(fo, segment, make_dataset):
    grouped = make_dataset()
    grouped.add_group_field("group", default="left")
    grouped.add_sample(fo.Sample("/nowhere/a.png", group=fo.Group().element("left")))
    with says("this is a grouped dataset: select the images of one slice"):
        segment(grouped, "shapes")


def test_view_of_patches(build, drawn):
    with says("this is a view of patches, frames or clips: use the view of whole images"):
        build(drawn.to_patches("ground_truth"), "ground_truth", "shapes")


# ---- fields and names ------------------------------------------------------------------------------------------------


def test_missing_field(build, references):
    with says("the label field 'nowhere' does not exist; fields of labels are: ground_truth"):
        build(references, "nowhere", "shapes")


def test_field_of_another_type(build, drawn, references):
    with says("the label field 'filepath' is of type StringField; fields of labels are: ground_truth"):
        build(references, "filepath", "shapes")
    drawn.delete_sample_field("ground_truth")
    with says("a label field is needed, but this dataset has no field of the types Detections, Polylines, Keypoints, "):
        build(references, "filepath", "shapes")


def test_field_without_masks(build, drawn, references):
    for sample in references.iter_samples(autosave=True):
        for label in sample.ground_truth.detections:
            label.mask = None
    with says(
        "no label of the field 'ground_truth' of this view could be used: it has a box but no mask; add masks to"
    ):
        build(references, "ground_truth", "shapes", weak_labels="skip")
    assert drawn.list_runs() == []


def test_field_without_labels(build, targets, references):
    for sample in references.iter_samples(autosave=True):
        sample.ground_truth.detections = []
    with says("the field 'ground_truth' of this view has no labels with a class"):
        build(references, "ground_truth", "shapes")


def test_classes_with_no_reference(build, references):
    with says(
        "the field 'ground_truth' of this view has no label of the classes cat, dog; it has: " + ", ".join(CLASSES)
    ):
        build(references, "ground_truth", "shapes", classes=["cat", "dog"])


def test_evaluated_classes_without_ground_truth(segment, evaluate, targets, memory):
    segment(targets, memory, limit=1)
    with says("the ground truth 'ground_truth' of this view has no label of the classes cat"):
        evaluate(targets, "nts_shapes", "ground_truth", classes=["cat"])


@pytest.mark.parametrize("name", ["my birds", "1st", "", "_hidden", "class", "Vögel", "a.b"])
def test_invalid_name(build, references, name):
    with says(f"{name!r} cannot be the name of a memory: use letters, digits and underscores, and begin with a letter"):
        build(references, "ground_truth", name)


def test_name_that_is_taken(build, segment, targets, references, memory):
    with says("the memory 'shapes' exists already: choose another name, or switch on overwrite"):
        build(references, "ground_truth", memory)
    segment(targets, memory, limit=1)
    with says("the name 'nts_shapes' is taken by a run of another kind: choose another name for the memory"):
        build(references, "ground_truth", "nts_shapes", overwrite=True)
    with says("the name 'shapes' is taken by a run of another kind: choose another output field"):
        segment(targets, memory, "shapes")


def test_output_field_of_another_type(fo, segment, drawn, targets, memory):
    drawn.add_sample_field("note", fo.StringField)
    for overwrite in (False, True):
        with says("the field 'note' exists, is of type StringField, and was not made by auto_segment_view"):
            segment(targets, memory, "note", overwrite=overwrite)
    with says("'my note' cannot be the name of a field"):
        segment(targets, memory, "my note")


def test_output_field_that_became_another_type(fo, segment, drawn, targets, memory):
    segment(targets, memory, limit=1)
    drawn.delete_sample_field("nts_shapes")
    drawn.add_sample_field("nts_shapes", fo.StringField)
    with says("the field 'nts_shapes' exists, is of type StringField"):
        segment(targets, memory, "nts_shapes", overwrite=True)


def test_ground_truth_is_never_overwritten(segment, drawn, targets, memory):
    before = drawn.values("ground_truth.detections.id")
    with says("the field 'ground_truth' exists, is of type Detections, and was not made by auto_segment_view: it is"):
        segment(targets, memory, "ground_truth", overwrite=True)
    assert drawn.values("ground_truth.detections.id") == before


def test_missing_memory(segment, targets, memory):
    with says(f"the dataset {targets.dataset_name!r} has no memory 'birds'; it has: shapes"):
        segment(targets, "birds")


def test_missing_segmentation(drawn):
    with says(f"the dataset {drawn.name!r} has no segmentation 'birds'; it has none yet"):
        _operator("delete_segmentation")(drawn, "birds")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold must lie in [0, 1], got 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold must lie in [0, 1], got nan"),
        ({"max_instances": 0}, "max_instances must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"limit": 1.5}, "limit must be a whole number, got 1.5"),
        ({"preset": "fastest"}, "preset must be one of default, paper, fast, got 'fastest'"),
        ({"device": "cuda:99" if not os.path.exists("/dev/nvidia0") else "xpu"}, "the device "),
    ],
)
def test_invalid_settings(segment, drawn, targets, memory, settings, message):
    with says(message):
        segment(targets, memory, **settings)
    assert not drawn.has_sample_field("nts_shapes")


def test_unknown_handling_of_weak_labels(build, references):
    with says("weak_labels must be one of promoted, raw, skip, got 'guess'"):
        build(references, "ground_truth", "shapes", weak_labels="guess")


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "truncated", "no image"])
def test_broken_image_of_a_reference(build, references, kind):
    path = _spoil(references.first().filepath, kind)
    report = build(references, "ground_truth", "shapes")
    assert sum(report.shots.values()) == REFERENCES - 1
    (skipped,) = report.skipped
    assert skipped.reason.startswith(f"label {CLASSES[0]!r} of {path}: {_complaint(path, kind)}")


@pytest.mark.parametrize("kind", ["missing", "truncated", "no image"])
def test_broken_image_of_a_target(segment, evaluate, targets, memory, kind):
    path = _spoil(targets.first().filepath, kind)
    report = segment(targets, memory)
    assert report.segmented == TARGETS - 1
    sample = targets.first()
    assert report.failed[sample.id].startswith(_complaint(path, kind))
    assert sample.nts_shapes_error == report.failed[sample.id]
    notes = " ".join(evaluate(targets, "nts_shapes", "ground_truth").notes)
    if kind == "truncated":
        assert "1 of 3 images have no 'nts_shapes' (not segmented, or failed)" in notes
    else:
        assert _complaint(path, kind) in notes


def test_every_image_broken(segment, evaluate, targets, memory):
    segment(targets, memory, "done", limit=1)
    for path in targets.values("filepath"):
        _spoil(path, "no image")
    with says(f"none of the 3 images could be segmented: {targets.first().filepath} is not an image"):
        segment(targets, memory)
    with says(f"none of the 3 images can be read: {targets.first().filepath} is not an image"):
        evaluate(targets, "done", "ground_truth")


def test_mask_outside_its_image(build, references):
    sample = references.first()
    sample.ground_truth.detections[0].bounding_box = [1.5, 0.1, 0.2, 0.2]
    sample.save()
    report = build(references, "ground_truth", "shapes")
    (skipped,) = report.skipped
    assert skipped.reason == (
        f"label {CLASSES[0]!r} of {sample.filepath}: its box [1.5, 0.1, 0.2, 0.2] lies outside its image"
    )


def test_odd_images_are_segmented(fo, segment, drawn, memory, tmp_path):
    """1x1, 1x4000, grey, 16 bit, RGBA, CMYK, and rotated by EXIF."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "pixel.png": Image.new("RGB", (1, 1)),
        "line.png": Image.new("RGB", (4000, 1)),
        "grey.png": Image.fromarray(pixels[..., 0]),
        "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "alpha.png": Image.fromarray(pixels).convert("RGBA"),
        "cmyk.jpg": Image.fromarray(pixels).convert("CMYK"),
        "turned.jpg": Image.fromarray(pixels),
    }
    for name, image in images.items():
        image.save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
    drawn.add_samples([fo.Sample(tmp_path / name, tags=["odd"]) for name in images])
    report = segment(drawn.match_tags("odd"), memory)
    assert report.failed == {}
    assert report.segmented == len(images)
    for detections in drawn.match_tags("odd").values("nts_shapes.detections"):
        for detection in detections:
            x, y, w, h = detection.bounding_box
            assert 0 <= x < x + w <= 1
            assert 0 <= y < y + h <= 1


# ---- memories --------------------------------------------------------------------------------------------------------


def test_memory_of_another_encoder(segment, drawn, targets, memory, tmp_path):
    from nts.memory import EncoderInfo, MemoryBank, MemoryEntry

    path = _operator("export_memory")(drawn, memory, tmp_path)
    bank = MemoryBank.load(path)
    other = MemoryBank(EncoderInfo("small", "0" * 64, bank.encoder.input_size, bank.encoder.dim))
    for entry in bank.entries:
        other.add(MemoryEntry(entry.class_name, entry.prototype, entry.sample_id, entry.label_id))
    other.save(tmp_path / "other.safetensors")
    _operator("import_memory")(drawn, tmp_path / "other.safetensors")
    with says("this memory was made by the encoder 'small' (weights 000000000000"):
        segment(targets, "other")
    assert not drawn.has_sample_field("nts_other")


def test_corrupt_memory_file(drawn, memory, tmp_path):
    path = _operator("export_memory")(drawn, memory, tmp_path)
    truncate(str(path))
    with says(f"{path} is damaged or no memory file"):
        _operator("import_memory")(drawn, path, "again")
    with says(f"the memory file {tmp_path / 'nowhere'} could not be read: No such file or directory"):
        _operator("import_memory")(drawn, tmp_path / "nowhere", "again")
    assert drawn.list_runs() == [memory]


def test_corrupt_memory_in_the_dataset(segment, drawn, targets, memory):
    results = drawn.load_run_results(memory, cache=False)
    results.bank = results.bank[: len(results.bank) // 8 * 4]
    drawn.save_run_results(memory, results, cache=False)
    with says(f"the memory 'shapes' of the dataset {drawn.name!r} is damaged"):
        segment(targets, memory)
    results.bank = results.bank[:-1]
    drawn.save_run_results(memory, results, cache=False)
    with says(f"the memory 'shapes' of the dataset {drawn.name!r} is damaged: its content is missing or cut off"):
        segment(targets, memory)


def test_folder_that_cannot_be_written(drawn, memory, tmp_path):
    file = tmp_path / "file"
    file.write_text("a file, and no folder")
    with says(f"the memory could not be written to {file / 'shapes.safetensors'}: Not a directory"):
        _operator("export_memory")(drawn, memory, file / "shapes")


def test_full_disk_leaves_the_old_file(build, drawn, references, memory, tmp_path, monkeypatch):
    path = _operator("export_memory")(drawn, memory, tmp_path)
    before = path.read_bytes()
    build(references.limit(1), "ground_truth", memory, overwrite=True)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with says(f"the memory could not be written to {path}: No space left on device"):
        _operator("export_memory")(drawn, memory, path, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if "safetensors" in file.name] == [path.name]


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "words"), [(float("nan"), "the confidence nan"), (None, "no confidence"), (float("inf"), "the conf")]
)
def test_prediction_without_a_finite_confidence(fo, evaluate, drawn, targets, confidence, words):
    sample = targets.first()
    mask = np.ones((9, 9), bool)
    sample["found"] = fo.Detections(
        detections=[fo.Detection.from_mask(mask, label=CLASSES[0], confidence=c) for c in (0.5, confidence)]
    )
    sample.save()
    with says(f"a prediction {CLASSES[0]!r} in field 'found' of {sample.filepath} has {words}"):
        evaluate(targets, "found", "ground_truth")
    assert drawn.list_evaluations() == []
    assert [drawn.get_run_info(key).config.status for key in drawn.list_runs()] == ["failed"]


def test_nan_in_a_box(fo, build, evaluate, references):
    sample = references.first()
    sample.ground_truth.detections[0].bounding_box = [float("nan"), 0.1, 0.2, 0.2]
    sample["found"] = fo.Detections()
    sample.save()
    (skipped,) = build(references, "ground_truth", "shapes").skipped
    assert skipped.reason.endswith("its box [nan, 0.1, 0.2, 0.2] is not finite")
    notes = evaluate(references, "found", "ground_truth").notes
    assert any("its box [nan, 0.1, 0.2, 0.2] is not finite" in note for note in notes)


def test_field_against_itself(evaluate, targets):
    with says("the field 'ground_truth' cannot be evaluated against itself"):
        evaluate(targets, "ground_truth", "ground_truth")


def test_evaluation_on_reference_samples_alone(segment, evaluate, references, targets, memory):
    segment(targets, memory, limit=1)
    with says(
        f"all {REFERENCES} samples of this view hold references of the memory 'shapes': evaluate on other samples"
    ):
        evaluate(references, "nts_shapes", "ground_truth")


def _spoil(path: str, kind: str) -> str:
    if kind == "missing":
        Path(path).unlink()
    elif kind == "truncated":
        truncate(path)
    else:
        Path(path).write_text("no image at all")
    return path


def _complaint(path: str, kind: str) -> str:
    return {
        "missing": f"the image {path} does not exist",
        "truncated": f"the image {path} cannot be decoded",
        "no image": f"{path} is not an image of a known format",
    }[kind]
