"""The engine in FiftyOne: labels and masks, jobs from Python, what is kept in a dataset, and the model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_dataset import CLASSES, REFERENCES, TARGETS, blobs, drawn_samples, truncate
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nts.building import Skipped
from nts.instances import Instances
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry
from nts.presets import DEFAULT
from nts.references import InvalidReference, Reference


@pytest.fixture
def quick():
    """The default preset with a coarse grid of points: enough where it does not matter what is found."""
    return replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=6))


@pytest.fixture
def memory(nts_fo, references):
    """The name of a memory of the drawn dataset."""
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    return "shapes"


def everything_in(dataset) -> dict:
    """What a dataset is made of, to see that nothing is left behind."""
    dataset.reload()
    return {"fields": set(dataset.get_field_schema(flat=True)), "runs": dataset.list_runs()}


# ---- labels and pixels -----------------------------------------------------------------------------------------------


def test_masks_come_back_from_fiftyone_exactly(fo):
    from nts.fiftyone_adapter.labels import detection_mask

    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 90, 2)
        (mask,) = blobs(rng, 1, height, width)
        assert (detection_mask(fo.Detection.from_mask(mask), (height, width)) == mask).all()


def test_instances_become_detections_of_the_same_pixels(fo):
    from nts.fiftyone_adapter.labels import detection_mask, to_detections

    height, width = 41, 67
    masks = np.stack(blobs(np.random.default_rng(1), 5, height, width))
    instances, memory = _instances(masks), _two_references()
    detections = to_detections(instances, memory).detections

    assert len(detections) == 5
    for k, detection in enumerate(detections):
        assert (detection_mask(detection, (height, width)) == masks[k]).all()
        assert detection.mask.dtype == bool
        x, y, w, h = detection.bounding_box
        assert 0 <= x <= x + w <= 1
        assert 0 <= y <= y + h <= 1
        assert detection.label == memory.classes[instances.labels[k]]
        assert detection.confidence == pytest.approx(float(instances.scores[k]))
        assert detection.similarity == pytest.approx(float(instances.similarities[k]))
        assert detection.margin == pytest.approx(float(instances.margins[k]))
        assert detection.predicted_iou == pytest.approx(float(instances.predicted_iou[k]))
        assert detection.reference_id == memory.entries[instances.references[k]].label_id


def test_no_instances_become_empty_detections(fo):
    from nts.fiftyone_adapter.labels import to_detections

    detections = to_detections(_instances(np.zeros((0, 4, 5), bool)), _two_references())
    assert isinstance(detections, fo.Detections)
    assert detections.detections == []


@pytest.mark.parametrize("channels", ["L", "RGBA"])
def test_mask_in_a_file_is_read_like_one_in_the_database(fo, tmp_path, channels):
    from nts.fiftyone_adapter.labels import detection_mask

    mask = np.eye(6, dtype=bool)
    box = [0.25, 0.5, 0.25, 0.25]
    path = str(tmp_path / "mask.png")
    Image.fromarray(mask.astype(np.uint8) * 255).convert(channels).save(path)
    in_file, in_database = fo.Detection(mask_path=path, bounding_box=box), fo.Detection(mask=mask, bounding_box=box)
    assert (detection_mask(in_file, (24, 24)) == detection_mask(in_database, (24, 24))).all()


def test_mask_is_stretched_over_its_box_and_cut_at_the_border(fo):
    from nts.fiftyone_adapter.labels import detection_mask

    stretched = detection_mask(fo.Detection(mask=np.eye(2, dtype=bool), bounding_box=[0, 0, 1, 0.5]), (8, 6))
    assert stretched[:2, :3].all()
    assert stretched[2:4, 3:].all()
    assert stretched.sum() == 12

    cut = detection_mask(fo.Detection(mask=np.ones((4, 4), bool), bounding_box=[-0.25, 0.75, 0.5, 0.5]), (8, 8))
    assert cut[6:, :2].all()
    assert cut.sum() == 4


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"bounding_box": [0, 0, 1, 1], "mask": np.ones((2, 2), bool)}, "it has no class"),
        ({"label": "a", "bounding_box": [0, 0, 1, 1], "mask": np.zeros((2, 2), bool)}, "its mask is empty"),
        (
            {"label": "a", "bounding_box": [1.2, 0.5, 0.5, 0.5], "mask": np.ones((2, 2), bool)},
            "its box [1.2, 0.5, 0.5, 0.5] lies outside its image",
        ),
        (
            {"label": "a", "bounding_box": [-0.5, 0, 1, 1], "mask": np.array([[True, False]])},
            "nothing of its mask is left on its image",
        ),
        (
            {"label": "a", "bounding_box": [float("nan"), 0, 1, 1], "mask": np.ones((2, 2), bool)},
            "its box [nan, 0, 1, 1] is not finite",
        ),
        ({"label": "a", "bounding_box": [0, 0, 1, 1], "mask_path": "/nowhere.png"}, "its mask file /nowhere.png is"),
    ],
    ids=["no class", "empty", "outside", "cut away", "nan", "no file"],
)
def test_label_that_is_no_reference_says_why(fo, tmp_path, label, reason):
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    sample = fo.Sample(tmp_path / "a.png", field=fo.Detections(detections=[fo.Detection(**label)]))
    (skipped,) = references_of_sample(sample, annotations_of_sample(sample, "field", {}))
    assert isinstance(skipped, Skipped)
    assert skipped.reason.startswith(reason)
    assert skipped.label_id == sample.field.detections[0].id


def test_box_without_a_mask_marks_the_whole_box(fo, tmp_path):
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    detection = fo.Detection(label="a", bounding_box=[0.5, 0.2, 0.25, 0.5])
    sample = fo.Sample(tmp_path / "a.png", field=fo.Detections(detections=[detection]))
    (reference,) = references_of_sample(sample, annotations_of_sample(sample, "field", {}))
    assert isinstance(reference, Reference)
    assert reference.kind == "box"
    assert reference.mask[2:7, 10:15].all()
    assert reference.mask.sum() == 25
    assert reference.box == pytest.approx((10, 2, 5, 5))


def test_reference_follows_the_orientation_of_its_image(fo, tmp_path):
    """Labels are drawn on the image as viewers show it, that is, turned as its EXIF orientation says."""
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    detection = fo.Detection(label="a", bounding_box=[0, 0, 0.5, 0.25], mask=np.ones((10, 10), bool))
    sample = fo.Sample(tmp_path / "a.jpg", field=fo.Detections(detections=[detection]))
    (reference,) = references_of_sample(sample, annotations_of_sample(sample, "field", {}))
    assert reference.image.shape == (40, 20, 3)
    assert reference.mask[:10, :10].all()
    assert reference.mask.sum() == 100


def test_box_in_whole_pixels_comes_back_in_whole_pixels(fo, tmp_path):
    """The crop truncates: a box at 57 that comes back at 56.9999 would be cut one pixel off."""
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    Image.new("RGB", (231, 173)).save(tmp_path / "a.png")
    masks = blobs(np.random.default_rng(3), 200, 173, 231)
    detections = [fo.Detection.from_mask(mask, label="a") for mask in masks]
    sample = fo.Sample(tmp_path / "a.png", field=fo.Detections(detections=detections))
    for mask, reference in zip(
        masks, references_of_sample(sample, annotations_of_sample(sample, "field", {})), strict=True
    ):
        ys, xs = mask.nonzero()
        assert reference.box == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)


def test_mask_of_the_wrong_size_is_refused_by_the_reference_itself():
    with pytest.raises(InvalidReference, match="the mask has size 3 x 2, but its image has 5 x 4"):
        Reference(np.zeros((4, 5, 3), np.uint8), "a", np.ones((2, 3), bool))


# ---- the three jobs --------------------------------------------------------------------------------------------------


def test_whole_job_by_functions(nts_fo, drawn, references, targets):
    before = everything_in(drawn)

    built = nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    assert built.shots == dict.fromkeys(CLASSES, 2)
    assert built.skipped == []

    segmented = nts_fo.auto_segment_view(targets, "shapes")
    assert segmented.output_field == "nts_shapes"
    assert segmented.segmented == TARGETS
    assert segmented.failed == {}
    assert sum(segmented.instances.values()) > 0

    found = [d for sample in targets for d in sample.nts_shapes.detections]
    assert {d.label for d in found} <= set(CLASSES)
    reference_labels = set(references.values("ground_truth.detections.id", unwind=True))
    assert {d.reference_id for d in found} <= reference_labels
    assert references.first().nts_shapes is None

    report = nts_fo.evaluate_nap(drawn, "nts_shapes", "ground_truth")
    assert report.left_out_references == REFERENCES
    assert report.result.images == TARGETS
    assert report.result.novel_classes == CLASSES
    assert 0.02 < report.result.masks.novel.ap50 <= 1
    assert nts_fo.evaluation_results.load_evaluation(drawn, report.eval_key)["result"] == report.result.to_dict()

    deleted = nts_fo.runs.delete_run(drawn, "shapes", nts_fo.runs.MEMORY)
    assert deleted == [
        "field 'nts_shapes'",
        "field 'nts_shapes_error'",
        "evaluation 'nap_nts_shapes'",
        "segmentation 'nts_shapes'",
        "memory 'shapes'",
    ]
    assert everything_in(drawn) == before


def test_jobs_tell_how_far_they_are(nts_fo, targets, memory, quick):
    steps = []
    nts_fo.auto_segment_view(targets, memory, preset=quick, progress=steps.append)
    assert [step.done for step in steps] == [0, *range(TARGETS), TARGETS]
    assert steps[-1].fraction == 1
    assert steps[2].label.startswith(f"1/{TARGETS} images, ")
    assert steps[2].label.endswith(" s left")


def test_memory_takes_only_the_classes_asked_for(nts_fo, drawn, references):
    report = nts_fo.build_reference_memory(references, "ground_truth", "one", classes=[CLASSES[1], "unheard-of"])
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == ["unheard-of"]
    assert nts_fo.load_memory(drawn, "one").classes == CLASSES[1:]
    assert drawn.load_run_view("one").values("id") == references.values("id")


def test_memory_reports_skipped_labels_with_a_reason(nts_fo, fo, references):
    first, second, third = list(references)[:3]
    first.ground_truth.detections[0].mask = None
    first.save()
    truncate(second.filepath)
    third.ground_truth.detections.append(fo.Detection(bounding_box=[0, 0, 1, 1], mask=np.ones((2, 2), bool)))
    third.save()

    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes", weak_labels="skip")
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == [CLASSES[0]]
    reasons = [item.reason for item in report.skipped]
    assert reasons[0] == f"label {CLASSES[0]!r} of {first.filepath}: it has a box but no mask"
    assert reasons[1].startswith(f"label {CLASSES[0]!r} of {second.filepath}: the image {second.filepath} cannot be")
    assert reasons[2] == f"label None of {third.filepath}: it has no class"

    raw = nts_fo.build_reference_memory(references, "ground_truth", "raw", weak_labels="raw")
    assert raw.shots == {CLASSES[0]: 1, CLASSES[1]: 2}
    assert (raw.kinds, raw.promoted, raw.unpromoted) == ({"mask": 2, "box": 1}, 0, 0)
    drawn = nts_fo.build_reference_memory(references, "ground_truth", "drawn")
    assert (drawn.kinds, drawn.promoted, drawn.unpromoted) == ({"mask": 2, "box": 1}, 1, 0)


def test_interrupted_segmentation_is_resumed(nts_fo, drawn, targets, memory, quick):
    job = nts_fo.segmentation_job(targets, memory, preset=quick)
    for _ in range(4):  # loading, then three images of which two are done when the third begins
        next(job)
    job.close()
    done = drawn.exists("nts_shapes")
    assert done.count() == 2
    assert drawn.get_run_info("nts_shapes").config.status == "incomplete"
    before = {sample.id: sample.nts_shapes.to_dict() for sample in done}

    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.resumed, report.segmented) == (2, 1)
    assert before.items() <= {sample.id: sample.nts_shapes.to_dict() for sample in done}.items()
    assert drawn.get_run_info("nts_shapes").config.status == "complete"
    assert drawn.get_run_info("nts_shapes").config.segmented == TARGETS


def test_dry_run_is_part_of_the_run(nts_fo, drawn, targets, memory, quick):
    assert nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1).segmented == 1
    assert drawn.get_run_info("nts_shapes").config.status == "incomplete"
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.resumed, report.segmented) == (1, TARGETS - 1)


def test_other_settings_need_overwrite(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth")
    ids = drawn.values("nts_shapes.detections.id", unwind=True)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(score_threshold 0.0, now 0.9\): choose another"):
        nts_fo.auto_segment_view(targets, memory, preset=quick, score_threshold=0.9)
    assert drawn.values("nts_shapes.detections.id", unwind=True) == ids

    report = nts_fo.auto_segment_view(targets, memory, preset=quick, score_threshold=0.9, overwrite=True, limit=1)
    assert report.resumed == 0
    assert drawn.exists("nts_shapes").count() == 1
    assert drawn.list_runs(method="nts_nap") == []


def test_other_preset_is_another_setting(nts_fo, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(preset default, now paper\)"):
        nts_fo.auto_segment_view(targets, memory, preset="paper")
    finer = replace(quick, proposals=replace(quick.proposals, points_per_side=7))
    with pytest.raises(nts_fo.InputError, match=r"other settings \(another preset\)"):
        nts_fo.auto_segment_view(targets, memory, preset=finer)


def test_rebuilt_memory_is_another_memory(nts_fo, drawn, references, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.build_reference_memory(references, "ground_truth", memory, overwrite=True)
    assert nts_fo.auto_segment_view(targets, memory, preset=quick).resumed == TARGETS
    nts_fo.build_reference_memory(references.limit(3), "ground_truth", memory, overwrite=True)
    with pytest.raises(nts_fo.InputError, match="another memory"):
        nts_fo.auto_segment_view(targets, memory, preset=quick)
    # What the predictions were made of is known from the time when they were made.
    assert nts_fo.evaluate_nap(drawn, "nts_shapes", "ground_truth").left_out_references == REFERENCES


def test_image_that_fails_is_recorded_and_the_run_goes_on(nts_fo, drawn, targets, memory, quick):
    broken = targets.skip(1).first()
    content = truncate(broken.filepath)
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert report.segmented == TARGETS - 1
    assert list(report.failed) == [broken.id]
    broken.reload()
    assert broken.nts_shapes is None
    assert broken.nts_shapes_error == report.failed[broken.id]
    assert broken.filepath in broken.nts_shapes_error
    assert drawn.get_run_info("nts_shapes").config.failed == 1

    with open(broken.filepath, "wb") as file:
        file.write(content)
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.segmented, report.resumed, report.failed) == (1, TARGETS - 1, {})
    broken.reload()
    assert broken.nts_shapes is not None
    assert broken.nts_shapes_error is None


def test_mistake_in_the_engine_is_recorded_with_its_kind(nts_fo, targets, memory, quick, monkeypatch):
    from nts.pipeline import ReferenceSegmenter

    encode, calls = ReferenceSegmenter.encode, []

    def fails_once(self, image):
        calls.append(image)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return encode(self, image)

    monkeypatch.setattr(ReferenceSegmenter, "encode", fails_once)
    report = nts_fo.auto_segment_view(targets, memory, preset=quick, use_cache=False)
    assert [reason.split(": ", 1)[1] for reason in report.failed.values()] == ["RuntimeError: out of memory"]
    assert report.segmented == TARGETS - 1


def test_samples_with_nothing_found_get_empty_detections(nts_fo, targets, memory, quick):
    report = nts_fo.auto_segment_view(targets, memory, preset=quick, score_threshold=1.0)
    assert (report.segmented, report.empty, report.instances) == (TARGETS, TARGETS, {})
    assert [sample.nts_shapes.detections for sample in targets] == [[]] * TARGETS
    assert nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth").result.masks.novel.ap == 0


def test_view_may_filter_on_the_field_that_is_written(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    report = nts_fo.auto_segment_view(targets.exists("nts_shapes", False), memory, preset=quick)
    assert (report.resumed, report.segmented) == (0, TARGETS - 1)
    assert drawn.exists("nts_shapes").count() == TARGETS


def test_view_that_hides_fields_cannot_hide_what_is_there(nts_fo, targets, memory, quick):
    view = targets.select_fields()
    nts_fo.auto_segment_view(view, memory, preset=quick)
    assert nts_fo.auto_segment_view(view, memory, preset=quick).resumed == TARGETS
    with pytest.raises(nts_fo.InputError, match="never overwritten"):
        nts_fo.auto_segment_view(view, memory, "ground_truth", overwrite=True)


def test_slice_of_a_grouped_dataset_is_segmented(nts_fo, fo, make_dataset, tmp_path, quick):
    samples = drawn_samples(tmp_path)
    for sample in samples:
        (tmp_path / "right").mkdir(exist_ok=True)
        shutil.copy(sample.filepath, tmp_path / "right")
    grouped = make_dataset()
    grouped.add_group_field("group", default="left")
    for sample in samples:
        group = fo.Group()
        right = fo.Sample(
            tmp_path / "right" / sample.filename, tags=sample.tags, ground_truth=sample.ground_truth.copy()
        )
        sample["group"], right["group"] = group.element("left"), group.element("right")
        grouped.add_samples([sample, right])

    right = grouped.select_group_slices("right")
    nts_fo.build_reference_memory(right.match_tags("reference"), "ground_truth", "shapes")
    targets = right.match_tags("target")
    assert nts_fo.auto_segment_view(targets, "shapes", preset=quick).segmented == TARGETS
    assert nts_fo.auto_segment_view(targets, "shapes", preset=quick).resumed == TARGETS
    assert targets.exists("nts_shapes").count() == TARGETS
    assert nts_fo.evaluate_nap(right, "nts_shapes", "ground_truth").result.images == TARGETS


def test_output_field_is_suggested_and_counts_up(nts_fo, fo, drawn, targets, memory, quick):
    assert nts_fo.checks.suggest_output_field(drawn, memory) == "nts_shapes"
    drawn.add_sample_field("nts_shapes", fo.StringField)
    assert nts_fo.checks.suggest_output_field(drawn, memory) == "nts_shapes_2"
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    assert drawn.exists("nts_shapes_2").count() == 1
    assert nts_fo.checks.suggest_output_field(drawn, memory) == "nts_shapes_2"


def test_field_of_predictions_describes_itself(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    field = drawn.get_field("nts_shapes")
    assert field.description == "Instances found by the reference memory 'shapes'"
    assert field.info == {"memory": "shapes", "classes": list(CLASSES)}
    for attribute in ("similarity", "margin", "predicted_iou", "reference_id"):
        assert drawn.has_field(f"nts_shapes.detections.{attribute}")


# ---- what is kept ----------------------------------------------------------------------------------------------------


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
    """A class of the plugin's in the database could not be loaded where the plugin is not."""
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


