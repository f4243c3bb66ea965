"""Evaluation of unusual data: entries that would distort the metrics are skipped, corrected or reported in a note."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from app_requests import in_the_app
from drawn_dataset import CLASSES, TARGETS
from PIL import Image


@pytest.fixture
def predicted(nts_fo, drawn, references, targets):
    """Drawn targets with predictions of a memory in `p`."""
    nts_fo.build_reference_memory(references, "ground_truth", "m")
    nts_fo.auto_segment_view(targets, "m", "p")
    return targets


def set_on_all(view, attribute: str, value, classes=CLASSES) -> None:
    for sample in view:
        for detection in sample.ground_truth.detections:
            if detection.label in classes:
                detection[attribute] = value
        sample.save()


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "true", " Yes "])
def test_objects_that_are_all_crowds_are_told_of(nts_fo, predicted, value):
    set_on_all(predicted, "iscrowd", value)
    report = nts_fo.evaluate_nap(predicted, "p", "ground_truth")
    assert math.isnan(report.result.masks.novel.ap)
    (note,) = [note for note in report.notes if "crowd" in note]
    assert note.startswith(f"all {predicted.count('ground_truth.detections')} objects of {', '.join(CLASSES)} are")
    assert "crowd=None" in note
    without = nts_fo.evaluate_nap(predicted, "p", "ground_truth", crowd=None, eval_key="without")
    assert without.result.masks.novel.ap > 0


def test_the_form_of_an_evaluation_can_count_crowds_as_objects(nts_fo, predicted):
    set_on_all(predicted, "iscrowd", 1)
    fields = {"predictions_field": "p", "ground_truth_field": "ground_truth"}
    in_the_app("evaluate_nap", predicted, **fields, eval_key="crowds", crowds_as_objects=False)
    in_the_app("evaluate_nap", predicted, **fields, eval_key="objects", crowds_as_objects=True)
    evaluations = nts_fo.runs.list_runs(predicted, nts_fo.runs.EVALUATION)
    assert evaluations["crowds"]["masks_ap"] is None
    assert evaluations["objects"]["masks_ap"] > 0


@pytest.mark.parametrize("value", [False, 0, "0", "false", "no", "", None])
def test_a_negative_crowd_flag_is_no_crowd(nts_fo, predicted, value):
    set_on_all(predicted, "iscrowd", value)
    report = nts_fo.evaluate_nap(predicted, "p", "ground_truth")
    assert report.result.masks.novel.ap > 0
    assert report.notes == []


def test_a_class_of_crowds_alone_is_named(nts_fo, predicted):
    set_on_all(predicted, "iscrowd", 1, CLASSES[:1])
    (note,) = nts_fo.evaluate_nap(predicted, "p", "ground_truth").notes
    assert f"objects of {CLASSES[0]} are crowds" in note


@pytest.mark.parametrize("name", ["all", "all base"])
def test_a_class_may_have_the_name_of_a_row(nts_fo, predicted, drawn, references, name):
    labels = drawn.values("ground_truth.detections.label")
    renamed = [[name if label == CLASSES[0] else label for label in of_sample] for of_sample in labels]
    drawn.set_values("ground_truth.detections.label", renamed)
    nts_fo.build_reference_memory(references, "ground_truth", "again")
    nts_fo.auto_segment_view(predicted, "again", "q")
    report = nts_fo.evaluate_nap(predicted, "q", "ground_truth", classes=[name], base_classes=CLASSES[1:])
    rows = report.table()
    assert len(rows) == 4
    assert len({row["class"] for row in rows}) == 4
    assert rows[0]["masks_ap"] == round(100 * report.result.masks.novel.ap, 1)
    assert rows[1]["masks_ap"] == round(100 * report.result.masks.base.ap, 1)
    assert [row["class"] for row in rows[2:]] == [name, CLASSES[1]]


def test_stale_metadata_do_not_move_boxes(fo, nts_fo, predicted):
    right = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="right")
    for sample in predicted.iter_samples(autosave=True):
        sample.metadata = fo.ImageMetadata(width=64, height=48)
    stale = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="stale")
    assert stale.result == right.result
    (note,) = stale.notes
    assert note.startswith(f"{TARGETS} samples have metadata of another size than their file")


def test_without_the_files_the_metadata_tell_the_size(nts_fo, predicted):
    right = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="right")
    predicted.compute_metadata()
    for path in predicted.values("filepath"):
        Path(path).unlink()
    assert nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="gone").result == right.result


def test_an_image_too_large_to_decode_is_left_out_and_named(fo, nts_fo, predicted, drawn, tmp_path):
    right = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="right").result
    Image.new("1", (20_000, 20_000)).save(tmp_path / "map.png")
    drawn.add_sample(fo.Sample(tmp_path / "map.png", tags=["target"]))
    report = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="with_map")
    assert report.result == right
    assert any("map.png" in note and "too large" in note for note in report.notes)


@pytest.mark.parametrize("known", ["by the memory", "by the sample alone"])
def test_copies_of_reference_images_are_left_out_and_told_of(fo, nts_fo, predicted, drawn, references, tmp_path, known):
    right = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="right")
    for number, sample in enumerate(references.limit(2)):
        shutil.copy(sample.filepath, tmp_path / f"copy{number}.png")
        copy = sample.copy()
        copy.filepath, copy.tags = str(tmp_path / f"copy{number}.png"), ["target"]
        drawn.add_sample(copy)
    if known == "by the sample alone":  # as stored by an earlier version
        info = drawn.load_run_results("p")
        drawn.save_run_results(
            "p", drawn.init_run_results("p", reference_sample_ids=info.reference_sample_ids), overwrite=True
        )
    nts_fo.auto_segment_view(predicted, "m", "p")
    report = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="with_copies")
    assert report.result == right.result
    assert report.left_out_references == 2
    (note,) = report.notes
    assert note.startswith("2 samples are left out because reference samples have the same file")
    everything = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="everything", leave_out_references=False)
    assert everything.result.images == TARGETS + 2


def test_a_sample_that_occurs_twice_counts_once(nts_fo, predicted, references):
    right = nts_fo.evaluate_nap(predicted, "p", "ground_truth", eval_key="right")
    report = nts_fo.evaluate_nap(predicted.concat(predicted.limit(1)), "p", "ground_truth", eval_key="twice")
    assert report.result == right.result
    (note,) = report.notes
    assert note == "1 sample is in this view more than once, and counted once"
    twice = nts_fo.build_reference_memory(references.concat(references), "ground_truth", "m2")
    assert (twice.shots, twice.skipped) == (nts_fo.load_memory(predicted, "m").shots, [])
    assert nts_fo.auto_segment_view(predicted.concat(predicted), "m", "q").segmented == TARGETS


def test_names_that_differ_in_case_or_match_nothing_are_told_of(nts_fo, predicted):
    labels = predicted.values("p.detections.label")
    renamed = [[{CLASSES[0]: CLASSES[0].upper() + " "}.get(label, "zebra") for label in of] for of in labels]
    predicted.set_values("p.detections.label", renamed)
    notes = nts_fo.evaluate_nap(predicted, "p", "ground_truth").notes
    assert any(f"'{CLASSES[0].upper()} ' and '{CLASSES[0]}'" in note and "case or spaces" in note for note in notes)
    assert any("no object of 'zebra'" in note for note in notes)


def test_failures_are_counted_by_sample(fo, nts_fo, predicted, drawn, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    drawn.add_samples([fo.Sample(tmp_path / "broken.png", tags=["target"]) for _ in range(2)])
    report = nts_fo.auto_segment_view(predicted, "m", "p")
    assert (report.segmented, report.resumed, len(report.failed)) == (0, TARGETS, 2)
    assert drawn.get_run_info("p").config.failed == 2
    maps = nts_fo.similarity_heatmaps(predicted, "m")
    assert (maps.mapped, len(maps.failed)) == (TARGETS, 2)


def test_dynamic_groups_are_refused_with_advice_that_works(nts_fo, predicted):
    groups = predicted.group_by("filepath")
    with pytest.raises(nts_fo.InputError, match=r"dynamic groups: flatten them with view.flatten\(\)"):
        nts_fo.auto_segment_view(groups, "m", "q")
    assert nts_fo.auto_segment_view(groups.flatten(), "m", "q").segmented == TARGETS


@pytest.mark.parametrize("options", [{"confidence_thresh": 0.6}, {"classes": [CLASSES[0]]}, {"batch_size": 2}])
def test_apply_model_takes_the_options_of_fiftyone(nts_fo, predicted, options):
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(predicted, "m"))
    predicted.apply_model(model, label_field="applied", **options)
    found = predicted.values("applied.detections", unwind=True)

    # Of the memory: a model sees one image, and cannot fit confidences to a view. All scores of an image at once, since
    # vectorised functions may round a single number differently.
    expected = []
    for detections in predicted.values("p.detections"):
        scores = torch.tensor([d.score for d in detections], dtype=torch.float64)
        confidences = model.segmenter.calibration.probabilities(scores).tolist()
        expected += [
            (d.label, d.score, confidence)
            for d, confidence in zip(detections, confidences, strict=True)
            if confidence >= options.get("confidence_thresh", 0) and d.label in options.get("classes", CLASSES)
        ]
    assert [(d.label, d.score, d.confidence) for d in found] == expected
    assert model.config.classes == CLASSES


def test_an_evaluation_can_be_deleted_after_its_fields_were_renamed(nts_fo, predicted, drawn):
    nts_fo.evaluate_nap(predicted, "p", "ground_truth")
    drawn.rename_sample_field("ground_truth", "truth")
    nts_fo.runs.delete_run(drawn, "nap_p", nts_fo.runs.EVALUATION)
    assert not [path for path in drawn.get_field_schema(flat=True) if "nap_p" in path]
    nts_fo.evaluate_nap(predicted, "p", "truth")
    drawn.rename_sample_field("p", "q")
    nts_fo.runs.delete_run(drawn, "nap_p", nts_fo.runs.EVALUATION)
    assert not [path for path in drawn.get_field_schema(flat=True) if "nap_p" in path]
    nts_fo.evaluate_nap(predicted, "q", "truth", eval_key="nap_p", memory_key="m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": "0.5"}, "score_threshold must be a number"),
        ({"score_threshold": None}, "score_threshold must be a number"),
        ({"max_instances": 1.5}, "max_instances must be a whole number"),
        ({"limit": 2.5}, "limit must be a whole number"),
        ({"device": "tpu"}, "'tpu' is not a device that torch knows|is not available on this machine"),
        ({"device": "cuda:99"}, "the device 'cuda:99' is not available"),
    ],
)
def test_settings_of_the_wrong_type_are_refused_in_words(nts_fo, predicted, options, message):
    with pytest.raises(ValueError, match=message):
        nts_fo.auto_segment_view(predicted, "m", "q", **options)
    assert not predicted._dataset.has_field("q")


@pytest.mark.parametrize(
    ("classes", "message"), [([], "choose at least one class"), ([None], "must be texts"), (5, "must be texts")]
)
def test_classes_that_are_none_or_no_names_are_refused_in_words(nts_fo, predicted, references, classes, message):
    with pytest.raises(ValueError, match=message):
        nts_fo.build_reference_memory(references, "ground_truth", "n", classes=classes)
    with pytest.raises(ValueError, match=message):
        nts_fo.evaluate_nap(predicted, "p", "ground_truth", classes=classes)
    with pytest.raises(ValueError, match=message):
        nts_fo.importing.sample_references_view(references, "ground_truth", 1, 0, classes)
