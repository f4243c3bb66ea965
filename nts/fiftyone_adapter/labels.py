"""FiftyOne's detections to pixels, and instances to detections.

FiftyOne keeps a box as fractions of the image and a mask cropped to its box. Boxes are rounded to whole pixels here, so
that a pixel-tight box and its mask come back exactly as they went.
"""

from __future__ import annotations

import math

import fiftyone as fo
import numpy as np

from ..instances import Instances
from ..memory import MemoryBank
from ..references import InvalidReference


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
    mask = read_mask(detection)
    mask = (mask if mask.ndim == 2 else mask[..., 0]) != 0
    return place_mask(mask, detection.bounding_box, image_size)


def box_mask(detection: fo.Detection, image_size: tuple[int, int]) -> np.ndarray:
    """The whole box of a detection as a mask, bool ``[H, W]``; raises as :func:`detection_mask`."""
    return place_mask(np.ones((1, 1), bool), detection.bounding_box, image_size)


def to_detections(instances: Instances, memory: MemoryBank) -> fo.Detections:
    """Instances as FiftyOne labels, by falling confidence; empty :class:`fiftyone.Detections` where there are none.

    Every detection carries its mask (cropped to the box), ``confidence`` (the score), ``similarity`` (the score before
    soft merging: a cosine, or what the scorer has in its place), ``margin`` (over the second best class),
    ``predicted_iou`` and ``reference_id``, the label id of the reference that it is most alike.
    """
    height, width = instances.image_size
    columns = zip(
        instances.crops,
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
                # The App refuses masks that are kept column by column.
                mask=np.ascontiguousarray(crop.cpu().numpy()),
                bounding_box=_fractions(x1, y1, x2, y2, width, height),
                confidence=score,
                similarity=similarity,
                margin=margin,
                predicted_iou=predicted_iou,
                reference_id=memory.entries[reference].label_id,
            )
            for crop, (x1, y1, x2, y2), label, score, similarity, margin, predicted_iou, reference in columns
        ]
    )


DETECTION_ATTRIBUTES = {
    "similarity": fo.FloatField,
    "margin": fo.FloatField,
    "predicted_iou": fo.FloatField,
    "reference_id": fo.StringField,
}
"""What :func:`to_detections` writes beside FiftyOne's own attributes."""


def read_mask(label: fo.Detection | fo.Segmentation) -> np.ndarray:
    """The mask of a label as it is kept, in the database or in a file: ``[h, w]`` or, in colours, ``[h, w, 3 or 4]``.

    Raises:
        InvalidReference: if there is none, or its file cannot be read.
    """
    try:
        mask = label.get_mask()
    except OSError as error:
        raise InvalidReference(f"its mask file {label.mask_path} is missing or no image") from error
    if mask is None:
        raise InvalidReference("it has no mask")
    return np.asarray(mask)


def place_mask(mask: np.ndarray, bounding_box: list[float], image_size: tuple[int, int]) -> np.ndarray:
    """Stretch a mask (nearest) over its box, and put it on an empty image; raises as :func:`detection_mask`."""
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
