"""Geometry of FiftyOne's labels in pixels, and instances as FiftyOne labels.

The only module that reads boxes, masks, polygons, points and segmentations of labels. Each reader returns pixels or
raises :class:`~nts.references.InvalidReference` with the reason, so that a caller can skip, count and list the label.

FiftyOne stores a box as fractions of the image and a mask cropped to its box. Boxes are rounded to whole pixels here,
so that a pixel-tight box and its mask survive the round trip exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import fiftyone as fo
import fiftyone.core.fields as fof
import numpy as np
import torch.nn.functional as F
from PIL import Image

from ..calibration import Calibration
from ..instances import Instances
from ..memory import MemoryBank
from ..rasters import binary_mask, draw_strokes, drop_axes, fill_polygons, mark_points
from ..references import InvalidReference
from .documents import Document, detections_document

VOID = 255
"""Value of pixels without a class in PASCAL VOC's segmentations."""

_LARGEST_SIDE = 2
"""Objects may reach beyond their image, but a box or polygon this many times as large as the image is in pixels."""


def detections(sample: fo.Sample, field: str) -> list[fo.Detection]:
    """Labels of a field of type Detections; empty if the field is not set."""
    return sample[field].detections if sample[field] is not None else []


def label_mask(label: fo.Detection, image_size: tuple[int, int]) -> np.ndarray:
    """Mask of a detection, or its filled box if it has none; arguments and errors as :func:`detection_mask`."""
    return (detection_mask if label.has_mask else box_mask)(label, image_size)


def detection_mask(detection: fo.Detection, image_size: tuple[int, int]) -> np.ndarray:
    """Mask of a detection on its whole image; clipped to the image.

    Args:
        detection: with a mask, in the database or in a file. :func:`nts.rasters.binary_mask` defines the foreground.
        image_size: ``(H, W)`` in pixels.

    Returns:
        bool ``[H, W]``, with at least one pixel.

    Raises:
        InvalidReference: if the mask or the box cannot be used, lies outside the image or is empty.
    """
    try:
        mask = binary_mask(read_mask(detection), channels_last=detection.mask is None)
    except InvalidReference:
        raise
    except ValueError as error:
        raise InvalidReference(f"its mask {error}") from error
    return place_mask(mask, box_fractions(detection), image_size)


def box_mask(detection: fo.Detection, image_size: tuple[int, int]) -> np.ndarray:
    """The filled box of a detection, bool ``[H, W]``; raises as :func:`detection_mask`."""
    return place_mask(np.ones((1, 1), bool), box_fractions(detection), image_size)


def box_fractions(detection: fo.Detection) -> tuple[float, float, float, float]:
    """The box of a detection: ``x, y, width, height`` as fractions of the image.

    Raises:
        InvalidReference: if it is missing, is not four finite numbers, has no area, lies outside the image, or is so
            large that it must be in pixels.
    """
    box = detection.bounding_box
    if box is None or not len(box):
        raise InvalidReference("it has no box")
    if len(box) != 4:
        raise InvalidReference(f"its box {_short(box)} has {len(box)} numbers, not 4")
    try:
        x, y, width, height = (float(side) for side in box)
    except (TypeError, ValueError) as error:
        raise InvalidReference(f"its box {_short(box)} is not four numbers") from error
    if not np.isfinite([x, y, width, height]).all():
        raise InvalidReference(f"its box {_short(box)} is not finite")
    if width <= 0 or height <= 0:
        raise InvalidReference(f"its box {_short(box)} has no area: width and height must be positive")
    if x >= 1 or y >= 1 or x + width <= 0 or y + height <= 0:
        raise InvalidReference(f"its box {_short(box)} lies outside its image")
    if max(width, height) > _LARGEST_SIDE:
        raise InvalidReference(
            f"its box {_short(box)} is larger than {_LARGEST_SIDE} times its image: boxes are fractions of the image, "
            "not pixels"
        )
    return x, y, width, height


