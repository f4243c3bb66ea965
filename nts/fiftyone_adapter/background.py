"""Background images: they show none of a memory's classes, so everything in them is a negative."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator
from dataclasses import dataclass, field

import fiftyone as fo

from ..building import Skipped
from ..images import ImageError, read_file, read_image
from ..memory import MemoryBank
from ..negative_building import NegativeEncoder
from ..presets import Preset
from ..utils.files import content_id
from . import checks, runs
from .config import MemoryConfig
from .errors import InputError, blaming
from .jobs import Job, Progress
from .labels import names_of_values
from .references import annotations_of_sample
from .runs import Collection


@dataclass(frozen=True)
class BackgroundDone:
    """Outcome of looking at background images.

    Attributes:
        images: that negatives were taken from.
        skipped: images that were left out, with the reasons.
    """

    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class BackgroundCheck:
    """Labels and references that a background image must not show.

    Attributes:
        label_field: with the labels of objects; ``None`` if it is unknown.
        classes: of the memory.
        sample_ids: samples of the references.
        files: content of their image files.
    """

    label_field: str | None
    classes: Names[str]
    sample_ids: Names[str]
    files: Names[str]

    @classmethod
    def of_memory(cls, bank: MemoryBank, label_field: str | None, classes: Names[str]) -> BackgroundCheck:
        """Check for a memory, and for further classes of which it has no reference."""
        entries = bank.entries
        return cls(
            label_field,
            {*classes, *bank.classes},
            {entry.sample_id for entry in entries},
            {entry.file for entry in entries if entry.file},
        )

    def problem(self, sample: fo.Sample, file: str, labels: Names[str | None]) -> str | None:
        """Reason why a sample is no background image, if it is none.

        Args:
            sample: with its image.
            file: identity of the content of its file.
            labels: classes of its labels, ``None`` for one that cannot be known.
        """
        if sample.id in self.sample_ids or file in self.files:
            return "references were taken from it, so it is no background image"
        for name in labels:
            if name is None:
                return f"it has a label of an unknown class in {self.label_field!r}: background images show no class"
            if name in self.classes:
                return f"it has a label {name!r} in {self.label_field!r}: background images show none of the classes"
        return None


def checked_background(view: Collection, config: MemoryConfig, preset: Preset) -> Collection | None:
    """Background images that the options name; ``None`` if they name none.

    Raises:
        InputError: if they cannot be used, or the preset does not use negatives.
    """
    if not preset.method.negatives:
        for name in ("background", "complete_labels"):
            if getattr(config, name):
                raise InputError(
                    f"the preset {preset.name!r} uses no negatives, so {name} has no effect: leave it out, or choose "
                    "the preset 'default'",
                    option=name,
                )
    if config.background is None:
        return None
    with blaming("background"):
        return background_view(view, config.background)


def background_view(view: Collection, background: str | Collection) -> Collection:
    """A view of background images, or the saved view of that name.

    Raises:
        InputError: if there is no such view, or it cannot be used.
    """
    if not isinstance(background, str):
        name, images = "the view of background images", background
    else:
        dataset, name = view._root_dataset, f"the saved view {background!r}"
        if not dataset.has_saved_view(background):
            there_are = ", ".join(dataset.list_saved_views()) or "none"
            raise InputError(f"the dataset has no saved view {background!r} of background images; it has: {there_are}")
        images = dataset.load_saved_view(background)
    try:
        checks.check_view(images)
    except InputError as error:
        raise InputError(f"{name} cannot be used: {error}") from error
    return images


def add_background(
    images: Collection, negatives: NegativeEncoder, check: BackgroundCheck, *, exif: bool
) -> Job[BackgroundDone]:
    """Take every proposal in background images as a negative; images that cannot be used are left out.

    Args:
        images: the background images.
        negatives: collects the negatives.
        check: of every image.
        exif: apply the EXIF orientation of images.
    """
    ids = list(dict.fromkeys(images.values("id")))
    used, skipped = 0, list[Skipped]()
    for sample, labels in _samples(images, ids, check.label_field):
        yield Progress(used + len(skipped), len(ids), f"{used} background images done, {len(skipped)} left out")
        try:
            content = read_file(sample.filepath)
            image = read_image(sample.filepath, exif=exif, content=content)
        except ImageError as error:
            skipped.append(Skipped(sample.id, "", str(error)))
            continue
        file = content_id(content)
        problem = check.problem(sample, file, labels)
        if problem is not None:
            skipped.append(Skipped(sample.id, "", f"{sample.filepath}: {problem}"))
            continue
        negatives.add_background_image(image, sample.id, file)
        used += 1
    return BackgroundDone(used, skipped)


def _samples(
    images: Collection, ids: list[str], label_field: str | None
) -> Iterator[tuple[fo.Sample, set[str | None]]]:
    """Samples of background images, and the classes of their labels, those that the view hides included."""
    dataset, samples = images._root_dataset, runs.all_images(images).select(ids)
    if label_field is None or label_field not in checks.reference_fields(dataset):
        yield from ((sample, set()) for sample in samples.iter_samples())
        return
    names = names_of_values(dataset, label_field)
    for sample in samples.select_fields(label_field).iter_samples():
        yield sample, {each.class_name for each in annotations_of_sample(sample, label_field, names)}
