"""Repair of COCO datasets from exporters that deviate from the format.

Unambiguous deviations are repaired, and unusable annotations or images are left out; notes report both. Anything else
is a :class:`LayoutError`, before a model runs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..images import ImageError, image_size
from ..metrics.crowds import is_crowd
from ..metrics.matches import to_rle
from .coco_records import has_mask

_LISTED = 5
_FAR = 10
"""Polygons that extend beyond this multiple of the image's side are damaged, and slow to draw."""


class LayoutError(ValueError):
    """A data set that does not follow its layout. The message names the file and the required layout."""


def check_structure(dataset: Any, where: str) -> None:
    """Check that parsed JSON has the parts of a COCO dataset.

    Args:
        dataset: of any type.
        where: name in messages.

    Raises:
        LayoutError: if a part is missing or of the wrong type.
    """
    if not isinstance(dataset, dict):
        hint = ", as a file of results is" if isinstance(dataset, list) else ""
        raise LayoutError(f"{where} is not a COCO data set: it is a {type(dataset).__name__}{hint}, not an object")
    if missing := [key for key in ("images", "annotations", "categories") if key not in dataset]:
        hint = ": a test set whose annotations are not public cannot be used" if missing == ["annotations"] else ""
        raise LayoutError(f"{where} is not a COCO data set: it lacks {', '.join(missing)}{hint}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(dataset[key], list):
            raise LayoutError(f"{where} is not a COCO data set: {key!r} must be a list, not {_type_name(dataset[key])}")
    for key in ("images", "categories"):
        for number, item in enumerate(dataset[key], start=1):
            if not isinstance(item, dict):
                raise LayoutError(f"entry {number} of {key!r} of {where} must be an object, and is {_type_name(item)}")
            if item.get("id") is None:
                name = item.get("file_name", item.get("name"))
                raise LayoutError(f"entry {number} of {key!r} of {where} ({name!r}) has no id")


def unify_ids(dataset: dict, where: str) -> list[str]:
    """Make the ids of images, categories and annotations comparable, and return notes on repairs.

    Some exporters write ``1`` in one place and ``"1"`` in another. Category ids become integers, image ids do not
    change, and annotations are adapted to both.

    Raises:
        LayoutError: if ids are missing, repeated, or of another type.
    """
    for image in dataset["images"]:
        if (image_id := _plain_id(image["id"])) is None:
            raise LayoutError(f"an image of the {where} has the id {image['id']!r}: it must be an integer or text")
        image["id"] = image_id
    _check_unique([image["id"] for image in dataset["images"]], f"images of the {where}")
    for category in dataset["categories"]:
        category_id = _plain_id(category["id"])
        if isinstance(category_id, str) and re.fullmatch(r"\s*-?\d+\s*", category_id):
            category_id = int(category_id)
        if not isinstance(category_id, int):
            raise LayoutError(f"a category of the {where} has the id {category['id']!r}: it must be an integer")
        if not isinstance(category.get("name"), str | int | float):
            raise LayoutError(f"category {category_id} of the {where} has no name")
        category["id"], category["name"] = category_id, str(category["name"])

    repaired: Counter[str] = Counter()
    targets = {"image_id": dataset["images"], "category_id": dataset["categories"]}
    known = {key: {item["id"] for item in items} for key, items in targets.items()}
    by_text = {key: _by_text(ids) for key, ids in known.items()}
    for annotation in dataset["annotations"]:
        if not isinstance(annotation, dict):
            continue
        for key in targets:
            value = _plain_id(annotation.get(key))
            if value is not None and value not in known[key]:
                value = by_text[key].get(str(value).strip(), value)
                repaired[key] += value in known[key]
            if value is not None:
                annotation[key] = value
    return [
        f"{count} annotations of the {where} give their {key} as text where the {key.split('_')[0]} has a number, or "
        "the other way round: they were taken for the same."
        for key, count in repaired.items()
        if count
    ]


def complete(dataset: dict, where: str, *, strict: bool = False, crowds_as_objects: bool = False) -> list[str]:
    """Fill in values that evaluators require, and return notes on entries that were left out.

    Afterwards every image has a size, and every annotation has a unique id other than 0 (for pycocotools a match with
    annotation 0 is none), a box, an area, and ``iscrowd`` of 0 or 1. It has a ``segmentation`` only if it has a mask.

    Args:
        dataset: checked by :func:`check_structure` and :func:`unify_ids`; changed in place.
        where: ``"references"`` or ``"targets"``.
        strict: for a published data set: an unreadable file is an error, and no usable annotation is left out, since
            draws of references depend on all of them.
        crowds_as_objects: treat crowds as ordinary objects.

    Raises:
        LayoutError: if the size of an image is unknown (``strict``), or boxes are not in pixels.
    """
    notes = _complete_images(dataset, where, strict)
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}
    if not strict:
        _check_pixels(dataset["annotations"], sizes, where)
    fit, faults, doubtful = [], [], 0
    for number, annotation in enumerate(dataset["annotations"], start=1):
        if not isinstance(annotation, dict):
            faults.append(f"annotation number {number}: it is {_type_name(annotation)}, not an object")
        elif fault := _mend(annotation, sizes, categories, strict):
            faults.append(f"annotation {annotation.get('id', f'number {number}')}: {fault}")
        else:
            doubtful += not strict and not _box_fits(annotation, sizes[annotation["image_id"]])
            fit.append(annotation)
    if faults:
        notes.append(f"Annotations of the {where} that were left out: {len(faults)} ({_some(faults)}).")
    if doubtful:
        notes.append(
            f"{doubtful} boxes of the {where} do not fit their masks or reach beyond their images: boxes must be x, y, "
            "width, height in pixels."
        )
    fit, repeated = _without_copies(fit)
    if repeated:
        notes.append(f"Annotations of the {where} that were left out because they are there twice: {repeated}.")
    # Ids name references as text.
    ids = {str(annotation.get("id")) for annotation in fit}
    if len(ids) < len(fit) or ids & {"0", "None"} or not all(isinstance(a.get("id"), int | str) for a in fit):
        for number, annotation in enumerate(fit, start=1):
            annotation["id"] = number
    for annotation in fit:
        annotation["iscrowd"] = int(not crowds_as_objects and is_crowd(annotation.get("iscrowd")))
    dataset["annotations"] = fit
    return notes


