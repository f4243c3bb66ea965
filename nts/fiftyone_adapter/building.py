"""Building a memory from the labels of a view, and importing and exporting memories as files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..building import Skipped, encode_references
from ..cache import TensorCache, default_cache
from ..encoder import Encoder
from ..memory import MemoryBank, NegativeSource
from ..models import load_encoder, load_segmenter
from ..negative_building import NegativeEncoder
from ..presets import Preset, get_preset
from ..promotion import promote
from ..references import KINDS, Kind, Reference
from . import checks, colours, runs
from .background import BackgroundCheck, BackgroundDone, add_background, checked_background
from .checks import InputError
from .config import MemoryConfig, WeakLabels
from .jobs import Job, OnProgress, Progress, first_few, run
from .labelled_images import LabelledImage, LabelledImages
from .locking import locked
from .options import takes
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
        negatives: number of negatives from every source that there are some of.
        background_images: background images that negatives were taken from.
        skipped_background: background images that were left out, with the reasons.
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
    negatives: dict[NegativeSource, int]
    background_images: int
    skipped_background: list[Skipped]


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

    With a preset whose method uses negatives (:mod:`nts.negatives`), they are collected from the reference images:
    proposals of the segmenter off all labels of the classes. Labels that a view or the option ``classes`` leaves out
    count too; those of other classes that have a mask are negatives themselves.

    Encoded references are cached on disk (:func:`nts.cache.default_cache`): a memory that is built again with one label
    more encodes that one. The segmenter is only loaded if it has masks to draw, or negatives to find.

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
    preset = get_preset(config.preset)
    checks.check_view(view)
    checks.check_reference_field(view, label_field)
    checks.check_key(view, memory_key, runs.MEMORY, overwrite=config.overwrite)
    background = checked_background(view, config, preset)
    classes = config.classes
    where = f"the field {label_field!r} of this view"
    counts = checks.reference_counts(view, [label_field])[label_field]
    # The classes of segmentations are known once their pixels are read.
    if counts.labels == 0 or not counts.segmentations:
        checks.check_classes(counts.classes if classes is None else classes, counts.classes, where)
    total = len(set(view.values("id")))

    uses_negatives = preset.method.negatives
    yield Progress(0, total, f"loading the encoder {config.encoder}" + uses_negatives * f" and {config.segmenter}")
    precision = preset.precision_for(config.precision)
    encoder = load_encoder(config.encoder, config.device, precision)
    cache = default_cache() if config.use_cache else None
    negatives = None
    if uses_negatives:
        segmenter = load_segmenter(config.segmenter, config.device, precision)
        negatives = NegativeEncoder(encoder, segmenter, preset, cache)
    with runs.explained(view, label_field):
        labels = LabelledImages(view, label_field, config, exif=preset.exif, everything=uses_negatives)
        images = promoted(labels, config, precision, cache) if config.weak_labels == "promoted" else labels
        references = _references(images, negatives, complete=config.complete_labels)
        keep = config.keep_images
        bank = yield from encode_labels(labels, references, encoder, preset, total, keep_images=keep, cache=cache)

    if len(bank) == 0:
        if counts.segmentations and not labels.skipped:
            checks.check_classes(labels.classes if classes is None else classes, labels.classes, where)
        raise InputError(f"no label of {where} could be used: {_reasons(labels.skipped, config.weak_labels)}")
    chosen = set(labels.classes if classes is None else classes)
    looked = BackgroundDone()
    if negatives is not None:
        if background is not None:
            check = BackgroundCheck.of_memory(bank, label_field, chosen)
            with runs.explained(view, label_field):
                looked = yield from add_background(background, negatives, check, exif=preset.exif)
        bank.add_negatives(negatives.negatives)
    report = _report(
        memory_key,
        bank,
        config.weak_labels,
        skipped=labels.explained(),
        missing=sorted(chosen - set(bank.classes)),
        background=looked,
    )
    with locked(view):
        # Another process may have built one of this name since the check.
        checks.check_key(view, memory_key, runs.MEMORY, overwrite=config.overwrite)
        runs.store_memory(
            view,
            memory_key,
            bank,
            label_field=label_field,
            weak_labels=config.weak_labels,
            skipped=len(report.skipped),
        )
    colours.set_class_colours(view, [label_field], bank.classes)
    return report


def encode_labels(
    labels: LabelledImages,
    references: Iterable[Reference],
    encoder: Encoder,
    preset: Preset,
    total: int,
    *,
    keep_images: bool,
    cache: TensorCache | None,
) -> Job[MemoryBank]:
    """Encode the references of labels into a new bank; labels that cannot be encoded join those that were skipped.

    Args:
        labels: read while ``references`` is.
        references: the references to encode.
        encoder: encodes them.
        preset: prepares them.
        total: number of images with labels, for the progress.
        keep_images: store the tokens of whole images.
        cache: of encoded references.
    """
    bank = MemoryBank(encoder.info, preset.name)
    for result in encode_references(references, encoder, preset, keep_images=keep_images, cache=cache):
        if isinstance(result, Skipped):
            labels.skipped.append(result)
        else:
            bank.add(result)
        yield Progress(len(labels.seen), total, f"{len(bank)} references encoded, {len(labels.skipped)} left out")
    return bank


def promoted(
    images: Iterable[LabelledImage], config: MemoryConfig, precision: str, cache: TensorCache | None
) -> Iterator[LabelledImage]:
    """Images with the masks that SAM2 draws for references without; it is loaded for the first of them."""
    for image in images:
        if any(reference.kind != "mask" for reference in image.references):
            segmenter = load_segmenter(config.segmenter, config.device, precision)
            image = replace(image, references=list(promote(image.references, segmenter, cache)))
        yield image


def _references(
    images: Iterable[LabelledImage], negatives: NegativeEncoder | None, *, complete: bool
) -> Iterator[Reference]:
    """The references of images; on the way, the negatives of every image are collected."""
    for image in images:
        if negatives is None:
            yield from image.references
        else:
            known = complete and image.extents_known
            yield from negatives.add_reference_image(
                image.references, image.labelled, image.others, image.marked, complete=known
            )


def _reasons(skipped: Sequence[Skipped], weak_labels: WeakLabels) -> str:
    """First few reasons why labels were skipped, and advice if they lack masks."""
    reasons = list(dict.fromkeys(item.reason for item in skipped))
    advice = ""
    if weak_labels == "skip" and any("no mask" in reason for reason in reasons):
        advice = "; add masks to the labels, have SAM2 draw them ('promoted') or use the labels without ('raw')"
    return f"{first_few(reasons)}{advice}"


def _report(
    memory_key: str,
    bank: MemoryBank,
    weak_labels: WeakLabels | None = None,
    *,
    skipped: Sequence[Skipped] = (),
    missing: Sequence[str] = (),
    background: BackgroundDone,
) -> MemoryReport:
    """Report of a memory; ``weak_labels`` is ``None`` if it was not built here."""
    kinds: dict[Kind, int] = {kind: sum(entry.kind == kind for entry in bank.entries) for kind in KINDS}
    promoted = sum(entry.promoted for entry in bank.entries)
    weak = len(bank) - kinds["mask"]
    return MemoryReport(
        memory_key=memory_key,
        shots=bank.shots,
        skipped=list(skipped),
        missing_classes=list(missing),
        kinds={kind: count for kind, count in kinds.items() if count},
        promoted=promoted,
        unpromoted=weak - promoted if weak_labels == "promoted" else 0,
        encoder=bank.encoder.name,
        whole_images=bank.has_whole_images,
        negatives=bank.negative_counts,
        background_images=background.images,
        skipped_background=background.skipped,
    )


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
    return _report(memory_key, bank, background=BackgroundDone())
