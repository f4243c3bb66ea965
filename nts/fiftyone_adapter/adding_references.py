"""Adding references to a memory of a dataset, and moving or removing single ones."""

from __future__ import annotations

from collections.abc import Collection as Several
from dataclasses import dataclass, replace

from ..building import Skipped
from ..cache import default_cache
from ..memory import MemoryEntry
from ..models import load_encoder
from ..presets import get_preset
from . import checks, runs
from .building import encode_labels, promoted
from .config import MemoryConfig
from .errors import InputError, RunEnded
from .jobs import Job, OnProgress, Progress, first_few, run
from .labelled_images import LabelledImages
from .locking import exclusive, locked
from .runs import Collection


@dataclass(frozen=True)
class ReferencesReport:
    """References that were added to a memory.

    Attributes:
        memory_key: name of the memory.
        added: references that were added, or encoded again, per class.
        skipped: labels that were left out, with the reasons.
        shots: references per class in the memory now.
    """

    memory_key: str
    added: dict[str, int]
    skipped: list[Skipped]
    shots: dict[str, int]


def add_references(
    view: Collection,
    label_field: str,
    memory_key: str,
    *,
    segmenter: str = "small",
    device: str = "auto",
    progress: OnProgress = None,
) -> ReferencesReport:
    """Add references to a memory: :func:`references_job`, run to completion."""
    return run(references_job(view, label_field, memory_key, segmenter=segmenter, device=device), progress)


def references_job(
    view: Collection, label_field: str, memory_key: str, *, segmenter: str = "small", device: str = "auto"
) -> Job[ReferencesReport]:
    """Add the labels of a view to a memory, which gets a new fingerprint: earlier runs with it are not resumed.

    A label that is a reference already is encoded again. One that is among the negatives is none any more.

    Args:
        view: dataset or view with the labels.
        label_field: with the labels, as of :func:`~nts.fiftyone_adapter.memory_job`; it may be another one than that of
            the memory.
        memory_key: name of the memory.
        segmenter: draws the masks of labels without.
        device: as of a segmentation.

    Raises:
        InputError: if the view or the field cannot be used, or no label could be used.
        RunNotFound: if there is no such memory.
        RunEnded: if the memory was deleted, or built again with another encoder, meanwhile.
        WeightsNotFound: if a model's weights cannot be found.
    """
    checks.check_view(view)
    checks.check_reference_field(view, label_field)
    bank = runs.load_memory(view, memory_key)
    preset = get_preset(bank.preset)
    precision = preset.precision_for("auto")
    yield Progress(0, 1, f"loading the encoder {bank.encoder.name}")
    encoder = load_encoder(bank.encoder.name, device, precision)
    bank.check_encoder(encoder.info)

    config = MemoryConfig(segmenter=segmenter, device=device)
    with runs.explained(view, label_field):
        labels = LabelledImages(view, label_field, config, exif=preset.exif, everything=False)
        references = (
            each for image in promoted(labels, config, precision, default_cache()) for each in image.references
        )
        keep, total = bank.has_whole_images, len(set(view.values("id")))
        learnt = yield from encode_labels(
            labels, references, encoder, preset, total, keep_images=keep, cache=default_cache()
        )
    if len(learnt) == 0:
        reasons = first_few(item.reason for item in labels.explained())
        raise InputError(f"no label could be used: {reasons or 'none is there'}")
    with locked(view):
        if memory_key not in runs.list_runs(view, runs.MEMORY):
            raise RunEnded(f"the memory {memory_key!r} was deleted meanwhile")
        bank = runs.load_memory(view, memory_key)  # another process may have changed it
        bank.remove_negatives(label_ids=[entry.label_id for entry in learnt.entries])
        bank.merge(learnt)
        runs.replace_memory(view, memory_key, bank, field=label_field)
    return ReferencesReport(memory_key, learnt.shots, labels.explained(), bank.shots)


@exclusive
def remove_references(view: Collection, memory_key: str, entries: Several[MemoryEntry]) -> int:
    """Remove references from a memory.

    Args:
        view: dataset, or a view of it.
        memory_key: name of the memory.
        entries: the references; without a label id, they cannot be told from others.

    Returns:
        number of references removed; those that are gone by now do not count.

    Raises:
        InputError: if a reference has no label id, or the memory would be empty.
        RunNotFound: if there is no such memory.
    """
    bank = runs.load_memory(view, memory_key)
    removed = bank.remove(label_ids=_label_ids(entries))
    if len(bank) == 0:
        raise InputError(f"the memory {memory_key!r} would be empty: delete the memory instead")
    runs.replace_memory(view, memory_key, bank)
    return removed


@exclusive
def move_references(view: Collection, memory_key: str, entries: Several[MemoryEntry], class_name: str) -> int:
    """Give references of a memory another class; the labels in the dataset stay as they are.

    Args:
        view: dataset, or a view of it.
        memory_key: name of the memory.
        entries: the references, as of :func:`remove_references`.
        class_name: the class, which may be a new one.

    Returns:
        number of references moved; those that are gone by now do not count.

    Raises:
        InputError: if a reference has no label id, or the class no name.
        RunNotFound: if there is no such memory.
    """
    if not class_name.strip():
        raise InputError("a class needs a name", option="class_name")
    bank = runs.load_memory(view, memory_key)
    wanted = set(_label_ids(entries))
    moved = [replace(entry, class_name=class_name) for entry in bank.entries if entry.label_id in wanted]
    for entry in moved:
        bank.add(entry)
    runs.replace_memory(view, memory_key, bank)
    return len(moved)


def _label_ids(entries: Several[MemoryEntry]) -> list[str]:
    if any(not entry.label_id for entry in entries):
        raise InputError("a reference without a label id cannot be changed: build the memory again")
    return [entry.label_id for entry in entries]
