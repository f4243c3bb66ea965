"""Inspection of a memory: its references, their pictures, and their agreement with one another."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fiftyone as fo
import numpy as np
from PIL import ImageColor

from ..images import ImageError, read_image
from ..inspection import LeaveOneOut, draw_reference, leave_one_out, prototype_similarities
from ..memory import MemoryEntry, NegativeSource
from ..presets import get_preset
from ..references import InvalidReference
from . import checks, runs
from .colours import label_colours
from .labels import names_of_values
from .references import Annotation, annotations_of_sample, label_id_in_dataset
from .runs import Collection
from .words import plural

_QUALITY = 85  # of the JPEGs; about 5 KiB each
_MAX_ORDERED = 2000  # samples; the database searches the list of all for every one of them


@dataclass(frozen=True, eq=False)
class MemoryInspection:
    """A memory, and the agreement of its references.

    Attributes:
        entries: its references, in order of arrival.
        checks: for each of them its classification by the others.
        classes: its classes, sorted.
        shots: references per class.
        similarities: float ``[K, K]``, cosine between the class prototypes.
        negatives: number of negatives from every source that there are some of.
    """

    entries: tuple[MemoryEntry, ...]
    checks: tuple[LeaveOneOut, ...]
    classes: tuple[str, ...]
    shots: dict[str, int]
    similarities: np.ndarray
    negatives: dict[NegativeSource, int]

    @property
    def disagreeing(self) -> list[LeaveOneOut]:
        """References that the others classify differently, worst first."""
        return [check for check in self.by_margin if check.agrees is False]

    @property
    def by_margin(self) -> list[LeaveOneOut]:
        """All references by rising margin; those without a margin come last."""
        return sorted(self.checks, key=lambda check: (check.margin != check.margin, check.margin))

    def of_classes(self, names: Iterable[str]) -> list[LeaveOneOut]:
        """The references of some classes, class by class, by rising margin."""
        names = set(names)
        return sorted((c for c in self.by_margin if c.class_name in names), key=lambda check: check.class_name)

    def most_similar_classes(self, count: int) -> list[int]:
        """Rows of the ``count`` classes that are most similar to another one, in the order of the classes."""
        others = self.similarities - 2 * np.eye(len(self.classes))
        return sorted(others.max(1, initial=-1).argsort(kind="stable")[::-1][:count].tolist())


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a reference as a data URI, or the reason why there is none."""

    uri: str | None
    problem: str = ""


def inspect_memory(view: Collection, memory_key: str) -> MemoryInspection:
    """Inspect a memory; raises as :func:`~nts.fiftyone_adapter.load_memory`. The last few inspections are cached."""
    fingerprint = runs.config(view, memory_key, runs.MEMORY)["fingerprint"]
    return _inspect(view._root_dataset.name, memory_key, fingerprint)


@lru_cache(maxsize=4)
def _inspect(dataset_name: str, memory_key: str, fingerprint: str) -> MemoryInspection:
    """``fingerprint`` stands for the content: a memory that was built again is inspected again."""
    bank = runs.load_memory(fo.load_dataset(dataset_name), memory_key)
    similarities = prototype_similarities(bank).numpy()
    checks_of_entries = tuple(leave_one_out(bank))
    return MemoryInspection(
        bank.entries, checks_of_entries, bank.classes, bank.shots, similarities, bank.negative_counts
    )


WITHOUT_NEGATIVES = (
    "This memory has no negatives, so confidences of the preset 'default' are not calibrated: build it again with that "
    "preset, or add background images or rejected predictions with add_negatives"
)
"""Hint for a memory without negatives."""


def count_negatives(counts: Mapping[NegativeSource, int]) -> str:
    """Negatives by source in words, the most frequent first: "30 negatives (28 of reference images, 2 rejected)"."""
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    words = ", ".join(f"{count} {_OF_SOURCE[source]}" for source, count in by_count)
    total = sum(counts.values())
    return f"{total} {plural('negative', total)} ({words})"


_OF_SOURCE: dict[NegativeSource, str] = {
    "reference image": "of reference images",
    "other class": "of other classes",
    "background image": "of background images",
    "rejected": "rejected",
}


def describe_check(check: LeaveOneOut) -> str:
    """A check in words: "more like 'pear' (0.83) than like 'apple' without it (0.79)"."""
    if check.agrees is None:
        return f"the only reference of {check.class_name!r}: nothing to compare it with"
    if check.other is None:
        return f"like the other references ({check.similarity:.2f}); there is no other class"
    own = f"{check.class_name!r} without it ({check.similarity:.2f})"
    other = f"{check.other!r} ({check.other_similarity:.2f})"
    return f"more like {own} than like {other}" if check.agrees else f"more like {other} than like {own}"


