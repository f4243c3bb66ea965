"""Reference images of a view: the references in each, and everything else that is labelled there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..building import Skipped
from ..references import InvalidReference, Reference
from . import runs
from .config import MemoryConfig
from .labels import names_of_values
from .references import Annotation, annotations_of_sample, references_of_sample
from .runs import Collection


@dataclass(frozen=True)
class LabelledImage:
    """The references of an image, and its other labels; all masks are bool ``[H, W]``.

    Attributes:
        references: of one image, at least one.
        labelled: further objects of the classes, whether a reference could be made of them or not.
        others: objects of other classes.
        marked: points and strokes on further objects of the classes.
        extents_known: every label of the classes could be drawn.
    """

    references: list[Reference]
    labelled: list[np.ndarray] = field(default_factory=list)
    others: list[np.ndarray] = field(default_factory=list)
    marked: list[np.ndarray] = field(default_factory=list)
    extents_known: bool = True


class LabelledImages:
    """Reference images of a view, read sample by sample in one iteration, and a record of the labels.

    Args:
        view: dataset or view with the references.
        label_field: with their labels.
        config: which labels become references.
        exif: apply the EXIF orientation of images.
        everything: also draw the labels that become no references.

    Attributes:
        seen: ids of the samples that were read.
        classes: names of the classes that were read.
        skipped: labels that cannot be used; the caller adds those that cannot be encoded.
    """

    def __init__(
        self, view: Collection, label_field: str, config: MemoryConfig, *, exif: bool, everything: bool
    ) -> None:
        self._view, self._field = view.select_fields(label_field), label_field
        self._dataset = runs.all_images(view).select_fields(label_field)
        self._names = names_of_values(view, label_field)
        self._chosen = config.classes
        self._selection = {
            "classes": config.classes,
            "masks_only": config.weak_labels == "skip",
            "exif": exif,
        }
        self._everything = everything
        self._origins: dict[tuple[str, str], str] = {}
        self.seen: set[str] = set()
        self.classes: set[str] = set()
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[LabelledImage]:
        for sample in self._view.iter_samples():
            if sample.id in self.seen:  # a view can hold a sample several times
                continue
            self.seen.add(sample.id)
            annotations = annotations_of_sample(sample, self._field, self._names)
            for each in annotations:
                self._origins[sample.id, each.label_id] = f"label {each.class_name!r} of {sample.filepath}"
                self.classes.update([each.class_name] if each.class_name else [])
            references: list[Reference] = []
            for result in references_of_sample(sample, annotations, **self._selection):
                if isinstance(result, Skipped):
                    self.skipped.append(result)
                else:
                    references.append(result)
            if references:
                image = LabelledImage(references)
                yield self._with_other_labels(image, sample.id, annotations) if self._everything else image

    def explained(self) -> list[Skipped]:
        """Skipped labels, their reasons with class and file."""
        return [
            replace(item, reason=f"{self._origins[item.sample_id, item.label_id]}: {item.reason}")
            for item in self.skipped
        ]

    def _with_other_labels(self, image: LabelledImage, sample_id: str, shown: Sequence[Annotation]) -> LabelledImage:
        """Draw the labels of an image that became no references, those that the view hides included.

        A label that the view hides may be of a class that it renames, and one without a class may be of any: both count
        as objects of the classes.
        """
        ids = {each.label_id for each in shown}
        hidden = [
            each
            for sample in self._dataset.select(sample_id).iter_samples()
            for each in annotations_of_sample(sample, self._field, self._names)
            if each.label_id not in ids
        ]
        used = {reference.label_id for reference in image.references}
        size = image.references[0].image.shape[:2]
        for number, each in enumerate([*shown, *hidden]):
            if each.label_id in used:
                used.remove(each.label_id)  # a label with the id of another one became no reference
                continue
            of_other = number < len(shown) and each.class_name is not None and not self._is_chosen(each.class_name)
            mask = _drawn(each, size)
            if of_other:
                if mask is not None and each.kind == "mask":
                    image.others.append(mask)
            elif mask is None:
                image = replace(image, extents_known=False)
            else:
                (image.marked if each.kind in ("point", "scribble") else image.labelled).append(mask)
        return image

    def _is_chosen(self, class_name: str) -> bool:
        return self._chosen is None or class_name in self._chosen


def _drawn(annotation: Annotation, size: tuple[int, int]) -> np.ndarray | None:
    """Pixels of an annotation; of its box, if its mask cannot be read; ``None`` if nothing is known of them."""
    try:
        return annotation.mask(size)
    except InvalidReference:
        if annotation.box is None:
            return None
    try:
        x, y, width, height = annotation.box(size)
    except InvalidReference:
        return None
    mask = np.zeros(size, bool)
    mask[max(0, math.floor(y)) : math.ceil(y + height), max(0, math.floor(x)) : math.ceil(x + width)] = True
    return mask