def test_deleting_a_segmentation_leaves_its_memory(nts_fo, drawn, targets, memory, quick):
    before = everything_in(drawn)
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth", eval_key="mine")
    assert nts_fo.runs.run_contents(drawn, "nts_shapes", nts_fo.runs.SEGMENTATION)[-2:] == [
        "evaluation 'mine'",
        "segmentation 'nts_shapes'",
    ]
    nts_fo.runs.delete_run(drawn, "nts_shapes", nts_fo.runs.SEGMENTATION)
    assert everything_in(drawn) == before


# ---- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_equals_pycocotools_to_the_last_digit(nts_fo, fo, make_dataset):
    dataset, ground_truth, results = _random_evaluation(fo, make_dataset)
    report = nts_fo.evaluate_nap(dataset, "predictions", "truth")
    for kind, iou_type in (("boxes", "bbox"), ("masks", "segm")):
        ours = getattr(report.result, kind)
        stats, per_class = _directly(ground_truth, results, iou_type)
        assert (ours.novel.ap, ours.novel.ap50, ours.novel.ap75) == stats
        assert {name: summary.ap for name, summary in ours.per_class.items()} == per_class
    assert 0.1 < report.result.masks.novel.ap < 0.9
    rows = report.table()
    assert [row["class"] for row in rows] == ["all", "a", "b", "c"]
    assert rows[0]["masks_ap"] == round(100 * report.result.masks.novel.ap, 1)


