"""Building a memory from the labels of a view, and keeping memories as files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..memory import MemoryBank
from ..models import load_encoder
from ..pipeline import Skipped, encode_references
from ..presets import Preset, get_preset
from ..references import Reference
from . import checks, colours, runs
from .checks import InputError
from .jobs import Job, OnProgress, Progress, run, some
from .labels import BOXES, detections, references_of_sample
from .runs import Collection


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
    total = sum(count for name, count in counts.items() if classes is None or name in classes)

    yield Progress(0, total, f"loading the encoder {encoder}")
    preset = get_preset(preset)
    loaded = load_encoder(encoder, device, precision)
    bank, skipped = MemoryBank(loaded.info, preset.name), list[Skipped]()
    origins: dict[str, str] = {}

    def usable_references() -> Iterator[Reference]:
        for sample in view.select_fields(label_field).iter_samples():
            origins.update({x.id: f"label {x.label!r} of {sample.filepath}" for x in detections(sample, label_field)})
            options = {"classes": classes, "boxes": boxes, "exif": preset.exif}
            for result in references_of_sample(sample, label_field, **options):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    yield result

    for result in encode_references(usable_references(), loaded, preset):
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
        raise InputError(f"no label of {where} could be used: {some(reasons)}{advice}")
    report = MemoryReport(
        memory_key=memory_key,
        shots=bank.shots,
        skipped=[replace(item, reason=f"{origins[item.label_id]}: {item.reason}") for item in skipped],
        missing_classes=sorted(set(present if classes is None else classes) - set(bank.classes)),
        boxes=sum(entry.kind == "box" for entry in bank.entries),
        encoder=loaded.info.name,
    )
    runs.store_memory(view, memory_key, bank, label_field=label_field, boxes=boxes, skipped=len(skipped))
    colours.set_class_colours(view, [label_field], bank.classes)
    return report


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
