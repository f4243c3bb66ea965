"""The three jobs, and the small ones around them.

Each of the three is a generator that yields its :class:`Progress` and returns its report. The App, a delegated run and
Python all run the same generator: the operators pass its progress on, and :func:`run` is for everyone else. A generator
that is closed before its end (a browser tab that was shut, Ctrl-C) keeps what it has done.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import fiftyone as fo

from ..evaluation.coco import NovelAP, evaluate
from ..images import ImageError, read_image
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter, Skipped, encode_references
from ..presets import Preset, get_preset
from ..references import Reference
from . import checks, runs
from .checks import InputError
from .coco import CocoData
from .labels import BOXES, DETECTION_ATTRIBUTES, references_of_sample, to_detections

logger = logging.getLogger(__name__)

Collection = fo.core.collections.SampleCollection
Report = TypeVar("Report")

_WRITE_EVERY = 16  # images
_WRITE_AFTER = 10.0  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a job is: ``done`` of ``total`` steps, and in words."""

    done: int
    total: int
    label: str

    @property
    def fraction(self) -> float:
        """In ``[0, 1]``."""
        return self.done / max(self.total, 1)


Job = Generator[Progress, None, Report]
OnProgress = Callable[[Progress], None] | None


def run(job: Job[Report], progress: OnProgress = None) -> Report:
    """Run a job to its end and return its report; ``progress`` is called at every step."""
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(step)


# ---- build a memory --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryReport:
    """What a memory was built of.

    Attributes:
        memory_key: its name.
        shots: references per class.
        skipped: labels that were left out, and why.
        missing_classes: classes asked for that have no usable reference; they are not in the memory.
        boxes: labels whose whole box was taken as the mask.
        encoder: name of the encoder.
    """

    memory_key: str
    shots: dict[str, int]
    skipped: list[Skipped]
    missing_classes: list[str]
    boxes: int
    encoder: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_reference_memory(
    view: Collection, label_field: str, memory_key: str, *, progress: OnProgress = None, **options: Any
) -> MemoryReport:
    """Build a memory from a labelled view and keep it in the dataset: :func:`memory_job`, run to its end."""
    return run(memory_job(view, label_field, memory_key, **options), progress)


