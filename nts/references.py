"""References: labelled objects in images, and their preparation for the encoder.

The object is cropped with some context and stretched to the encoder's square input. Its mask becomes a weight per patch
of the encoder's grid (paper, Sec. 3.2). The background stays in the crop; only the weights exclude it.

An annotation may be weaker than a mask: a box, points, or a scribble (VRP-SAM, CVPR 2024, Sec. 3). It is represented by
a mask of the pixels that it marks, and can be used directly, or promoted to a mask of the object by SAM2, see
:mod:`nts.promotion`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .images import normalise, resize_bicubic, stretch, to_float

CONTEXT_RATIO = 0.2
"""Context around the object: the crop's side is ``1 + CONTEXT_RATIO`` times the longer side of the box."""


Kind = Literal["mask", "box", "point", "scribble"]
"""Kind of annotation: a mask of the object, a box around it, one or several clicks on it, or a stroke over it."""
KINDS: tuple[Kind, ...] = ("mask", "box", "point", "scribble")


class InvalidReference(ValueError):
    """A reference that cannot be used; the message gives the reason. Other references are not affected."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A labelled object.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        class_name: name of the class.
        mask: bool ``[H, W]``, the pixels that the annotation marks: the object, the filled box, the clicked pixels, or
            the stroke.
        box: ``x, y, width, height`` in pixels, as in COCO; ``None`` for the mask's bounding box.
        kind: geometry of the annotation.
        sample_id: id of the sample in its dataset.
        label_id: id of the label in its dataset.
        promoted: the mask is of the object, predicted by SAM2 from an annotation of this kind.
        file: identity of the content of the image file, see :func:`nts.utils.files.content_id`; empty if unknown.
        predicted_iou: SAM2's predicted IoU for the proposal that covers the object best; ``None`` if none overlaps it,
            or none was made.
        proposal_iou: IoU of that proposal with the mask, 0 if none overlaps it; ``None`` if none was made.

    Raises:
        InvalidReference: if the kind is unknown, the mask is empty or of another size than the image, or the box is not
            finite.
    """

    image: np.ndarray
    class_name: str
    mask: np.ndarray
    box: tuple[float, float, float, float] | None = None
    kind: Kind = "mask"
    sample_id: str = ""
    label_id: str = ""
    promoted: bool = False
    file: str = ""
    predicted_iou: float | None = None
    proposal_iou: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidReference(f"the kind of a reference is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.mask.shape != self.image.shape[:2]:
            raise InvalidReference(
                f"the mask has size {_size(self.mask)}, but its image has {_size(self.image)} (width x height)"
            )
        if not self.mask.any():
            raise InvalidReference("the mask is empty")
        if self.box is not None and not np.isfinite(self.box).all():
            raise InvalidReference(f"the box {self.box} is not finite")

    @property
    def is_sparse(self) -> bool:
        """True if only some pixels of the object are marked, so its extent is unknown."""
        return self.kind in ("point", "scribble") and not self.promoted


def by_image(references: Iterable[Reference]) -> Iterator[list[Reference]]:
    """Group consecutive references that share an image array. Reads one reference ahead."""
    of_image: list[Reference] = []
    for reference in references:
        if of_image and of_image[0].image is not reference.image:
            yield of_image
            of_image = []
        of_image.append(reference)
    if of_image:
        yield of_image


def contradictions(references: Sequence[Reference]) -> dict[int, str]:
    """Find references of one image that contradict each other.

    Two references of different classes do so if both are points and share a pixel, or if they mark exactly the same
    pixels. Neither can be used, as there is no way to tell which is right. Masks that merely overlap do not contradict
    each other.

    Returns:
        the reason for each contradicting reference, by index.
    """
    by_mark: dict[bytes | int, list[int]] = {}
    for k, reference in enumerate(references):
        by_mark.setdefault(hashlib.blake2b(np.packbits(reference.mask).tobytes()).digest(), []).append(k)
        if reference.kind == "point":
            for pixel in np.flatnonzero(reference.mask).tolist():
                by_mark.setdefault(pixel, []).append(k)
    found: dict[int, str] = {}
    for alike in by_mark.values():
        for k in alike:
            others = (references[j] for j in alike if references[j].class_name != references[k].class_name)
            if (other := next(others, None)) is not None:
                name = f"the label {other.label_id!r}" if other.label_id else "a label"
                found[k] = f"it marks the same pixels as {name} of the class {other.class_name!r}: one of them is wrong"
    return found


def crop_window(
    box: tuple[float, float, float, float], image_size: tuple[int, int], context_ratio: float = CONTEXT_RATIO
) -> tuple[int, int, int, int]:
    """Square window around a box, ``1 + context_ratio`` times its longer side, clipped to the image (paper, Sec. 3.2).

    Every step truncates toward zero, as in the published code. A box of less than a pixel is enlarged to one pixel.

    Args:
        box: ``x, y, width, height`` in pixels.
        image_size: ``(H, W)``.
        context_ratio: context relative to the box, 0.2 in the published code.

    Returns:
        ``x1, y1, x2, y2`` in pixels, half-open; not square where clipped.

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
    """Encoder input and patch weights of a reference (paper, Sec. 3.2).

    Masks, boxes and promoted references are cropped around their box. Points and scribbles leave the object's extent
    open: the encoder sees the whole image, and every patch that they touch has weight 1 (*any hit*), for either value
    of ``patch_weights``. Sampling one position of a patch of 8 x 8 pixels would miss a single point in 63 of 64 cases,
    and most thin strokes; the area would weigh a patch touched at two pixels twice as much as one touched at one.

    Args:
        reference: the labelled object.
        encoder_size: side of the encoder's input (518 for DINOv2).
        grid: ``(h, w)`` patches of the encoder (37 x 37).
        antialias: antialias the resizing of the crop. False follows the published code.
        patch_weights: of masks, boxes and promoted references. ``"area"``: covered fraction of each patch. ``"corner"``
            follows the published code: the mask, enlarged to the encoder's input, sampled at the upper left pixel of
            each patch; falls back to the area if every sample misses the object.

    Returns:
        normalised float ``[3, encoder_size, encoder_size]`` and weights ``[h, w]`` in ``[0, 1]``, not all zero.

    Raises:
        InvalidReference: if the crop contains no pixel of the mask.
    """
    height, width = reference.mask.shape
    if reference.is_sparse:
        window = (0, 0, width, height)
    else:
        window = crop_window(reference.box or box_of_mask(reference.mask), (height, width))
    left, top, right, bottom = window
    if antialias:
        pixels = stretch(reference.image, encoder_size, window)
    else:
        pixels = resize_bicubic(to_float(reference.image[top:bottom, left:right]), encoder_size)

    mask = reference.mask[top:bottom, left:right].astype(np.float32)
    if reference.is_sparse:
        return normalise(pixels), _hit_weights(mask, grid)
    weights = _corner_weights(mask, encoder_size, grid) if patch_weights == "corner" else area_weights(mask, grid)
    if weights.sum() <= 0:
        weights = area_weights(mask, grid)
    if weights.sum() <= 0:
        raise InvalidReference("the mask lies outside its box: nothing of it is left in the crop around the box")
    return normalise(pixels), weights


def annotation_weights(
    mask: np.ndarray, kind: Kind, grid: tuple[int, int], rasterisation: Literal["cover", "nearest"] = "cover"
) -> Tensor:
    """Rasterise an annotation to the patch grid of its whole image, for a visual reference prompt (VRP-SAM, Sec. 3.2).

    Args:
        mask: bool ``[H, W]``, the marked pixels.
        kind: kind of the annotation; ``"mask"`` if it was promoted to one.
        grid: ``(h, w)`` patches.
        rasterisation: ``"cover"``: covered fraction for masks and boxes, any hit for points and scribbles; a mask that
            is not empty never becomes all zero. ``"nearest"`` samples one pixel per patch, as the published code does;
            it loses most points, so the annotation can vanish.

    Returns:
        float ``[h, w]`` in ``[0, 1]``.
    """
    marked = mask.astype(np.float32)
    if rasterisation == "nearest":
        return F.interpolate(torch.from_numpy(marked)[None, None], size=grid, mode="nearest")[0, 0]
    return _hit_weights(marked, grid) if kind in ("point", "scribble") else area_weights(marked, grid)


def area_weights(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Covered fraction of each patch: ``[H, W]`` to ``[h, w]``."""
    resized = Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.array(resized)).clamp(0, 1)


def _hit_weights(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """1 for every patch that overlaps a marked pixel, else 0: ``[H, W]`` to ``[h, w]``. No pixel is lost."""
    return F.adaptive_max_pool2d(torch.from_numpy(mask)[None], grid)[0]


def _corner_weights(mask: np.ndarray, encoder_size: int, grid: tuple[int, int]) -> Tensor:
    """The mask at the upper left pixel of each patch: ``[H, W]`` to ``[h, w]``."""
    enlarged = F.interpolate(
        torch.from_numpy(mask)[None, None], size=(encoder_size, encoder_size), mode="bilinear", align_corners=False
    )
    return F.interpolate(enlarged, size=grid, mode="nearest")[0, 0]


def box_of_mask(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Bounding box ``x, y, width, height`` of a mask, bool ``[H, W]``, not empty."""
    ys, xs = mask.nonzero()
    x1, y1 = int(xs.min()), int(ys.min())
    return x1, y1, int(xs.max()) + 1 - x1, int(ys.max()) + 1 - y1


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