def test_novel_classes_alone_are_evaluated(nts_fo, fo, make_dataset):
    dataset, ground_truth, results = _random_evaluation(fo, make_dataset)
    report = nts_fo.evaluate_nap(dataset, "predictions", "truth", classes=["c", "a", "unheard-of"])
    _, per_class = _directly(ground_truth, results, "segm")
    assert report.result.masks.novel.ap == pytest.approx((per_class["a"] + per_class["c"]) / 2)
    assert any("has no unheard-of: these classes have no AP" in note for note in report.notes)


def test_evaluation_reports_limitations_in_notes(nts_fo, fo, make_dataset):
    dataset, _, _ = _random_evaluation(fo, make_dataset)
    first, second = dataset.limit(2)
    first["predictions"] = None
    second.truth.detections[0].mask = None
    second.truth.detections[1].bounding_box = [2, 2, 1, 1]
    first.save()
    second.save()
    notes = nts_fo.evaluate_nap(dataset, "predictions", "truth").notes
    assert any("no reference samples were left out" in note for note in notes)
    assert any("1 of 12 images have no 'predictions'" in note for note in notes)
    assert any("1 labels of 'truth' have no mask" in note for note in notes)
    assert any("1 labels or images were left out" in note and "lies outside its image" in note for note in notes)


