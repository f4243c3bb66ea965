"""Evaluation of predictions against ground truth: nAP, stored as a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..metrics.average_precision import Curves, accumulate
from ..metrics.coco import NovelAP, summarise_matches, without_nan
from ..metrics.error_types import diagnose
from ..metrics.matches import IouType, Matches, match
from ..utils.files import content_id, same_content
from . import checks, model_diagnostics, native_evaluation, runs
from .checks import InputError
from .coco import CocoData
from .config import EvaluationConfig
from .errors import RunEnded
from .evaluation_content import evaluation_content
from .evaluation_notes import notes_on_data, notes_on_names, samples_are
from .jobs import Job, OnProgress, Progress, first_few, run
from .locking import refresh
from .options import takes
from .runs import Collection
from .view_stages import hides_labels


@dataclass(frozen=True)
class EvaluationReport:
    """nAP, and what it was computed on.

    Attributes:
        eval_key: name of the stored run, and of the evaluation in FiftyOne's Model Evaluation panel.
        result: the numbers, equal to those of pycocotools.
        left_out_references: samples left out because the memory holds references from them.
        without_predictions: evaluated samples that were never segmented; they count as images with nothing found.
        notes: everything that a reader of the numbers must know.
    """

    eval_key: str
    result: NovelAP
    left_out_references: int
    without_predictions: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "result": self.result.to_dict()}

    def table(self) -> list[dict[str, Any]]:
        """Rows for all novel classes, all base classes if there are some, and each class.

        AP in percent, ``None`` where there was no ground truth.
        """
        masks, boxes = self.result.masks, self.result.boxes
        names = list(masks.per_class)
        # The heading of a mean must not be taken for a class of that name.
        means = {"all" if "all" not in names else "all classes": (masks.novel, boxes.novel)}
        if masks.base is not None and boxes.base is not None:
            means["all base" if "all base" not in names else "all base classes"] = masks.base, boxes.base
        of_classes = [(name, (masks.per_class[name], boxes.per_class[name])) for name in names]
        rows = []
        for name, summaries in [*means.items(), *of_classes]:
            row: dict[str, Any] = {"class": name}
            for kind, summary in zip(("masks", "boxes"), summaries, strict=True):
                figures = without_nan(asdict(summary))
                for figure in ("ap", "ap50", "ap75"):
                    value = figures[figure]
                    row[f"{kind}_{figure}"] = None if value is None else round(100 * value, 1)
            rows.append(row)
        return rows


@takes(EvaluationConfig)
def evaluate_nap(
    view: Collection,
    predictions_field: str,
    ground_truth_field: str,
    *,
    config: EvaluationConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> EvaluationReport:
    """Evaluate predictions: :func:`evaluation_job`, run to completion."""
    return run(evaluation_job(view, predictions_field, ground_truth_field, config=config, **options), progress)


@takes(EvaluationConfig)
def evaluation_job(
    view: Collection,
    predictions_field: str,
    ground_truth_field: str,
    *,
    config: EvaluationConfig | None = None,
    **options: Any,
) -> Job[EvaluationReport]:
    """Average precision over the novel classes for boxes and masks, equal to pycocotools; stored as a run.

    While it runs, and if it fails, it is listed with its status (:func:`.runs.list_drafts`). On completion, a native
    FiftyOne evaluation of the same name is written as well, see :mod:`.native_evaluation`.

    Args:
        view: dataset or view to evaluate. Images without ground truth count too.
        predictions_field: a field of type Detections, with confidences.
        ground_truth_field: a field of type Detections.
        config: the options, in place of keyword arguments.

    Raises:
        InputError: if view, fields, classes or name cannot be used, a prediction has no finite confidence, or models
            are to be diagnosed that did not make the predictions.
        RunNotFound: if there is no such memory.
    """
    task = _checked(view, predictions_field, ground_truth_field, EvaluationConfig.of(config, options))
    if runs.list_drafts(view, runs.EVALUATION).get(task.key, {}).get("model_evaluation"):
        runs.delete_native_evaluation(view, task.key)  # an attempt that was cut off while it wrote
    token = runs.begin(task.view, task.key, runs.EVALUATION, task.description())
    try:
        with runs.explained(task.view, predictions_field, ground_truth_field):
            return (yield from _evaluate(task, token))
    except BaseException as error:
        _clean_up(task, token, error)
        raise


@dataclass(frozen=True)
class _Task:
    """A checked evaluation.

    Attributes:
        view: the samples to evaluate.
        total: their number.
        left_out: samples left out because of their references.
        predictions_field, ground_truth_field: fields of type Detections.
        config: the options; the names and classes that it omits follow here.
        key: name of the result.
        memory_key: the memory whose references are left out.
        novel, base: evaluated classes.
        distractors: classes of the ground truth that are not evaluated.
        segmentation: configuration of the run that made the predictions, if it is ours.
        notes: so far.
    """

    view: Collection
    total: int
    left_out: int
    predictions_field: str
    ground_truth_field: str
    config: EvaluationConfig
    key: str
    memory_key: str | None
    novel: list[str]
    base: list[str]
    distractors: list[str]
    segmentation: dict[str, Any] | None
    notes: list[str]

    def description(self) -> dict[str, Any]:
        """Configuration of the draft of its run."""
        return {
            "predictions_field": self.predictions_field,
            "ground_truth_field": self.ground_truth_field,
            "memory_key": self.memory_key,
            "leave_out_references": self.config.leave_out_references,
            "left_out_references": self.left_out,
            "classes": self.novel,
            "base_classes": self.base,
            "recommendation": (self.segmentation or {}).get("recommendation"),
            "shots": _shots(self.view, self.segmentation, self.novel),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": "running",
        }


def _checked(view: Collection, predictions_field: str, ground_truth_field: str, config: EvaluationConfig) -> _Task:
    """Check an evaluation, and choose its samples and classes.

    Raises:
        InputError, RunNotFound: see :func:`evaluation_job`.
    """
    key = config.eval_key or f"nap_{predictions_field.replace('.', '_')}"
    _check_fields(view, key, predictions_field, ground_truth_field, config)
    segmentation = runs.list_runs(view, runs.SEGMENTATION).get(predictions_field)
    memory_key = config.memory_key
    if memory_key is None and segmentation:
        memory_key = segmentation["memory_key"]
    evaluated, notes = _evaluated_samples(view, predictions_field, memory_key, config.leave_out_references)
    total, everything = len(set(evaluated.values("id"))), len(set(view.values("id")))
    if total == 0:
        raise InputError(
            f"all {everything} samples of this view hold references of the memory {memory_key!r}: evaluate on other "
            "samples, or choose not to leave them out"
        )
    present = [name for name in evaluated.distinct(f"{ground_truth_field}.detections.label") if name]
    predicted = [name for name in evaluated.distinct(f"{predictions_field}.detections.label") if name]
    notes += notes_on_names(predicted, present)
    if hides_labels(view, predictions_field):
        notes.append(
            f"the view filters the labels of {predictions_field!r}, and those that it hides were not evaluated: nAP is "
            "that of all predictions, of any confidence"
        )
    base = sorted(set(config.base_classes))
    novel = config.classes
    if novel is None:
        novel = [name for name in (segmentation["classes"] if segmentation else present) if name not in base]
    notes += _check_classes(novel, base, present, f"the ground truth {ground_truth_field!r} of this view")
    return _Task(
        view=evaluated,
        total=total,
        left_out=everything - total,
        predictions_field=predictions_field,
        ground_truth_field=ground_truth_field,
        config=config,
        key=key,
        memory_key=memory_key,
        novel=sorted(set(novel)),
        base=base,
        distractors=sorted(set(present) - {*novel, *base}),
        segmentation=segmentation,
        notes=notes,
    )


def _check_fields(
    view: Collection, key: str, predictions_field: str, ground_truth_field: str, config: EvaluationConfig
) -> None:
    """Raise InputError unless the fields can be evaluated, and the result stored under this name."""
    checks.check_view(view)
    checks.check_detections_field(view, predictions_field, "predictions field")
    checks.check_detections_field(view, ground_truth_field, "ground-truth field")
    if predictions_field == ground_truth_field:
        raise InputError(f"the field {predictions_field!r} cannot be evaluated against itself")
    checks.check_key(view, key, runs.EVALUATION, overwrite=config.overwrite)
    native_evaluation.check_evaluation_fields(view, key, predictions_field, ground_truth_field)
    native_evaluation.check_undeclared_attributes(view, key, predictions_field, ground_truth_field)
    if config.diagnose_models:
        model_diagnostics.check_models(view, predictions_field)


def _evaluated_samples(
    view: Collection, predictions_field: str, memory_key: str | None, leave_out_references: bool
) -> tuple[Collection, list[str]]:
    """The samples of a view that count, and notes on the others."""
    evaluated, notes = view, []
    if leave_out_references and memory_key is not None:
        references, copies = _reference_samples(view, predictions_field, memory_key)
        evaluated = view.exclude([*references, *copies])
        if copies:
            notes.append(
                f"{samples_are(len(copies))} left out because reference samples have the same file, under another name "
                "or id"
            )
    elif leave_out_references:
        notes.append(
            f"{predictions_field!r} was not made by a memory of this dataset, so no reference samples were left out"
        )
    if repeated := sum(count > 1 for count in Counter(evaluated.values("id")).values()):
        notes.append(f"{samples_are(repeated)} in this view more than once, and counted once")
    return evaluated, notes


def _check_classes(novel: Sequence[str], base: Sequence[str], present: Sequence[str], where: str) -> list[str]:
    """Raise InputError if the classes cannot be evaluated; returns a note on those without ground truth."""
    checks.check_classes(novel, present, where)
    if both := sorted(set(novel) & set(base)):
        raise InputError(f"a class is novel or base, but {', '.join(both)} would be both")
    if absent := sorted({*novel, *base} - set(present)):
        return [f"{where} has no {', '.join(absent)}: these classes have no AP, and do not enter the mean"]
    return []


def _evaluate(task: _Task, token: str) -> Job[EvaluationReport]:
    """Read, match, diagnose, and store the result in the place of the draft of this token."""
    begun = time.monotonic()
    data = CocoData([*task.novel, *task.base], distractors=task.distractors)
    yield from _read(task, data)
    yield Progress(task.total, task.total, "matching predictions and ground truth")
    if not data.images:
        raise InputError(f"none of the {task.total} images can be read: {first_few(data.unplaced)}")
    evaluated_ids = data.ids_of(data.classes)
    matches: dict[IouType, Matches] = {
        "masks": match(data.ground_truth, data.results, evaluated_ids, "masks"),
        "boxes": match(data.ground_truth, data.results, evaluated_ids, "boxes"),
    }
    curves: dict[IouType, Curves] = {iou_type: accumulate(of_type) for iou_type, of_type in matches.items()}
    result = summarise_matches(matches["boxes"], matches["masks"], task.base, (curves["boxes"], curves["masks"]))
    notes = [*task.notes, *notes_on_data(data, task.predictions_field, task.total, task.config.crowd)]
    models = None
    if task.config.diagnose_models:
        of_models, left_out = yield from model_diagnostics.model_diagnostics_job(
            task.view, task.predictions_field, data
        )
        models = of_models.to_dict()
        if left_out:
            notes.append(f"the models were not shown {left_out} images: unreadable, or not of their labels' size")
    report = EvaluationReport(task.key, result, task.left_out, data.without_predictions, notes)
    yield Progress(task.total, task.total, "classifying the errors")
    distractor_ids = data.ids_of(data.distractors)
    diagnostics = diagnose(matches["masks"], data.ground_truth, data.results, evaluated_ids, distractor_ids)
    yield Progress(task.total, task.total, "writing the outcome of each object")
    _check_same_segmentation(task)
    stamp = native_evaluation.write_native_evaluation(
        task.view,
        task.key,
        task.predictions_field,
        task.ground_truth_field,
        data,
        matches["masks"],
        curves["masks"],
        diagnostics.kinds,
        nap=result.masks.novel.ap,
        token=token,
        crowd=task.config.crowd,
    )
    runs.complete(
        task.view,
        task.key,
        token,
        {**report.to_dict(), **evaluation_content(matches, curves, data, diagnostics), "models": models},
        status="complete",
        seconds=round(time.monotonic() - begun, 1),
        images=result.images,
        ground_truth=result.ground_truth,
        predictions=result.predictions,
        max_detections=result.max_detections,
        masks_ap=without_nan(result.masks.novel.ap),
        boxes_ap=without_nan(result.boxes.novel.ap),
        model_evaluation=stamp,
    )
    return report


def _read(task: _Task, data: CocoData) -> Iterator[Progress]:
    """Read every sample once."""
    seen = set[str]()
    fields = [task.predictions_field, task.ground_truth_field]
    for sample in task.view.select_fields(fields).iter_samples():
        if sample.id in seen:
            continue
        if len(seen) % 10 == 0:
            yield Progress(len(seen), task.total, f"{len(seen)}/{task.total} images read")
        seen.add(sample.id)
        data.add(sample, task.predictions_field, task.ground_truth_field, task.config.crowd)


def _check_same_segmentation(task: _Task) -> None:
    """Raise RunEnded if the predictions were made again while they were read."""
    refresh(task.view)
    now = runs.list_runs(task.view, runs.SEGMENTATION).get(task.predictions_field)
    if task.segmentation is not None and (now or {}).get("token") != task.segmentation.get("token"):
        raise RunEnded(
            f"{task.predictions_field!r} was segmented again meanwhile, or deleted: evaluate once that is done"
        )


def _clean_up(task: _Task, token: str, error: BaseException) -> None:
    """Delete everything that a failed evaluation wrote, and note the reason in its draft; drop that if it was stopped.

    Half an evaluation in FiftyOne's terms would pass for a whole one.
    """
    try:
        if not runs.is_draft(task.view, task.key, token):  # it was deleted, or begun again
            native_evaluation.delete_remains(task.view, task.key, task.predictions_field, task.ground_truth_field)
            return
        if runs.list_drafts(task.view, runs.EVALUATION)[task.key].get("model_evaluation"):
            runs.delete_native_evaluation(task.view, task.key)
        if isinstance(error, Exception):
            reason = str(error) or type(error).__name__
            runs.update_draft(task.view, task.key, token, status="failed", error=reason, model_evaluation=None)
        else:  # a tab that was closed, Ctrl-C
            runs.discard_draft(task.view, task.key)
    except RunEnded:
        return  # the dataset was deleted, and all of this with it


def _reference_samples(view: Collection, predictions_field: str, memory_key: str) -> tuple[set[str], set[str]]:
    """Samples of a view that references came from, and others that have the same files."""
    references, files = runs.reference_sources(view, predictions_field, memory_key)
    ids, paths = view.values(["id", "filepath"])
    if not files:  # an earlier version built the memory, and did not store them
        paths_of_references = runs.all_images(view).select(list(references)).values("filepath")
        files = {content_id(Path(path).read_bytes()) for path in paths_of_references if Path(path).is_file()}
    same = same_content(paths, files) if files else set()
    return {name for name in ids if name in references}, {ids[index] for index in same} - references


def _shots(view: Collection, segmentation: dict[str, Any] | None, classes: Sequence[str]) -> list[int] | None:
    """References per class that the predictions were made from; ``None`` if that is unknown by now."""
    memory = runs.list_runs(view, runs.MEMORY).get(segmentation["memory_key"]) if segmentation else None
    if segmentation is None or memory is None or memory["fingerprint"] != segmentation["memory_fingerprint"]:
        return None
    shots = dict(zip(memory["classes"], memory["shots"], strict=True))
    return [shots.get(name, 0) for name in classes]
