"""COCO's assignment of predictions to ground truth, as flat arrays from which every metric is computed.

Predictions of a class and image are taken by descending score. Each is assigned the unassigned annotation of its class
with the largest IoU, if that reaches the threshold. Annotations that count take precedence over ignored ones (crowds,
and objects outside the range of areas), and a crowd can be assigned any number of times. This is
``COCOeval.evaluate`` of pycocotools, including its ties, with two exceptions: an annotation may have the id 0 (for
pycocotools a match with it is none), and a result whose mask differs in size from the ground truth is an error (for
pycocotools the two do not overlap).

IoUs come from pycocotools. The assignment is vectorised over images, areas and thresholds: only pairs with an IoU of at
least 0.5 can match, and they are few.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from .crowds import is_crowd

IouType = Literal["boxes", "masks"]
ResultAreas = Literal["own", "box"]
ImageId = int | str

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Ranges of areas in square pixels, both ends included."""

_STRICTEST = 1 - 1e-10
_AREA_CHUNK = 255  # masks: with numpy 2, pycocotools 2.0.11 overflows at more


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of predictions and annotations at every IoU threshold and for every range of areas.

    Attributes:
        iou_type: IoU of ``"boxes"`` or ``"masks"``.
        image_ids: ids of ``I`` images, ascending.
        classes: names of ``K`` classes, in the order of their category ids.
        iou_thresholds: float64 ``[T]``.
        areas: names of ``A`` ranges of areas.
        max_detections: largest number of predictions of a class and image; those with lower scores are left out.
        image, label, rank: int64 ``[n]``: image and class of every prediction, and its position by descending score
            within them. Predictions are sorted by class, image and rank.
        score: float64 ``[n]``.
        result: int64 ``[n]``: row of the prediction in the matched list of results. After :func:`concatenate` the lists
            of all parts count as one.
        matched: int32 ``[A, T, n]``: row of the matched annotation in the list of annotations, -1 for none.
        ignored: bool ``[A, T, n]``: predictions that are neither right nor wrong: they match ignored ground truth, or
            match nothing and are out of the range of areas.
        gt_image, gt_label, annotation: int64 ``[g]``: image and class of every annotation, and its row in the list of
            annotations. Annotations are sorted by class, image and row.
        gt_ignored: bool ``[A, g]``: crowds, and annotations out of the range of areas.
        results, annotations: lengths of the matched lists.
    """

    iou_type: IouType
    image_ids: tuple[ImageId, ...]
    classes: tuple[str, ...]
    iou_thresholds: np.ndarray
    areas: tuple[str, ...]
    max_detections: int
    image: np.ndarray
    label: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    result: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    gt_image: np.ndarray
    gt_label: np.ndarray
    annotation: np.ndarray
    gt_ignored: np.ndarray
    results: int
    annotations: int

    def __len__(self) -> int:
        return len(self.score)

    def true_positives(self) -> np.ndarray:
        """Predictions that match ground truth that counts: bool ``[A, T, n]``."""
        return (self.matched >= 0) & ~self.ignored

    def false_positives(self) -> np.ndarray:
        """Predictions in the range of areas that match nothing: bool ``[A, T, n]``."""
        return (self.matched < 0) & ~self.ignored

    def to_bytes(self) -> bytes:
        """Serialise losslessly as a compressed ``.npz`` file."""
        found = self.matched >= 0
        exact = self.score.astype(np.float32)
        names = {name: getattr(self, name) for name in _NAMES}
        arrays: dict[str, Any] = {name: _narrow(getattr(self, name)) for name in _INDICES}
        arrays |= {
            "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
            "iou_thresholds": self.iou_thresholds,
            "score": exact if np.array_equal(exact, self.score) else self.score,
            "found": np.packbits(found),
            "matched": _narrow(self.matched[found]),
            "ignored": np.packbits(self.ignored),
            "gt_ignored": np.packbits(self.gt_ignored),
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Matches:
        """Read matches from :meth:`to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = dict(stored)
        names = json.loads(arrays["names"].tobytes())
        names |= {name: tuple(names[name]) for name in ("image_ids", "classes", "areas")}
        shape = (len(names["areas"]), len(arrays["iou_thresholds"]), len(arrays["score"]))
        found = _unpack(arrays["found"], shape)
        matched = np.full(shape, -1, np.int32)
        matched[found] = arrays["matched"]
        return cls(
            **names,
            **{name: arrays[name].astype(np.int64) for name in _INDICES},
            iou_thresholds=arrays["iou_thresholds"],
            score=arrays["score"].astype(np.float64),
            matched=matched,
            ignored=_unpack(arrays["ignored"], shape),
            gt_ignored=_unpack(arrays["gt_ignored"], (len(names["areas"]), len(arrays["annotation"]))),
        )


_NAMES = ("iou_type", "image_ids", "classes", "areas", "max_detections", "results", "annotations")
_INDICES = ("image", "label", "rank", "result", "gt_image", "gt_label", "annotation")


def match(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
    iou_type: IouType = "masks",
    *,
    max_detections: int = 100,
    result_areas: ResultAreas = "own",
) -> Matches:
    """Match the results of a data set with its ground truth.

    Args:
        ground_truth: a COCO dataset. An annotation has a ``bbox`` or a ``segmentation``: polygons, or RLE, compressed
            or not. Without an ``area``, that of its geometry is used.
        results: COCO results. Those of other classes or unknown images are left out.
        class_ids: category ids to evaluate; all where ``None``.
        iou_type: ``"boxes"`` or ``"masks"``. A result without a mask has the mask of its box, and vice versa.
        max_detections: largest number of results of a class and image.
        result_areas: area by which an unmatched result is small, medium or large. ``"own"``: of its mask for masks, of
            its box for boxes. ``"box"``: always of its box, if it has one, as in ``loadRes`` of pycocotools and thus in
            published figures.

    Raises:
        ValueError: if there are no images or classes, a class id is unknown, class names are not unique, a score or box
            is not finite, or masks of an image differ in size.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    ids = sorted(names) if class_ids is None else sorted(set(class_ids))
    if not ground_truth["images"]:
        raise ValueError("there is no image to evaluate")
    if not ids:
        raise ValueError("there is no class to evaluate")
    if unknown := [class_id for class_id in ids if class_id not in names]:
        raise ValueError(f"unknown class ids {unknown}: the ground truth has {sorted(names)}")
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}
    image_ids = _ascending(sizes)
    image_of = {image_id: i for i, image_id in enumerate(image_ids)}

    annotations = ground_truth["annotations"]
    return _match(
        annotations,
        [image_of.get(annotation["image_id"], -1) for annotation in annotations],
        results,
        [image_of.get(result["image_id"], -1) for result in results],
        ids,
        tuple(names[class_id] for class_id in ids),
        image_ids,
        [sizes[image_id] for image_id in image_ids],
        iou_type,
        max_detections,
        result_areas,
    )


def match_image(
    annotations: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    class_ids: Sequence[int],
    classes: Sequence[str],
    image_id: ImageId,
    iou_type: IouType,
    *,
    image_size: tuple[int, int] | None = None,
    max_detections: int = 100,
    result_areas: ResultAreas = "own",
) -> Matches:
    """Match the results of one image, so that masks need not be stored; :func:`concatenate` joins images.

    Args:
        annotations: of the image, as in :func:`match`.
        results: of the image.
        class_ids: category ids to evaluate, ascending.
        classes: their names, in the same order.
        image_id: of the image; the ``image_id`` of annotations and results is not read.
        image_size: ``(H, W)``, required for polygons only.

    For the other arguments and for errors see :func:`match`.
    """
    if list(class_ids) != sorted(set(class_ids)) or len(class_ids) != len(classes):
        raise ValueError(f"class_ids must ascend, with a name for each: got {list(class_ids)} and {list(classes)}")
    return _match(
        annotations,
        [0] * len(annotations),
        results,
        [0] * len(results),
        class_ids,
        tuple(classes),
        (image_id,),
        [image_size or (None, None)],
        iou_type,
        max_detections,
        result_areas,
    )


def concatenate(parts: Sequence[Matches]) -> Matches:
    """Join the matches of several sets of images.

    Images, and with them predictions of equal score, are in the order of a single :func:`match`.

    Raises:
        ValueError: if there is nothing to concatenate, the parts differ in classes or settings, or share an image.
    """
    if not parts:
        raise ValueError("there is no image to evaluate")
    first = parts[0]
    for part in parts:
        for name in ("iou_type", "classes", "areas", "max_detections"):
            if getattr(part, name) != getattr(first, name):
                raise ValueError(f"parts differ in {name}: {getattr(first, name)!r} and {getattr(part, name)!r}")
        if not np.array_equal(part.iou_thresholds, first.iou_thresholds):
            raise ValueError("parts differ in iou_thresholds")
    together = [image_id for part in parts for image_id in part.image_ids]
    if twice := [image_id for image_id, count in Counter(together).items() if count > 1]:
        raise ValueError(f"the image {twice[0]!r} is in more than one part")
    image_ids = _ascending(together)
    position = {image_id: i for i, image_id in enumerate(image_ids)}
    images = [np.array([position[image_id] for image_id in part.image_ids], np.int64) for part in parts]
    results = np.cumsum([0, *(part.results for part in parts)])
    annotations = np.cumsum([0, *(part.annotations for part in parts)])

    image = np.concatenate([at[part.image] for at, part in zip(images, parts, strict=True)])
    label, rank = (np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "rank"))
    matched = [np.where(p.matched < 0, -1, p.matched + n) for p, n in zip(parts, annotations, strict=False)]
    gt_image = np.concatenate([at[part.gt_image] for at, part in zip(images, parts, strict=True)])
    gt_label = np.concatenate([part.gt_label for part in parts])
    annotation = np.concatenate([part.annotation + n for part, n in zip(parts, annotations, strict=False)])
    order = np.lexsort((rank, image, label))
    gt_order = np.lexsort((annotation, gt_image, gt_label))
    return Matches(
        iou_type=first.iou_type,
        image_ids=image_ids,
        classes=first.classes,
        iou_thresholds=first.iou_thresholds,
        areas=first.areas,
        max_detections=first.max_detections,
        image=image[order],
        label=label[order],
        rank=rank[order],
        score=np.concatenate([part.score for part in parts])[order],
        result=np.concatenate([part.result + n for part, n in zip(parts, results, strict=False)])[order],
        matched=np.concatenate(matched, axis=-1).astype(np.int32)[:, :, order],
        ignored=np.concatenate([part.ignored for part in parts], axis=-1)[:, :, order],
        gt_image=gt_image[gt_order],
        gt_label=gt_label[gt_order],
        annotation=annotation[gt_order],
        gt_ignored=np.concatenate([part.gt_ignored for part in parts], axis=-1)[:, gt_order],
        results=int(results[-1]),
        annotations=int(annotations[-1]),
    )


def renumber(
    matches: Matches, result_rows: np.ndarray, annotation_rows: np.ndarray, results: int, annotations: int
) -> Matches:
    """Number results and annotations by their rows in longer lists.

    Args:
        matches: of some of the results and annotations, in the order of the longer lists within each image.
        result_rows: int64: for each row of the matched results its row in the longer list.
        annotation_rows: int64: the same for annotations.
        results, annotations: lengths of the longer lists.
    """
    return replace(
        matches,
        result=result_rows[matches.result],
        annotation=annotation_rows[matches.annotation],
        matched=np.append(annotation_rows, -1)[matches.matched].astype(np.int32),
        results=results,
        annotations=annotations,
    )


def to_rle(segmentation: Any, size: tuple[int | None, int | None], image_id: ImageId) -> dict[str, Any]:
    """Convert a COCO segmentation to compressed RLE; polygons are drawn at ``size`` ``(H, W)``.

    Polygons of fewer than three points are dropped; pycocotools would read two points as a box. Without any polygon the
    mask is empty.

    Raises:
        ValueError: if there are polygons and the size is unknown.
    """
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], (str, bytes)):
            return segmentation
        return coco_mask.frPyObjects(segmentation, *segmentation["size"])
    height, width = size
    if height is None or width is None:
        raise ValueError(f"image {image_id!r} has polygons, but neither height nor width to draw them")
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def geometries(
    items: Sequence[dict[str, Any]],
    images: np.ndarray,
    sizes: Sequence[tuple[int | None, int | None]],
    image_ids: Sequence[ImageId],
    iou_type: IouType,
) -> np.ndarray | list[dict[str, Any]]:
    """Geometries of annotations or results to compare: boxes, float64 ``[n, 4]``, or RLEs.

    Args:
        items: annotations or results. Those without a mask have the mask of their box, and vice versa.
        images: int ``[n]``: index of the image of each.
        sizes: ``(H, W)`` of every image, or ``(None, None)``; required for polygons only.
        image_ids: of every image.
        iou_type: ``"boxes"`` or ``"masks"``.

    Raises:
        ValueError: if a box is not finite, or there are polygons without a size.
    """
    if iou_type == "masks":
        pairs = zip(items, images.tolist(), strict=True)
        return [to_rle(_outline(item), sizes[image], image_ids[image]) for item, image in pairs]
    rows: list[Any] = [item.get("bbox") for item in items]
    for i, row in enumerate(rows):
        if row is None:
            image = images[i]
            rows[i] = coco_mask.toBbox(to_rle(items[i]["segmentation"], sizes[image], image_ids[image]))
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        i = int(np.flatnonzero(~np.isfinite(boxes).all(1))[0])
        raise ValueError(f"an object in image {image_ids[images[i]]!r} has the box {boxes[i].tolist()}")
    return boxes


def areas_of(
    geometry: np.ndarray | list[dict[str, Any]], items: Sequence[dict[str, Any]], source: Literal["area", "own", "box"]
) -> np.ndarray:
    """Areas in square pixels, float64 ``[n]``: of the geometries (``"own"``), or as stated, or of boxes, if present."""
    if isinstance(geometry, np.ndarray):
        own = geometry[:, 2] * geometry[:, 3]
    else:
        chunks = [geometry[i : i + _AREA_CHUNK] for i in range(0, len(geometry), _AREA_CHUNK)]
        own = np.concatenate([np.zeros(0), *(coco_mask.area(chunk) for chunk in chunks)]).astype(np.float64)
    if source == "own":
        return own
    if source == "area":
        stated = [item.get("area") for item in items]
    else:
        stated = [box[2] * box[3] if (box := item.get("bbox")) is not None else None for item in items]
    pairs = zip(stated, own.tolist(), strict=True)
    return np.array([area if value is None else value for value, area in pairs], np.float64)


def _match(
    annotations: Sequence[dict[str, Any]],
    annotation_images: Sequence[int],
    results: Sequence[dict[str, Any]],
    result_images: Sequence[int],
    class_ids: Sequence[int],
    classes: tuple[str, ...],
    image_ids: tuple[ImageId, ...],
    sizes: Sequence[tuple[int | None, int | None]],
    iou_type: IouType,
    max_detections: int,
    result_areas: ResultAreas,
) -> Matches:
    if len(set(classes)) < len(classes):
        raise ValueError(f"names of classes must be unique, got {list(classes)}")
    label_of = {class_id: k for k, class_id in enumerate(class_ids)}
    gt_row, gt_image, gt_label = _select(annotations, annotation_images, label_of)
    gt_order = np.lexsort((gt_row, gt_image, gt_label))
    gt_row, gt_image, gt_label = gt_row[gt_order], gt_image[gt_order], gt_label[gt_order]
    row, image, label = _select(results, result_images, label_of)
    score = np.array([results[i]["score"] for i in row.tolist()], np.float64)
    if not np.isfinite(score).all():
        i = int(np.flatnonzero(~np.isfinite(score))[0])
        raise ValueError(f"a result in image {image_ids[image[i]]!r} has the score {score[i]}")
    order = np.lexsort((-score, image, label))  # stable: equal scores stay in the order of the results
    rank = _ranks(label[order], image[order])
    order, rank = order[rank < max_detections], rank[rank < max_detections]
    row, image, label, score = row[order], image[order], label[order], score[order]

    truth = [annotations[i] for i in gt_row.tolist()]
    found = [results[i] for i in row.tolist()]
    gt_geometry = geometries(truth, gt_image, sizes, image_ids, iou_type)
    geometry = geometries(found, image, sizes, image_ids, iou_type)
    crowd = np.array([is_crowd(annotation.get("iscrowd")) for annotation in truth], bool)
    gt_areas, areas = areas_of(gt_geometry, truth, "area"), areas_of(geometry, found, result_areas)
    gt_ignored = _out_of_range(gt_areas) | crowd

    pair, gt_pair = label * len(image_ids) + image, gt_label * len(image_ids) + gt_image
    prediction, target, iou = _overlaps(geometry, pair, gt_geometry, gt_pair, crowd, image_ids)
    matched = assign(prediction, target, iou, pair, crowd, gt_ignored, IOU_THRESHOLDS)
    area = np.arange(len(AREA_RANGES))[:, None, None]
    if len(gt_row):
        out_of_range = _out_of_range(areas)[:, None, :]
        ignored = np.where(matched >= 0, gt_ignored[area, matched], out_of_range)
        matched = np.where(matched >= 0, gt_row[matched], -1).astype(np.int32)
    else:
        ignored = np.repeat(_out_of_range(areas)[:, None, :], len(IOU_THRESHOLDS), axis=1)
    return Matches(
        iou_type=iou_type,
        image_ids=image_ids,
        classes=classes,
        iou_thresholds=IOU_THRESHOLDS,
        areas=tuple(AREA_RANGES),
        max_detections=max_detections,
        image=image,
        label=label,
        rank=rank,
        score=score,
        result=row,
        matched=matched,
        ignored=ignored,
        gt_image=gt_image,
        gt_label=gt_label,
        annotation=gt_row,
        gt_ignored=gt_ignored,
        results=len(results),
        annotations=len(annotations),
    )


def assign(
    prediction: np.ndarray,
    target: np.ndarray,
    iou: np.ndarray,
    group: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    iou_thresholds: np.ndarray,
) -> np.ndarray:
    """Greedy assignment of COCO, vectorised over groups, areas and thresholds.

    Args:
        prediction, target, iou: ``[E]`` pairs whose IoU reaches the lowest threshold.
        group: int64 ``[n]``, ascending: class and image of every prediction; by descending score within a group. Both
            ends of a pair belong to one group.
        crowd: bool ``[g]``: targets that can be assigned any number of times.
        ignored: bool ``[A, g]``: targets that are assigned only if no other can be.
        iou_thresholds: ``[T]``.

    Returns:
        int32 ``[A, T, n]``: target of every prediction, -1 for none.
    """
    areas, thresholds = len(ignored), len(iou_thresholds)
    matched = np.full((areas, thresholds, len(group)), -1, np.int32)
    if len(prediction) == 0:
        return matched
    # Of equal overlaps the later target wins, as in COCOeval, whose loop replaces the best so far by its equal.
    order = np.lexsort((target, iou, prediction))
    prediction, target, iou = prediction[order], target[order], iou[order]
    involved, edge_of = np.unique(prediction, return_inverse=True)
    turn = _ranks(group[involved])[edge_of]
    by_turn = np.argsort(turn, kind="stable")
    limits = np.minimum(iou_thresholds, _STRICTEST)[:, None]
    taken = np.zeros((areas, thresholds, ignored.shape[1]), bool)
    for edges in np.split(by_turn, np.flatnonzero(np.diff(turn[by_turn])) + 1):
        # One prediction per group. Groups share no targets, so these do not compete.
        players, starts = np.unique(prediction[edges], return_index=True)
        goals = target[edges]
        possible = (iou[edges] >= limits) & ~taken[:, :, goals]
        preferred = np.arange(len(edges)) + len(edges) * ~ignored[:, goals]
        best = np.maximum.reduceat(np.where(possible, preferred[:, None, :], -1), starts, axis=-1)
        a, t, player = np.nonzero(best >= 0)
        chosen = goals[best[a, t, player] % len(edges)]
        matched[a, t, players[player]] = chosen
        taken[a, t, chosen] = ~crowd[chosen]
    return matched


def _select(
    items: Sequence[dict[str, Any]], images: Sequence[int], label_of: dict[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, image and label, int64 each, of the items with a known image and class."""
    image = np.array(images, np.int64)
    label = np.array([label_of.get(item["category_id"], -1) for item in items], np.int64)
    row = np.flatnonzero((image >= 0) & (label >= 0))
    return row, image[row], label[row]


def _ranks(*keys: np.ndarray) -> np.ndarray:
    """Position within each run of equal keys, int64 ``[n]``."""
    n = len(keys[0])
    if n == 0:
        return np.zeros(0, np.int64)
    new = np.ones(n, bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(new)
    return np.arange(n) - np.repeat(starts, np.diff([*starts, n]))


def _outline(item: dict[str, Any]) -> Any:
    """Segmentation of an item, or the outline of its box."""
    if (segmentation := item.get("segmentation")) is not None:
        return segmentation
    x, y, width, height = item["bbox"]
    return [[x, y, x, y + height, x + width, y + height, x + width, y]]


def _out_of_range(areas: np.ndarray) -> np.ndarray:
    """Objects out of each range of areas: bool ``[A, n]``."""
    low, high = np.array(list(AREA_RANGES.values())).T
    return (areas < low[:, None]) | (areas > high[:, None])


def _overlaps(
    geometry: np.ndarray | list[dict[str, Any]],
    pair: np.ndarray,
    gt_geometry: np.ndarray | list[dict[str, Any]],
    gt_pair: np.ndarray,
    crowd: np.ndarray,
    image_ids: Sequence[ImageId],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within a class and image that reach the lowest threshold: prediction, annotation, IoU, ``[E]`` each."""
    shared = np.intersect1d(pair, gt_pair)
    starts, ends = np.searchsorted(pair, shared), np.searchsorted(pair, shared, "right")
    gt_starts, gt_ends = np.searchsorted(gt_pair, shared), np.searchsorted(gt_pair, shared, "right")
    flags = crowd.astype(np.uint8)
    predictions, targets, ious = [], [], []
    for d0, d1, g0, g1 in zip(*(a.tolist() for a in (starts, ends, gt_starts, gt_ends)), strict=True):
        iou = coco_mask.iou(geometry[d0:d1], gt_geometry[g0:g1], flags[g0:g1])
        if iou.min() < 0:
            image_id = image_ids[int(pair[d0]) % len(image_ids)]
            raise ValueError(f"the masks of image {image_id!r} differ in size between ground truth and results")
        d, g = np.nonzero(iou >= IOU_THRESHOLDS[0])
        predictions.append(d + d0)
        targets.append(g + g0)
        ious.append(iou[d, g])
    none = np.zeros(0, np.int64)
    return (
        np.concatenate([none, *predictions]),
        np.concatenate([none, *targets]),
        np.concatenate([np.zeros(0), *ious]),
    )


def _ascending(image_ids: Iterable[ImageId]) -> tuple[ImageId, ...]:
    """Sort ids as COCOeval does, numbers before text."""
    return tuple(sorted(image_ids, key=number_then_word))


def number_then_word(image_id: ImageId) -> tuple[bool, ImageId]:
    """Sort key of ids: numbers before text."""
    return isinstance(image_id, str), image_id


def _narrow(values: np.ndarray) -> np.ndarray:
    """Cast non-negative integers to the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max()) if values.size else 0))


def _unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
