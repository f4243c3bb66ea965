"""Evaluation of a dataset: stored results, visibility of running evaluations, and errors."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from drawn_dataset import CLASSES
from made_up_predictions import predict

from nts import pipeline
from nts.presets import DEFAULT

KEY = "check"


def test_everything_comes_back_as_it_was_stored(nts_fo, predicted):
    report = nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert nts_fo.evaluation_results.load_evaluation(predicted, KEY) == report.to_dict()
    stored = nts_fo.evaluation_results.open_evaluation(predicted, KEY)
    assert stored.classes == list(CLASSES)
    for kind, precision in (("masks", report.result.masks), ("boxes", report.result.boxes)):
        matches = stored.matches(kind)
        assert set(matches.image_ids) == set(predicted.values("id"))
        assert stored.summary(kind)["ap"] == precision.novel.ap
        for name in CLASSES:
            assert stored.summary(kind, name)["ap50"] == precision.per_class[name].ap50
            _, half = stored.curve(kind, "0.5", name)
            assert np.mean(half) == pytest.approx(precision.per_class[name].ap50, abs=1e-4)
        _, mean = stored.curve(kind, "mean")
        assert np.mean(mean) == pytest.approx(precision.novel.ap, abs=1e-4)
    assert sum(map(stored.objects, CLASSES)) == report.result.ground_truth
    assert sum(map(stored.predictions, CLASSES)) == report.result.predictions
    config = nts_fo.runs.list_runs(predicted, nts_fo.runs.EVALUATION)[KEY]
    assert config["status"] == "complete"
    assert config["masks_ap"] == report.result.masks.novel.ap


@pytest.mark.parametrize("name", [None, CLASSES[0]])
def test_counts_above_a_confidence_agree_with_those_stored(nts_fo, predicted, name):
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    stored = nts_fo.evaluation_results.open_evaluation(predicted, KEY)
    exact = [stored.counted("masks", threshold, name) for threshold in stored.confidences("masks")]
    assert exact == stored.all_counted("masks", name)
    best = stored.counted("masks", stored.best_threshold("masks"))
    assert best.f1 == max(c.f1 for c in stored.all_counted("masks") if not math.isnan(c.f1))


def test_predictions_that_were_emptied_since_are_no_fault(nts_fo, predicted):
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    evaluation = nts_fo.evaluation_results.open_evaluation(predicted, KEY)
    found = evaluation.samples_where(predicted, "tp").first()
    everything = predicted.count("ground_truth.detections")
    assert evaluation.samples_where(predicted, "fn", threshold=2).count("ground_truth.detections") == everything
    sample = predicted[found.id]
    sample["found"] = None
    sample.save()
    # The confidence of its predictions is unknown now: its objects remain as evaluated.
    still_right = sum(d[KEY] == "tp" for d in sample.ground_truth.detections)
    shown = evaluation.samples_where(predicted, "fn", threshold=2).count("ground_truth.detections")
    assert shown == everything - still_right < everything


def test_base_classes_stand_beside_nap(nts_fo, predicted):
    novel, base = CLASSES
    alone = nts_fo.evaluate_nap(predicted, "found", "ground_truth", classes=[novel], eval_key="alone")
    both = nts_fo.evaluate_nap(predicted, "found", "ground_truth", base_classes=[base], eval_key=KEY)
    assert both.result.novel_classes == (novel,)
    assert both.result.masks.novel == alone.result.masks.novel
    assert both.result.masks.base == both.result.masks.per_class[base]
    assert [row["class"] for row in both.table()] == ["all", "all base", novel, base]
    with pytest.raises(nts_fo.InputError, match=f"a class is novel or base, but {base} would be both"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", classes=CLASSES, base_classes=[base])


def test_other_classes_of_the_ground_truth_are_distractors(nts_fo, predicted):
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", classes=CLASSES[:1], eval_key=KEY)
    diagnostics = nts_fo.evaluation_results.open_evaluation(predicted, KEY).diagnostics
    assert diagnostics["distractors"] == [CLASSES[1]]
    assert diagnostics["errors"]["total"]["distractor"] > 0
    assert diagnostics["errors"]["total"]["wrong_class"] == 0
    assert diagnostics["ap_if_labels_perfect"] >= diagnostics["ap"]


def test_is_seen_while_it_runs_and_replaces_nothing_before_it_is_complete(nts_fo, predicted):
    before = nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY).to_dict()
    job = nts_fo.evaluation_job(predicted, "found", "ground_truth", classes=CLASSES[:1], eval_key=KEY, overwrite=True)
    next(job)
    assert nts_fo.runs.list_drafts(predicted, nts_fo.runs.EVALUATION)[KEY]["status"] == "running"
    assert nts_fo.evaluation_results.load_evaluation(predicted, KEY) == before
    report = nts_fo.run(job)
    assert nts_fo.runs.list_drafts(predicted, nts_fo.runs.EVALUATION) == {}
    assert nts_fo.evaluation_results.load_evaluation(predicted, KEY) == report.to_dict() != before


def test_one_that_was_stopped_leaves_nothing(nts_fo, predicted):
    fields = set(predicted.get_field_schema(flat=True))
    job = nts_fo.evaluation_job(predicted, "found", "ground_truth", eval_key=KEY)
    next(job)
    job.close()
    assert predicted.list_runs() == []
    assert set(predicted.get_field_schema(flat=True)) == fields


def test_one_that_failed_says_why_and_can_be_deleted_or_repeated(nts_fo, predicted):
    sample = predicted.first()
    confidence, sample.found.detections[0].confidence = sample.found.detections[0].confidence, None
    sample.save()
    with pytest.raises(nts_fo.InputError, match="no confidence"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert "no confidence" in nts_fo.runs.list_drafts(predicted, nts_fo.runs.EVALUATION)[KEY]["error"]
    assert nts_fo.runs.list_runs(predicted, nts_fo.runs.EVALUATION) == {}
    assert nts_fo.runs.delete_run(predicted, KEY, nts_fo.runs.EVALUATION) == [f"unfinished evaluation {KEY!r}"]
    with pytest.raises(nts_fo.InputError, match="no confidence"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    sample.found.detections[0].confidence = confidence
    sample.save()
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert nts_fo.runs.list_drafts(predicted, nts_fo.runs.EVALUATION) == {}


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["_write_errors", "_write_counts", "complete"])
def test_one_that_ends_while_it_writes_leaves_no_fields(nts_fo, predicted, monkeypatch, where, error):
    from nts.fiftyone_adapter import native_evaluation, runs

    fields = set(predicted.get_field_schema(flat=True))
    with monkeypatch.context() as patch:
        patch.setattr(runs if where == "complete" else native_evaluation, where, Mock(side_effect=error))
        with pytest.raises(type(error)):
            nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert predicted.list_evaluations() == []
    assert set(predicted.get_field_schema(flat=True)) == fields
    failed = {KEY: "failed"} if isinstance(error, Exception) else {}
    unfinished = nts_fo.runs.list_drafts(predicted, nts_fo.runs.EVALUATION)
    assert {key: made["status"] for key, made in unfinished.items()} == failed


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("then", ["repeated", "deleted"])
def test_one_that_was_killed_while_it_wrote_blocks_nothing(nts_fo, predicted, monkeypatch, replacing, then):
    from nts.fiftyone_adapter import nap_evaluation, runs

    before = set(predicted.get_field_schema(flat=True))
    if replacing:
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    predict(predicted, "other", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "complete", Mock(side_effect=SystemExit))
        patch.setattr(nap_evaluation, "_clean_up", Mock())  # no clean-up follows a kill
        with pytest.raises(SystemExit):
            nts_fo.evaluate_nap(predicted, "other", "ground_truth", eval_key=KEY, overwrite=True)
    assert predicted.list_evaluations() == [KEY]
    if then == "repeated":
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY, overwrite=True)
        assert nts_fo.evaluation_results.open_evaluation(predicted, KEY).samples_where(predicted, "tp")
        assert not predicted.has_field(f"other.detections.{KEY}_error")
    nts_fo.runs.delete_run(predicted, KEY, nts_fo.runs.EVALUATION)
    predicted.delete_sample_field("other")
    assert predicted.list_evaluations() == predicted.list_runs() == []
    assert set(predicted.get_field_schema(flat=True)) == before


@pytest.mark.parametrize("meanwhile", ["started again", "deleted"])
def test_one_that_lost_its_name_writes_nothing(nts_fo, predicted, meanwhile):
    first = nts_fo.evaluation_job(predicted, "found", "ground_truth", eval_key=KEY)
    next(first)
    if meanwhile == "deleted":
        nts_fo.runs.delete_run(predicted, KEY, nts_fo.runs.EVALUATION)
    else:
        second = nts_fo.evaluation_job(predicted, "found", "ground_truth", classes=CLASSES[:1], eval_key=KEY)
        next(second)
    with pytest.raises(nts_fo.errors.RunNotFound, match="started again meanwhile, or deleted"):
        nts_fo.run(first)
    assert predicted.list_evaluations() == []
    if meanwhile == "started again":
        report = nts_fo.run(second)
        assert nts_fo.evaluation_results.load_evaluation(predicted, KEY) == report.to_dict()
        assert nts_fo.runs.list_runs(predicted, nts_fo.runs.EVALUATION)[KEY]["classes"] == list(CLASSES[:1])


def test_one_that_is_deleted_while_it_writes_leaves_no_fields(nts_fo, predicted, monkeypatch):
    from nts.fiftyone_adapter import native_evaluation

    fields, write = set(predicted.get_field_schema(flat=True)), native_evaluation._write_counts

    def write_what_is_deleted(*args):
        nts_fo.runs.delete_run(predicted, KEY, nts_fo.runs.EVALUATION)
        write(*args)

    monkeypatch.setattr(native_evaluation, "_write_counts", write_what_is_deleted)
    with pytest.raises(ValueError):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert predicted.list_evaluations() == predicted.list_runs() == []
    assert set(predicted.get_field_schema(flat=True)) == fields


def test_models_are_diagnosed_beside_the_ground_truth(nts_fo, references, targets):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    nts_fo.auto_segment_view(targets, "shapes")
    nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth", eval_key=KEY, diagnose_models=True)
    stored = nts_fo.evaluation_results.open_evaluation(targets._dataset, KEY)
    assert stored.shots == 2
    everything = stored.content["models"]["recall"][0]
    assert everything["objects"] == stored.content["models"]["objects"] == targets.count("ground_truth.detections")
    assert 0.5 < everything["recall_75"] <= everything["recall_50"] <= 1
    assert 0 <= stored.content["models"]["accuracy"] <= 1


def test_proposals_of_tiles_are_diagnosed(nts_fo, references, targets):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    found = {}
    for tiles in ("off", "2x2"):
        nts_fo.auto_segment_view(targets, "shapes", tiles=tiles, overwrite=True)
        nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth", eval_key=KEY, diagnose_models=True, overwrite=True)
        found[tiles] = nts_fo.evaluation_results.open_evaluation(targets._dataset, KEY).content["models"]
    assert found["off"]["accuracy"] == found["2x2"]["accuracy"], "the encoder is asked about whole images"
    assert found["off"]["recall"] != found["2x2"]["recall"]
    assert found["2x2"]["recall"][0]["recall_50"] > 0


def test_models_are_diagnosed_with_the_settings_of_the_segmentation(nts_fo, references, targets, monkeypatch):
    from nts.fiftyone_adapter import runs

    encoded, original = [], pipeline.encode_target

    def encode_target(image, encoder, segmenter, preset, **options):
        encoded.append((encoder.device.type, encoder.precision, segmenter.precision, preset.name, options))
        return original(image, encoder, segmenter, preset, **options)

    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    some = targets.limit(1)
    nts_fo.auto_segment_view(some, "shapes", device="cpu", precision="bfloat16", preset="fast", use_cache=False)
    monkeypatch.setattr(pipeline, "encode_target", encode_target)
    nts_fo.evaluate_nap(some, "nts_shapes", "ground_truth", eval_key=KEY, diagnose_models=True)
    stored = runs.config(some, "nts_shapes", runs.SEGMENTATION)
    assert (stored["device"], stored["precision"], stored["compiled"]) == ("cpu", "bfloat16", False)
    ((*settings, options),) = encoded
    assert settings == ["cpu", "bfloat16", "bfloat16", "fast"]
    # These guide the prompts of the preset.
    assert torch.equal(options["prototypes"], nts_fo.load_memory(some, "shapes").prototypes())


def test_models_that_cannot_run_as_they_did_are_not_diagnosed(nts_fo, references, targets):
    def store(**changes):
        """Change the stored configuration; ``None`` removes a setting."""
        config = targets._dataset.get_run_info("nts_shapes").config
        for name, value in changes.items():
            setattr(config, name, value) if value is not None else delattr(config, name)
        targets._dataset.update_run_config("nts_shapes", config)

    def evaluate(field):
        nts_fo.evaluate_nap(some, field, "ground_truth", eval_key=KEY, overwrite=True, diagnose_models=True)

    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    preset = replace(DEFAULT, matching=replace(DEFAULT.matching, nms_iou=0.4))
    some = targets.limit(1)
    nts_fo.auto_segment_view(some, "shapes", "other", preset=preset)
    with pytest.raises(nts_fo.InputError, match="'other' was segmented with a preset 'default' of other settings"):
        evaluate("other")
    nts_fo.auto_segment_view(some, "shapes")
    store(device="cuda:77")
    with pytest.raises(nts_fo.InputError, match="cannot run here as they did: the device 'cuda:77'"):
        evaluate("nts_shapes")
    store(device=None, precision=None, compiled=None)  # as stored by versions before 0.2
    evaluate("nts_shapes")
    assert nts_fo.evaluation_results.open_evaluation(targets._dataset, KEY).content["models"]["objects"] > 0
    store(encoder_fingerprint="0")
    with pytest.raises(nts_fo.InputError, match="the encoder 'small' has other weights"):
        evaluate("nts_shapes")


def test_shots_are_those_of_the_memory_that_made_the_predictions(nts_fo, references, targets):
    def shots(**options):
        nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth", eval_key=KEY, overwrite=True, **options)
        return nts_fo.runs.list_runs(targets, nts_fo.runs.EVALUATION)[KEY]["shots"]

    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    of_all = nts_fo.runs.list_runs(targets, nts_fo.runs.MEMORY)["shapes"]["shots"]
    nts_fo.auto_segment_view(targets, "shapes")
    assert shots() == of_all
    assert shots(classes=CLASSES[:1]) == of_all[:1]
    job = nts_fo.evaluation_job(targets, "nts_shapes", "ground_truth", eval_key="going")
    next(job)
    assert "evaluation 'going'" in nts_fo.runs.run_contents(targets, "shapes", nts_fo.runs.MEMORY)
    job.close()
    nts_fo.build_reference_memory(references.limit(1), "ground_truth", "shapes", overwrite=True)
    assert shots(classes=CLASSES[:1]) is None


def test_models_that_made_no_predictions_are_not_diagnosed(nts_fo, predicted):
    with pytest.raises(nts_fo.InputError, match="'found' was not made by auto-segment view"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", diagnose_models=True)


def test_class_names_may_hold_anything(nts_fo, predicted):
    names = {CLASSES[0]: "St. $Bernhard", CLASSES[1]: "a/b"}
    for field in ("found", "ground_truth"):
        labels = predicted.values(f"{field}.detections.label")
        predicted.set_values(f"{field}.detections.label", [[names[label] for label in of] for of in labels])
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    stored = nts_fo.evaluation_results.open_evaluation(predicted, KEY)
    assert stored.summary("masks", "St. $Bernhard")["ap"] is not None
    assert set(stored.samples_with(predicted, ["a/b"]).distinct("ground_truth.detections.label")) == {"a/b"}
