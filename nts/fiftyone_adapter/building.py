"""Building a memory from the labels of a view, and importing and exporting memories as files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..building import Skipped, encode_references
from ..cache import default_cache
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..presets import get_preset
from ..promotion import promote
from ..references import KINDS, Kind, Reference, by_image
from ..utils.names import as_names
from . import checks, colours, runs
from .checks import InputError
from .config import MemoryConfig
from .jobs import Job, OnProgress, Progress, first_few, run
from .labels import names_of_values
from .locking import locked
from .options import takes
from .references import annotations_of_sample, references_of_sample
from .runs import Collection


@dataclass(frozen=True)
class MemoryReport:
    """Content of a memory that was built or imported.

    Attributes:
        memory_key: its name.
        shots: references per class.
        skipped: labels that were left out, with the reasons.
        missing_classes: requested classes without a usable reference; they are not in the memory.
        kinds: references per kind of label.
        promoted: references with a mask drawn by SAM2.
        unpromoted: references that SAM2 found no mask for; they are used without one.
        encoder: name of the encoder.
        whole_images: whether the memory has the tokens of whole images, which a reference prompt needs.
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


@takes(MemoryConfig)
def build_reference_memory(
    view: Collection,
    label_field: str,
    memory_key: str,
    *,
    config: MemoryConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> MemoryReport:
    """Build a memory from a labelled view and store it in the dataset: :func:`memory_job`, run to completion."""
    return run(memory_job(view, label_field, memory_key, config=config, **options), progress)


@takes(MemoryConfig)
def memory_job(
    view: Collection, label_field: str, memory_key: str, *, config: MemoryConfig | None = None, **options: Any
) -> Job[MemoryReport]:
    """Build a reference memory from the labels of a view.

    Encoded references are cached on disk (:func:`nts.cache.default_cache`): a memory that is built again with one label
    more encodes that one. The segmenter is only loaded if it has masks to draw.

    Args:
        view: dataset or view with the references.
        label_field: a field of one of :data:`~nts.fiftyone_adapter.references.LABEL_TYPES`.
        memory_key: name of the memory in the dataset.
        config: the options, in place of keyword arguments.

    Raises:
        InputError: if the view, the field, the name or an option cannot be used, or no label could be used.
        WeightsNotFound: if a model's weights cannot be found.
    """
    config = MemoryConfig.of(config, options)
    checks.check_view(view)
    checks.check_reference_field(view, label_field)
    checks.check_key(view, memory_key, runs.MEMORY, overwrite=config.overwrite)
    classes = as_names(config.classes)
    where = f"the field {label_field!r} of this view"
    counts = checks.reference_counts(view, [label_field])[label_field]
    # The classes of segmentations are known once their pixels are read.
    if counts.labels == 0 or not counts.segmentations:
        checks.check_classes(counts.classes if classes is None else classes, counts.classes, where)
    total = len(set(view.values("id")))

    yield Progress(0, total, f"loading the encoder {config.encoder}")
    preset = get_preset(config.preset)
    precision = preset.precision_for(config.precision)
    encoder = load_encoder(config.encoder, config.device, precision)
    bank, skipped = MemoryBank(encoder.info, preset.name), list[Skipped]()
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
            selection = {"classes": classes, "masks_only": config.weak_labels == "skip", "exif": preset.exif}
            for result in references_of_sample(sample, annotations, **selection):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    yield result

    def promoted_references() -> Iterator[Reference]:
        for of_image in by_image(usable_references()):
            if config.weak_labels == "promoted" and any(reference.kind != "mask" for reference in of_image):
                yield from promote(of_image, load_segmenter(config.segmenter, config.device, precision))
            else:
                yield from of_image

    cache = default_cache() if config.use_cache else None
    with runs.explained(view, label_field):
        for result in encode_references(
            promoted_references(), encoder, preset, keep_images=config.keep_images, cache=cache
        ):
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
        if config.weak_labels == "skip" and any("no mask" in reason for reason in reasons):
            advice = "; add masks to the labels, have SAM2 draw them ('promoted') or use the labels without ('raw')"
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
        unpromoted=weak - promoted if config.weak_labels == "promoted" else 0,
        encoder=encoder.info.name,
        whole_images=bank.has_whole_images,
    )
    with locked(view):
        # Another process may have built one of this name since the check.
        checks.check_key(view, memory_key, runs.MEMORY, overwrite=config.overwrite)
        runs.store_memory(
            view, memory_key, bank, label_field=label_field, weak_labels=config.weak_labels, skipped=len(skipped)
        )
    colours.set_class_colours(view, [label_field], bank.classes)
    return report


def _kinds(bank: MemoryBank) -> dict[Kind, int]:
    kinds: dict[Kind, int] = {kind: sum(entry.kind == kind for entry in bank.entries) for kind in KINDS}
    return {kind: count for kind, count in kinds.items() if count}


def export_memory(view: Collection, memory_key: str, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a memory to a ``.safetensors`` file and return its path. An existing file survives every failure.

    Args:
        view: dataset with the memory.
        memory_key: its name.
        path: the file, or a folder for a file of the memory's name.
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
    """Store the memory of a file in the dataset.

    Args:
        view: dataset or view.
        path: a file written by :func:`export_memory`.
        memory_key: its name; the file's name if omitted.
        overwrite: replace a memory of this name.

    Raises:
        MemoryFileError: if the file cannot be read or is not a memory.
        InputError: if the name cannot be used, or the memory is empty.
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
