"""A reference: one labelled object in an image, and what the encoder sees of it.

The object is cut out with some context, stretched to the encoder's square, and its mask becomes a weight for every
patch of the encoder's grid (paper, Sec. 3.2). The background stays in the crop; only the weights leave it out.

What marks the object may be weaker than a mask: a box, points, a scribble (VRP-SAM, CVPR 2024, Sec. 3). Each is a mask
of the pixels that it marks, and can be used as it is; :mod:`nts.promotion` has SAM2 draw the object that it means.
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
"""How much longer than the longer side of the box the side of the crop is."""


Kind = Literal["mask", "box", "point", "scribble"]
"""What marks an object: its mask, a box around it, one or several clicks on it, or a stroke over it."""
KINDS: tuple[Kind, ...] = ("mask", "box", "point", "scribble")


class InvalidReference(ValueError):
    """A reference that cannot be used. The message says why; other references are not affected."""


@dataclass(frozen=True, eq=False)
class Reference:
    """One labelled object.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        class_name: its class.
        mask: bool ``[H, W]``, the pixels that the annotation marks: those of the object, of the filled box, the clicked
            ones, or those of the stroke.
        box: ``x, y, width, height`` in pixels, as in COCO; the mask's own box where it is ``None``.
        kind: the geometry of the annotation.
        sample_id: id of the sample that it came from.
        label_id: id of the label that it came from.
        promoted: the mask is that of the object, drawn by SAM2 from an annotation of this kind.
        file: identity of the content of the image's file, see :func:`nts.utils.files.content_id`; empty if unknown.
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
        """Whether only some pixels of the object are marked, so that nothing says how large it is."""
        return self.kind in ("point", "scribble") and not self.promoted


def by_image(references: Iterable[Reference]) -> Iterator[list[Reference]]:
    """Gather consecutive references that share one image array. One reference is read ahead."""
    of_image: list[Reference] = []
    for reference in references:
        if of_image and of_image[0].image is not reference.image:
            yield of_image
            of_image = []
        of_image.append(reference)
    if of_image:
        yield of_image


def contradictions(references: Sequence[Reference]) -> dict[int, str]:
    """Which references of one image contradict each other, by their index, and why.

    Two of different classes do that if both are points and share a pixel, or if they mark exactly the same pixels.
    Nothing says which of them is right, so neither can be used. References with masks never contradict each other by a
    few shared pixels, as objects that overlap have those.
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

    Masks, boxes and promoted references are cut out around their box. Points and scribbles do not say how large their
    object is: the encoder sees the whole image, and every patch that they touch counts fully (*any hit*). Whatever
    ``patch_weights`` says: a sample at one position of a patch of 8 x 8 pixels misses a single point in 63 of 64 cases,
    and a thin stroke in most, and an area would count a patch that is touched at two pixels twice as much as its
    neighbour, for which nothing speaks.

    Args:
        reference: the labelled object.
        encoder_size: side of the encoder's input (518 for DINOv2).
        grid: ``(h, w)`` patches of the encoder (37 x 37).
        antialias: resize the crop antialiased. False follows the publication.
        patch_weights: of masks, boxes and promoted references. ``"area"``: the share of every patch that the mask
            covers. ``"corner"`` follows the publication: the mask, enlarged to the encoder's input, at the upper left
            pixel of every patch; where that misses the object altogether, its area is taken after all.

    Returns:
        normalised float ``[3, encoder_size, encoder_size]`` and weights ``[h, w]`` in ``[0, 1]``, not all zero.

    Raises:
        InvalidReference: if the crop holds nothing of the mask.
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
    weights = _corner_weights(mask, encoder_size, grid) if patch_weights == "corner" else _area_weights(mask, grid)
    if weights.sum() <= 0:
        weights = _area_weights(mask, grid)
    if weights.sum() <= 0:
        raise InvalidReference("the mask lies outside its box: nothing of it is left in the crop around the box")
    return normalise(pixels), weights


def annotation_weights(
    mask: np.ndarray, kind: Kind, grid: tuple[int, int], rasterisation: Literal["cover", "nearest"] = "cover"
) -> Tensor:
    """An annotation on the patch grid of its whole image, as a visual reference prompt sees it.

    Args:
        mask: bool ``[H, W]``, what the annotation marks.
        kind: of the annotation; ``"mask"`` for what was promoted to one.
        grid: ``(h, w)`` patches.
        rasterisation: ``"cover"``: the covered share for masks and boxes, any hit for points and scribbles; never all
            zero for a mask that is not empty. ``"nearest"`` is the published code's sample at one pixel of every patch,
            which loses most points: the annotation can vanish.

    Returns:
        float ``[h, w]`` in ``[0, 1]``.
    """
    marked = mask.astype(np.float32)
    if rasterisation == "nearest":
        return F.interpolate(torch.from_numpy(marked)[None, None], size=grid, mode="nearest")[0, 0]
    return _hit_weights(marked, grid) if kind in ("point", "scribble") else _area_weights(marked, grid)


def _area_weights(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Share of every patch that the mask covers: ``[H, W]`` to ``[h, w]``."""
    resized = Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.array(resized)).clamp(0, 1)


def _hit_weights(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """1 for every patch that a marked pixel reaches into, else 0: ``[H, W]`` to ``[h, w]``. No pixel is ever lost."""
    return F.adaptive_max_pool2d(torch.from_numpy(mask)[None], grid)[0]


def _corner_weights(mask: np.ndarray, encoder_size: int, grid: tuple[int, int]) -> Tensor:
    enlarged = F.interpolate(
        torch.from_numpy(mask)[None, None], size=(encoder_size, encoder_size), mode="bilinear", align_corners=False
    )
    return F.interpolate(enlarged, size=grid, mode="nearest")[0, 0]


def box_of_mask(mask: np.ndarray) -> tuple[float, float, float, float]:
    ys, xs = mask.nonzero()
    x1, y1 = int(xs.min()), int(ys.min())
    return x1, y1, int(xs.max()) + 1 - x1, int(ys.max()) + 1 - y1


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