def test_reference_samples_are_left_out_also_for_predictions_of_apply_model(nts_fo, drawn, memory):
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory))
    drawn.limit(REFERENCES + 1).apply_model(model, label_field="applied")
    evaluate = nts_fo.evaluate_nap
    assert evaluate(drawn, "applied", "ground_truth").left_out_references == 0
    options = {"memory_key": memory, "overwrite": True}
    assert evaluate(drawn, "applied", "ground_truth", **options).left_out_references == REFERENCES
    kept = evaluate(drawn, "applied", "ground_truth", leave_out_references=False, **options)
    assert kept.left_out_references == 0
    # The memory was only named, to leave out its references: predictions and evaluation are not its to take along.
    assert nts_fo.runs.run_contents(drawn, memory, nts_fo.runs.MEMORY) == ["memory 'shapes'"]
    assert nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY) == ["memory 'shapes'"]
    assert drawn.has_field("applied")
    assert nts_fo.evaluation_results.open_evaluation(drawn, "nap_applied").config["shots"] is None


# ---- the model -------------------------------------------------------------------------------------------------------


def test_apply_model_gives_what_auto_segment_view_gives(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory), preset=quick)
    targets.apply_model(model, label_field="applied", skip_failures=False)
    for sample in targets:
        pairs = zip(sample.applied.detections, sample.nts_shapes.detections, strict=True)
        for applied, segmented in pairs:
            assert applied.label == segmented.label
            assert applied.confidence == segmented.confidence
            assert applied.bounding_box == segmented.bounding_box
            assert (applied.mask == segmented.mask).all()


