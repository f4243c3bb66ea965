"""Pixels of COCO records: the image of an entry of ``images``, and the mask of an annotation."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from pycocotools import mask as coco_mask

from ..images import ImageError, read_image
from ..metrics.matches import to_rle
from ..references import InvalidReference


def has_mask(annotation: Mapping) -> bool:
    """Return whether a COCO annotation has a mask: non-empty polygons or RLE."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return bool(segmentation.get("counts"))
    return any(segmentation) if isinstance(segmentation, list) else bool(segmentation)


def of_images(dataset: dict, image_ids: Collection[int | str]) -> dict:
    """The part of a COCO dataset that is about some images, with all categories."""
    wanted = set(image_ids)
    return {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] in wanted],
        "annotations": [annotation for annotation in dataset["annotations"] if annotation["image_id"] in wanted],
    }


def read_annotated_image(record: Mapping, *, exif: bool = True) -> np.ndarray:
    """Read the image of a record with ``path``, ``width`` and ``height``: uint8 ``[H, W, 3]``.

    Raises:
        ImageError: if the file cannot be read, or differs in size from the record.
    """
    image = read_image(record["path"], exif=exif)
    check_size(record, (image.shape[0], image.shape[1]))
    return image


def check_size(record: Mapping, image_size: tuple[int, int]) -> None:
    """Raise ``ImageError`` if an image of the size ``(H, W)`` differs in it from its record."""
    height, width = image_size
    if (height, width) != (record["height"], record["width"]):
        raise ImageError(
            f"the image {record['path']} has {width} x {height} pixels, but its annotations are for "
            f"{record['width']} x {record['height']}"
        )


def mask_of_annotation(annotation: Mapping, height: int, width: int) -> np.ndarray:
    """Decode the segmentation of an annotation, polygons or RLE: bool ``[H, W]``.

    Raises:
        InvalidReference: if there is no segmentation, or it has another size.
    """
    segmentation = annotation.get("segmentation")
    if not has_mask(annotation):
        raise InvalidReference(f"annotation {annotation.get('id')!r} has no segmentation")
    rle = to_rle(segmentation, (height, width), annotation.get("image_id", ""))
    mask = coco_mask.decode(rle).astype(bool)
    if mask.shape != (height, width):
        raise InvalidReference(
            f"the segmentation of annotation {annotation.get('id')!r} has {mask.shape[1]} x {mask.shape[0]} pixels, "
            f"its image {width} x {height}"
        )
    return mask
