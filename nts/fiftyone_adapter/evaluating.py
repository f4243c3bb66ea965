"""Evaluating predictions against ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..evaluation.coco import NovelAP, evaluate
from . import checks, runs
from .checks import InputError
from .coco import CocoData
from .jobs import Job, OnProgress, Progress, run, some
from .runs import Collection


@dataclass(frozen=True)
class EvaluationReport:
    """nAP, and what it was computed on.

    Attributes:
        eval_key: name of the stored run.
        result: the numbers, by pycocotools.
        left_out_references: samples left out because the memory holds references from them.
        without_predictions: evaluated samples that were never segmented; they count as images with nothing found.
        notes: what a reader of the numbers must know.
    """

    eval_key: str
    result: NovelAP
    left_out_references: int
    without_predictions: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "result": self.result.to_dict()}

    def table(self) -> list[dict[str, Any]]:
        """A row for all classes, then one for each; AP in percent, ``None`` where there was no ground truth."""
        result = self.result.to_dict()
        rows: list[dict[str, Any]] = [{"class": "all"}, *({"class": name} for name in result["classes"])]
        for kind in ("masks", "boxes"):
            precision = result[kind]
            values = [[precision[name] for name in ("ap", "ap50", "ap75")], *precision["per_class"].values()]
            for row, aps in zip(rows, values, strict=True):
                names = (f"{kind}_ap", f"{kind}_ap50", f"{kind}_ap75")
                row |= {k: None if ap is None else round(100 * ap, 1) for k, ap in zip(names, aps, strict=True)}
        return rows


def evaluate_nap(
    view: Collection, predictions_field: str, ground_truth_field: str, *, progress: OnProgress = None, **options: Any
) -> EvaluationReport:
    """Evaluate predictions: :func:`evaluation_job`, run to its end."""
    return run(evaluation_job(view, predictions_field, ground_truth_field, **options), progress)


def evaluation_job(
    view: Collection,
    predictions_field: str,
    ground_truth_field: str,
    *,
    classes: Sequence[str] | None = None,
    eval_key: str | None = None,
    leave_out_references: bool = True,
    memory_key: str | None = None,
    crowd: str = "iscrowd",
    overwrite: bool = False,
) -> Job[EvaluationReport]:
    """Average precision over the novel classes, by pycocotools, for boxes and masks; kept as a run of the dataset.

    Args:
        view: dataset or view to evaluate. Images without ground truth count too.
        predictions_field: a field of type Detections, with confidences.
        ground_truth_field: a field of type Detections.
        classes: the novel classes; without, those of the memory that made the predictions, or all of the ground truth
            where the predictions are not ours.
        eval_key: name for the stored result; ``nap_<predictions_field>`` without.
        leave_out_references: leave out the samples that references of the memory came from.
        memory_key: the memory whose references are meant; the one that made the predictions without.
        crowd: attribute of the ground truth that marks crowds.
        overwrite: replace a result of this name.

    Raises:
        InputError: if view, fields, classes or name will not do, or a prediction has no finite confidence.
        RunNotFound: if there is no such memory.
    """
    checks.check_view(view)
    checks.check_detections_field(view, predictions_field, "predictions field")
    checks.check_detections_field(view, ground_truth_field, "ground-truth field")
    if predictions_field == ground_truth_field:
        raise InputError(f"the field {predictions_field!r} cannot be evaluated against itself")
    eval_key = eval_key or f"nap_{predictions_field}"
    checks.check_key(view, eval_key, runs.EVALUATION, overwrite=overwrite)
    made = runs.configs(view, runs.SEGMENTATION).get(predictions_field)
    if memory_key is None and made:
        memory_key = made["memory_key"]

    evaluated, notes = view, []
    if leave_out_references and memory_key is not None:
        references = runs.reference_samples(view, predictions_field, memory_key)
        evaluated = view.exclude([sample_id for sample_id in view.values("id") if sample_id in references])
    elif leave_out_references:
        notes.append(
            f"{predictions_field!r} was not made by a memory of this dataset, so no reference samples were left out"
        )
    total, everything = evaluated.count(), view.count()
    if total == 0:
        raise InputError(
            f"all {everything} samples of this view hold references of the memory {memory_key!r}: evaluate on other "
            "samples, or choose not to leave them out"
        )
    present = [name for name in evaluated.distinct(f"{ground_truth_field}.detections.label") if name]
    if classes is None:
        classes = made["classes"] if made else present
    where = f"the ground truth {ground_truth_field!r} of this view"
    checks.check_classes(classes, present, where)
    classes = sorted(set(classes))
    if absent := sorted(set(classes) - set(present)):
        notes.append(f"{where} has no {', '.join(absent)}: these classes have no AP, and do not enter the mean")

    data = CocoData(classes)
    samples = evaluated.select_fields([predictions_field, ground_truth_field]).iter_samples()
    for number, sample in enumerate(samples):
        if number % 10 == 0:
            yield Progress(number, total, f"{number}/{total} images read")
        data.add(sample, predictions_field, ground_truth_field, crowd)
    yield Progress(total, total, "matching predictions and ground truth")
    if not data.ground_truth["images"]:
        raise InputError(f"none of the {total} images can be read: {some(data.unplaced)}")

    result = evaluate(data.ground_truth, data.results)
    if data.without_predictions:
        notes.append(
            f"{data.without_predictions} of {total} images have no {predictions_field!r} (not segmented, or failed): "
            "they count as images in which nothing was found"
        )
    if data.without_mask:
        counts = ", ".join(f"{count} labels of {name!r}" for name, count in data.without_mask.items())
        notes.append(f"{counts} have no mask: their boxes stand in for it, so the AP of masks means little")
    if data.unplaced:
        notes.append(f"{len(data.unplaced)} labels or images were left out: {some(data.unplaced)}")
    report = EvaluationReport(eval_key, result, everything - total, data.without_predictions, notes)
    stored = report.to_dict()
    runs.store(
        evaluated,
        eval_key,
        runs.EVALUATION,
        {
            "predictions_field": predictions_field,
            "ground_truth_field": ground_truth_field,
            "memory_key": memory_key,
            "leave_out_references": leave_out_references,
            "left_out_references": everything - total,
            "classes": classes,
            "images": result.images,
            "ground_truth": result.ground_truth,
            "predictions": result.predictions,
            "boxes_ap": stored["result"]["boxes"]["ap"],
            "masks_ap": stored["result"]["masks"]["ap"],
        },
        stored,
    )
    return report


def load_evaluation(view: Collection, eval_key: str) -> dict[str, Any]:
    """The stored :class:`EvaluationReport` as plain values; raises RunNotFound if there is none."""
    return runs.results(view, eval_key, runs.EVALUATION)
