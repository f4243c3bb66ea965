"""References from FiftyOne's labels of every type: the pixels that each marks, and its class.

========================  =============================================================================
Detections, Detection     a mask; without one, a box
Polylines, Polyline       closed or filled, a mask (a shape inside another one is a hole); open, a scribble
Keypoints, Keypoint       one or several points; a NaN stands for a missing point
Segmentation              one mask for each class in it; 0 is the background, unless it has a name
========================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import fiftyone as fo
import numpy as np

from ..building import Skipped
from ..images import ImageError, read_file, read_image
from ..references import InvalidReference, Kind, Reference, contradictions
from ..utils.files import content_id
from .labels import box_pixels, class_values, keypoint_mask, label_mask, place_mask, polyline_mask

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
        box: of the label on an image of size ``(H, W)``, ``x, y, width, height`` in pixels; for labels that have one.
        problem: reason why the label, even its class, cannot be read.
    """

    label_id: str
    class_name: str | None
    kind: Kind
    draw: Callable[[tuple[int, int]], np.ndarray] | None = None
    box: Callable[[tuple[int, int]], tuple[float, float, float, float]] | None = None
    problem: str = ""

    def mask(self, image_size: tuple[int, int]) -> np.ndarray:
        """Marked pixels on an image of size ``(H, W)``, bool ``[H, W]``, at least one.

        Raises:
            InvalidReference: if there are none, or they cannot be read.
        """
        if self.draw is None:
            raise InvalidReference(self.problem)
        return self.draw(image_size)


def annotations_of_sample(sample: fo.Sample, field: str, names: Mapping[int, str]) -> list[Annotation]:
    """Annotations of one field of a sample; empty if the field is not set.

    Args:
        sample: with a field of one of :data:`LABEL_TYPES`.
        field: its name.
        names: of the values of a segmentation, see :func:`.labels.names_of_values`.
    """
    value = sample[field]
    if value is None:
        return []
    if isinstance(value, fo.Segmentation):
        return list(_classes_of_segmentation(value, names))
    labels = value[LABEL_LISTS[type(value)]] if type(value) in LABEL_LISTS else [value]
    return [_annotation(label) for label in labels]


def label_id_in_dataset(label_id: str) -> str:
    """Id of the FiftyOne label of a reference's label id."""
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
        classes: annotations of other classes are skipped; default all classes.
        masks_only: leave out annotations weaker than a mask.
        exif: apply the EXIF orientation of the image.
    """
    if classes is not None:
        annotations = [each for each in annotations if each.class_name in classes or each.problem]
    if not annotations:
        return
    try:
        content = read_file(sample.filepath)
        image = read_image(sample.filepath, exif=exif, content=content)
    except ImageError as error:
        for annotation in annotations:
            yield Skipped(sample.id, annotation.label_id, str(error))
        return

    results: list[Reference | Skipped] = []
    file = content_id(content)
    seen: set[str] = set()
    for annotation in annotations:
        try:
            if annotation.label_id in seen:
                raise InvalidReference("another label of this sample has the same id: only the first one is used")
            seen.add(annotation.label_id)
            results.append(_reference(annotation, image, sample.id, file, masks_only))
        except InvalidReference as error:
            results.append(Skipped(sample.id, annotation.label_id, str(error)))
    usable = [result for result in results if isinstance(result, Reference)]
    contradicting = {usable[k].label_id: reason for k, reason in contradictions(usable).items()}
    for result in results:
        reason = contradicting.get(result.label_id) if isinstance(result, Reference) else None
        yield result if reason is None else Skipped(sample.id, result.label_id, reason)


WITHOUT_MASK: dict[Kind, str] = {
    "box": "it has a box but no mask",
    "point": "it has points but no mask",
    "scribble": "it has a scribble but no mask",
}
"""Reason why an annotation of a kind cannot be used where a mask is needed."""


def _reference(annotation: Annotation, image: np.ndarray, sample_id: str, file: str, masks_only: bool) -> Reference:
    if annotation.problem:
        raise InvalidReference(annotation.problem)
    if not annotation.class_name:
        raise InvalidReference("it has no class")
    if masks_only and annotation.kind in WITHOUT_MASK:
        raise InvalidReference(WITHOUT_MASK[annotation.kind])
    height, width = image.shape[:2]
    mask = annotation.mask((height, width))
    box = annotation.box((height, width)) if annotation.box is not None else None
    return Reference(
        image,
        annotation.class_name,
        mask,
        box,
        annotation.kind,
        sample_id,
        annotation.label_id,
        file=file,
    )


def _annotation(label: fo.Detection | fo.Polyline | fo.Keypoint) -> Annotation:
    if isinstance(label, fo.Detection):
        kind: Kind = "mask" if label.has_mask else "box"
        return Annotation(label.id, label.label, kind, partial(label_mask, label), partial(box_pixels, label))
    if isinstance(label, fo.Polyline):
        kind = "mask" if label.closed or label.filled else "scribble"
        return Annotation(label.id, label.label, kind, partial(polyline_mask, label))
    return Annotation(label.id, label.label, "point", partial(keypoint_mask, label))


def _classes_of_segmentation(segmentation: fo.Segmentation, names: Mapping[int, str]) -> Iterator[Annotation]:
    """One mask per class; if it cannot be read, one annotation with the problem."""
    try:
        values, of_class = class_values(segmentation, names)
    except InvalidReference as error:
        yield Annotation(segmentation.id, None, "mask", problem=str(error))
        return
    for name, its_values in of_class.items():
        draw = partial(place_mask, np.isin(values, its_values), (0.0, 0.0, 1.0, 1.0))
        yield Annotation(f"{segmentation.id}{_CLASS_IN_SEGMENTATION}{name}", name, "mask", draw)
