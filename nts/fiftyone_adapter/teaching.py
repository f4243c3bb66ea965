"""Decisions teach: accepted and corrected predictions become references, rejected ones negatives; the rest is redone.

A decision that changes is taught again: a reference that is rejected after all, or of another class, leaves the memory.
Images that were encoded before come from the cache, so that an update takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F
from pycocotools import mask as coco_mask

from ..building import Skipped
from ..cache import default_cache
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..negative_building import NegativeEncoder
from ..presets import get_preset
from . import runs
from .adding_negatives import rejected_labels
from .building import encode_labels
from .config import MemoryConfig, SegmentationConfig
from .decisions import declare_decisions, mark_edited
from .errors import InputError
from .jobs import Job, OnProgress, Progress, run
from .labelled_images import LabelledImages
from .locking import locked
from .runs import Collection
from .segmenting import SegmentationReport, segmentation_job

_SAME = 0.5  # IoU of boxes from which two predictions of a class are the same one
_TAUGHT = ("accepted", "corrected")
_OPTIONS = (
    "score_threshold",
    "max_instances",
    "tiles",
    "tile_overlap",
    "scorer",
    "reference_prompt",
    "segmenter",
    "precision",
    "compiled",
)


@dataclass(frozen=True)
class Lessons:
    """Decisions in a field that its memory does not know yet.

    Attributes:
        references: ids of accepted and corrected labels to add.
        negatives: ids of rejected labels to add.
        stale: ids of references and negatives of the memory whose label was decided otherwise since.
    """

    references: tuple[str, ...]
    negatives: tuple[str, ...]
    stale: tuple[str, ...]

    def __len__(self) -> int:
        """Number of labels whose decision is new."""
        return len({*self.references, *self.negatives, *self.stale})


@dataclass(frozen=True)
class TeachingReport:
    """Result of :func:`teach`.

    Attributes:
        memory_key: the memory that learnt.
        references: references added.
        negatives: negatives added.
        removed: references and negatives removed, because their labels were decided otherwise since.
        skipped: decided labels that could not be used, with the reasons.
        appeared: shown predictions that were not there before.
        disappeared: shown predictions that are not there any more.
        precision_before: expected precision of the recommended predictions before; ``None`` if unknown.
        segmentation: report of the segmentation that followed.
    """

    memory_key: str
    references: int
    negatives: int
    removed: int
    skipped: list[Skipped]
    appeared: int
    disappeared: int
    precision_before: float | None
    segmentation: SegmentationReport


DecidedLabel = tuple[str, str, str]
"""Id, class and decision of a label."""


def lessons(view: Collection, field: str, decided: Sequence[DecidedLabel] | None = None) -> Lessons:
    """Find the decisions in a field that its memory does not know yet.

    Args:
        view: dataset or view; the labels of the whole dataset count.
        field: field of a segmentation.
        decided: the decided labels of the field in the whole dataset, by a caller who has read them.

    Raises:
        RunNotFound: if there is no such segmentation, or its memory is gone.
        MemoryFileError: if the stored memory is damaged.
    """
    memory_key = runs.config(view, field, runs.SEGMENTATION)["memory_key"]
    if decided is None:
        declare_decisions(view, field)
        decided = _decided(view, field)
    return _lessons(decided, _taught_by(view, memory_key))


def teach(view: Collection, field: str, *, progress: OnProgress = None, device: str = "auto") -> TeachingReport:
    """Teach a memory the decisions in a field, and segment again: :func:`teaching_job`, run to completion."""
    return run(teaching_job(view, field, device=device), progress)


def teaching_job(view: Collection, field: str, *, device: str = "auto") -> Job[TeachingReport]:
    """Add decided predictions to the memory that made them, and replace the undecided ones.

    Args:
        view: dataset or view whose images are segmented again. The decisions of the whole dataset are taught.
        field: field of a segmentation.
        device: as of a segmentation.

    Raises:
        InputError: if there is nothing new to teach.
        RunNotFound: if there is no such segmentation, or its memory is gone.
        EncoderMismatch: if the memory was built again with another encoder.
        WeightsNotFound: if weights cannot be found.
    """
    made = runs.config(view, field, runs.SEGMENTATION)
    memory_key = made["memory_key"]
    mark_edited(view, field)
    bank = runs.load_memory(view, memory_key)
    new = _lessons(_decided(view, field), _Taught.of(bank))
    if not new:
        raise InputError(f"no decision in {field!r} is new to the memory {memory_key!r}: accept or reject some first")
    before = _shown(view, field, made)

    yield Progress(0, 1, f"loading the encoder {bank.encoder.name}")
    preset = get_preset(bank.preset)
    precision = preset.precision_for("auto")
    encoder = load_encoder(bank.encoder.name, device, precision)
    bank.check_encoder(encoder.info)
    accepted = _of(view, field, new.references)
    labels = LabelledImages(accepted, field, MemoryConfig(), exif=preset.exif, everything=False)
    references = (reference for image in labels for reference in image.references)
    keep, total = bank.has_whole_images, accepted.count()
    learnt = yield from encode_labels(
        labels, references, encoder, preset, total, keep_images=keep, cache=default_cache()
    )
    skipped = labels.explained()
    if new.negatives:
        negatives = NegativeEncoder(encoder, load_segmenter(made["segmenter"], device, precision), preset)
        _, left_out = yield from rejected_labels(
            _of(view, field, new.negatives), field, negatives, set(), exif=preset.exif
        )
        skipped += left_out
        learnt.add_negatives(negatives.negatives)

    with locked(view):
        bank = runs.load_memory(view, memory_key)  # another process may have changed it
        removed = bank.remove(label_ids=new.stale) + bank.remove_negatives(label_ids=new.stale)
        bank.merge(learnt)
        if len(bank) == 0:
            raise InputError(f"all references of the memory {memory_key!r} were rejected: it would be empty")
        runs.replace_memory(view, memory_key, bank, field=field if len(learnt) else None)
        # An undo would not take back what the memory has learnt; another decision and another update do.
        runs.delete_history(view, field)
    options = {name: made[name] for name in _OPTIONS if name in made}
    config = SegmentationConfig(preset=made["preset"], overwrite=True, device=device, **options)
    segmentation = yield from segmentation_job(view, memory_key, field, config=config)
    after = _shown(view, field, runs.config(view, field, runs.SEGMENTATION))
    recommended = made.get("recommendation") or {}
    return TeachingReport(
        memory_key=memory_key,
        references=len(learnt),
        negatives=len(learnt.negatives),
        removed=removed,
        skipped=skipped,
        appeared=_without_match(after, before),
        disappeared=_without_match(before, after),
        precision_before=recommended.get("precision"),
        segmentation=segmentation,
    )


@dataclass(frozen=True)
class _Taught:
    """What a memory knows about labels.

    Attributes:
        classes: of its references, by label id.
        rejected: label ids of its negatives.
    """

    classes: Mapping[str, str]
    rejected: Set[str]

    @classmethod
    def of(cls, bank: MemoryBank) -> _Taught:
        return cls(
            {entry.label_id: entry.class_name for entry in bank.entries if entry.label_id},
            {negative.label_id for negative in bank.negatives if negative.label_id},
        )


_loaded: dict[tuple[str, str], tuple[str, _Taught]] = {}
"""By dataset and name of a memory: the token under which it was stored, and what it knows."""


def _taught_by(view: Collection, memory_key: str) -> _Taught:
    """What a memory knows; it is loaded once, until it is stored again."""
    token = runs.config(view, memory_key, runs.MEMORY).get("token")
    key = (str(view._root_dataset._doc.id), memory_key)
    loaded = _loaded.get(key)
    if loaded is None or loaded[0] != token or token is None:
        loaded = _loaded[key] = token, _Taught.of(runs.load_memory(view, memory_key))
    return loaded[1]


def _lessons(decided: Sequence[DecidedLabel], taught: _Taught) -> Lessons:
    known, rejected = taught.classes, taught.rejected
    references, negatives, stale = [], [], []
    for label_id, label, decision in decided:
        if decision in _TAUGHT:
            if known.get(label_id) != label:
                references.append(label_id)
            if label_id in rejected or known.get(label_id, label) != label:
                stale.append(label_id)
        else:
            # A wrong outline of the right object is neither a reference nor a negative.
            is_negative = decision == "rejected"
            if is_negative and label_id not in rejected:
                negatives.append(label_id)
            if label_id in known or (label_id in rejected and not is_negative):
                stale.append(label_id)
    return Lessons(tuple(references), tuple(negatives), tuple(stale))


def _decided(view: Collection, field: str) -> list[DecidedLabel]:
    names = ("id", "label", runs.DECISION)
    # Read without a filter: the database would read all masks for one.
    columns = runs.all_images(view).values([f"{field}.detections.{name}" for name in names])
    return [
        label
        for of_image in zip(*columns, strict=True)
        for label in zip(*(values or () for values in of_image), strict=True)
        if label[2] is not None
    ]


def _of(view: Collection, field: str, label_ids: Sequence[str]) -> fo.DatasetView:
    """Images with some labels only, and these labels."""
    return runs.all_images(view).select_labels(ids=list(label_ids), fields=field)


Boxes = dict[tuple[str, str], list[list[float]]]
"""Boxes of predictions, by sample and class."""


def _shown(view: Collection, field: str, made: Mapping[str, Any]) -> Boxes:
    """Undecided predictions of at least the recommended confidence."""
    threshold = (made.get("recommendation") or {}).get("threshold", 0.0)
    shown = runs.all_images(view).filter_labels(
        field,
        (F(runs.DECISION) == None) & (F("confidence") >= threshold),  # noqa: E711
    )
    boxes: Boxes = {}
    columns = shown.values(["id", f"{field}.detections.label", f"{field}.detections.bounding_box"])
    for sample_id, names, of_image in zip(*columns, strict=True):
        for name, box in zip(names, of_image, strict=True):
            boxes.setdefault((sample_id, name), []).append(box)
    return boxes


def _without_match(boxes: Boxes, others: Boxes) -> int:
    """Number of boxes without one of the same image and class that overlaps it."""
    count = 0
    for key, of_key in boxes.items():
        candidates = others.get(key)
        if candidates is None:
            count += len(of_key)
        else:
            overlaps = coco_mask.iou(np.array(of_key), np.array(candidates), [0] * len(candidates))
            count += int((overlaps.max(1) < _SAME).sum())
    return count
