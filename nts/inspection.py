"""Inspection of a memory: similarity of classes, references that disagree with their class, and their crops.

Some errors are visible before any image is segmented: classes with almost parallel prototypes cannot be told apart, and
a reference that is closer to another class than to its own biases its class prototype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from .memory import MemoryBank
from .pictures import Colour
from .references import crop_window

_DIMMED = 0.6
_OUTLINE = 3  # pixels


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out classification of a reference.

    Attributes:
        entry: index in :attr:`MemoryBank.entries`.
        class_name: class of the reference.
        similarity: cosine similarity to its class prototype computed without it; NaN if it is the only reference of its
            class.
        other: most similar other class; ``None`` if there is no other class.
        other_similarity: cosine similarity to that class's prototype; NaN if there is no other class.
    """

    entry: int
    class_name: str
    similarity: float
    other: str | None
    other_similarity: float

    @property
    def margin(self) -> float:
        """Similarity to its own class minus similarity to the best other class; NaN if either is missing."""
        return self.similarity - self.other_similarity

    @property
    def agrees(self) -> bool | None:
        """True if the other references predict its class; ``None`` if it is the only one of its class."""
        if math.isnan(self.similarity):
            return None
        return self.other is None or self.margin > 0


def prototype_similarities(memory: MemoryBank) -> Tensor:
    """Cosine similarity of all pairs of class prototypes, float ``[K, K]``, in the order of the classes."""
    if len(memory) == 0:
        return torch.zeros(0, 0)
    prototypes = memory.prototypes()
    return prototypes @ prototypes.T


def leave_one_out(memory: MemoryBank) -> list[LeaveOneOut]:
    """Classify each reference by the prototypes of all others, in the order of :attr:`MemoryBank.entries`.

    The class prototype without an instance is the normalised difference of the class's sum and that instance, so no
    memory is rebuilt.
    """
    if len(memory) == 0:
        return []
    classes, labels = memory.classes, memory.entry_labels()
    instances = memory.instance_prototypes()
    # Double precision, as the difference of a sum and one of its terms cancels digits.
    sums = torch.zeros(len(classes), instances.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, instances.double())
    without = F.normalize(sums[labels] - instances.double(), dim=1).float()
    alone = torch.bincount(labels, minlength=len(classes))[labels] == 1

    directions = F.normalize(instances, dim=1)
    own = (directions * without).sum(1).masked_fill(alone, math.nan)
    others = directions @ memory.prototypes().T
    others.scatter_(1, labels[:, None], -math.inf)
    best, which = others.max(1)
    if len(classes) == 1:
        best = torch.full_like(best, math.nan)
    return [
        LeaveOneOut(entry, classes[label], similarity, classes[other] if len(classes) > 1 else None, other_similarity)
        for entry, (label, similarity, other, other_similarity) in enumerate(
            zip(labels.tolist(), own.tolist(), which.tolist(), best.tolist(), strict=True)
        )
    ]


def draw_reference(
    image: np.ndarray, mask: np.ndarray, colour: Colour, size: int = 160, *, whole: bool = False
) -> Image.Image:
    """Draw a reference, cropped with its context as for the encoder: the object outlined, its surroundings dimmed.

    Args:
        image: uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]``, not empty.
        colour: colour of the outline.
        size: longer side of the picture in pixels.
        whole: draw the whole image, with marked pixels enlarged to be visible, for points and scribbles.
    """
    ys, xs = mask.nonzero()
    box = (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
    window = (0, 0, mask.shape[1], mask.shape[0]) if whole else crop_window(box, mask.shape)
    width, height = window[2] - window[0], window[3] - window[1]
    scale = size / max(width, height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))

    crop = Image.fromarray(image).resize(fitted, Image.Resampling.BICUBIC, box=window)
    if whole:
        hit = F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), (fitted[1], fitted[0]))[0].numpy() > 0
        inside = Image.fromarray(hit).convert("L").filter(ImageFilter.MaxFilter(3))
    else:
        inside = Image.fromarray(mask).convert("L").resize(fitted, Image.Resampling.BILINEAR, box=window)
        inside = inside.point(lambda value: 255 if value > 127 else 0)
    around = inside.filter(ImageFilter.MaxFilter(2 * _OUTLINE + 1))
    picture = crop.point(lambda value: round(_DIMMED * value))
    picture.paste(colour, mask=around)
    picture.paste(crop, mask=inside)
    return picture