def references_view(view: Collection, memory_key: str, entries: Sequence[MemoryEntry]) -> fo.DatasetView:
    """Samples of some references, with these references alone in the memory's label fields.

    They are in the order of the references, unless there are very many.
    """
    ids = _valid(entry.sample_id for entry in entries)
    samples = runs.all_images(view).select(ids, ordered=len(ids) <= _MAX_ORDERED)
    fields = _present_fields(view._root_dataset, runs.config(view, memory_key, runs.MEMORY))
    if not fields:
        return samples
    labels = _valid(label_id_in_dataset(entry.label_id) for entry in entries)
    # Samples whose labels are in another field, or gone, are shown as well.
    return samples.select_labels(ids=labels, fields=fields, omit_empty=False)


def thumbnails(view: Collection, memory_key: str, entries: Sequence[MemoryEntry], size: int = 160) -> list[Thumbnail]:
    """Pictures of references, drawn from the present state of their samples and labels.

    Args:
        view: dataset, or a view of it.
        memory_key: name of the memory.
        entries: some of its references.
        size: the pictures fit into a square of this side, in pixels.
    """
    config = runs.config(view, memory_key, runs.MEMORY)
    dataset = view._root_dataset
    # A memory from a file names no field; its labels may be in this dataset all the same.
    fields = _present_fields(dataset, config) if config["label_field"] else checks.reference_fields(view)
    names = {name: names_of_values(dataset, name) for name in fields}
    colours = label_colours(dataset, config["label_field"], config["classes"])
    wanted: dict[str, list[MemoryEntry]] = {}
    for entry in entries:
        wanted.setdefault(entry.sample_id, []).append(entry)
    pictures: dict[int, Thumbnail] = {}
    samples = runs.all_images(view).select(_valid(wanted)).select_fields(fields)
    for sample in samples.iter_samples():
        labels = {each.label_id: each for name in fields for each in annotations_of_sample(sample, name, names[name])}
        of_sample = wanted[sample.id]
        try:
            image = read_image(sample.filepath, exif=get_preset(config["preset"]).exif)
        except ImageError as error:
            pictures.update((id(entry), Thumbnail(None, str(error))) for entry in of_sample)
            continue
        for entry in of_sample:
            pictures[id(entry)] = _thumbnail(image, labels.get(entry.label_id), colours[entry.class_name], size)
    missing = Thumbnail(None, "its sample is not in this dataset")
    return [pictures.get(id(entry), missing) for entry in entries]


def reference_samples(view: Collection, memory_key: str) -> set[str]:
    """Ids of the samples that the references of a memory come from."""
    return {entry.sample_id for entry in inspect_memory(view, memory_key).entries}


def rest_of(view: Collection, memory_key: str) -> fo.DatasetView:
    """The images of the dataset that no reference of a memory comes from."""
    return runs.all_images(view).exclude(_valid(reference_samples(view, memory_key)))


def missing_samples(view: Collection, inspection: MemoryInspection) -> int:
    """Number of references of a memory without a sample in this dataset."""
    ids = _valid(entry.sample_id for entry in inspection.entries)
    there = set(runs.all_images(view).select(ids).values("id"))
    return sum(entry.sample_id not in there for entry in inspection.entries)


def _present_fields(dataset: fo.Dataset, config: Mapping[str, Any]) -> list[str]:
    """Label fields of a memory that the dataset still has."""
    return [name for name in runs.label_fields(config) if dataset.has_sample_field(name)]


def _valid(ids: Iterable[str]) -> list[str]:
    """Valid ids of samples or labels, each once: a memory from elsewhere may hold any name."""
    return [name for name in dict.fromkeys(ids) if re.fullmatch("[0-9a-f]{24}", name)]


def _thumbnail(image: np.ndarray, label: Annotation | None, colour: str, size: int) -> Thumbnail:
    if label is None:
        return Thumbnail(None, "its label is not in this dataset any more")
    try:
        marks = label.mask(image.shape[:2])
        is_sparse = label.kind in ("point", "scribble")
        picture = draw_reference(image, marks, ImageColor.getrgb(colour)[:3], size, whole=is_sparse)
    except InvalidReference as error:
        return Thumbnail(None, str(error))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii"))
