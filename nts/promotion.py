"""From weaker annotations to masks: SAM2, prompted on the reference image itself, draws the object that is meant.

A reference with a mask of its object shows the encoder less background than one with a box. Nothing is trained for it:
the prompt goes to the segmenter that proposes masks anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from .images import normalise, stretch
from .masks import draw_masks
from .segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class PromotedMasks:
    """The masks of the annotations of one image, in their order.

    Attributes:
        masks: bool ``[m, H, W]`` at the image's size.
        predicted_iou: ``[m]``, how well SAM2 thinks that it drew them.
        filled: bool ``[m]``: SAM2 drew nothing, and the mask is the annotation itself, filled.
    """

    masks: np.ndarray
    predicted_iou: np.ndarray
    filled: np.ndarray


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
    height, width = image.shape[:2]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    scale = segmenter.input_size / np.array([width, height, width, height])
    embedding = segmenter.embed(normalise(stretch(image, segmenter.input_size)))
    logits, predicted_iou = segmenter.masks_of_boxes(embedding, torch.from_numpy(corners * scale))
    masks = draw_masks(logits, (height, width)).cpu().numpy()
    filled = np.array([not mask.any() for mask in masks], bool)
    for k in np.flatnonzero(filled):
        x1, y1, x2, y2 = corners[k].clip(0)
        masks[k, math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = True
    return PromotedMasks(masks, predicted_iou.cpu().numpy(), filled)
