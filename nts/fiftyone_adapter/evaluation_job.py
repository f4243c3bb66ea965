"""Evaluating predictions against ground truth."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.diagnostics import Diagnostics, diagnose
from ..metrics.average_precision import Curves, accumulate, counts_by_confidence
from ..metrics.coco import NovelAP, summarise_matches, without_nan
from ..metrics.matches import IouType, Matches, match
from ..utils.files import content_id, same_content
from ..utils.names import as_names
from . import checks, model_diagnostics, native_evaluation, runs
from .checks import InputError
from .coco import CocoData
from .errors import RunEnded
from .jobs import Job, OnProgress, Progress, first_few, run
from .locking import refresh
from .runs import Collection

CURVE_IOUS = (0.5, 0.75)
"""IoU thresholds at which precision over recall is stored, beside its mean over all of them."""


@dataclass(frozen=True)
class EvaluationReport:
    """nAP, and what it was computed on.

    Attributes:
        eval_key: name of the stored run, and of the evaluation in FiftyOne's Model Evaluation panel.
        result: the numbers, equal to those of pycocotools.
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
    classes: Sequence[str] | str | None = None,
    base_classes: Sequence[str] | str = (),
    eval_key: str | None = None,
    leave_out_references: bool = True,
    memory_key: str | None = None,
    crowd: str | None = "iscrowd",
    diagnose_models: bool = False,
    overwrite: bool = False,
) -> Job[EvaluationReport]:
    """Average precision over the novel classes for boxes and masks, equal to pycocotools; kept as a run of the dataset.

    While it runs, and if it fails, it is listed with its status (:func:`runs.drafts`). When it is complete there is an
    evaluation of FiftyOne's kind under the same name, too: see :mod:`.model_evaluation`.

    Args:
        view: dataset or view to evaluate. Images without ground truth count too.
        predictions_field: a field of type Detections, with confidences.
        ground_truth_field: a field of type Detections.
        classes: the novel classes; without, those of the memory that made the predictions, or all of the ground truth
            where the predictions are not ours; base classes are none of them.
        base_classes: classes that are evaluated beside the novel ones, and not counted in nAP.
        eval_key: name for the stored result; ``nap_<predictions_field>`` without.
        leave_out_references: leave out the samples that references of the memory came from, and all others whose file
            has the same content.
        memory_key: the memory whose references are meant; the one that made the predictions without.
        crowd: attribute of the ground truth that marks crowds: true, a number other than 0, or a text like ``"1"`` or
            ``"true"``. No object is a crowd where ``None``.
        diagnose_models: also run the models that made the predictions once more, beside the ground truth, and say how
            well the proposals cover the objects, and how often the encoder finds the class of a true mask. It takes as
            long as the segmentation did.
        overwrite: replace a result of this name, when there is a new one. What FiftyOne shows of the old one goes
            before the new is written, as they share their names: if that fails, the old numbers stay, but not the view
            of what came of each object.

    Raises:
        InputError: if view, fields, classes or name will not do, a prediction has no finite confidence, or models are
            to be diagnosed that did not make the predictions.
        RunNotFound: if there is no such memory.
    """
    checks.check_view(view)
    checks.check_detections_field(view, predictions_field, "predictions field")
    checks.check_detections_field(view, ground_truth_field, "ground-truth field")
    if predictions_field == ground_truth_field:
        raise InputError(f"the field {predictions_field!r} cannot be evaluated against itself")
    eval_key = eval_key or f"nap_{predictions_field.replace('.', '_')}"
    checks.check_key(view, eval_key, runs.EVALUATION, overwrite=overwrite)
    native_evaluation.check_evaluation_fields(view, eval_key, predictions_field, ground_truth_field)
    native_evaluation.check_undeclared_attributes(view, eval_key, predictions_field, ground_truth_field)
    if diagnose_models:
        model_diagnostics.check_models(view, predictions_field)
    made = runs.configs(view, runs.SEGMENTATION).get(predictions_field)
    if memory_key is None and made:
        memory_key = made["memory_key"]

    evaluated, notes = view, []
    if leave_out_references and memory_key is not None:
        references, copies = _reference_samples(view, predictions_field, memory_key)
        evaluated = view.exclude([*references, *copies])
        if copies:
            notes.append(
                f"{_counted(len(copies), 'sample')} left out because reference samples have the same file, under "
                "another name or id"
            )
    elif leave_out_references:
        notes.append(
            f"{predictions_field!r} was not made by a memory of this dataset, so no reference samples were left out"
        )
    occurrences, everything = Counter(evaluated.values("id")), len(set(view.values("id")))
    total = len(occurrences)
    if repeated := sum(count > 1 for count in occurrences.values()):
        notes.append(f"{_counted(repeated, 'sample')} in this view more than once, and counted once")
    if total == 0:
        raise InputError(
            f"all {everything} samples of this view hold references of the memory {memory_key!r}: evaluate on other "
            "samples, or choose not to leave them out"
        )
    present = [name for name in evaluated.distinct(f"{ground_truth_field}.detections.label") if name]
    predicted = [name for name in evaluated.distinct(f"{predictions_field}.detections.label") if name]
    notes += _notes_on_names(predicted, present)
    base = sorted(set(as_names(base_classes) or ()))
    classes = as_names(classes)
    if classes is None:
        classes = [name for name in (made["classes"] if made else present) if name not in base]
    where = f"the ground truth {ground_truth_field!r} of this view"
    checks.check_classes(classes, present, where)
    novel = sorted(set(classes))
    if both := sorted(set(novel) & set(base)):
        raise InputError(f"a class is novel or base, but {', '.join(both)} would be both")
    if absent := sorted({*novel, *base} - set(present)):
        notes.append(f"{where} has no {', '.join(absent)}: these classes have no AP, and do not enter the mean")

    begun = time.monotonic()
    description = {
        "predictions_field": predictions_field,
        "ground_truth_field": ground_truth_field,
        "memory_key": memory_key,
        "leave_out_references": leave_out_references,
        "left_out_references": everything - total,
        "classes": novel,
        "base_classes": base,
        "shots": _shots(view, made, novel),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "status": "running",
    }
    if runs.drafts(view, runs.EVALUATION).get(eval_key, {}).get("model_evaluation"):
        runs.delete_model_evaluation(view, eval_key)  # an attempt that was cut off while it wrote
    token = runs.begin(evaluated, eval_key, runs.EVALUATION, description)
    try:
        with runs.explained(evaluated, predictions_field, ground_truth_field):
            data = CocoData([*novel, *base], distractors=sorted(set(present) - {*novel, *base}))
            yield from _read(evaluated, data, predictions_field, ground_truth_field, crowd, total)
            yield Progress(total, total, "matching predictions and ground truth")
            if not data.images:
                raise InputError(f"none of the {total} images can be read: {first_few(data.unplaced)}")
            masks, boxes = (
                match(data.ground_truth, data.results, data.ids_of(data.classes), iou_type)
                for iou_type in ("masks", "boxes")
            )
            curves: dict[IouType, Curves] = {"masks": accumulate(masks), "boxes": accumulate(boxes)}
            result = summarise_matches(boxes, masks, base, (curves["boxes"], curves["masks"]))
            notes += _notes(data, predictions_field, total, crowd)
            models = None
            if diagnose_models:
                of_models, left_out = yield from model_diagnostics.model_diagnostics_job(
                    evaluated, predictions_field, data
                )
                models = of_models.to_dict()
                if left_out:
                    notes.append(
                        f"the models were not shown {left_out} images: unreadable, or not of their labels' size"
                    )
            report = EvaluationReport(eval_key, result, everything - total, data.without_predictions, notes)
            yield Progress(total, total, "looking for what is wrong")
            evaluated_ids, distractor_ids = data.ids_of(data.classes), data.ids_of(data.distractors)
            diagnostics = diagnose(data.ground_truth, data.results, evaluated_ids, "masks", distractor_ids)
            yield Progress(total, total, "writing what came of each object")
            _check_same_segmentation(view, predictions_field, made)
            stamp = native_evaluation.feed(
                evaluated,
                eval_key,
                predictions_field,
                ground_truth_field,
                data,
                masks,
                curves["masks"],
                diagnostics.kinds,
                nap=result.masks.novel.ap,
                token=token,
                crowd=crowd,
            )
            runs.complete(
                evaluated,
                eval_key,
                token,
                {
                    **report.to_dict(),
                    "curves": {kind: _stored_curves(of_kind) for kind, of_kind in curves.items()},
                    "confidence": {"masks": _stored_counts(masks), "boxes": _stored_counts(boxes)},
                    "diagnostics": {**diagnostics.to_dict(), "cells": _stored_cells(data, diagnostics)},
                    "models": models,
                    "matches": {"masks": _as_text(masks.to_bytes()), "boxes": _as_text(boxes.to_bytes())},
                },
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
    except BaseException as error:
        _clean_up(evaluated, eval_key, predictions_field, ground_truth_field, token, error)
        raise
    return report


def _read(
    view: Collection, data: CocoData, predictions_field: str, ground_truth_field: str, crowd: str | None, total: int
) -> Iterator[Progress]:
    """Read every sample of a view once."""
    seen = set[str]()
    for sample in view.select_fields([predictions_field, ground_truth_field]).iter_samples():
        if sample.id in seen:
            continue
        if len(seen) % 10 == 0:
            yield Progress(len(seen), total, f"{len(seen)}/{total} images read")
        seen.add(sample.id)
        data.add(sample, predictions_field, ground_truth_field, crowd)


def _check_same_segmentation(view: Collection, predictions_field: str, made: dict[str, Any] | None) -> None:
    """Raise RunEnded if the predictions were made again while they were read."""
    refresh(view)
    now = runs.configs(view, runs.SEGMENTATION).get(predictions_field)
    if made is not None and (now or {}).get("token") != made.get("token"):
        raise RunEnded(f"{predictions_field!r} was segmented again meanwhile, or deleted: evaluate once that is done")


def load_evaluation(view: Collection, eval_key: str) -> dict[str, Any]:
    """The stored :class:`EvaluationReport` as plain values; raises RunNotFound if there is none."""
    stored = runs.results(view, eval_key, runs.EVALUATION)
    names = ("eval_key", "result", "left_out_references", "without_predictions", "notes")
    if missing := [name for name in names if name not in stored]:
        raise InputError(
            f"the evaluation {eval_key!r} is damaged, its {missing[0]} is missing: delete it and evaluate again"
        )
    return {name: stored[name] for name in names}


def _clean_up(
    view: Collection,
    eval_key: str,
    predictions_field: str,
    ground_truth_field: str,
    token: str,
    error: BaseException,
) -> None:
    """Leave nothing of an evaluation that came to no end, but for the reason, unless somebody stopped it.

    Half an evaluation in FiftyOne's terms would pass for a whole one.
    """
    with suppress(RunEnded):  # the dataset is gone, and all of this with it
        _clean_up_in_dataset(view, eval_key, predictions_field, ground_truth_field, token, error)


def _clean_up_in_dataset(
    view: Collection,
    eval_key: str,
    predictions_field: str,
    ground_truth_field: str,
    token: str,
    error: BaseException,
) -> None:
    if not runs.is_draft(view, eval_key, token):  # it was deleted, or begun once more
        native_evaluation.delete_remains(view, eval_key, predictions_field, ground_truth_field)
        return
    if runs.drafts(view, runs.EVALUATION)[eval_key].get("model_evaluation"):
        runs.delete_model_evaluation(view, eval_key)
    if isinstance(error, Exception):
        reason = str(error) or type(error).__name__
        runs.update_draft(view, eval_key, token, status="failed", error=reason, model_evaluation=None)
    else:  # a tab that was shut, Ctrl-C
        runs.discard_draft(view, eval_key)


def _notes(data: CocoData, predictions_field: str, total: int, crowd: str | None) -> list[str]:
    notes = []
    if data.without_predictions:
        notes.append(
            f"{data.without_predictions} of {total} images have no {predictions_field!r} (not segmented, or failed): "
            "they count as images in which nothing was found"
        )
    if data.without_mask:
        counts = ", ".join(f"{count} labels of {name!r}" for name, count in data.without_mask.items())
        notes.append(f"{counts} have no mask: their boxes stand in for it, so the AP of masks means little")
    if data.unplaced:
        notes.append(f"{len(data.unplaced)} labels or images were left out: {first_few(data.unplaced)}")
    if data.stale_metadata:
        notes.append(
            f"{data.stale_metadata} samples have metadata of another size than their file: the file's size was taken; "
            "compute the metadata again with overwrite=True"
        )
    return [*notes, *_notes_on_crowds(data, crowd)]


def _notes_on_crowds(data: CocoData, crowd: str | None) -> list[str]:
    """Classes with nothing to find, because every object of them is a crowd."""
    crowds = data.crowds()
    only_crowds = [name for name, (count, objects) in crowds.items() if count == objects]
    if not only_crowds:
        return []
    count = sum(crowds[name][0] for name in only_crowds)
    return [
        f"all {count} objects of {', '.join(only_crowds)} are crowds (by their attribute {crowd!r}), which are neither "
        "to be found nor mistakes: these classes have no AP. If they are single objects (some tools mark every mask as "
        "a crowd), set the attribute to 0, or count crowds as objects (crowd=None)"
    ]


def _notes_on_names(predicted: Sequence[str], present: Sequence[str]) -> list[str]:
    """Predicted classes that no object of the ground truth has, and those that may be meant to be one."""
    notes, known = [], {_plain(name): name for name in present}
    unmatched = sorted(set(predicted) - set(present))
    alike = [name for name in unmatched if _plain(name) in known]
    if alike:
        pairs = ", ".join(f"{name!r} and {known[_plain(name)]!r}" for name in alike)
        notes.append(
            f"predictions and ground truth have labels that differ in case or spaces only ({pairs}): they count as "
            "different classes; rename one of them if they are the same"
        )
    if others := [repr(name) for name in unmatched if name not in alike]:
        notes.append(
            f"the ground truth has no object of {first_few(others)}: predictions of these labels match nothing"
        )
    return notes


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _counted(count: int, noun: str) -> str:
    """ "1 sample is", "2 samples are"."""
    return f"{count} {noun} is" if count == 1 else f"{count} {noun}s are"


def _reference_samples(view: Collection, predictions_field: str, memory_key: str) -> tuple[set[str], set[str]]:
    """Samples of a view that references came from, and others that have the same files."""
    references, files = runs.reference_sources(view, predictions_field, memory_key)
    ids, paths = view.values(["id", "filepath"])
    if not files:  # the memory was built by a version that did not keep them
        paths_of_references = runs.all_images(view).select(list(references)).values("filepath")
        files = {content_id(Path(path).read_bytes()) for path in paths_of_references if Path(path).is_file()}
    same = same_content(paths, files) if files else set()
    return {name for name in ids if name in references}, {ids[index] for index in same} - references


def _shots(view: Collection, made: dict[str, Any] | None, classes: Sequence[str]) -> list[int] | None:
    """References that predictions of each class were made from; ``None`` where it is not known (any more)."""
    memory = runs.configs(view, runs.MEMORY).get(made["memory_key"]) if made else None
    if memory is None or memory["fingerprint"] != made["memory_fingerprint"]:
        return None
    shots = dict(zip(memory["classes"], memory["shots"], strict=True))
    return [shots.get(name, 0) for name in classes]


def _stored_curves(curves: Curves) -> dict[str, Any]:
    """Precision ``[K][101]`` at some IoU thresholds and their mean; all areas, the highest limit of predictions.

    -1 where there is no ground truth.
    """
    precision = curves.precision[:, :, :, curves.areas.index("all"), -1]
    at = {"mean": precision.mean(0)}
    for iou in CURVE_IOUS:
        at[f"{iou:g}"] = precision[round((iou - 0.5) / 0.05)]
    return {name: values.T.round(4).tolist() for name, values in at.items()}


def _stored_counts(matches: Matches) -> dict[str, Any]:
    counts = counts_by_confidence(matches)
    return {
        "thresholds": np.round(counts.thresholds, 6).tolist(),
        "tp": counts.tp.tolist(),
        "fp": counts.fp.tolist(),
        "ground_truth": counts.ground_truth.tolist(),
    }


def _stored_cells(data: CocoData, diagnostics: Diagnostics) -> dict[str, list]:
    """For every count of the confusion its row and column, and the ids behind it; ``None`` for no label."""
    classes = len(diagnostics.classes)
    cells: dict[str, list] = {"row": [], "column": [], "sample_id": [], "prediction_id": [], "object_id": []}
    for result, annotation in diagnostics.pairs.tolist():
        predicted = None if result < 0 else data.results[result]
        true = None if annotation < 0 else data.ground_truth["annotations"][annotation]
        # Category ids count from 1: evaluated classes first, then distractors.
        cells["row"].append(classes if predicted is None else predicted["category_id"] - 1)
        cells["column"].append(classes + 1 if true is None else min(true["category_id"] - 1, classes))
        cells["sample_id"].append((predicted or true or {}).get("image_id"))
        cells["prediction_id"].append(predicted and predicted["label_id"])
        cells["object_id"].append(true and true["label_id"])
    return cells


def _as_text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
