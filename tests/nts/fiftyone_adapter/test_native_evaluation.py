"""Evaluations written for FiftyOne's Model Evaluation panel: equal to FiftyOne's own, and deleted with the nAP run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from drawn_dataset import PLUGIN
from made_up_predictions import predict

KEY = "check"


@pytest.fixture
def evaluated(nts_fo, predicted):
    """The same, evaluated as `check`."""
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    return predicted


def test_equals_evaluate_detections(evaluated):
    theirs = evaluated.evaluate_detections(
        "found", "ground_truth", eval_key="stock", use_masks=True, compute_mAP=True, progress=False
    )
    ours = evaluated.load_evaluation_results(KEY)
    assert type(ours).__module__ == "fiftyone.utils.eval.coco"
    assert ours.mAP() == pytest.approx(theirs.mAP(), abs=1e-12)
    assert ours.mAR() == pytest.approx(theirs.mAR(), abs=1e-12)
    np.testing.assert_allclose(ours.precision, theirs.precision, atol=1e-12)
    np.testing.assert_array_equal(ours.confusion_matrix(), theirs.confusion_matrix())
    assert ours.report() == theirs.report()
    for suffix in ("_tp", "_fp", "_fn"):
        assert evaluated.values(f"{KEY}{suffix}") == evaluated.values(f"stock{suffix}")
    for field in ("found", "ground_truth"):
        for suffix in ("", "_id", "_iou"):
            path = f"{field}.detections."
            assert evaluated.values(f"{path}{KEY}{suffix}") == evaluated.values(f"{path}stock{suffix}"), suffix
    assert evaluated.distinct(f"found.detections.{KEY}") == ["fp", "tp"]
    assert evaluated.distinct(f"ground_truth.detections.{KEY}") == ["fn", "tp"]


def test_labels_copied_to_another_sample_are_judged_in_each(nts_fo, predicted):
    first, other = list(predicted)[:2]
    other["ground_truth"], other["found"] = first.ground_truth.copy(), None
    for copied, label in zip(other.ground_truth.detections, first.ground_truth.detections, strict=True):
        copied.id = label.id
    other.save()
    assert other.ground_truth.detections[0].id == first.ground_truth.detections[0].id
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    predicted.evaluate_detections("found", "ground_truth", eval_key="stock", use_masks=True, progress=False)
    for suffix in ("_tp", "_fp", "_fn"):
        assert predicted.values(f"{KEY}{suffix}") == predicted.values(f"stock{suffix}")
    assert predicted[other.id][f"{KEY}_fn"] == len(other.ground_truth.detections)
    assert set(predicted.select(other.id).values(f"ground_truth.detections.{KEY}", unwind=True)) == {"fn"}


def test_carries_nap_as_a_metric(nts_fo, evaluated):
    nap = nts_fo.evaluation_results.load_evaluation(evaluated, KEY)["result"]["masks"]["novel"]["ap"]
    assert evaluated.load_evaluation_results(KEY).metrics()["nAP"] == pytest.approx(nap)
    assert evaluated.get_evaluation_info(KEY).config.cls == "fiftyone.utils.eval.coco.COCOEvaluationConfig"


def test_is_what_the_model_evaluation_panel_shows(evaluated):
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionContext

    panel = foo.get_operator("@voxel51/panels/model_evaluation_panel_builtin")
    params = {"panel_id": "p", "panel_state": {"view": {"key": KEY}}}
    data = panel.get_evaluation_data(ExecutionContext({"dataset_name": evaluated.name, "params": params}))
    assert data["metrics"]["tp"] == evaluated.sum(f"{KEY}_tp") > 0
    assert data["metrics"]["mAP"] > 0
    assert data["custom_metrics"][f"{PLUGIN}/nap"]["label"] == "nAP"
    pairs = len(evaluated.load_evaluation_results(KEY).ytrue)
    assert np.sum(data["confusion_matrix"]["matrix"]) == pairs > 0


def test_wrong_predictions_say_what_they_got_wrong(evaluated):
    outcomes, errors = evaluated.values([f"found.detections.{KEY}", f"found.detections.{KEY}_error"], unwind=True)
    assert [error is not None for error in errors] == [outcome == "fp" for outcome in outcomes]
    assert {"wrong class", "duplicate", "background"} <= set(errors) - {None}


def test_crowds_and_other_classes_are_neither_right_nor_wrong(nts_fo, predicted):
    sample = predicted.match_tags("target").first()
    crowd = sample.ground_truth.detections[0]
    crowd["iscrowd"] = True
    sample.save()
    label = crowd.label
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", classes=[label], eval_key=KEY)
    sample.reload()
    assert sample.ground_truth.detections[0].get_attribute_value(KEY, None) is None
    others = [d for s in predicted for d in [*s.ground_truth.detections, *s.found.detections] if d.label != label]
    assert others
    assert all(d.get_attribute_value(KEY, None) is None for d in others)


def test_deleting_the_evaluation_deletes_everything_it_wrote(nts_fo, predicted):
    before = set(predicted.get_field_schema(flat=True))
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert f"found.detections.{KEY}_error" in predicted.get_field_schema(flat=True)
    assert nts_fo.runs.delete_run(predicted, KEY, nts_fo.runs.EVALUATION)[-1] == f"evaluation {KEY!r}"
    assert set(predicted.get_field_schema(flat=True)) == before
    assert predicted.list_evaluations() == predicted.list_runs() == []
    with pytest.raises(nts_fo.errors.RunNotFound, match="has no evaluation"):
        nts_fo.runs.delete_run(predicted, KEY, nts_fo.runs.EVALUATION)


def test_overwriting_replaces_it(nts_fo, evaluated):
    first = evaluated.get_evaluation_info(KEY).timestamp
    predict(evaluated, "other", seed=1)
    nts_fo.evaluate_nap(evaluated, "other", "ground_truth", eval_key=KEY, overwrite=True)
    assert evaluated.get_evaluation_info(KEY).timestamp > first
    assert evaluated.get_evaluation_info(KEY).config.pred_field == "other"
    assert not [path for path in evaluated.get_field_schema(flat=True) if path.startswith(f"found.detections.{KEY}")]


def test_names_that_would_overwrite_something_are_refused(nts_fo, predicted):
    predicted.evaluate_detections("found", "ground_truth", eval_key="theirs", progress=False)
    with pytest.raises(nts_fo.InputError, match="'theirs' is taken by an evaluation that FiftyOne made"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key="theirs", overwrite=True)
    with pytest.raises(nts_fo.InputError, match="'mask' is part of every label"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key="mask")
    assert predicted.list_runs() == []


def test_an_evaluation_made_by_the_user_is_not_deleted(nts_fo, evaluated):
    evaluated.delete_evaluation(KEY)
    evaluated.evaluate_detections("found", "ground_truth", eval_key=KEY, progress=False)
    nts_fo.runs.delete_run(evaluated, KEY, nts_fo.runs.EVALUATION)
    assert evaluated.list_evaluations() == [KEY]


def test_metric_of_evaluations_that_fiftyone_makes(fo, nts_fo, predicted):
    metric, classes = f"{PLUGIN}/nap", predicted.distinct("ground_truth.detections.label")
    report = nts_fo.evaluate_nap(predicted, "found", "ground_truth")
    for use_masks, summaries in ((True, report.result.masks), (False, report.result.boxes)):
        for chosen, expected in ((None, summaries.novel), (classes[:1], summaries.per_class[classes[0]])):
            kwargs = {"classes": chosen} if chosen else None
            results = predicted.evaluate_detections(
                "found", "ground_truth", use_masks=use_masks, custom_metrics={metric: kwargs}, progress=False
            )
            assert results.metrics()["nAP"] == pytest.approx(expected.ap)


def test_a_clone_of_the_dataset_knows_its_evaluation(nts_fo, predicted):
    fields = set(predicted.get_field_schema(flat=True))
    nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    clone = predicted.clone()
    right = nts_fo.evaluation_results.open_evaluation(clone, KEY).samples_where(clone, "tp")
    assert right.count("found.detections") == clone.sum(f"{KEY}_tp") > 0
    nts_fo.evaluate_nap(clone, "found", "ground_truth", eval_key=KEY, overwrite=True)
    again = clone.clone()
    nts_fo.runs.delete_run(again, KEY, nts_fo.runs.EVALUATION)
    assert set(again.get_field_schema(flat=True)) == fields
    assert again.list_evaluations() == []
    for copy in (clone, again):
        copy.delete()


def test_attributes_that_are_not_declared_are_not_overwritten(nts_fo, predicted):
    sample = predicted.first()
    sample.ground_truth.detections[0]["quality"] = "good"
    sample.save()
    assert not predicted.has_field("ground_truth.detections.quality")
    with pytest.raises(nts_fo.InputError, match="the dataset has ground_truth.detections.quality"):
        nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key="quality")
    assert predicted.first().ground_truth.detections[0]["quality"] == "good"


def test_nothing_that_is_stored_is_nan(nts_fo, predicted):
    crowds = [[True] * len(labels) for labels in predicted.values("ground_truth.detections.label")]
    predicted.set_values("ground_truth.detections.iscrowd", crowds)
    report = nts_fo.evaluate_nap(predicted, "found", "ground_truth", eval_key=KEY)
    assert math.isnan(report.result.masks.novel.ap)
    assert "nAP" not in predicted.load_evaluation_results(KEY).metrics()
    for stored in (
        nts_fo.evaluation_results.load_evaluation(predicted, KEY),
        nts_fo.evaluation_results.open_evaluation(predicted, KEY).content,
    ):
        json.dumps(stored, allow_nan=False)
