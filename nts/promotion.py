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

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from .images import normalise, stretch
from .masks import draw_masks
from .references import Reference, box_of_mask, by_image
from .segmenter import ImageEmbedding, Segmenter

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


def promote(references: Iterable[Reference], segmenter: Segmenter) -> Iterator[Reference]:
    """Promote references to masks of their objects, in order.

    References with masks, and promoted ones, are passed through. A reference is returned unpromoted if SAM2's mask is
    empty or does not touch the annotation. Consecutive references that share an image array share one image embedding.

    Args:
        references: references of any kind.
        segmenter: SAM2.
    """
    for of_image in by_image(references):
        weak = [reference for reference in of_image if reference.kind != "mask" and not reference.promoted]
        if not weak:
            yield from of_image
            continue
        embedding = _embed(of_image[0].image, segmenter)
        for reference in of_image:
            yield _promoted(reference, embedding, segmenter) if reference in weak else reference


def promote_boxes(image: np.ndarray, boxes: ArrayLike, segmenter: Segmenter) -> PromotedMasks:
    """Predict masks of the objects in all boxes of an image.

    Args:
        image: uint8 ``[H, W, 3]``.
        boxes: ``[m, 4]``, ``x, y, width, height`` in pixels, as in COCO.
        segmenter: SAM2.

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
    image_size = image.shape[:2]
    logits, predicted_iou = _draw_boxes(_embed(image, segmenter), boxes, image_size, segmenter)
    masks = draw_masks(logits, image_size).cpu().numpy()
    filled = np.array([not mask.any() for mask in masks], bool)
    for k in np.flatnonzero(filled):
        x1, y1, x2, y2 = np.concatenate([boxes[k, :2], boxes[k, :2] + boxes[k, 2:]]).clip(0)
        masks[k, math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = True
    return PromotedMasks(masks, predicted_iou.cpu().numpy(), filled)


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


def _embed(image: np.ndarray, segmenter: Segmenter) -> ImageEmbedding:
    return segmenter.embed(normalise(stretch(image, segmenter.input_size)))


def _promoted(reference: Reference, embedding: ImageEmbedding, segmenter: Segmenter) -> Reference:
    image_size = reference.mask.shape
    if reference.kind == "box":
        box = reference.box or box_of_mask(reference.mask)
        logits, _ = _draw_boxes(embedding, np.array([box], np.float64), image_size, segmenter)
        mask = draw_masks(logits, image_size)[0].cpu().numpy()
        drawn = (mask & reference.mask).any()
    else:
        logits, covered = _best_for_marks(reference.mask, embedding, segmenter)
        mask = draw_masks(logits[None], image_size)[0].cpu().numpy()
        drawn = covered > 0 and mask.any()
    return replace(reference, mask=mask, promoted=True) if drawn else reference


def _draw_boxes(
    embedding: ImageEmbedding, boxes: np.ndarray, image_size: tuple[int, int], segmenter: Segmenter
) -> tuple[Tensor, Tensor]:
    """Mask logits and predicted IoU of boxes ``x, y, width, height`` in pixels of the image."""
    height, width = image_size
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    scale = segmenter.input_size / np.array([width, height, width, height])
    return segmenter.predict_boxes(embedding, torch.from_numpy(corners * scale))


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
