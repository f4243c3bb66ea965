"""Adding negatives to a memory of a dataset: rejected predictions, and background images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fiftyone as fo

from ..building import Skipped
from ..cache import default_cache
from ..images import ImageError, read_file, read_image
from ..memory import NegativeSource
from ..models import load_encoder, load_segmenter
from ..negative_building import NegativeEncoder
from ..presets import get_preset
from ..references import InvalidReference, Reference
from ..utils.files import content_id
from . import checks, runs
from .background import BackgroundCheck, add_background
from .config import NegativesConfig
from .errors import InputError, RunEnded
from .jobs import Job, OnProgress, Progress, first_few, run
from .labels import names_of_values
from .locking import locked
from .options import takes
from .references import WITHOUT_MASK, annotations_of_sample
from .runs import Collection


@dataclass(frozen=True)
class NegativesReport:
    """Negatives that were added to a memory.

    Attributes:
        memory_key: name of the memory.
        added: negatives that were found. Where the memory has too many, only those that differ most are in it.
        images: images that they were taken from.
        skipped: labels or images that were left out, with the reasons.
        negatives: number of negatives in the memory now, by source.
    """

    memory_key: str
    added: int
    images: int
    skipped: list[Skipped]
    negatives: dict[NegativeSource, int]


@takes(NegativesConfig)
def add_negatives(
    dataset: Collection,
    memory_key: str,
    view: Collection,
    label_field: str | None = None,
    *,
    config: NegativesConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> NegativesReport:
    """Add negatives to a memory: :func:`negatives_job`, run to completion."""
    return run(negatives_job(dataset, memory_key, view, label_field, config=config, **options), progress)


@takes(NegativesConfig)
def negatives_job(
    dataset: Collection,
    memory_key: str,
    view: Collection,
    label_field: str | None = None,
    *,
    config: NegativesConfig | None = None,
    **options: Any,
) -> Job[NegativesReport]:
    """Add negatives to a memory, which gets a new fingerprint: runs made with it before are not resumed.

    Args:
        dataset: with the memory, or a view of it.
        memory_key: name of the memory.
        view: of labels that are of no class, such as rejected predictions; or, without ``label_field``, of background
            images, which show none of the classes: everything in them becomes a negative.
        label_field: with the labels. Labels without a mask, and references of the memory, are left out.
        config: the options, in place of keyword arguments.

    Raises:
        InputError: if the view or the field cannot be used, or there was nothing to add.
        RunNotFound: if there is no such memory.
        RunEnded: if the memory was deleted, or built again with another encoder, meanwhile.
        WeightsNotFound: if a model's weights cannot be found.
    """
    config = NegativesConfig.of(config, options)
    checks.check_view(view)
    if label_field is not None:
        checks.check_reference_field(view, label_field)
    bank, about = runs.load_memory(dataset, memory_key), runs.config(dataset, memory_key, runs.MEMORY)
    preset = get_preset(bank.preset)
    precision = preset.precision_for(config.precision)
    yield Progress(0, 1, f"loading the encoder {bank.encoder.name}")
    encoder = load_encoder(bank.encoder.name, config.device, precision)
    bank.check_encoder(encoder.info)
    segmenter = load_segmenter(config.segmenter, config.device, precision)
    negatives = NegativeEncoder(encoder, segmenter, preset, default_cache() if config.use_cache else None)
    if label_field is None:
        check = BackgroundCheck.of_memory(bank, about["label_field"], bank.classes)
        done = yield from add_background(view, negatives, check, exif=preset.exif)
        images, skipped = done.images, done.skipped
    else:
        references = {(entry.sample_id, entry.label_id) for entry in bank.entries}
        with runs.explained(view, label_field):
            images, skipped = yield from rejected_labels(view, label_field, negatives, references, exif=preset.exif)
    if not negatives.negatives:
        raise InputError(
            f"there is nothing to add: {first_few(item.reason for item in skipped) or 'no label is there'}"
        )
    with locked(dataset):
        if memory_key not in runs.list_runs(dataset, runs.MEMORY):
            raise RunEnded(f"the memory {memory_key!r} was deleted meanwhile")
        bank = runs.load_memory(dataset, memory_key)  # another process may have changed it
        bank.check_encoder(encoder.info)
        bank.add_negatives(negatives.negatives)
        runs.replace_memory(dataset, memory_key, bank)
    return NegativesReport(memory_key, len(negatives.negatives), images, skipped, bank.negative_counts)


def rejected_labels(
    view: Collection, label_field: str, negatives: NegativeEncoder, references: set[tuple[str, str]], *, exif: bool
) -> Job[tuple[int, list[Skipped]]]:
    """Take the labels of a view as negatives; returns the number of their images, and the labels left out."""
    names = names_of_values(view, label_field)
    total, images, skipped, seen = len(set(view.values("id"))), 0, list[Skipped](), set[str]()
    for sample in view.select_fields(label_field).iter_samples():
        if sample.id in seen:  # a view can hold a sample several times
            continue
        yield Progress(len(seen), total, f"{len(negatives.negatives)} labels added, {len(skipped)} left out")
        seen.add(sample.id)
        rejected, without = _rejected(sample, label_field, names, references, exif)
        skipped += without
        if rejected:
            negatives.add_rejected(rejected)
            images += 1
    return images, skipped


def _rejected(
    sample: fo.Sample, label_field: str, names: dict[int, str], references: set[tuple[str, str]], exif: bool
) -> tuple[list[Reference], list[Skipped]]:
    """Usable labels of a sample, whatever their class, and the others with their reasons."""
    annotations = annotations_of_sample(sample, label_field, names)
    if not annotations:
        return [], []
    try:
        content = read_file(sample.filepath)
        image = read_image(sample.filepath, exif=exif, content=content)
    except ImageError as error:
        return [], [Skipped(sample.id, each.label_id, str(error)) for each in annotations]
    usable, skipped = list[Reference](), list[Skipped]()
    for each in annotations:
        try:
            if (sample.id, each.label_id) in references:
                raise InvalidReference("it is a reference of the memory")
            if each.kind in WITHOUT_MASK:
                raise InvalidReference(WITHOUT_MASK[each.kind])
            mask = each.mask(image.shape[:2])
        except InvalidReference as error:
            reason = f"label {each.class_name!r} of {sample.filepath}: {error}"
            skipped.append(Skipped(sample.id, each.label_id, reason))
            continue
        usable.append(
            Reference(
                image,
                each.class_name or "",
                mask,
                sample_id=sample.id,
                label_id=each.label_id,
                file=content_id(content),
            )
        )
    return usable, skipped