# ----------------------------------------------------------------------------------------------------------------------
# Images


def _complete_images(dataset: dict, where: str, strict: bool) -> list[str]:
    unknown: dict[int | str, str] = {}
    for image in dataset["images"]:
        size = _side(image.get("width")), _side(image.get("height"))
        try:
            image["width"], image["height"] = size if None not in size else _size_of_file(image)
        except LayoutError as error:
            if strict:
                raise
            unknown[image["id"]] = str(error)
    if not unknown:
        return []
    dataset["images"] = [image for image in dataset["images"] if image["id"] not in unknown]
    of_known = [a for a in dataset["annotations"] if not isinstance(a, dict) or a.get("image_id") not in unknown]
    count = len(dataset["annotations"]) - len(of_known)
    dataset["annotations"] = of_known
    return [
        f"Images of the {where} that were left out, with their {count} annotations: {len(unknown)} "
        f"({_some(list(unknown.values()))})."
    ]


def _side(value: Any) -> int | None:
    """Width or height in pixels; ``None`` for an invalid value."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value >= 1 and value == int(value) else None


def _size_of_file(image: Mapping) -> tuple[int, int]:
    """Size ``(W, H)`` of an image from its file."""
    name = f"the image {image['id']!r} has no width and height in the data set"
    if "path" not in image:
        raise LayoutError(name)
    try:
        height, width = image_size(image["path"])
        turned = (height, width) != image_size(image["path"], exif=False)
    except ImageError as error:
        raise LayoutError(f"{name}, and its file cannot be read: {error}") from error
    if turned:
        raise LayoutError(
            f"{name}, and {image['path']} is turned by EXIF, so that either side may be its width: write both into "
            "the data set, as its annotations count them"
        )
    return width, height


# ----------------------------------------------------------------------------------------------------------------------
# Annotations


def _mend(annotation: dict, sizes: Mapping[Any, tuple[int, int]], categories: set[int], strict: bool) -> str:
    """Repair an annotation in place, and return the fault that makes it unusable, if any."""
    image_id, category_id = _plain_id(annotation.get("image_id")), _plain_id(annotation.get("category_id"))
    if image_id is None or image_id not in sizes:
        return f"there is no image {annotation.get('image_id')!r}"
    if annotation.get("category_id") is None:
        return "it has no category_id"
    if category_id is None or category_id not in categories:
        return f"there is no category {annotation['category_id']!r}"
    size, box = sizes[image_id], annotation.get("bbox")
    if isinstance(annotation.get("segmentation"), list):
        annotation["segmentation"] = _closed_polygons(annotation["segmentation"])
    if not has_mask(annotation):
        annotation.pop("segmentation", None)
    elif fault := _fault_of_mask(annotation["segmentation"], size, strict):
        return fault
    elif not strict and not int(coco_mask.area(to_rle(annotation["segmentation"], size, image_id))):
        del annotation["segmentation"]  # no pixel of it lies within the image
    elif isinstance(annotation["segmentation"], dict):
        annotation["segmentation"] = {**annotation["segmentation"], "size": list(size)}
    fault = "it has neither box nor mask" if not box else _fault_of_box(box, size, strict)
    if fault and not (has_mask(annotation) and (not box or not strict)):
        return fault
    if fault:
        annotation.pop("bbox", None)
    if not _is_area(annotation.get("area"), strict):
        annotation.pop("area", None)
    if "area" not in annotation or "bbox" not in annotation:
        _measure(annotation, size)
    return ""


def _measure(annotation: dict, size: tuple[int, int]) -> None:
    """Fill in box and area, from the mask if there is one."""
    rle = to_rle(annotation["segmentation"], size, annotation["image_id"]) if has_mask(annotation) else None
    if "bbox" not in annotation:
        annotation["bbox"] = coco_mask.toBbox(rle).tolist()
    if "area" not in annotation:
        _, _, width, height = annotation["bbox"]
        annotation["area"] = width * height if rle is None else int(coco_mask.area(rle))


def _closed_polygons(polygons: list) -> list:
    """Polygons of at least three points. A single polygon may lack the outer list.

    pycocotools reads four numbers, a polygon of two points, as a box.
    """
    if polygons and all(_is_number(value) for value in polygons):
        polygons = [polygons]
    return [polygon for polygon in polygons if not isinstance(polygon, list) or len(polygon) >= 6]


def _fault_of_mask(segmentation: Any, size: tuple[int, int], strict: bool) -> str:
    if isinstance(segmentation, dict):
        return _fault_of_runs(segmentation, size)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return "its segmentation is neither a list of polygons nor a run-length code"
    try:
        if not math.isfinite(sum(map(sum, segmentation))):
            return "its polygons are not finite"
    except TypeError:
        return "its polygons have coordinates that are not numbers"
    if any(len(polygon) % 2 for polygon in segmentation):
        return "a polygon has an odd number of coordinates"
    far = _FAR * max(size)
    if not strict and any(max(polygon) > far or min(polygon) < -far for polygon in segmentation):
        return "its polygons reach far beyond the image"
    return ""


def _fault_of_runs(segmentation: Mapping, size: tuple[int, int]) -> str:
    height, width = size
    of = segmentation.get("size")
    if not isinstance(of, list | tuple) or list(of) != [height, width]:
        return f"its mask is of (height, width) {of}, its image of {[height, width]}"
    runs = run_lengths(segmentation["counts"])
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        return "the runs of its mask do not make up its image"
    return ""


def run_lengths(counts: Any) -> np.ndarray | None:
    """Run lengths of a COCO mask, compressed or not: int64 ``[n]``; ``None`` if they are invalid.

    pycocotools does not check compressed runs, and accesses memory beyond the mask if they do not fit.
    """
    if isinstance(counts, list):
        values = np.array(counts, np.float64) if all(map(_is_number, counts)) else np.array([math.nan])
        return values.astype(np.int64) if (values == np.rint(values)).all() and np.isfinite(values).all() else None
    if isinstance(counts, str):
        if not counts.isascii():
            return None
        counts = counts.encode()
    if not isinstance(counts, bytes):
        return None
    # Every number is a sequence of characters with 5 bits each, lowest first, and a continuation bit. All but the first
    # three numbers are differences from the last but one.
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((characters & 32) == 0)
    if len(characters) == 0 or (characters < 0).any() or (characters > 63).any() or last[-1:] != len(characters) - 1:
        return None
    starts = np.append(0, last[:-1] + 1)
    lengths = last - starts + 1
    if lengths.max() > 7:
        return None
    shift = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((characters & 31) << shift, starts)
    numbers -= np.where(characters[last] & 16, 1 << (5 * lengths), 0)
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return runs


def _fault_of_box(box: Any, size: tuple[int, int], strict: bool) -> str:
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_number(v) and math.isfinite(v) for v in box):
        return f"its box {box} is not four finite numbers"
    x, y, width, height = box
    if strict:
        return ""
    if width <= 0 or height <= 0:
        return f"its box {box} has no area (it must be x, y, width, height)"
    if x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0:
        return f"its box {box} lies outside of its image of {size[1]} x {size[0]} pixels"
    return ""


def _is_area(value: Any, strict: bool) -> bool:
    if strict:
        return value is not None
    return _is_number(value) and math.isfinite(value) and value > 0


def _box_fits(annotation: dict, size: tuple[int, int]) -> bool:
    """Return whether a box roughly matches its mask, or lies within its image if there is no mask."""
    x, y, width, height = annotation["bbox"]
    if not has_mask(annotation):
        return x + width <= size[1] + 1 and y + height <= size[0] + 1
    own = coco_mask.toBbox(to_rle(annotation["segmentation"], size, annotation["image_id"]))
    return float(coco_mask.iou([annotation["bbox"]], [own.tolist()], [0])[0, 0]) >= 0.5


def _check_pixels(annotations: Sequence[Any], sizes: Mapping[Any, tuple[int, int]], where: str) -> None:
    """Refuse boxes relative to the image: each would be less than a pixel, and every figure 0."""
    boxes = [a["bbox"] for a in annotations if isinstance(a, dict) and not _fault_of_box(a.get("bbox"), (1, 1), True)]
    if not boxes or max(max(size) for size in sizes.values() or [(1, 1)]) < 8:
        return
    x, y, width, height = np.array(boxes, np.float64).T
    if max((x + width).max(), (y + height).max()) <= 1.001 and (width < 1).any():
        raise LayoutError(
            f"all boxes of the {where} lie between 0 and 1, such as {boxes[0]}: COCO's boxes are in pixels, not "
            "relative to the image"
        )


def _without_copies(annotations: list[dict]) -> tuple[list[dict], int]:
    """Drop annotations that repeat another one including its id, and count them."""
    ids = Counter(str(annotation.get("id")) for annotation in annotations)
    seen: set[str] = set()
    kept = []
    for annotation in annotations:
        if annotation.get("id") is not None and ids[str(annotation["id"])] > 1:
            content = repr(sorted(annotation.items()))
            if content in seen:
                continue
            seen.add(content)
        kept.append(annotation)
    return kept, len(annotations) - len(kept)


# ----------------------------------------------------------------------------------------------------------------------
# Values


def _plain_id(value: Any) -> int | str | None:
    """Id as an integer or text; ``None`` for other values."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _by_text(ids: Iterable[int | str]) -> dict[str, int | str]:
    """Ids by their text, where it is unique."""
    found: dict[str, list[int | str]] = {}
    for value in ids:
        found.setdefault(str(value).strip(), []).append(value)
    return {text: values[0] for text, values in found.items() if len(values) == 1}


def _check_unique(ids: Sequence[int | str], what: str) -> None:
    if repeated := [value for value, count in Counter(ids).items() if count > 1]:
        listed = ", ".join(map(repr, repeated[:_LISTED]))
        raise LayoutError(
            f"{len(repeated)} ids are those of several {what}: {listed}{', ...' if len(repeated) > _LISTED else ''}. "
            "Give every image a unique id"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type_name(value: Any) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "str": "text", "bool": "a truth value"}
    return names.get(type(value).__name__, "a number")


def _some(lines: Sequence[str]) -> str:
    return "; ".join(lines[:_LISTED]) + ("; and so on" if len(lines) > _LISTED else "")
