"""FiftyOne views as COCO dictionaries, the input of the metrics."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from pycocotools import mask as coco_mask

from ..images import ImageError, image_size
from ..metrics.crowds import is_crowd
from ..references import InvalidReference
from .checks import InputError
from .labels import box_pixels, detections, label_mask
from .runs import DECISION, REFUSED


@dataclass
class CocoData:
    """Ground truth and predictions of samples as COCO dictionaries; :meth:`add` one sample after the other.

    An image's id is that of its sample, so that evaluations of other views can be compared. Category ids count from 1,
    in the order of ``classes`` and then ``distractors``. Labels of other classes are skipped.

    Attributes:
        classes: names of the classes to evaluate.
        distractors: names of classes whose ground truth is included: predictions on them are no background.
        ground_truth: a COCO dataset; annotations carry the ``label_id`` of their label.
        results: COCO results of ``classes``, with their ``label_id``.
        without_mask: number of labels of each field with a box but no mask; the filled box replaces the mask, and the
            AP of masks means nothing then.
        unplaced: problems of samples and labels that could not be placed on their image.
        without_predictions: samples whose prediction field is not set (an empty one is).
        rejected: predictions that a person has rejected; they are left out.
        stale_metadata: samples whose metadata have another size than their file; the file's is used.
    """

    classes: Sequence[str]
    distractors: Sequence[str] = ()
    ground_truth: dict = field(init=False)
    results: list[dict] = field(default_factory=list)
    without_mask: dict[str, int] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    without_predictions: int = 0
    rejected: int = 0
    stale_metadata: int = 0

    def __post_init__(self) -> None:
        self.category_ids = {name: k for k, name in enumerate([*self.classes, *self.distractors], start=1)}
        categories = [{"id": k, "name": name} for name, k in self.category_ids.items()]
        self.ground_truth = {"images": [], "annotations": [], "categories": categories}

    @property
    def images(self) -> int:
        """Number of samples."""
        return len(self.ground_truth["images"])

    def ids_of(self, classes: Sequence[str]) -> list[int]:
        """Category ids of classes."""
        return [self.category_ids[name] for name in classes]

    def add(
        self, sample: fo.Sample, predictions_field: str, ground_truth_field: str, crowd: str | None = "iscrowd"
    ) -> None:
        """Add one sample; ``crowd`` is the attribute that marks a crowd, which is neither to be found nor a mistake.

        Predictions that a person has rejected are left out, see :mod:`.decisions`. A label that a person has drawn
        among the predictions has no confidence and counts as certain.

        Raises:
            InputError: if a prediction has no confidence, or one that is not finite.
        """
        size = self.add_image(sample)
        if size is None:
            return
        for label, shape in self.shapes(sample, ground_truth_field, self.category_ids, size):
            self.add_annotation(label, shape, crowd)
        if sample[predictions_field] is None:
            self.without_predictions += 1
        for label, shape in self.shapes(sample, predictions_field, self.classes, size):
            decision = label.get_attribute_value(DECISION, None)
            if decision in REFUSED:
                self.rejected += 1
                continue
            if decision is not None and label.confidence is None:  # drawn by the person who decided
                self.results.append({"score": 1.0, "label_id": label.id, **shape})
                continue
            if label.confidence is None or not math.isfinite(label.confidence):
                found = "no confidence" if label.confidence is None else f"the confidence {label.confidence}"
                raise InputError(
                    f"a prediction {label.label!r} in field {predictions_field!r} of {sample.filepath} has {found}: "
                    "predictions need a finite confidence to be evaluated; correct or delete it"
                )
            self.results.append({"score": label.confidence, "label_id": label.id, **shape})

    def add_image(self, sample: fo.Sample, **more: Any) -> tuple[int, int] | None:
        """Add the image of a sample; returns its size ``(H, W)``, or ``None`` if it cannot be read.

        The size is that of the file in its EXIF orientation, or, if the file is gone, that of the metadata.
        """
        metadata = sample.metadata
        known = (metadata.height, metadata.width) if metadata and metadata.width and metadata.height else None
        try:
            size = image_size(sample.filepath)
        except ImageError as error:
            if known is None or Path(sample.filepath).exists():
                self.unplaced.append(str(error))
                return None
            size = known
        self.stale_metadata += known is not None and known != size
        self.ground_truth["images"].append({"id": sample.id, "width": size[1], "height": size[0], **more})
        return size

    def add_annotation(self, label: fo.Detection, shape: dict[str, Any], crowd: str | None) -> dict[str, Any]:
        """Add an object of :meth:`shapes`; returns its annotation."""
        annotations = self.ground_truth["annotations"]
        in_crowd = crowd is not None and is_crowd(label.get_attribute_value(crowd, False))
        annotations.append({"id": len(annotations) + 1, "iscrowd": int(in_crowd), "label_id": label.id, **shape})
        return annotations[-1]

    def crowds(self) -> dict[str, tuple[int, int]]:
        """Numbers of crowds and of all objects for every evaluated class that has crowds."""
        found: dict[str, tuple[int, int]] = {}
        for name in self.classes:
            of_class = [a for a in self.ground_truth["annotations"] if a["category_id"] == self.category_ids[name]]
            if crowds := sum(annotation["iscrowd"] for annotation in of_class):
                found[name] = crowds, len(of_class)
        return found

    def shapes(
        self, sample: fo.Sample, name: str, classes: Container[str], size: tuple[int, int]
    ) -> Iterator[tuple[fo.Detection, dict[str, Any]]]:
        """Yield every label of some classes, with its image, category, box, area and mask."""
        seen = set[str]()
        for label in detections(sample, name):
            if label.label and label.label not in classes:
                continue
            try:
                if not label.label:
                    raise InvalidReference("it has no class")
                if label.id in seen:
                    raise InvalidReference("another label of this sample has the same id: only the first one is used")
                seen.add(label.id)
                mask, box = label_mask(label, size), box_pixels(label, size)
            except InvalidReference as error:
                self.unplaced.append(f"label {label.label!r} in field {name!r} of {sample.filepath}: {error}")
                continue
            if not label.has_mask and label.label in self.classes:
                self.without_mask[name] = self.without_mask.get(name, 0) + 1
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            yield (
                label,
                {
                    "image_id": sample.id,
                    "category_id": self.category_ids[label.label],
                    "bbox": list(box),
                    "area": int(mask.sum()),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                },
            )
