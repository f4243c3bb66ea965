"""FiftyOne's labels of every type to references: what each of them marks on its image, and of which class.

========================  =============================================================================
Detections, Detection     a mask; without one, a box
Polylines, Polyline       closed or filled, a mask (a shape inside another one is a hole); open, a scribble
Keypoints, Keypoint       one or several points; a NaN stands for a point that is not there
Segmentation              one mask for each class in it; 0 is the background, unless it has a name
========================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import fiftyone as fo
import fiftyone.core.fields as fof
import numpy as np

from ..images import ImageError, read_image
from ..pipeline import Skipped
from ..rasters import draw_strokes, fill_polygons, mark_points
from ..references import InvalidReference, Kind, Reference, contradictions
from . import runs
from .labels import box_mask, detection_mask, place_mask, read_mask

LABEL_LISTS = {fo.Detections: "detections", fo.Polylines: "polylines", fo.Keypoints: "keypoints"}
"""Types of fields that hold a list of labels, and the name of the list."""
LABEL_TYPES = (*LABEL_LISTS, fo.Detection, fo.Polyline, fo.Keypoint, fo.Segmentation)
"""Types of fields that references can come from."""

_CLASS_IN_SEGMENTATION = "/"  # stands between the id of a segmentation and the class


@dataclass(frozen=True, eq=False)
class Annotation:
    """One label, or one class in a segmentation, before its image is read.

    Attributes:
        label_id: id of the label; ``<id>/<class>`` for a class in a segmentation.
        class_name: its class, or ``None``.
        kind: the geometry.
        draw: see :meth:`mask`.
        bounding_box: as FiftyOne keeps it, if the label has one.
        problem: why the label cannot be read at all, not even its class.
    """

    label_id: str
    class_name: str | None
    kind: Kind
    draw: Callable[[tuple[int, int]], np.ndarray] | None = None
    bounding_box: list[float] | None = None
    problem: str = ""

    def mask(self, image_size: tuple[int, int]) -> np.ndarray:
        """The pixels that it marks on an image of size ``(H, W)``, bool ``[H, W]``, at least one.

        Raises:
            InvalidReference: if there are none, or they cannot be read.
        """
        if self.draw is None:
            raise InvalidReference(self.problem)
        return self.draw(image_size)


def annotations_of_sample(sample: fo.Sample, field: str, names: Mapping[int, str]) -> list[Annotation]:
    """What a field marks on its image; nothing where the field is not set.

    Args:
        sample: with a field of one of :data:`LABEL_TYPES`.
        field: its name.
        names: of the values of a segmentation, see :func:`names_of_values`.
    """
    value = sample[field]
    if value is None:
        return []
    if isinstance(value, fo.Segmentation):
        return list(_classes_of_segmentation(value, names))
    labels = value[LABEL_LISTS[type(value)]] if type(value) in LABEL_LISTS else [value]
    return [_annotation(label) for label in labels]


def names_of_values(view: runs.Collection, field: str) -> dict[int, str]:
    """Names of the values in a field's segmentations, from the dataset's mask targets; colours as ``0xRRGGBB``."""
    targets = view.mask_targets.get(field) or view.default_mask_targets or {}
    return {fof.hex_to_int(k) if isinstance(k, str) and k.startswith("#") else int(k): v for k, v in targets.items()}


def label_id_in_dataset(label_id: str) -> str:
    """The id of the FiftyOne label that a reference's label id means."""
    return label_id.partition(_CLASS_IN_SEGMENTATION)[0]


def references_of_sample(
    sample: fo.Sample,
    annotations: Sequence[Annotation],
    *,
    classes: Collection[str] | None = None,
    masks_only: bool = False,
    exif: bool = True,
) -> Iterator[Reference | Skipped]:
    """The annotations of one sample as references, in their order; one result for each of ``classes``.

    The size of the image is that of the file, not that of the sample's metadata. Labels that contradict each other are
    left out, see :func:`nts.references.contradictions`.

    Args:
        sample: with its image.
        annotations: its :func:`annotations_of_sample`.
        classes: annotations of other classes are passed over; all classes without.
        masks_only: leave out what is weaker than a mask.
        exif: turn the image as its EXIF orientation says.
    """
    if classes is not None:
        annotations = [each for each in annotations if each.class_name in classes or each.problem]
    if not annotations:
        return
    try:
        image = read_image(sample.filepath, exif=exif)
    except ImageError as error:
        for annotation in annotations:
            yield Skipped(sample.id, annotation.label_id, str(error))
        return

    results: list[Reference | Skipped] = []
    for annotation in annotations:
        try:
            results.append(_reference(annotation, image, sample.id, masks_only))
        except InvalidReference as error:
            results.append(Skipped(sample.id, annotation.label_id, str(error)))
    usable = [result for result in results if isinstance(result, Reference)]
    contradicting = {usable[k].label_id: reason for k, reason in contradictions(usable).items()}
    for result in results:
        reason = contradicting.get(result.label_id)
        yield result if reason is None else Skipped(sample.id, result.label_id, reason)


