"""Promotion of boxes, points and scribbles to masks: SAM2 is prompted with them on the reference image.

A mask excludes background that a box includes, and covers more of the object than a few clicks. No training is needed,
as the segmenter is the one that proposes masks.

A box is unambiguous and yields one mask. A click may denote a part or the whole, so SAM2 predicts three masks. Points
and scribbles are prompted with all points together and with each point alone. Of all masks, the one with the highest
product of predicted IoU and covered fraction of the marked pixels is selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache as once
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from .cache import TensorCache, content_key
from .images import digest, normalise, stretch
from .masks import draw_masks
from .proposal_masks import DrawnMasks
from .references import Reference, box_of_mask, by_image
from .segmenter import ImageEmbedding, Segmenter

PROMOTED = "promoted"
"""Kind of cached content, see :func:`nts.cache.content_key`."""

MOST_POINTS = 8
"""Maximal number of points of a scribble, or of clicks, that SAM2 is prompted with."""


@dataclass(frozen=True, eq=False)
class PromotedMasks:
    """Masks of the boxes of an image, in their order.

    Attributes:
        masks: bool ``[m, H, W]`` at the image's size.
        predicted_iou: ``[m]``, SAM2's estimate of each mask's IoU.
        filled: bool ``[m]``: SAM2's mask was empty, and was replaced by the filled box.
    """

    masks: np.ndarray
    predicted_iou: np.ndarray
    filled: np.ndarray


def promote(
    references: Iterable[Reference], segmenter: Segmenter, cache: TensorCache | None = None
) -> Iterator[Reference]:
    """Promote references to masks of their objects, in order.

    References with masks, and promoted ones, are passed through. A reference is returned unpromoted if SAM2's mask is
    empty or does not touch the annotation. Consecutive references that share an image array share one image embedding.

    Args:
        references: references of any kind.
        segmenter: SAM2. It runs only on images with a reference whose mask is not cached.
        cache: of masks.
    """
    for of_image in by_image(references):
        image = _Image(of_image[0].image, segmenter, cache)
        for reference in of_image:
            weak = reference.kind != "mask" and not reference.promoted
            yield _promoted(reference, image) if weak else reference


def promote_boxes(
    image: np.ndarray, boxes: ArrayLike, segmenter: Segmenter, cache: TensorCache | None = None
) -> PromotedMasks:
    """Predict masks of the objects in all boxes of an image.

    Args:
        image: uint8 ``[H, W, 3]``.
        boxes: ``[m, 4]``, ``x, y, width, height`` in pixels, as in COCO.
        segmenter: SAM2. It runs only if a mask is not cached.
        cache: of masks.

    Returns:
        the masks; empty for a box outside the image.

    Raises:
        ValueError: if the boxes are not ``[m, 4]``, or a box is not finite; the message names it.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [m, 4], got {list(boxes.shape)}")
    for number, box in enumerate(boxes.tolist()):
        if not np.isfinite(box).all():
            raise ValueError(f"box {number} is not finite: {box}")
    drawn = _Image(image, segmenter, cache).of_boxes(boxes)
    masks = np.zeros((len(boxes), *image.shape[:2]), bool)
    for mask, (found, _) in zip(masks, drawn, strict=True):
        mask[:] = found
    filled = np.array([not mask.any() for mask in masks], bool)
    for k in np.flatnonzero(filled):
        x1, y1, x2, y2 = np.concatenate([boxes[k, :2], boxes[k, :2] + boxes[k, 2:]]).clip(0)
        masks[k, math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = True
    return PromotedMasks(masks, np.array([predicted_iou for _, predicted_iou in drawn], np.float32), filled)


def spread_points(mask: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Select up to ``most`` marked pixels by farthest point sampling; deterministic.

    The first pixel is the one nearest to the centroid.

    Args:
        mask: bool ``[H, W]``, not empty.
        most: maximal number of pixels.

    Returns:
        float ``[p, 2]``, ``x, y`` of the pixel centres.
    """
    ys, xs = mask.nonzero()
    pixels = np.stack([xs, ys], 1) + 0.5
    distance = np.linalg.norm(pixels - pixels.mean(0), axis=1)
    chosen = [int(distance.argmin())]
    distance = np.linalg.norm(pixels - pixels[chosen[0]], axis=1)
    while len(chosen) < most and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(pixels - pixels[chosen[-1]], axis=1))
    return pixels[chosen]


class _Image:
    """An image in which masks are drawn, unless they are cached; it is embedded for the first that is not.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        segmenter: SAM2.
        cache: of masks.
    """

    def __init__(self, pixels: np.ndarray, segmenter: Segmenter, cache: TensorCache | None) -> None:
        self._segmenter, self._cache = segmenter, cache
        self._size = pixels.shape[0], pixels.shape[1]
        self._embedding = once(lambda: segmenter.embed(normalise(stretch(pixels, segmenter.input_size))))
        self._digest = once(lambda: digest(pixels))

    def of_boxes(self, boxes: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Mask ``[H, W]`` and predicted IoU of each box ``[m, 4]``, ``x, y, width, height`` in pixels."""
        keys = [self._key(box=box) for box in boxes.tolist()]
        found = [self._cached(key) for key in keys]
        missing = [k for k, of_box in enumerate(found) if of_box is None]
        if missing:
            (height, width), wanted = self._size, boxes[missing]
            corners = np.concatenate([wanted[:, :2], wanted[:, :2] + wanted[:, 2:]], 1)
            scale = self._segmenter.input_size / np.array([width, height, width, height])
            logits, predicted_iou = self._segmenter.predict_boxes(self._embedding(), torch.from_numpy(corners * scale))
            for k, mask, of_box in zip(missing, draw_masks(logits, self._size), predicted_iou.tolist(), strict=True):
                found[k] = self._stored(keys[k], mask.cpu().numpy(), of_box)
        return [of_box for of_box in found if of_box is not None]

    def of_marks(self, marks: np.ndarray) -> tuple[np.ndarray, float]:
        """The best mask ``[H, W]`` for marked pixels ``[H, W]``, and the fraction of them that it covers."""
        key = self._key(marks=digest(np.packbits(marks)))
        if (found := self._cached(key)) is not None:
            return found
        logits, covered = _best_for_marks(marks, self._embedding(), self._segmenter)
        return self._stored(key, draw_masks(logits[None], self._size)[0].cpu().numpy(), covered)

    def _key(self, **prompt: Any) -> str | None:
        if self._cache is None:
            return None
        segmenter = self._segmenter
        return content_key(
            PROMOTED,
            image=self._digest(),
            segmenter=segmenter.fingerprint,
            segmenter_size=segmenter.input_size,
            segmenter_precision=segmenter.precision,
            **prompt,
        )

    def _cached(self, key: str | None) -> tuple[np.ndarray, float] | None:
        found = None if self._cache is None or key is None else self._cache.get(key)
        if found is None:
            return None
        tensors, header = found
        return DrawnMasks(**tensors).filled(self._size)[0].numpy(), float(header["measure"])

    def _stored(self, key: str | None, mask: np.ndarray, measure: float) -> tuple[np.ndarray, float]:
        if self._cache is not None and key is not None:
            x, y, width, height = map(int, box_of_mask(mask)) if mask.any() else (0, 0, 0, 0)
            crop = torch.from_numpy(mask[y : y + height, x : x + width])
            drawn = DrawnMasks.of_crops([crop], [(x, y, x + width, y + height)])
            self._cache.put(key, drawn.tensors, {"measure": repr(measure)})
        return mask, measure


def _promoted(reference: Reference, image: _Image) -> Reference:
    if reference.kind == "box":
        box = reference.box or box_of_mask(reference.mask)
        ((mask, _),) = image.of_boxes(np.array([box], np.float64))
        drawn = (mask & reference.mask).any()
    else:
        mask, covered = image.of_marks(reference.mask)
        drawn = covered > 0 and mask.any()
    return replace(reference, mask=mask, promoted=True) if drawn else reference


def _best_for_marks(marks: np.ndarray, embedding: ImageEmbedding, segmenter: Segmenter) -> tuple[Tensor, float]:
    """Logits ``[S, S]`` of the best mask for the marked pixels ``[H, W]``, and the fraction of them that it covers.

    If no mask covers any marked pixel, masks are dilated by one cell of the logits: a good mask may end half a cell
    from a click near the border of the object.
    """
    height, width = marks.shape
    points = torch.from_numpy(spread_points(marks) * segmenter.input_size / np.array([width, height]))
    prompts = [points[:, None]] if len(points) == 1 else [points[None], points[:, None]]
    drawn = [segmenter.predict_points(embedding, prompt) for prompt in prompts]
    logits = torch.cat([of_prompt.flatten(0, 1) for of_prompt, _ in drawn])
    predicted_iou = torch.cat([of_prompt.flatten() for _, of_prompt in drawn])
    masks = (logits > 0).float()
    ys, xs = marks.nonzero()
    # Cell of the logits that contains the centre of each marked pixel.
    rows, columns = (
        ((ys + 0.5) * masks.shape[1] / height).astype(int),
        ((xs + 0.5) * masks.shape[2] / width).astype(int),
    )
    covered = masks[:, rows, columns].mean(1)
    if not covered.any():
        near = F.max_pool2d(masks, 3, stride=1, padding=1)
        covered = near[:, rows, columns].mean(1)
    best = int((predicted_iou * covered).argmax())
    return logits[best], float(covered[best])
