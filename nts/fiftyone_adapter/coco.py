"""FiftyOne views to COCO's dictionaries, the terms in which predictions are evaluated."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
import numpy as np
from pycocotools import mask as coco_mask

from ..references import InvalidReference
from .checks import InputError
from .labels import box_mask, detection_mask, detections


@dataclass
class CocoData:
    """Ground truth and predictions of some samples, in COCO's terms; :meth:`add` one sample after the other.

    An image's id is that of its sample, so that evaluations of other views can be compared. Category ids count from 1,
    in the order of ``classes`` and then ``distractors``. Labels of other classes are not taken.

    Attributes:
        classes: names of the classes to evaluate.
        distractors: names of classes whose ground truth is taken, too: what is found there is no background.
        ground_truth: a COCO dataset; annotations carry the ``label_id`` of their label.
        results: COCO results of ``classes``, with their ``label_id``.
        without_mask: how many labels of each field have a box but no mask; their box is put in its place, and the AP
            of masks means nothing then.
        unplaced: what is wrong with samples and labels that could not be placed on their image.
        without_predictions: samples whose prediction field is not set (an empty one is).
    """

    classes: Sequence[str]
    distractors: Sequence[str] = ()
    ground_truth: dict = field(init=False)
    results: list[dict] = field(default_factory=list)
    without_mask: dict[str, int] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    without_predictions: int = 0

    def __post_init__(self) -> None:
        self.category_ids = {name: k for k, name in enumerate([*self.classes, *self.distractors], start=1)}
        categories = [{"id": k, "name": name} for name, k in self.category_ids.items()]
        self.ground_truth = {"images": [], "annotations": [], "categories": categories}

    @property
    def images(self) -> int:
        """How many samples were taken."""
        return len(self.ground_truth["images"])

    def ids_of(self, classes: Sequence[str]) -> list[int]:
        """Category ids of classes."""
        return [self.category_ids[name] for name in classes]

    def add(self, sample: fo.Sample, predictions_field: str, ground_truth_field: str, crowd: str = "iscrowd") -> None:
        """Take one sample; ``crowd`` is the attribute that marks a crowd, which is neither to be found nor a mistake.

        Raises:
            InputError: if a prediction has no confidence, or one that is not finite.
        """
        try:
            width, height = size_of_sample(sample)
        except OSError as error:
            self.unplaced.append(f"{sample.filepath}: the size of the image cannot be read ({error})")
            return
        annotations = self.ground_truth["annotations"]
        self.ground_truth["images"].append({"id": sample.id, "width": width, "height": height})

        for label, shape in self.shapes(sample, ground_truth_field, self.category_ids, (height, width)):
            is_crowd = int(bool(label.get_attribute_value(crowd, False)))
            annotations.append({"id": len(annotations) + 1, "iscrowd": is_crowd, "label_id": label.id, **shape})

        if sample[predictions_field] is None:
            self.without_predictions += 1
        for label, shape in self.shapes(sample, predictions_field, self.classes, (height, width)):
            if label.confidence is None or not math.isfinite(label.confidence):
                found = "no confidence" if label.confidence is None else f"the confidence {label.confidence}"
                raise InputError(
                    f"a prediction {label.label!r} in field {predictions_field!r} of {sample.filepath} has {found}: "
                    "predictions need a finite confidence to be evaluated; correct or delete it"
                )
            self.results.append({"score": label.confidence, "label_id": label.id, **shape})

    def shapes(self, sample: fo.Sample, name: str, classes: Container[str], image_size: tuple[int, int]):
        """Yield every label of some classes, with its image, category, box, area and mask."""
        height, width = image_size
        for label in detections(sample, name):
            if label.label not in classes:
                continue
            try:
                mask = (detection_mask if label.has_mask else box_mask)(label, image_size)
            except InvalidReference as error:
                self.unplaced.append(f"label {label.label!r} in field {name!r} of {sample.filepath}: {error}")
                continue
            if not label.has_mask and label.label in self.classes:
                self.without_mask[name] = self.without_mask.get(name, 0) + 1
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            x, y, w, h = label.bounding_box
            yield (
                label,
                {
                    "image_id": sample.id,
                    "category_id": self.category_ids[label.label],
                    # Fractions of the image do not give whole pixels back exactly, and an IoU of 0.5 hangs on that.
                    "bbox": [round(x * width, 6), round(y * height, 6), round(w * width, 6), round(h * height, 6)],
                    "area": int(mask.sum()),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                },
            )


def size_of_sample(sample: fo.Sample) -> tuple[int, int]:
    """``(width, height)`` of an image as viewers show it, from the sample's metadata or the file's header."""
    metadata = sample.metadata
    if metadata is None or not metadata.width or not metadata.height:
        metadata = fo.ImageMetadata.build_for(sample.filepath)
    return metadata.width, metadata.height