_WITHOUT_MASK: dict[Kind, str] = {
    "box": "it has a box but no mask",
    "point": "it has points but no mask",
    "scribble": "it has a scribble but no mask",
}


def _reference(annotation: Annotation, image: np.ndarray, sample_id: str, masks_only: bool) -> Reference:
    if annotation.problem:
        raise InvalidReference(annotation.problem)
    if not annotation.class_name:
        raise InvalidReference("it has no class")
    if masks_only and annotation.kind in _WITHOUT_MASK:
        raise InvalidReference(_WITHOUT_MASK[annotation.kind])
    height, width = image.shape[:2]
    mask = annotation.mask((height, width))
    box = None
    if annotation.bounding_box is not None:
        x, y, w, h = annotation.bounding_box
        # Fractions do not give whole pixels back exactly, and the crop truncates: 199.9999 must not become 199.
        box = (round(x * width, 6), round(y * height, 6), round(w * width, 6), round(h * height, 6))
    return Reference(image, annotation.class_name, mask, box, annotation.kind, sample_id, annotation.label_id)


def _annotation(label: fo.Detection | fo.Polyline | fo.Keypoint) -> Annotation:
    if isinstance(label, fo.Detection):
        kind: Kind = "mask" if label.has_mask else "box"
        draw = partial(detection_mask if label.has_mask else box_mask, label)
        return Annotation(label.id, label.label, kind, draw, label.bounding_box)
    if isinstance(label, fo.Polyline):
        kind = "mask" if label.closed or label.filled else "scribble"
        return Annotation(label.id, label.label, kind, partial(_polyline_mask, label))
    return Annotation(label.id, label.label, "point", partial(_keypoint_mask, label))


def _polyline_mask(polyline: fo.Polyline, image_size: tuple[int, int]) -> np.ndarray:
    shapes = [_pixels(shape, image_size) for shape in polyline.points or [] if shape]
    if not shapes:
        raise InvalidReference("it has no vertices")
    if not all(np.isfinite(shape).all() for shape in shapes):
        raise InvalidReference("a coordinate of it is not finite")
    if polyline.closed or polyline.filled:
        mask = fill_polygons(shapes, image_size)
        if not mask.any():  # too thin to hold the middle of a pixel
            mask = draw_strokes([np.concatenate([shape, shape[:1]]) for shape in shapes], image_size)
    else:
        mask = draw_strokes(shapes, image_size)
    if not mask.any():
        raise InvalidReference("it lies outside its image")
    return mask


def _keypoint_mask(keypoint: fo.Keypoint, image_size: tuple[int, int]) -> np.ndarray:
    points = _pixels(keypoint.points or [], image_size)
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


def _pixels(points: list, image_size: tuple[int, int]) -> np.ndarray:
    """Fractions of an image to pixels, float ``[n, 2]``. Rounded, for 1.0000000001 means the border."""
    height, width = image_size
    return np.round(np.array(points, np.float64).reshape(-1, 2) * (width, height), 6)


def _classes_of_segmentation(segmentation: fo.Segmentation, names: Mapping[int, str]) -> Iterator[Annotation]:
    """One mask for each class; values of the same name are one class. Unreadable, it is one label without a class."""
    try:
        mask = read_mask(segmentation)
        if mask.dtype.kind not in "biu":
            raise InvalidReference("its mask holds fractions, not numbers of classes")
    except InvalidReference as error:
        yield Annotation(segmentation.id, None, "mask", problem=str(error))
        return
    is_rgb = mask.ndim == 3
    values = fof.rgb_array_to_int(mask) if is_rgb else mask.astype(np.int64)
    of_class: dict[str, list[int]] = {}
    for value in np.unique(values).tolist():
        if value in names or value != 0:
            unnamed = fof.int_to_hex(value) if is_rgb else str(value)
            of_class.setdefault(names.get(value, unnamed), []).append(value)
    for name, its_values in of_class.items():
        draw = partial(place_mask, np.isin(values, its_values), [0, 0, 1, 1])
        yield Annotation(f"{segmentation.id}{_CLASS_IN_SEGMENTATION}{name}", name, "mask", draw)
