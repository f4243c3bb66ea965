"""Building a memory from the labels of a view, and keeping memories as files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..building import Skipped, encode_references
from ..cache import default_cache
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..presets import Preset, get_preset
from ..promotion import promote
from ..references import KINDS, Kind, Reference, by_image
from ..utils.names import as_names
from . import checks, colours, runs
from .checks import InputError
from .jobs import Job, OnProgress, Progress, first_few, run
from .labels import names_of_values
from .locking import locked
from .references import annotations_of_sample, references_of_sample
from .runs import Collection

WeakLabels = Literal["promoted", "raw", "skip"]
WEAK_LABELS: tuple[WeakLabels, ...] = ("promoted", "raw", "skip")
"""What to do with labels weaker than a mask (boxes, points, scribbles): have SAM2 draw the mask that they mean, take
them as they are, or leave them out."""


@dataclass(frozen=True)
class MemoryReport:
    """What a memory was built of.

    Attributes:
        memory_key: its name.
        shots: references per class.
        skipped: labels that were left out, and why.
        missing_classes: classes asked for that have no usable reference; they are not in the memory.
        kinds: references of each kind of label that there is.
        promoted: references whose mask SAM2 drew.
        unpromoted: references of which SAM2 was to draw a mask, but drew none; they are taken as they are.
        encoder: name of the encoder.
        whole_images: whether the tokens of the whole images are kept, for a reference prompt.
    """

    memory_key: str
    shots: dict[str, int]
    skipped: list[Skipped]
    missing_classes: list[str]
    kinds: dict[Kind, int]
    promoted: int
    unpromoted: int
    encoder: str
    whole_images: bool


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
    classes: Sequence[str] | str | None = None,
    weak_labels: WeakLabels = "promoted",
    encoder: str = "small",
    segmenter: str = "small",
    preset: str | Preset = "default",
    keep_images: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    use_cache: bool = True,
) -> Job[MemoryReport]:
    """Turn the labels of a view into a reference memory.

    What the encoder makes of a reference is kept on disk (:func:`nts.cache.default_cache`): a memory that is built
    again with one label more encodes that one.

    Args:
        view: dataset or view with the references.
        label_field: a field of one of :data:`~nts.fiftyone_adapter.references.LABEL_TYPES`.
        memory_key: the memory's name in the dataset.
        classes: the classes to take; all that the field has in the view without.
        weak_labels: see :data:`WEAK_LABELS`. Taken as it is, a box brings along the background in its corners, and a
            point stands for few patches of the whole image.
        encoder: a name for :func:`nts.models.load_encoder`.
        segmenter: a name for :func:`nts.models.load_segmenter`; only loaded if it has something to draw.
        preset: ``"default"`` or ``"paper"``.
        keep_images: keep the tokens of the whole reference images, too, which a reference prompt needs: about 0.2 MB
            an image with the encoder ``small``, 2.8 MB with ``facebook/dinov2-large``.
        overwrite: replace a memory of this name.
        device: for the models, ``"auto"`` or as in torch.
        precision: for the models, one of :data:`nts.utils.devices.PRECISIONS`.
        use_cache: read and keep what the encoder makes of references.

    Raises:
        InputError: if the view, the field, the classes or the name will not do, or no label could be used.
        WeightsNotFound: if a model's weights cannot be had.
    """
    checks.check_view(view)
    checks.check_reference_field(view, label_field)
    checks.check_key(view, memory_key, runs.MEMORY, overwrite=overwrite)
    classes = as_names(classes)
    if weak_labels not in WEAK_LABELS:
        raise InputError(f"weak_labels must be one of {', '.join(WEAK_LABELS)}, got {weak_labels!r}")
    where = f"the field {label_field!r} of this view"
    counts = checks.reference_counts(view, [label_field])[label_field]
    # Which classes segmentations hold is known when they have been read.
    if counts.labels == 0 or not counts.segmentations:
        checks.check_classes(counts.classes if classes is None else classes, counts.classes, where)
    total = len(set(view.values("id")))

    yield Progress(0, total, f"loading the encoder {encoder}")
    preset = get_preset(preset)
    precision = preset.precision_for(precision)
    loaded = load_encoder(encoder, device, precision)
    bank, skipped = MemoryBank(loaded.info, preset.name), list[Skipped]()
    names = names_of_values(view, label_field)
    origins: dict[tuple[str, str], str] = {}
    found: set[str] = set()
    seen: set[str] = set()

    def usable_references() -> Iterator[Reference]:
        for sample in view.select_fields(label_field).iter_samples():
            if sample.id in seen:  # a view can hold a sample several times
                continue
            seen.add(sample.id)
            annotations = annotations_of_sample(sample, label_field, names)
            for each in annotations:
                origins[sample.id, each.label_id] = f"label {each.class_name!r} of {sample.filepath}"
                found.update([each.class_name] if each.class_name else [])
            options = {"classes": classes, "masks_only": weak_labels == "skip", "exif": preset.exif}
            for result in references_of_sample(sample, annotations, **options):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    yield result

    def promoted_references() -> Iterator[Reference]:
        for of_image in by_image(usable_references()):
            if weak_labels == "promoted" and any(reference.kind != "mask" for reference in of_image):
                yield from promote(of_image, load_segmenter(segmenter, device, precision))
            else:
                yield from of_image

    cache = default_cache() if use_cache else None
    with runs.explained(view, label_field):
        for result in encode_references(promoted_references(), loaded, preset, keep_images=keep_images, cache=cache):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                bank.add(result)
            yield Progress(len(seen), total, f"{len(bank)} references encoded, {len(skipped)} left out")

    if len(bank) == 0:
        if counts.segmentations and not skipped:
            checks.check_classes(found if classes is None else classes, found, where)
        reasons = list(dict.fromkeys(item.reason for item in skipped))
        advice = ""
        if weak_labels == "skip" and any("no mask" in reason for reason in reasons):
            advice = "; give the labels masks, or choose to have masks drawn for them, or to take them as they are"
        raise InputError(f"no label of {where} could be used: {first_few(reasons)}{advice}")
    kinds = _kinds(bank)
    promoted = sum(entry.promoted for entry in bank.entries)
    weak = len(bank) - kinds.get("mask", 0)
    report = MemoryReport(
        memory_key=memory_key,
        shots=bank.shots,
        skipped=[replace(item, reason=f"{origins[item.sample_id, item.label_id]}: {item.reason}") for item in skipped],
        missing_classes=sorted(set(found if classes is None else classes) - set(bank.classes)),
        kinds=kinds,
        promoted=promoted,
        unpromoted=weak - promoted if weak_labels == "promoted" else 0,
        encoder=loaded.info.name,
        whole_images=bank.has_whole_images,
    )
    with locked(view):
        # Somebody else may have built one of this name since it was checked.
        checks.check_key(view, memory_key, runs.MEMORY, overwrite=overwrite)
        runs.store_memory(
            view, memory_key, bank, label_field=label_field, weak_labels=weak_labels, skipped=len(skipped)
        )
    colours.set_class_colours(view, [label_field], bank.classes)
    return report


def _kinds(bank: MemoryBank) -> dict[Kind, int]:
    kinds: dict[Kind, int] = {kind: sum(entry.kind == kind for entry in bank.entries) for kind in KINDS}
    return {kind: count for kind, count in kinds.items() if count}


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
    bank = runs.load_memory(view, memory_key)
    path = checks.check_export_path(path, memory_key, overwrite=overwrite)
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
    runs.store_memory(
        view._root_dataset, memory_key, bank, label_field=None, weak_labels=None, skipped=0, source=str(path)
    )
    promoted = sum(entry.promoted for entry in bank.entries)
    return MemoryReport(
        memory_key, bank.shots, [], [], _kinds(bank), promoted, 0, bank.encoder.name, bank.has_whole_images
    )
