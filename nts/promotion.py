"""From weaker annotations to masks: SAM2, prompted on the reference image itself, draws the object that is meant.

A reference with a mask of its object shows the encoder less background than one with a box, and more of the object than
one with a few clicks. Nothing is trained for it: the prompt goes to the segmenter that proposes masks anyway.

A box says what is meant, and gets one mask. A click does not: it may mean a part or the whole, so SAM2 draws three
masks. Points and scribbles are tried in several ways, all their points together and each alone, and the mask wins that
SAM2 thinks well drawn and that covers what was marked: predicted IoU times the covered share of the marked pixels.
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
"""Of a scribble, or of many clicks, so many points are shown to SAM2."""


@dataclass(frozen=True, eq=False)
class PromotedMasks:
    """The masks of the boxes of one image, in their order.

    Attributes:
        masks: bool ``[m, H, W]`` at the image's size.
        predicted_iou: ``[m]``, how well SAM2 thinks that it drew them.
        filled: bool ``[m]``: SAM2 drew nothing, and the mask is the annotation itself, filled.
    """

    masks: np.ndarray
    predicted_iou: np.ndarray
    filled: np.ndarray


def promote(references: Iterable[Reference], segmenter: Segmenter) -> Iterator[Reference]:
    """Give references the masks of the objects that they mean, one for each, in their order.

    References with masks, and those promoted before, pass through. One of which SAM2 draws nothing, or nothing where
    the annotation is, comes back as it was, unpromoted. Consecutive references that share one image array are drawn
    from one embedding.

    Args:
        references: of any kind.
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
    """Masks of the objects in boxes, all boxes of an image at once.

    Args:
        image: uint8 ``[H, W, 3]``.
        boxes: ``[m, 4]``, ``x, y, width, height`` in pixels, as in COCO.
        segmenter: SAM2.

    Returns:
        the masks. That of a box outside the image, where there is nothing to draw and nothing to fill, is empty.

    Raises:
        ValueError: if the boxes are not ``[m, 4]``, or one is not finite; the message names it.
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
    """Up to ``most`` marked pixels, far from each other; always the same ones for the same mask.

    The first is the one nearest to the middle of all, each further one the farthest from those before it.

    Args:
        mask: bool ``[H, W]``, not empty.
        most: how many pixels at most.

    Returns:
        float ``[p, 2]``, ``x, y`` of the middles of the pixels.
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
    """Logits and predicted IoU of boxes ``x, y, width, height`` in pixels of the image."""
    height, width = image_size
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    scale = segmenter.input_size / np.array([width, height, width, height])
    return segmenter.predict_boxes(embedding, torch.from_numpy(corners * scale))


def _best_for_marks(marks: np.ndarray, embedding: ImageEmbedding, segmenter: Segmenter) -> tuple[Tensor, float]:
    """The logits ``[S, S]`` of the best mask for the marked pixels ``[H, W]``, and the share of them that it covers.

    Where no mask covers any, those count that reach into a cell of the logits beside one: a good mask may end half a
    cell beside a click near the border of the object.
    """
    height, width = marks.shape
    points = torch.from_numpy(spread_points(marks) * segmenter.input_size / np.array([width, height]))
    prompts = [points[:, None]] if len(points) == 1 else [points[None], points[:, None]]
    drawn = [segmenter.predict_points(embedding, prompt) for prompt in prompts]
    logits = torch.cat([of_prompt.flatten(0, 1) for of_prompt, _ in drawn])
    predicted_iou = torch.cat([of_prompt.flatten() for _, of_prompt in drawn])
    masks = (logits > 0).float()
    ys, xs = marks.nonzero()
    # The cell of the logits that holds the middle of each marked pixel.
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