def test_model_segments_a_plain_array_too(nts_fo, fo, drawn, memory, quick):
    from nts.images import read_image

    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory), preset=quick)
    assert (model.media_type, model.ragged_batches, model.transforms, model.preprocess) == ("image", True, None, False)
    assert isinstance(model.predict(read_image(drawn.first().filepath)), fo.Detections)


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _instances(masks: np.ndarray) -> Instances:
    """Instances with the given masks, bool ``[m, H, W]``, and values of every kind beside them."""
    count = len(masks)
    scores = torch.linspace(0.9, 0.3, count)
    which = torch.arange(count) % 2
    return Instances.of_masks(
        torch.from_numpy(masks),
        labels=which,
        scores=scores,
        similarities=scores + 0.05,
        margins=scores / 3,
        predicted_iou=scores - 0.1,
        features=torch.zeros(count, 3),
        proposals=torch.arange(count),
        references=1 - which,
    )


def _two_references() -> MemoryBank:
    bank = MemoryBank(EncoderInfo("some", "f", 28, 3))
    for name, label_id in (("b", "label-b"), ("a", "label-a")):
        bank.add(MemoryEntry(name, torch.ones(3), "sample", label_id))
    return bank


def _random_evaluation(fo, make_dataset):
    """Random truth and predictions, crowds among them: as a dataset, and as COCO that was written beside it by hand."""
    rng = np.random.default_rng(5)
    names = ["a", "b", "c"]
    samples, images, annotations, results = [], [], [], []
    for image_id in range(1, 13):
        height, width = (int(side) for side in rng.integers(30, 90, 2))
        images.append({"id": image_id, "height": height, "width": width})
        truth, predictions = [], []
        for mask in blobs(rng, 5, height, width):
            category, crowd = int(rng.integers(3)), int(rng.uniform() < 0.15)
            truth.append(fo.Detection.from_mask(mask, label=names[category], iscrowd=crowd))
            annotations.append({"id": len(annotations) + 1, "iscrowd": crowd, **_coco(mask, image_id, category)})
            for _ in range(2):
                moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
                guess = category if rng.uniform() < 0.8 else int(rng.integers(3))
                score = float(rng.uniform())
                predictions.append(fo.Detection.from_mask(moved, label=names[guess], confidence=score))
                results.append({"score": score, **_coco(moved, image_id, guess)})
        samples.append(
            fo.Sample(
                f"/nowhere/{image_id}.png",
                metadata=fo.ImageMetadata(width=width, height=height),
                truth=fo.Detections(detections=truth),
                predictions=fo.Detections(detections=predictions),
            )
        )
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    return make_dataset(samples), {"images": images, "annotations": annotations, "categories": categories}, results


