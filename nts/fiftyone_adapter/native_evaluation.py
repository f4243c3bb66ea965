"""An evaluation in FiftyOne's own terms, for its Model Evaluation panel and for everything else that reads them.

Made of existing matches, with FiftyOne's own configuration and results, so it opens where this plugin is
not installed: every object has its outcome (``<key>``: ``tp``, ``fp`` or ``fn``), its match (``<key>_id``) and their
IoU (``<key>_iou``); every sample has their counts (``<key>_tp``, ``<key>_fp``, ``<key>_fn``). One attribute is ours
alone: the error type of a wrong prediction (``<key>_error``: ``wrong class``, ``duplicate``, ...).

The numbers are those of ``evaluate_detections(..., use_masks=True, classwise=True, compute_mAP=True)``, at a small part
of its cost, with three differences. A crowd, and what is found in it, is neither right nor wrong; there, a crowd counts
as missed, and each prediction in it as right. Only the predictions that the protocol counts are judged: for each image
and class those of the highest scores. Labels of classes that are not evaluated stay as they are; there, every label of
the field is judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.utils.eval.coco import COCODetectionResults, COCOEvaluationConfig
from fiftyone.utils.eval.detection import DetectionEvaluation, DetectionResults
from pycocotools import mask as coco_mask

from ..metrics.average_precision import RECALL_THRESHOLDS, Curves, accumulate, summarise
from ..metrics.coco import without_nan
from ..metrics.matches import IouType, Matches, match
from . import checks, runs
from .checks import InputError
from .coco import CocoData
from .errors import RunEnded
from .locking import locked
from .runs import Collection

IOU = 0.5


@dataclass(frozen=True)
class Verdict:
    """Outcome of one label: ``"tp"``, ``"fp"`` or ``"fn"``, the label id of its match (empty for none), the IoU."""

    outcome: str
    match_id: str = ""
    iou: float | None = None


Label = tuple[str, str]
"""Ids of a sample and of a label in it: labels that were copied from sample to sample have one id."""
Verdicts = dict[Label, Verdict]


def check_evaluation_fields(view: Collection, key: str, predictions_field: str, ground_truth_field: str) -> None:
    """Raise InputError unless an evaluation may write its fields and attributes under ``key``."""
    dataset = view._root_dataset
    for name in (f"{key}{suffix}" for suffix in (*runs.ATTRIBUTE_SUFFIXES, "_error")):
        if name == "self" or hasattr(fo.Detection, name):
            raise InputError(f"the name {key!r} cannot be used: {name!r} is part of every label; choose another name")
    counts = [f"{key}{suffix}" for suffix in runs.COUNT_SUFFIXES]
    checks.check_not_reserved(dataset, counts)
    ours = runs.label_attributes(dataset, key)
    runs.check_editable(dataset, (predictions_field, ground_truth_field, *counts))
    if runs.has_native_evaluation(view, key):
        ours |= set(dataset.get_evaluation_info(key).config.build().get_fields(dataset, key))
    elif key in dataset.list_evaluations():
        raise InputError(f"the name {key!r} is taken by an evaluation that FiftyOne made: choose another name")
    paths = _paths(key, predictions_field, ground_truth_field)
    _refuse(key, [path for path in paths if path not in ours and dataset.get_field(path) is not None])


def check_undeclared_attributes(view: Collection, key: str, predictions_field: str, ground_truth_field: str) -> None:
    """Raise InputError if labels have attributes of these names that the dataset does not declare: all are read."""
    undeclared = view._root_dataset.get_dynamic_field_schema(fields=[predictions_field, ground_truth_field])
    _refuse(key, [path for path in _paths(key, predictions_field, ground_truth_field) if path in undeclared])


def delete_remains(view: Collection, key: str, predictions_field: str, ground_truth_field: str) -> None:
    """Delete everything written after the evaluation was deleted, unless the name has another owner by now."""
    dataset = view._root_dataset
    owned = {
        *dataset.list_evaluations(),
        *runs.list_runs(view, runs.EVALUATION),
        *runs.list_drafts(view, runs.EVALUATION),
    }
    if key not in owned:
        for path in _paths(key, predictions_field, ground_truth_field):
            if dataset.has_field(path):
                dataset.delete_sample_field(path)


def _paths(key: str, predictions_field: str, ground_truth_field: str) -> list[str]:
    """Paths of all fields and attributes that an evaluation writes."""
    paths = [f"{key}{suffix}" for suffix in runs.COUNT_SUFFIXES]
    for field in (predictions_field, ground_truth_field):
        paths += [f"{field}.detections.{key}{suffix}" for suffix in runs.ATTRIBUTE_SUFFIXES]
    return [*paths, runs.error_attribute(predictions_field, key)]


def _refuse(key: str, taken: Sequence[str]) -> None:
    if taken:
        raise InputError(f"the name {key!r} cannot be used, the dataset has {', '.join(taken)}: choose another name")


def write_native_evaluation(
    view: Collection,
    key: str,
    predictions_field: str,
    ground_truth_field: str,
    data: CocoData,
    matches: Matches,
    curves: Curves,
    kinds: Mapping[int, str],
    *,
    nap: float,
    token: str,
    crowd: str | None = "iscrowd",
) -> str:
    """Write the evaluation ``key`` of FiftyOne's kind, in place of an earlier one of ours.

    The draft of our own evaluation records it first, so that an interrupted one can be deleted.

    Args:
        view: the samples that were evaluated.
        key: see :func:`check_evaluation_fields`.
        predictions_field, ground_truth_field: fields of type Detections.
        data: the labels.
        matches: of masks.
        curves: of these matches.
        kinds: error types of wrong predictions, by their row in the results.
        nap: AP over the novel classes, in ``[0, 1]``; shown as a metric beside FiftyOne's own, unless it is ``nan``.
        token: of the draft of our own evaluation (:func:`.runs.begin`).
        crowd: attribute that marks crowds.

    Returns:
        The stamp by which this evaluation is known again (:func:`.runs.native_stamp`).
    """
    dataset = view._root_dataset
    config = COCOEvaluationConfig(
        predictions_field,
        ground_truth_field,
        iou=IOU,
        classwise=True,
        iscrowd=crowd or "iscrowd",
        use_masks=True,
        compute_mAP=True,
        iou_threshs=matches.iou_thresholds.round(2).tolist(),
        max_preds=matches.max_detections,
    )
    method = config.build()
    stamp = _register(view, key, method, token)
    predictions, annotations = verdicts(data, matches)
    _write_labels(dataset, predictions_field, key, predictions)
    _write_labels(dataset, ground_truth_field, key, annotations)
    _write_errors(dataset, predictions_field, key, data, kinds)
    _write_counts(dataset, key, data, predictions, annotations)
    all_sizes = curves.areas.index("all")
    metric = {"key": "nAP", "value": nap, "label": "nAP", "lower_is_better": False, "token": token}
    results = COCODetectionResults(
        view,
        config,
        key,
        _pairs(data, predictions, annotations),
        curves.precision[:, :, :, all_sizes, -1].transpose(0, 2, 1),
        RECALL_THRESHOLDS,
        config.iou_threshs,
        list(curves.classes),
        recall_sweep=curves.recall[:, :, all_sizes, -1],
        thresholds=curves.scores[:, :, :, all_sizes, -1].transpose(0, 2, 1),
        custom_metrics={} if math.isnan(nap) else {runs.METRIC: metric},
        backend=method,
    )
    with locked(view):
        runs.check_draft(view, key, token)
        method.save_run_results(view, key, results)
    return stamp


def _register(view: Collection, key: str, method: DetectionEvaluation, token: str) -> str:
    """Register an evaluation without results and declare its fields, in place of an earlier one; returns its stamp.

    Raises:
        RunEnded: if the draft of this token, or a field, was deleted.
    """
    dataset = view._root_dataset
    fields = method.config.pred_field, method.config.gt_field
    with locked(view):
        runs.check_draft(view, key, token)
        if gone := [name for name in fields if not dataset.has_field(name)]:
            raise RunEnded(f"the field {gone[0]!r} was deleted meanwhile: the evaluation {key!r} ends here")
        runs.delete_native_evaluation(view, key)
        # If this is interrupted before the stamp is there, the registered evaluation is known to be ours.
        runs.update_draft(view, key, token, model_evaluation=runs.PENDING)
        runs.change_runs(view, lambda: method.register_run(view, key), lambda keys: key in keys, "evaluations")
        stamp = runs.native_stamp(view, key)
        runs.update_draft(view, key, token, model_evaluation=stamp)
        method.register_samples(view, key)
        dataset.add_sample_field(runs.error_attribute(fields[0], key), fo.StringField)
        method.add_fields_to_sidebar_group(view, key, omit_fields=fields)
    return stamp


def verdicts(data: CocoData, matches: Matches, iou: float = IOU) -> tuple[Verdicts, Verdicts]:
    """Outcomes of the predictions and of the ground-truth objects that count."""
    a, t = matches.areas.index("all"), int(np.flatnonzero(np.isclose(matches.iou_thresholds, iou))[0])
    results, annotations = data.results, data.ground_truth["annotations"]
    right, wrong = matches.true_positives()[a, t], matches.false_positives()[a, t]
    predictions: Verdicts = {}
    truth = {_label(annotations[row]): Verdict("fn") for row in matches.annotation[~matches.gt_ignored[a]].tolist()}
    for row, target, is_right, is_wrong in zip(
        matches.result.tolist(), matches.matched[a, t].tolist(), right.tolist(), wrong.tolist(), strict=True
    ):
        result = results[row]
        if is_right:
            annotation = annotations[target]
            overlap = float(coco_mask.iou([result["segmentation"]], [annotation["segmentation"]], [0])[0, 0])
            predictions[_label(result)] = Verdict("tp", annotation["label_id"], overlap)
            truth[_label(annotation)] = Verdict("tp", result["label_id"], overlap)
        elif is_wrong:
            predictions[_label(result)] = Verdict("fp")
    return predictions, truth


def nap_of_evaluation(samples: Collection, results: DetectionResults, classes: Sequence[str] | None) -> float | None:
    """nAP of an evaluation that FiftyOne made, in ``[0, 1]``; ``None`` if there is no ground truth.

    Args:
        samples: the evaluated samples.
        results: of a detection evaluation; matched by masks if it was, by boxes otherwise.
        classes: the novel classes; default all of the ground truth.

    Raises:
        InputError: if a field is not of type Detections, or a prediction has no finite confidence.
    """
    config = results.config
    checks.check_detections_field(samples, config.pred_field, "predictions field")
    checks.check_detections_field(samples, config.gt_field, "ground-truth field")
    present = [name for name in samples.distinct(f"{config.gt_field}.detections.label") if name]
    where = f"the ground truth {config.gt_field!r}"
    checks.check_classes(classes or present, present, where)
    data = CocoData(sorted(set(classes or present)))
    for sample in samples.select_fields([config.pred_field, config.gt_field]).iter_samples():
        data.add(sample, config.pred_field, config.gt_field, getattr(config, "iscrowd", "iscrowd"))
    iou_type: IouType = "masks" if getattr(config, "use_masks", False) else "boxes"
    nap = summarise(accumulate(match(data.ground_truth, data.results, iou_type=iou_type))).ap
    return without_nan(nap)


def _write_labels(dataset: fo.Dataset, field: str, key: str, found: Verdicts) -> None:
    for suffix, values in (
        ("", [verdict.outcome for verdict in found.values()]),
        ("_id", [verdict.match_id for verdict in found.values()]),
        ("_iou", [verdict.iou for verdict in found.values()]),
    ):
        rows = [
            {"sample_id": sample_id, "label_id": label_id, "value": value}
            for (sample_id, label_id), value in zip(found, values, strict=True)
            if value is not None
        ]
        dataset.set_label_values(f"{field}.detections.{key}{suffix}", rows)


def _write_errors(dataset: fo.Dataset, field: str, key: str, data: CocoData, kinds: Mapping[int, str]) -> None:
    wrong = [(data.results[row], kind.replace("_", " ")) for row, kind in kinds.items()]
    rows = [{"sample_id": r["image_id"], "label_id": r["label_id"], "value": kind} for r, kind in wrong]
    dataset.set_label_values(runs.error_attribute(field, key), rows)


def _write_counts(dataset: fo.Dataset, key: str, data: CocoData, predictions: Verdicts, truth: Verdicts) -> None:
    counts = {outcome: {image["id"]: 0 for image in data.ground_truth["images"]} for outcome in ("tp", "fp", "fn")}
    missed = [(label, verdict) for label, verdict in truth.items() if verdict.outcome == "fn"]
    for (sample_id, _), verdict in [*predictions.items(), *missed]:
        counts[verdict.outcome][sample_id] += 1
    for outcome, by_sample in counts.items():
        dataset.set_values(f"{key}_{outcome}", by_sample, key_field="id")


def _pairs(data: CocoData, predictions: Verdicts, truth: Verdicts) -> list[tuple]:
    """``(true label, predicted label, IoU, confidence, id, predicted id)``, as FiftyOne stores them."""
    name_of = {number: name for name, number in data.category_ids.items()}
    labels = {_label(a): name_of[a["category_id"]] for a in data.ground_truth["annotations"]}
    pairs: list[tuple] = []
    for result in data.results:
        verdict = predictions.get(_label(result))
        if verdict is None:
            continue
        label, match_id = name_of[result["category_id"]], verdict.match_id or None
        target = labels[result["image_id"], match_id] if match_id else None
        pairs.append((target, label, verdict.iou, result["score"], match_id, result["label_id"]))
    missed = [label for label, verdict in truth.items() if verdict.outcome == "fn"]
    return pairs + [(labels[label], None, None, None, label[1], None) for label in missed]


def _label(item: Mapping[str, Any]) -> Label:
    """Ids of a result or an annotation."""
    return item["image_id"], item["label_id"]