def memory_job(
    view: Collection,
    label_field: str,
    memory_key: str,
    *,
    classes: Sequence[str] | None = None,
    boxes: Literal["skip", "fill"] = "skip",
    encoder: str = "small",
    preset: str | Preset = "default",
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Job[MemoryReport]:
    """Turn the labels of a view into a reference memory.

    Args:
        view: dataset or view with the references.
        label_field: a field of type Detections.
        memory_key: the memory's name in the dataset.
        classes: the classes to take; all that the field has in the view without.
        boxes: labels with a box but no mask: ``"skip"`` leaves them out; ``"fill"`` takes the whole box as the mask,
            and with it the background in its corners.
        encoder: a name for :func:`nts.models.load_encoder`.
        preset: ``"default"`` or ``"paper"``.
        overwrite: replace a memory of this name.
        device: for the encoder, ``"auto"`` or as in torch.
        precision: for the encoder, one of :data:`nts.devices.PRECISIONS`.

    Raises:
        InputError: if the view, the field, the classes or the name will not do, or no label could be used.
        WeightsNotFound: if the encoder's weights cannot be had.
    """
    checks.check_view(view)
    checks.check_detections_field(view, label_field, "label field")
    checks.check_key(view, memory_key, runs.MEMORY, overwrite=overwrite)
    if boxes not in BOXES:
        raise InputError(f"boxes must be one of {', '.join(BOXES)}, got {boxes!r}")
    counts = view.count_values(f"{label_field}.detections.label")
    present = {name for name in counts if name}
    where = f"the field {label_field!r} of this view"
    checks.check_classes(present if classes is None else classes, present, where)
    wanted = sorted(present) if classes is None else list(dict.fromkeys(classes))
    total = sum(counts.get(name, 0) for name in wanted)

    yield Progress(0, total, f"loading the encoder {encoder}")
    preset = get_preset(preset)
    loaded = load_encoder(encoder, device, precision)
    bank, skipped = MemoryBank(loaded.info, preset.name), []
    samples = view.select_fields(label_field).iter_samples()
    references = (
        result
        for sample in samples
        for result in references_of_sample(sample, label_field, classes=wanted, boxes=boxes, exif=preset.exif)
    )
    for result in encode_references(_usable(references, skipped), loaded, preset):
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            bank.add(result)
        yield Progress(len(bank) + len(skipped), total, f"{len(bank)} references encoded, {len(skipped)} left out")

    if len(bank) == 0:
        reasons = list(dict.fromkeys(item.reason for item in skipped))
        advice = ""
        if boxes == "skip" and any("no mask" in reason for reason in reasons):
            advice = "; give the labels masks, or choose to take the whole box as the mask"
        raise InputError(f"no label of {where} could be used: {_some(reasons)}{advice}")
    report = MemoryReport(
        memory_key=memory_key,
        shots=bank.shots,
        skipped=skipped,
        missing_classes=[name for name in wanted if name not in bank.shots],
        boxes=sum(entry.kind == "box" for entry in bank.entries),
        encoder=loaded.info.name,
    )
    runs.store_memory(view, memory_key, bank, label_field=label_field, boxes=boxes, skipped=len(skipped))
    return report


def _usable(results: Iterator[Reference | Skipped], skipped: list[Skipped]) -> Iterator[Reference]:
    """Pass references on, and put aside what is none."""
    for result in results:
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            yield result


# ---- segment a view --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegmentationReport:
    """What a segmentation found.

    Attributes:
        output_field: where the instances stand.
        error_field: where the reasons stand for samples that could not be segmented.
        segmented: images segmented now.
        resumed: images that an earlier run with the same settings had done, and that were left as they are.
        instances: instances found now, per class.
        empty: images segmented now in which nothing was found.
        failed: ``{filepath: reason}`` for the images that could not be segmented now.
        seconds: duration of the work on images.
    """

    output_field: str
    error_field: str
    segmented: int = 0
    resumed: int = 0
    instances: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def auto_segment_view(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    progress: OnProgress = None,
    **options: Any,
) -> SegmentationReport:
    """Segment a view by a memory: :func:`segmentation_job`, run to its end."""
    return run(segmentation_job(view, memory_key, output_field, **options), progress)


def segmentation_job(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    score_threshold: float = 0.0,
    max_instances: int = 100,
    limit: int | None = None,
    overwrite: bool = False,
    segmenter: str = "small",
    encoder: str | None = None,
    preset: str | Preset | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Job[SegmentationReport]:
    """Find the objects of a memory's classes in the images of a view.

    Images that have their result from an earlier run with the same settings are not done again, so an interrupted run
    is finished by starting it again. An image that cannot be segmented gets the reason in ``<output_field>_error``, and
    the run goes on.

    Args:
        view: dataset or view to segment.
        memory_key: name of a memory of the dataset.
        output_field: field for the instances; ``nts_<memory_key>`` without. Only a field that an earlier segmentation
            made is ever written again.
        score_threshold: instances are kept above this score, in ``[0, 1]``.
        max_instances: at most this many instances per image.
        limit: segment only the first images of the view, to see whether the settings suit; a later run does the rest.
        overwrite: where the field holds results of other settings, delete them (all of them) and begin anew.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        encoder: a name for :func:`nts.models.load_encoder`; the one that made the memory without.
        preset: ``"default"`` or ``"paper"``; the one that made the memory without.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.devices.PRECISIONS`.

    Raises:
        InputError: if the view, the field or the settings will not do.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        WeightsNotFound: if weights cannot be had.
    """
    checks.check_view(view)
    bank = runs.load_memory(view, memory_key)
    output_field = output_field or checks.suggest_output_field(view, memory_key)
    checks.check_output_field(view, output_field)
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    preset = get_preset(preset or bank.preset)
    try:
        matching = replace(preset.matching, score_threshold=score_threshold, max_instances=max_instances)
    except ValueError as error:
        raise InputError(str(error)) from error
    preset = replace(preset, matching=matching)

    # The view may filter on the very field that is about to be written: what it holds is read once, now.
    ids, paths = (view if limit is None else view.limit(limit)).values(["id", "filepath"])
    yield Progress(0, len(ids), f"loading the encoder {encoder or bank.encoder.name} and the segmenter {segmenter}")
    engine = ReferenceSegmenter(
        bank,
        load_encoder(encoder or bank.encoder.name, device, precision),
        load_segmenter(segmenter, device, precision),
        preset,
    )
    settings = {
        "memory_fingerprint": runs.fingerprint(bank),
        "encoder_fingerprint": engine.encoder.info.fingerprint,
        "segmenter_fingerprint": engine.segmenter.fingerprint,
        "preset": preset.name,
        "score_threshold": score_threshold,
        "max_instances": max_instances,
    }
    output = _Output(view, output_field, memory_key, engine, settings, overwrite)
    done = output.done_among(ids)
    todo = [(sample_id, path) for sample_id, path in zip(ids, paths, strict=True) if sample_id not in done]
    report = SegmentationReport(output_field, output.error_field, resumed=len(done))
    begin = time.monotonic()
    try:
        for number, (sample_id, path) in enumerate(todo):
            seconds = time.monotonic() - begin
            yield Progress(len(done) + number, len(ids), _pace(len(done) + number, len(ids), number, seconds))
            try:
                instances = engine.segment(read_image(path, exif=preset.exif))
            except Exception as error:
                # Whatever is wrong with this image, the others are not to suffer. The reason is kept and reported.
                reason = str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
                logger.warning("%s could not be segmented: %s", path, reason)
                output.add_failure(sample_id, reason)
                report.failed[path] = reason
                continue
            detections = to_detections(instances, bank)
            output.add(sample_id, detections)
            for detection in detections.detections:
                report.instances[detection.label] = report.instances.get(detection.label, 0) + 1
            report = replace(report, segmented=report.segmented + 1, empty=report.empty + (len(instances) == 0))
        yield Progress(len(ids), len(ids), "done")
    finally:
        output.close()
    if report.failed and not report.segmented and not done:
        raise InputError(f"none of the {len(ids)} images could be segmented: {_some(report.failed.values())}")
    return replace(report, seconds=time.monotonic() - begin)


class _Output:
    """The field that a segmentation writes, the field of its errors, and its run. Results are written in batches."""

    def __init__(
        self,
        view: Collection,
        name: str,
        memory_key: str,
        engine: ReferenceSegmenter,
        settings: dict[str, Any],
        overwrite: bool,
    ) -> None:
        self.name, self.error_field = name, runs.error_field(name)
        self._view, self._dataset = view, view._root_dataset
        self._detections: dict[str, fo.Detections] = {}
        self._errors: dict[str, str | None] = {}
        self._last_write = time.monotonic()

        earlier = runs.configs(view, runs.SEGMENTATION).get(name)
        if earlier is not None:
            differences = [key for key, value in settings.items() if earlier.get(key) != value]
            if differences and not overwrite:
                words = ", ".join(_difference(key, earlier.get(key), settings[key]) for key in differences)
                raise InputError(
                    f"the field {name!r} holds results of other settings ({words}): choose another output field, or "
                    "switch on overwrite to delete them and begin anew"
                )
            if differences:
                runs.delete_segmentation(view, name)
        self._declare_fields(memory_key, engine.classes)
        runs.store(
            view,
            name,
            runs.SEGMENTATION,
            {
                **settings,
                "memory_key": memory_key,
                "output_field": name,
                "error_field": self.error_field,
                "classes": list(engine.classes),
                "encoder": engine.encoder.info.name,
                "segmenter": engine.segmenter.name,
                "status": "running",
            },
            {"reference_sample_ids": sorted({entry.sample_id for entry in engine.memory.entries})},
        )

    def done_among(self, ids: Sequence[str]) -> set[str]:
        """Which of these samples have their result already."""
        return set(self._dataset.select(ids).exists(self.name).values("id"))

    def add(self, sample_id: str, detections: fo.Detections) -> None:
        self._detections[sample_id] = detections
        self._errors[sample_id] = None
        self._write_if_due()

    def add_failure(self, sample_id: str, reason: str) -> None:
        self._errors[sample_id] = reason
        self._write_if_due()

    def close(self) -> None:
        """Write what is left, and what came of it all."""
        self._write()
        results = self._dataset.exists(self.name)
        untouched = self._view.exists(self.name, False).exists(self.error_field, False)
        runs.update(
            self._dataset,
            self.name,
            status="incomplete" if untouched.count() else "complete",
            segmented=results.count(),
            failed=self._dataset.exists(self.error_field).count(),
            instances=results.count(f"{self.name}.detections"),
        )

    def _declare_fields(self, memory_key: str, classes: Sequence[str]) -> None:
        dataset = self._dataset
        if dataset.has_sample_field(self.name):
            return
        dataset.add_sample_field(
            self.name,
            fo.EmbeddedDocumentField,
            embedded_doc_type=fo.Detections,
            description=f"Instances found by the reference memory {memory_key!r}",
            info={"memory": memory_key, "classes": list(classes)},
        )
        for attribute, field_type in DETECTION_ATTRIBUTES.items():
            dataset.add_sample_field(f"{self.name}.detections.{attribute}", field_type)
        dataset.add_sample_field(
            self.error_field, fo.StringField, description=f"Why {self.name!r} is missing for this sample"
        )

    def _write_if_due(self) -> None:
        if len(self._errors) >= _WRITE_EVERY or time.monotonic() - self._last_write > _WRITE_AFTER:
            self._write()

    def _write(self) -> None:
        if self._errors:
            self._dataset.set_values(self.name, self._detections, key_field="id")
            self._dataset.set_values(self.error_field, self._errors, key_field="id")
        self._detections, self._errors = {}, {}
        self._last_write = time.monotonic()


def _difference(key: str, earlier: Any, now: Any) -> str:
    if key.endswith("_fingerprint"):
        return f"another {key.removesuffix('_fingerprint')}"
    return f"{key} {earlier}, now {now}"


# ---- evaluate --------------------------------------------------------------------------------------------------------


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
        raise InputError(f"none of the {total} images can be read: {_some(data.unplaced)}")

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
        notes.append(f"{len(data.unplaced)} labels or images were left out: {_some(data.unplaced)}")
    report = EvaluationReport(eval_key, result, everything - total, data.without_predictions, notes)
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
            "boxes_ap": _none_if_nan(result.boxes.ap),
            "masks_ap": _none_if_nan(result.masks.ap),
        },
        report.to_dict(),
    )
    return report