def box_pixels(detection: fo.Detection, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box of a detection in pixels, ``x, y, width, height`` as in COCO; raises as :func:`box_fractions`."""
    height, width = image_size
    x, y, w, h = box_fractions(detection)
    # Fractions do not return whole pixels exactly: 199.9999 must not become 199, as an IoU of 0.5 can depend on it.
    return round(x * width, 6), round(y * height, 6), round(w * width, 6), round(h * height, 6)


POINT_SIDE = 0.1
"""Side of the box around a single point, as a fraction of the image."""


def label_bounds(label: fo.Detection | fo.Polyline | fo.Keypoint) -> list[float]:
    """Box around a label on its image, ``x, y, width, height`` as fractions of the image.

    A label without extent, such as a single point, gets a box of :data:`POINT_SIDE` around it.

    Raises:
        InvalidReference: if the label cannot be read, or lies outside its image.
    """
    if isinstance(label, fo.Detection):
        x, y, width, height = box_fractions(label)
        corners = np.array([[x, y], [x + width, y + height]])
    else:
        shapes = label.points or [] if isinstance(label, fo.Polyline) else [label.points or []]
        noun = "vertices" if isinstance(label, fo.Polyline) else "points"
        points = np.concatenate([np.zeros((0, 2)), *(_pixels(shape, (1, 1), noun) for shape in shapes)])
        points = points[np.isfinite(points).all(1)]
        if len(points) == 0:
            raise InvalidReference(f"it has no {noun}")
        corners = np.stack([points.min(0), points.max(0)])
        missing = np.where(corners[1] > corners[0], 0, POINT_SIDE)
        corners += np.outer([-0.5, 0.5], missing)
    corners = corners.clip(0, 1)
    if (corners[1] <= corners[0]).any():
        raise InvalidReference("it lies outside its image")
    return [*corners[0].tolist(), *(corners[1] - corners[0]).tolist()]


def polyline_mask(polyline: fo.Polyline, image_size: tuple[int, int]) -> np.ndarray:
    """Pixels of a polyline, bool ``[H, W]``: inside, if it is closed or filled, else along its lines.

    A closed shape of fewer than three different vertices encloses nothing and is dropped.

    Raises:
        InvalidReference: if there are no such pixels, or the vertices cannot be read.
    """
    shapes = [_pixels(shape, image_size, "vertices") for shape in polyline.points or [] if len(shape)]
    if not shapes:
        raise InvalidReference("it has no vertices")
    if not all(np.isfinite(shape).all() for shape in shapes):
        raise InvalidReference("a coordinate of it is not finite")
    vertices = np.concatenate(shapes)
    if (np.ptp(vertices, axis=0) > _LARGEST_SIDE * np.array(image_size[::-1])).any():
        raise InvalidReference(
            f"it is larger than {_LARGEST_SIDE} times its image: vertices are fractions of the image, not pixels"
        )
    if polyline.closed or polyline.filled:
        polygons = [shape for shape in shapes if len(np.unique(shape, axis=0)) >= 3]
        if not polygons:
            most = max(len(np.unique(shape, axis=0)) for shape in shapes)
            raise InvalidReference(f"a polygon needs three different vertices, and it has {most}")
        mask = fill_polygons(polygons, image_size)
        if not mask.any():  # too thin to hold the middle of a pixel
            mask = draw_strokes([np.concatenate([shape, shape[:1]]) for shape in polygons], image_size)
    else:
        mask = draw_strokes(shapes, image_size)
    if not mask.any():
        raise InvalidReference("it lies outside its image")
    return mask


def keypoint_mask(keypoint: fo.Keypoint, image_size: tuple[int, int]) -> np.ndarray:
    """Pixels that hold the points, bool ``[H, W]``; a NaN stands for a missing point.

    Raises:
        InvalidReference: if there are none, or they cannot be read.
    """
    points = _pixels(keypoint.points or [], image_size, "points")
    points = points[~np.isnan(points).any(1)]
    if len(points) == 0:
        raise InvalidReference("it has no points")
    if not np.isfinite(points).all():
        raise InvalidReference("a coordinate of it is not finite")
    mask = mark_points(points, image_size)
    if not mask.any():
        raise InvalidReference(
            "it lies outside its image" if len(points) == 1 else "all its points lie outside its image"
        )
    return mask


def _pixels(points: Any, image_size: tuple[int, int], noun: str) -> np.ndarray:
    """Fractions of an image to pixels, float ``[n, 2]``. Rounded, for 1.0000000001 means the border."""
    height, width = image_size
    try:
        array = np.array(points, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidReference(f"its {noun} are not pairs of numbers") from error
    if array.size == 0:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise InvalidReference(f"its {noun} are not pairs of numbers")
    return np.round(array * (width, height), 6)


def names_of_values(view: fo.core.collections.SampleCollection, name: str) -> dict[int, str]:
    """Names of the values in a field's segmentations, from the dataset's mask targets; colours as ``0xRRGGBB``."""
    targets = view.mask_targets.get(name) or view.default_mask_targets or {}
    return {fof.hex_to_int(k) if isinstance(k, str) and k.startswith("#") else int(k): v for k, v in targets.items()}


def class_values(segmentation: fo.Segmentation, names: Mapping[int, str]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Values of a segmentation's mask, and the values of each class in it.

    Values of one name are one class. 0 is background unless it has a name. Palette images are read as indices, and
    arrays of colours that are all grey or of PASCAL VOC's palette as numbers too, unless the dataset names colours. A
    value without a name is a separate class, named by its number or colour, except negative numbers and
    :data:`VOID`.

    Args:
        segmentation: with a mask in the database or in a file.
        names: by value, colours as ``0xRRGGBB``; see :func:`names_of_values`.

    Returns:
        int64 ``[h, w]``, and ``{class: values}``.

    Raises:
        InvalidReference: if the mask cannot be read.
    """
    values, in_colours = _values(segmentation, names)
    of_class: dict[str, list[int]] = {}
    for value in np.unique(values).tolist():
        if value not in names and (value <= 0 or (value == VOID and not in_colours)):
            continue
        unnamed = fof.int_to_hex(value) if in_colours else str(value)
        of_class.setdefault(names.get(value, unnamed), []).append(value)
    return values, of_class


def _values(segmentation: fo.Segmentation, names: Mapping[int, str]) -> tuple[np.ndarray, bool]:
    """Numbers or colours of a segmentation, int64 ``[h, w]``, and a flag for colours."""
    names_colours = max(names, default=0) > VOID
    if segmentation.mask is None and segmentation.mask_path and not names_colours:
        indices = _palette_indices(segmentation.mask_path)
        if indices is not None:
            return indices.astype(np.int64), False
    mask = read_mask(segmentation)
    if mask.dtype.kind not in "biuf":
        raise InvalidReference(f"its mask holds values of type {mask.dtype}, not numbers of classes")
    try:
        mask = drop_axes(mask, channels_last=segmentation.mask is None)
    except ValueError as error:
        raise InvalidReference(f"its mask {error}") from error
    if mask.size == 0:
        raise InvalidReference("its mask is empty")
    mask = _whole_numbers(mask)
    if mask.ndim == 3 and mask.shape[2] == 2:  # grey with alpha
        mask = mask[:, :, 0]
    if mask.ndim == 2:
        return mask, False
    mask = mask[:, :, :3]
    if mask.min() < 0 or mask.max() > 255:
        raise InvalidReference("its mask holds colours beyond 0 to 255")
    if not names_colours and (numbers := _numbers_of_colours(mask)) is not None:
        return numbers, False
    if names and not names_colours:
        raise InvalidReference("its mask holds colours, but the dataset's mask targets name numbers")
    return fof.rgb_array_to_int(mask.astype(np.uint8)).astype(np.int64), True


def _whole_numbers(mask: np.ndarray) -> np.ndarray:
    """A mask of numbers of any type as int64, if all of them are whole."""
    if mask.dtype.kind == "f":
        if not np.isfinite(mask).all():
            raise InvalidReference("its mask holds NaN or infinity")
        if (mask != np.round(mask)).any():
            raise InvalidReference("its mask holds fractions, not numbers of classes")
    return mask.astype(np.int64)


def _numbers_of_colours(mask: np.ndarray) -> np.ndarray | None:
    """Numbers of classes from colours ``[h, w, 3]``: grey levels or indices in VOC's palette; ``None`` for others."""
    if (mask == mask[:, :, :1]).all():
        return mask[:, :, 0]
    present, inverse = np.unique(mask.reshape(-1, 3), axis=0, return_inverse=True)
    index_of = {tuple(colour): index for index, colour in enumerate(_voc_palette().tolist())}
    indices = [index_of.get(tuple(colour)) for colour in present.tolist()]
    return None if None in indices else np.array(indices)[inverse].reshape(mask.shape[:2])


def _voc_palette() -> np.ndarray:
    """PASCAL VOC's colours, uint8 ``[256, 3]``: the bits of an index go to red, green and blue in turn."""
    indices = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((indices >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def read_mask(label: fo.Detection | fo.Segmentation) -> np.ndarray:
    """Stored mask of a label, from the database or a file.

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


def _palette_indices(path: str) -> np.ndarray | None:
    """Indices of an image with a palette; ``None`` for any other file. FiftyOne reads the palette's colours instead."""
    try:
        with Image.open(path) as image:
            return np.asarray(image) if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # for FiftyOne to read, or to refuse


def place_mask(mask: np.ndarray, box: tuple[float, float, float, float], image_size: tuple[int, int]) -> np.ndarray:
    """Resize a mask (nearest) to its box, and paste it into an empty image.

    Args:
        mask: bool ``[h, w]``.
        box: as of :func:`box_fractions`.
        image_size: ``(H, W)`` in pixels.

    Returns:
        bool ``[H, W]``, with at least one pixel.

    Raises:
        InvalidReference: if the mask is empty, or nothing of it lies on the image.
    """
    if not mask.any():
        raise InvalidReference("its mask is empty")
    height, width = image_size
    x, y, w, h = box
    left, top = round(x * width), round(y * height)
    right, bottom = max(round((x + w) * width), left + 1), max(round((y + h) * height), top + 1)
    rows, columns = np.arange(max(top, 0), min(bottom, height)), np.arange(max(left, 0), min(right, width))
    if len(rows) == 0 or len(columns) == 0:
        raise InvalidReference(f"its box {_short(box)} lies outside its image")

    source_rows = ((rows - top + 0.5) * mask.shape[0] / (bottom - top)).astype(int)
    source_columns = ((columns - left + 0.5) * mask.shape[1] / (right - left)).astype(int)
    placed = np.zeros((height, width), bool)
    placed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = mask[np.ix_(source_rows, source_columns)]
    if not placed.any():
        raise InvalidReference("nothing of its mask is left on its image")
    return placed


def to_detections(instances: Instances, memory: MemoryBank, calibration: Calibration | None = None) -> fo.Detections:
    """Instances as FiftyOne labels, by falling confidence; empty :class:`fiftyone.Detections` for none.

    Every detection carries its mask (cropped to the box), ``score``, ``confidence`` (the probability that the
    calibration gives to the score, or else the score), ``similarity`` (the similarity before merging: a cosine, or the
    score of another scorer), ``margin`` (over the second best class), ``predicted_iou``, ``reference_id``, the label id
    of the nearest reference, ``feature`` (half precision ``[C]``, of length 1: what was compared with the references),
    and ``written``, the :func:`label_digest`.
    """
    rows = _values_of_detections(instances, memory, calibration)
    return fo.Detections(detections=[fo.Detection(**values) for values in rows])


def to_document(instances: Instances, memory: MemoryBank, calibration: Calibration | None = None) -> Document:
    """The document of :func:`to_detections`, made without FiftyOne's objects."""
    return detections_document(_values_of_detections(instances, memory, calibration))


def _values_of_detections(
    instances: Instances, memory: MemoryBank, calibration: Calibration | None
) -> list[dict[str, Any]]:
    """Arguments of :class:`fiftyone.Detection` for each instance, see :func:`to_detections`."""
    boxes = _fractions(instances.boxes.cpu().long().numpy(), instances.image_size)
    # In double precision, so that different scores have different probabilities: an evaluation ranks by them.
    scores = instances.scores.cpu().double()
    columns = zip(
        instances.crops,
        boxes.tolist(),
        np.round(boxes, _DIGITS),
        instances.labels.tolist(),
        scores.tolist(),
        (scores if calibration is None else calibration.probabilities(scores)).tolist(),
        instances.similarities.tolist(),
        instances.margins.tolist(),
        instances.predicted_iou.tolist(),
        instances.references.tolist(),
        F.normalize(instances.compared.float(), dim=1).half().cpu().numpy(),
        strict=True,
    )
    return [
        {
            "label": (name := memory.classes[label]),
            "bounding_box": box,
            # The App refuses masks in column-major order.
            "mask": (mask := np.ascontiguousarray(crop.numpy())),
            "confidence": confidence,
            "written": _digest(name, rounded.tobytes(), mask),
            "score": score,
            "similarity": similarity,
            "margin": margin,
            "predicted_iou": predicted_iou,
            "reference_id": memory.entries[reference].label_id,
            "feature": feature,
        }
        for (
            crop,
            box,
            rounded,
            label,
            score,
            confidence,
            similarity,
            margin,
            predicted_iou,
            reference,
            feature,
        ) in columns
    ]


DETECTION_ATTRIBUTES = {
    "score": fo.FloatField,
    "similarity": fo.FloatField,
    "margin": fo.FloatField,
    "predicted_iou": fo.FloatField,
    "reference_id": fo.StringField,
    "feature": fo.VectorField,
    "written": fo.StringField,
}
"""Attributes that :func:`to_detections` writes beside FiftyOne's own."""


def label_digest(label: str | None, box: Sequence[float] | None, mask: np.ndarray | None) -> str:
    """Digest of what a person can change about a detection: class, box and mask, whatever they are by now."""
    try:
        numbers = np.round(np.asarray(box, np.float64), _DIGITS).tobytes()
    except (TypeError, ValueError):
        numbers = repr(box).encode()
    return _digest(label or "", numbers, mask)


_DIGITS = 9
"""Digits of the sides of a box that count."""


def _digest(label: str, box: bytes, mask: np.ndarray | None) -> str:
    digest = hashlib.blake2b(label.encode() + box, digest_size=8)
    if mask is not None:
        digest.update(repr(mask.shape).encode())
        digest.update(np.packbits(mask if mask.dtype == bool else mask != 0))
    return digest.hexdigest()


def _fractions(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """``x, y, w, h`` as fractions of the image, float64 ``[n, 4]``, of boxes ``x1, y1, x2, y2`` in pixels."""
    size = np.array(image_size[::-1])
    corners, sides = boxes[:, :2] / size, (boxes[:, 2:] - boxes[:, :2]) / size
    # Rounding must not push the box over the border.
    return np.concatenate([corners, np.minimum(sides, 1 - corners)], 1)


def _short(box: Any) -> str:
    return "[" + ", ".join(f"{side:.3g}" if isinstance(side, int | float) else str(side) for side in box) + "]"
