"""A reference: one labelled object in an image, and what the encoder sees of it.

The object is cut out with some context, stretched to the encoder's square, and its mask becomes a weight for every
patch of the encoder's grid (paper, Sec. 3.2). The background stays in the crop; only the weights leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .images import normalise, resize_bicubic, stretch, to_float

CONTEXT_RATIO = 0.2
"""How much longer than the longer side of the box the side of the crop is."""


class InvalidReference(ValueError):
    """A reference that cannot be used. The message says why; other references are not affected."""


@dataclass(frozen=True, eq=False)
class Reference:
    """One labelled object.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        class_name: its class.
        mask: bool ``[H, W]``, the pixels of the object.
        box: ``x, y, width, height`` in pixels, as in COCO; the mask's own box where it is ``None``.
        kind: the geometry of the annotation: ``"mask"``, ``"box"`` where the mask is just the filled box, ``"point"``
            where it is some pixels that were clicked, ``"scribble"`` where it is what a brush went over.
        sample_id: id of the sample that it came from.
        label_id: id of the label that it came from.
    """

    image: np.ndarray
    class_name: str
    mask: np.ndarray
    box: tuple[float, float, float, float] | None = None
    kind: Literal["mask", "box", "point", "scribble"] = "mask"
    sample_id: str = ""
    label_id: str = ""

    def __post_init__(self) -> None:
        if self.mask.shape != self.image.shape[:2]:
            raise InvalidReference(
                f"the mask has size {_size(self.mask)}, but its image has {_size(self.image)} (width x height)"
            )
        if not self.mask.any():
            raise InvalidReference("the mask is empty")
        if self.box is not None and not np.isfinite(self.box).all():
            raise InvalidReference(f"the box {self.box} is not finite")


def crop_window(
    box: tuple[float, float, float, float], image_size: tuple[int, int], context_ratio: float = CONTEXT_RATIO
) -> tuple[int, int, int, int]:
    """The square around a box, ``1 + context_ratio`` times its longer side, cut at the border of the image.

    Every step truncates toward zero, as in the publication. A box of less than a pixel is widened to one.

    Args:
        box: ``x, y, width, height`` in pixels.
        image_size: ``(H, W)``.
        context_ratio: 0.2 in the publication.

    Returns:
        ``x1, y1, x2, y2`` in pixels, half-open. Cut by the border, it is no longer square.

    Raises:
        InvalidReference: if the box lies outside the image.
    """
    height, width = image_size
    x, y, w, h = box
    x1, y1, x2, y2 = int(x), int(y), int(x + w), int(y + h)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    side = max(x2 - x1, y2 - y1) * (1 + context_ratio)
    center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(0, int(center_x - side / 2)), max(0, int(center_y - side / 2))
    right, bottom = min(width, int(center_x + side / 2)), min(height, int(center_y + side / 2))
    if right <= left or bottom <= top:
        raise InvalidReference(f"the box {tuple(box)} lies outside its image of {width} x {height} pixels")
    return left, top, right, bottom


def prepare_reference(
    reference: Reference,
    encoder_size: int,
    grid: tuple[int, int],
    *,
    antialias: bool = True,
    patch_weights: Literal["area", "corner"] = "area",
) -> tuple[Tensor, Tensor]:
    """The encoder's input for a reference, and the weight of its mask on every patch.

    Args:
        reference: the labelled object.
        encoder_size: side of the encoder's input (518 for DINOv2).
        grid: ``(h, w)`` patches of the encoder (37 x 37).
        antialias: resize the crop antialiased. False follows the publication.
        patch_weights: ``"area"``: the share of every patch that the mask covers. ``"corner"`` follows the publication:
            the mask, enlarged to the encoder's input, at the upper left pixel of every patch; where that misses the
            object altogether, its area is taken after all.

    Returns:
        normalised float ``[3, encoder_size, encoder_size]`` and weights ``[h, w]`` in ``[0, 1]``, not all zero.

    Raises:
        InvalidReference: if the crop holds nothing of the mask.
    """
    box = reference.box or _box_of_mask(reference.mask)
    window = crop_window(box, reference.mask.shape)
    left, top, right, bottom = window
    if antialias:
        pixels = stretch(reference.image, encoder_size, window)
    else:
        pixels = resize_bicubic(to_float(reference.image[top:bottom, left:right]), encoder_size)

    mask = reference.mask[top:bottom, left:right].astype(np.float32)
    weights = _corner_weights(mask, encoder_size, grid) if patch_weights == "corner" else _area_weights(mask, grid)
    if weights.sum() <= 0:
        weights = _area_weights(mask, grid)
    if weights.sum() <= 0:
        raise InvalidReference("the mask lies outside its box: nothing of it is left in the crop around the box")
    return normalise(pixels), weights


def _area_weights(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Share of every patch that the mask covers: ``[H, W]`` to ``[h, w]``."""
    resized = Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.array(resized)).clamp(0, 1)


def _corner_weights(mask: np.ndarray, encoder_size: int, grid: tuple[int, int]) -> Tensor:
    enlarged = F.interpolate(
        torch.from_numpy(mask)[None, None], size=(encoder_size, encoder_size), mode="bilinear", align_corners=False
    )
    return F.interpolate(enlarged, size=grid, mode="nearest")[0, 0]


def _box_of_mask(mask: np.ndarray) -> tuple[float, float, float, float]:
    ys, xs = mask.nonzero()
    x1, y1 = int(xs.min()), int(ys.min())
    return x1, y1, int(xs.max()) + 1 - x1, int(ys.max()) + 1 - y1


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