def load_evaluation(view: Collection, eval_key: str) -> dict[str, Any]:
    """The stored :class:`EvaluationReport` as plain values; raises RunNotFound if there is none."""
    return runs.results(view, eval_key, runs.EVALUATION)


# ---- memories as files -----------------------------------------------------------------------------------------------


def export_memory(view: Collection, memory_key: str, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a memory to a ``.safetensors`` file and return its path; an old file survives every failure.

    Args:
        view: dataset with the memory.
        memory_key: its name.
        path: the file, or a folder, in which the file then has the memory's name.
        overwrite: replace a file that exists.

    Raises:
        RunNotFound: if there is no such memory.
        InputError: if the file exists and ``overwrite`` is off.
        MemoryFileError: if the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / memory_key
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    bank = runs.load_memory(view, memory_key)
    if path.exists() and not overwrite:
        raise InputError(f"the file {path} exists: choose another, or switch on overwrite")
    bank.save(path)
    return path


def import_memory(
    view: Collection, path: str | os.PathLike, memory_key: str | None = None, *, overwrite: bool = False
) -> MemoryReport:
    """Keep a memory file in the dataset.

    Args:
        view: dataset to keep it in.
        path: a file written by :func:`export_memory`.
        memory_key: its name; that of the file without.
        overwrite: replace a memory of this name.

    Raises:
        MemoryFileError: if the file cannot be read, or is no memory.
        InputError: if the name will not do.
    """
    path = Path(path).expanduser()
    memory_key = memory_key or path.stem
    checks.check_key(view, memory_key, runs.MEMORY, overwrite=overwrite)
    bank = MemoryBank.load(path)
    if len(bank) == 0:
        raise InputError(f"the memory in {path} is empty")
    runs.store_memory(view._root_dataset, memory_key, bank, label_field=None, boxes=None, skipped=0, source=str(path))
    boxes = sum(entry.kind == "box" for entry in bank.entries)
    return MemoryReport(memory_key, bank.shots, [], [], boxes, bank.encoder.name)


# ---- words -----------------------------------------------------------------------------------------------------------


def _pace(done: int, total: int, timed: int, seconds: float) -> str:
    """ "12/40 images, 1.3 s each, 36 s left"."""
    if timed == 0:
        return f"{done}/{total} images"
    each = seconds / timed
    left = each * (total - done)
    left_words = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
    return f"{done}/{total} images, {each:.2g} s each, {left_words} left"


def _some(reasons: Sequence[str], most: int = 3) -> str:
    reasons = list(dict.fromkeys(reasons))
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


def _none_if_nan(value: float) -> float | None:
    return value if value == value else None