def _coco(mask: np.ndarray, image_id: int, category: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": float(mask.sum()),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


def _directly(ground_truth: dict, results: list[dict], iou_type: str):
    """AP, AP50 and AP75 over all classes, and AP of each class, by pycocotools itself."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(ground_truth))
    coco.createIndex()
    drop = "segmentation" if iou_type == "bbox" else "bbox"
    detections = coco.loadRes([{k: v for k, v in result.items() if k != drop} for result in results])
    evaluation = COCOeval(coco, detections, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = [category["name"] for category in ground_truth["categories"]]
    per_class = {name: float(precision[:, :, k][precision[:, :, k] > -1].mean()) for k, name in enumerate(names)}
    return tuple(float(value) for value in evaluation.stats[:3]), per_class


class TestCache:
    """What the models made of an image is not made twice."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NTS_CACHE_DIR", str(tmp_path / "cache"))

    @pytest.fixture
    def no_model(self, monkeypatch):
        def forbid():
            def ran(*_, **__):
                raise AssertionError("a model ran")

            monkeypatch.setattr("nts.encoder.Encoder.encode", ran)
            monkeypatch.setattr("nts.segmenter.Segmenter.embed", ran)

        return forbid

    @staticmethod
    def _found(view, field):
        return [
            [(d.label, d.confidence, d.bounding_box, d.mask.tolist(), d.reference_id) for d in labels.detections]
            for labels in view.values(field)
        ]

    def test_a_second_run_runs_no_model_and_finds_the_same(self, nts_fo, targets, memory, quick, no_model):
        first = nts_fo.auto_segment_view(targets, memory, "first", preset=quick)
        assert (first.segmented, first.from_cache) == (TARGETS, 0)
        without = nts_fo.auto_segment_view(targets, memory, "without", preset=quick, use_cache=False)
        assert without.from_cache == 0
        no_model()
        second = nts_fo.auto_segment_view(targets, memory, "second", preset=quick)
        assert (second.segmented, second.from_cache, second.failed) == (TARGETS, TARGETS, {})
        assert any(self._found(targets, "first"))
        assert self._found(targets, "second") == self._found(targets, "first") == self._found(targets, "without")
        for field in ("first", "second"):
            for found in targets.values(field):
                # The App refuses masks that are kept column by column.
                assert all(detection.mask.flags.c_contiguous for detection in found.detections)

    def test_other_references_and_thresholds_run_no_model(self, nts_fo, references, targets, memory, quick, no_model):
        nts_fo.auto_segment_view(targets, memory, preset=quick)
        nts_fo.build_reference_memory(references.limit(2), "ground_truth", "fewer")
        no_model()
        report = nts_fo.auto_segment_view(targets, "fewer", "found", preset=quick, score_threshold=0.2, max_instances=5)
        assert (report.from_cache, report.failed) == (TARGETS, {})
        assert max(len(found) for found in self._found(targets, "found")) <= 5

    def test_a_changed_file_is_encoded_again(self, nts_fo, targets, memory, quick):
        from PIL import Image

        nts_fo.auto_segment_view(targets, memory, "first", preset=quick)
        path = targets.first().filepath
        Image.open(path).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
        assert nts_fo.auto_segment_view(targets, memory, "second", preset=quick).from_cache == TARGETS - 1

    def test_a_model_for_apply_model_uses_it_too(self, nts_fo, targets, memory, quick, no_model):
        nts_fo.auto_segment_view(targets, memory, "first", preset=quick)
        model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(targets, memory), preset=quick)
        no_model()
        targets.apply_model(model, label_field="applied")
        assert self._found(targets, "applied") == self._found(targets, "first")

    def test_a_reference_more_encodes_one(self, nts_fo, references, monkeypatch):
        from nts.encoder import Encoder

        encode, encoded = Encoder.encode, []
        monkeypatch.setattr(Encoder, "encode", lambda self, x: encoded.extend(x) or encode(self, x))
        samples = references.values("id")
        fewer = references.select(samples[:-1])
        nts_fo.build_reference_memory(fewer, "ground_truth", "one")
        assert len(encoded) == sum(len(sample.ground_truth.detections) for sample in fewer)
        encoded.clear()
        nts_fo.build_reference_memory(references, "ground_truth", "more", keep_images=True)
        added = len(references.last().ground_truth.detections)
        images = len(references)  # each whole image, too, now that they are to be kept
        assert len(encoded) == added + images
        encoded.clear()
        nts_fo.build_reference_memory(references, "ground_truth", "again", keep_images=True)
        assert encoded == []
        more, again = (nts_fo.load_memory(references, name) for name in ("more", "again"))
        assert np.array_equal(more.instance_prototypes(), again.instance_prototypes())

    def test_the_cache_can_be_cleared_in_the_app(self, fo, nts_fo, targets, memory, quick):
        from nts.cache import default_cache

        nts_fo.auto_segment_view(targets, memory, preset=quick)
        kept = default_cache().count()
        assert default_cache().count("target") == TARGETS
        import fiftyone.operators as foo

        files, size = foo.get_operator("@nts/reference-segmentation/clear_cache")()
        assert files == kept
        assert size > 0
        assert default_cache().count() == 0
