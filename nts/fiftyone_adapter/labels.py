"""FiftyOne's labels to pixels and back: labels become references, instances become labels.

FiftyOne keeps a box as fractions of the image and a mask cropped to its box. Boxes are rounded to whole pixels here, so
that a pixel-tight box and its mask come back exactly as they went.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Literal

import fiftyone as fo
import numpy as np

from ..images import ImageError, read_image
from ..instances import Instances
from ..memory import MemoryBank
from ..pipeline import Skipped
from ..references import InvalidReference, Reference

BOXES = ("skip", "fill")
"""What to do with a label that has a box but no mask: leave it out, or take the whole box as the mask."""


def detections(sample: fo.Sample, field: str) -> list[fo.Detection]:
    """The labels in a field; none where the field is not set."""
    return sample[field].detections if sample[field] is not None else []


def detection_mask(detection: fo.Detection, image_size: tuple[int, int]) -> np.ndarray:
    """The mask of a detection on its whole image; what reaches beyond the image is cut off.

    Args:
        detection: with a mask, in the database or in a file.
        image_size: ``(H, W)`` in pixels.

    Returns:
        bool ``[H, W]``, with at least one pixel.

    Raises:
        InvalidReference: if the mask cannot be read, lies outside the image or is empty.
    """
    return _place(_read_mask(detection), detection.bounding_box, image_size)


def box_mask(detection: fo.Detection, image_size: tuple[int, int]) -> np.ndarray:
    """The whole box of a detection as a mask, bool ``[H, W]``; raises as :func:`detection_mask`."""
    return _place(np.ones((1, 1), bool), detection.bounding_box, image_size)


def references_of_sample(
    sample: fo.Sample,
    field: str,
    *,
    classes: Collection[str] | None = None,
    boxes: Literal["skip", "fill"] = "skip",
    exif: bool = True,
) -> Iterator[Reference | Skipped]:
    """The labels of one sample as references, in their order; one result for each label of ``classes``.

    The size of the image is that of the file, not that of the sample's metadata.

    Args:
        sample: with :class:`fiftyone.Detections`, or nothing, in ``field``.
        field: name of the label field.
        classes: labels of other classes are passed over; all classes without.
        boxes: see :data:`BOXES`.
        exif: turn the image as its EXIF orientation says.
    """
    labels = [label for label in detections(sample, field) if classes is None or label.label in classes]
    if not labels:
        return
    try:
        image = read_image(sample.filepath, exif=exif)
    except ImageError as error:
        for label in labels:
            yield Skipped(sample.id, label.id, str(error))
        return

    height, width = image.shape[:2]
    for label in labels:
        try:
            if not label.label:
                raise InvalidReference("it has no class")
            if not label.has_mask and boxes == "skip":
                raise InvalidReference("it has a box but no mask")
            kind: Literal["mask", "box"] = "mask" if label.has_mask else "box"
            mask = (detection_mask if label.has_mask else box_mask)(label, (height, width))
            x, y, w, h = label.bounding_box
            # Fractions do not give whole pixels back exactly, and the crop truncates: 199.9999 must not become 199.
            box = (round(x * width, 6), round(y * height, 6), round(w * width, 6), round(h * height, 6))
            yield Reference(image, label.label, mask, box, kind, sample.id, label.id)
        except InvalidReference as error:
            yield Skipped(sample.id, label.id, str(error))


def to_detections(instances: Instances, memory: MemoryBank) -> fo.Detections:
    """Instances as FiftyOne labels, by falling confidence; empty :class:`fiftyone.Detections` where there are none.

    Every detection carries its mask (cropped to the box), ``confidence`` (the score), ``similarity`` (before soft
    merging), ``margin`` (over the second best class), ``predicted_iou`` and ``reference_id``, the label id of the
    reference that it is most alike.
    """
    height, width = instances.image_size
    columns = zip(
        instances.masks.cpu().numpy(),
        instances.boxes.cpu().long().tolist(),
        instances.labels.tolist(),
        instances.scores.tolist(),
        instances.similarities.tolist(),
        instances.margins.tolist(),
        instances.predicted_iou.tolist(),
        instances.references.tolist(),
        strict=True,
    )
    return fo.Detections(
        detections=[
            fo.Detection(
                label=memory.classes[label],
                mask=mask[y1:y2, x1:x2].copy(),
                bounding_box=_fractions(x1, y1, x2, y2, width, height),
                confidence=score,
                similarity=similarity,
                margin=margin,
                predicted_iou=predicted_iou,
                reference_id=memory.entries[reference].label_id,
            )
            for mask, (x1, y1, x2, y2), label, score, similarity, margin, predicted_iou, reference in columns
        ]
    )


DETECTION_ATTRIBUTES = {
    "similarity": fo.FloatField,
    "margin": fo.FloatField,
    "predicted_iou": fo.FloatField,
    "reference_id": fo.StringField,
}
"""What :func:`to_detections` writes beside FiftyOne's own attributes."""


def _read_mask(detection: fo.Detection) -> np.ndarray:
    try:
        mask = detection.get_mask()
    except OSError as error:
        raise InvalidReference(f"its mask file {detection.mask_path} is missing or no image") from error
    if mask is None:
        raise InvalidReference("it has no mask")
    mask = np.asarray(mask)
    return (mask if mask.ndim == 2 else mask[..., 0]) != 0


def _place(mask: np.ndarray, bounding_box: list[float], image_size: tuple[int, int]) -> np.ndarray:
    """Stretch a mask (nearest) over its box, and put it on an empty image."""
    if not bounding_box:
        raise InvalidReference("it has no box")
    if not all(map(math.isfinite, bounding_box)):
        raise InvalidReference(f"its box {_short(bounding_box)} is not finite")
    if not mask.any():
        raise InvalidReference("its mask is empty")
    height, width = image_size
    x, y, w, h = bounding_box
    left, top = round(x * width), round(y * height)
    right, bottom = max(round((x + w) * width), left + 1), max(round((y + h) * height), top + 1)
    rows, columns = np.arange(max(top, 0), min(bottom, height)), np.arange(max(left, 0), min(right, width))
    if len(rows) == 0 or len(columns) == 0:
        raise InvalidReference(f"its box {_short(bounding_box)} lies outside its image")

    source_rows = ((rows - top + 0.5) * mask.shape[0] / (bottom - top)).astype(int)
    source_columns = ((columns - left + 0.5) * mask.shape[1] / (right - left)).astype(int)
    placed = np.zeros((height, width), bool)
    placed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = mask[np.ix_(source_rows, source_columns)]
    if not placed.any():
        raise InvalidReference("nothing of its mask is left on its image")
    return placed


def _fractions(x1: int, y1: int, x2: int, y2: int, width: int, height: int) -> list[float]:
    """``x, y, w, h`` as fractions of the image; rounding must not push the box over the border."""
    x, y = x1 / width, y1 / height
    return [x, y, min((x2 - x1) / width, 1 - x), min((y2 - y1) / height, 1 - y)]


def _short(box: list[float]) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in box) + "]"
